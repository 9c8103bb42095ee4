"""Keys, names and tags that several stages use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from vla_ops.episodes.store import RobotStore
from vla_ops.robot import fingerprint
from vla_ops.robot_file import Robot

# Raise when an asset would now give another result from the same input and YAML.
CODE_VERSION = 1

# Tags from which Dagster computes staleness (dagster._core.definitions.data_version). They are written by hand for events of single
# partitions, because a run that converts whatever is new has no partition of its own.
DATA_VERSION = "dagster/data_version"


@dataclass(frozen=True)
class Stage:
    """What every asset of a robot needs to know."""

    robot: Robot
    partitions: dg.DynamicPartitionsDefinition

    @classmethod
    def of(cls, robot: Robot) -> Stage:
        """The stage of `robot`, with one dynamic partition a recording."""
        return cls(robot, dg.DynamicPartitionsDefinition(name=f"{robot.name}_recordings"))

    @property
    def store(self) -> RobotStore:
        """Where the robot's things are; read at run time, so that VLA_OPS_HOME of the run counts."""
        return RobotStore.of(self.robot.name)

    def key(self, name: str) -> dg.AssetKey:
        """`<robot>/<name>`."""
        return dg.AssetKey([self.robot.name, name])

    @property
    def folder(self) -> Path:
        """The folder of the robot's YAML."""
        return self.robot.folder


def code_version(read_of_the_spec: Any) -> str:
    """Code version of an asset: changes with what it reads of the YAML, so that an edit shows as out of sync before anything runs."""
    return fingerprint([CODE_VERSION, read_of_the_spec])


def provenance(data_version: str, made_by: str, inputs: dict[dg.AssetKey, tuple[str, int | None]]) -> dict[str, str]:
    """Tags that tell Dagster a partition's data version, the code version it was made by, and input -> (data version, event id)."""
    tags = {DATA_VERSION: data_version, "dagster/code_version": made_by, "dagster/data_version_is_user_provided": "true"}
    for key, (version, event) in inputs.items():
        tags[f"dagster/input_data_version/{key.to_user_string()}"] = version
        tags[f"dagster/input_event_pointer/{key.to_user_string()}"] = "NULL" if event is None else str(event)
    return tags
