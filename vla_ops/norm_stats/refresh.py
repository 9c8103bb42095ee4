"""Bring a robot's norm stats up to date with its dataset: the one path behind the asset and the CLI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vla_ops.datasets.lerobot_v3 import DatasetVersion
from vla_ops.datasets.refresh import accepted_dataset
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import StatsMismatchError
from vla_ops.norm_stats.stats import STATS_FILE, NormStats, Provenance, compute_norm_stats, write_norm_stats
from vla_ops.robot_file import Robot


@dataclass(frozen=True)
class RefreshedStats:
    """Norm stats, their file, and the dataset they are of."""

    stats: NormStats
    path: Path
    dataset: DatasetVersion


def refresh_norm_stats(robot: Robot, store: RobotStore) -> RefreshedStats:
    """Compute and write the norm stats of the dataset in use. Raise what `accepted_dataset` and `compute_norm_stats` raise."""
    dataset = accepted_dataset(robot, store).version
    stats = compute_norm_stats(dataset.folder, spec=robot.spec)
    return RefreshedStats(stats, write_norm_stats(store.root / "norm_stats", stats), dataset)


def current_norm_stats(robot: Robot, store: RobotStore, *, dataset_version: str) -> Path:
    """The folder of the norm stats of this dataset and the robot's YAML. Raise StatsMismatchError where there are none."""
    version = Provenance.of(robot.spec, robot=robot.name, dataset_version=dataset_version).version
    folder = store.root / "norm_stats" / version
    if not (folder / STATS_FILE).is_file():
        raise StatsMismatchError(
            f"{robot.name} has no norm stats of its dataset and YAML yet",
            file=folder,
            found=", ".join(sorted(path.name for path in folder.parent.glob("*"))) or "none at all",
            todo=f"Run: vla-ops norm-stats {robot.name}",
        )
    return folder
