"""Keys, names and tags that several stages use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from vla_ops.episodes.store import RobotStore
from vla_ops.recordings.partitions import by_partition, partition_of
from vla_ops.robot import fingerprint
from vla_ops.robot_file import Robot

# Raise when an asset would now give another result from the same input and YAML.
CODE_VERSION = 1

# Tags from which Dagster computes staleness (dagster._core.definitions.data_version). They are written by hand for events of single
# partitions, because a run that converts whatever is new has no partition of its own.
DATA_VERSION = "dagster/data_version"
MADE_BY = "dagster/code_version"


@dataclass(frozen=True)
class Stage:
    """What every asset of a robot needs to know."""

    robot: Robot
    partitions: dg.DynamicPartitionsDefinition

    @classmethod
    def of(cls, robot: Robot) -> Stage:
        """The stage of `robot`, with one dynamic partition a recording, folder or day."""
        return cls(robot, dg.DynamicPartitionsDefinition(name=f"{robot.name}_recordings"))

    @property
    def store(self) -> RobotStore:
        """Where the robot's things are; read at run time, so that VLA_OPS_HOME of the run counts."""
        return RobotStore.of(self.robot.name)

    def key(self, name: str) -> dg.AssetKey:
        """`<robot>/<name>`."""
        return dg.AssetKey([self.robot.name, name])

    def partition_of(self, recording: str) -> str:
        """The partition of a recording."""
        return partition_of(recording, self.robot.spec.recordings.partition_by)

    def by_partition(self, recordings: Iterable[str]) -> dict[str, list[str]]:
        """Partition -> its recordings."""
        return by_partition(recordings, self.robot.spec.recordings.partition_by)

    @property
    def is_by_recording(self) -> bool:
        """Whether each recording is a partition of its own."""
        return self.robot.spec.recordings.partition_by == "file"

    @property
    def folder(self) -> Path:
        """The folder of the robot's YAML."""
        return self.robot.folder


def code_version(read_of_the_spec: Any) -> str:
    """Code version of an asset: changes with what it reads of the YAML, so that an edit shows as out of sync before anything runs."""
    return fingerprint([CODE_VERSION, read_of_the_spec])


def provenance(data_version: str, made_by: str, inputs: dict[dg.AssetKey, tuple[str, int | None]]) -> dict[str, str]:
    """Tags that tell Dagster a partition's data version, the code version it was made by, and input -> (data version, event id)."""
    tags = {DATA_VERSION: data_version, MADE_BY: made_by, "dagster/data_version_is_user_provided": "true"}
    for key, (version, event) in inputs.items():
        tags[f"dagster/input_data_version/{key.to_user_string()}"] = version
        tags[f"dagster/input_event_pointer/{key.to_user_string()}"] = "NULL" if event is None else str(event)
    return tags
