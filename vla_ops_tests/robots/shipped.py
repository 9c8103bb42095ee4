"""A robot of `robots/` with recordings written by a test, taken through its `<robot>_ingest` job."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import numpy.typing as npt

from vla_ops.datasets.lerobot_v3 import current_version
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.robot_file import Robot, load_robot

ROBOTS = Path(__file__).resolve().parents[2] / "robots"

type Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ingestion:
    """What one run of the ingest job left: its checks by name, and the store."""

    robot: Robot
    store: RobotStore
    success: bool
    checks: dict[str, dg.AssetCheckEvaluation]

    @property
    def failed(self) -> dict[str, str | None]:
        """The checks that failed, with what they say."""
        return {name: check.description for name, check in self.checks.items() if not check.passed}

    def episodes(self, recording: str) -> list[Episode]:
        """The episodes of one recording."""
        return self.store.read_episodes(recording)

    @property
    def dataset(self) -> Path:
        """The folder of the LeRobot v3.0 dataset."""
        found = current_version(self.store.root / "lerobot_v3")
        assert found is not None
        return found.folder

    @property
    def norm_stats(self) -> Path:
        """The one norm_stats.json."""
        (path,) = (self.store.root / "norm_stats").glob("*/norm_stats.json")
        return path


class Shipped:
    """The robot `name` as it is shipped, in a folder of its own, with an empty `recordings` folder beside its YAML."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / name
        self.recordings = self.folder / "recordings"
        self.recordings.mkdir(parents=True)
        shutil.copy(ROBOTS / name / "defs.yaml", self.folder)

    def ingest(self) -> Ingestion:
        """Run the whole `<robot>_ingest` job; a failure is in the result, not raised."""
        robot = load_robot(self.folder)
        self._settle()
        store = RobotStore.of(robot.name)
        with dg.DagsterInstance.ephemeral(tempdir=str(self.folder)) as instance:
            job = robot_definitions(robot).resolve_job_def(f"{robot.name}_ingest")
            result = job.execute_in_process(instance=instance, raise_on_error=False)
            checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
            return Ingestion(robot, store, result.success, checks)

    def _settle(self) -> None:
        """Make every recording a minute old: what was just written is left alone, since its recorder may not be done."""
        for path in self.recordings.rglob("*"):
            if path.is_file():
                changed_s = path.stat().st_mtime - 60
                os.utime(path, (changed_s, changed_s))


@dataclass(frozen=True)
class Motion:
    """A commanded motion and the arm that follows it, float64 [frames, d] each."""

    command: Float64
    state: Float64


def reach(limits: Sequence[tuple[float, float]], frames: int, *, seed: int = 0, lag: float = 0.3) -> Motion:
    """Smooth reaching within `limits` [(low, high)]: a new target every 25 frames; the state follows the command at `lag` a frame."""
    rng = np.random.default_rng(seed)
    low, high = np.asarray(limits, dtype=np.float64).T
    middle, reach = (low + high) / 2, (high - low) / 2
    targets = np.repeat(rng.uniform(-0.8, 0.8, (frames // 25 + 2, len(limits))), 25, axis=0)[: frames + 1]
    return Motion(*(middle + reach * values for values in _follow(targets, lag)))


def _follow(targets: Float64, lag: float) -> tuple[Float64, Float64]:
    command, state = np.zeros_like(targets), np.zeros_like(targets)
    command[0] = state[0] = targets[0]
    for k in range(1, len(targets)):
        command[k] = command[k - 1] + 0.15 * (targets[k] - command[k - 1])
        state[k] = state[k - 1] + lag * (command[k - 1] - state[k - 1])
    return command[1:], state[1:]
