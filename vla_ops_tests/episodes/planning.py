"""A robot whose recordings are planned and converted in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.plan import (
    Plan,
    forget,
    make_plan,
    refuse,
    take_back,
)
from vla_ops.episodes.store import RobotStore
from vla_ops.robot_file import Robot
from vla_ops_tests.episodes.ingesting import ALOHA, JOINTS, robot_at, write_arm

# Of two dimensions: most of the time of a conversion this small goes into the plot of each.
STATE: list[dict[str, Any]] = [{**ALOHA["state"][0], "source": "/observations/qpos[0:1]", "names": JOINTS[:1]}, ALOHA["state"][1]]


class Arm:
    """A robot, its recordings and its store, converted in this process."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.store = folder / "raw", RobotStore.of("arm", folder / "store")
        self.raw.mkdir()
        self.robot: Robot = self.with_spec()

    def with_spec(self, **sections: Any) -> Robot:
        self.robot = robot_at(self.raw, sections.pop("pattern", "**/*.hdf5"), "hdf5", **{"state": STATE, **sections})
        return self.robot

    def record(self, *names: str, **options: Any) -> None:
        for name in names:
            write_arm(self.raw / name, **{"seed": sum(name.encode()), **options})

    def plan(self, **options: Any) -> Plan:
        return make_plan(self.robot, self.store, **options)

    def states(self, **options: Any) -> dict[str, str]:
        return {found.file.id: found.state for found in self.plan(**options).found}

    def convert(self) -> list[str]:
        """Forget, take back, refuse and convert what the plan says; return the ids of what was converted."""
        plan = self.plan()
        forget(self.store, plan.removed)
        list(take_back(self.store, plan))
        for found in plan.found:
            if found.reason:
                refuse(self.store, found)
        for file, version in plan.todo:
            convert_recording(ConversionJob(file.id, file.uri, version, self.robot.spec, self.store.root))
        return [file.id for file, _ in plan.todo]
