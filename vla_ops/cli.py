"""`vla-ops`: the same functions as the assets, without Dagster, for a terminal beside a robot."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from vla_ops.episodes.store import RobotStore
    from vla_ops.robot_file import Robot

from vla_ops.errors import DatasetError, VlaOpsError


def _robots() -> Path:
    return Path(os.environ.get("VLA_OPS_ROBOTS", "robots"))


@dataclass(frozen=True)
class Inspect:
    """Show what is in a recording (mcap, HDF5, Zarr) without decoding it, and a YAML to start from."""

    file: tyro.conf.Positional[Path]
    """Recording file or folder."""
    robot: str = "my_robot"
    """Name of the robot in the suggested YAML."""
    yaml: bool = True
    """Also print a YAML stanza to start from."""
    only_yaml: bool = False
    """Print the YAML stanza alone, to be saved: `vla-ops inspect FILE --robot NAME --only-yaml > robots/NAME/defs.yaml`."""

    def run(self) -> int:
        """Print the streams and the stanza, or one of them."""
        from vla_ops.recordings.inspect import describe, render
        from vla_ops.recordings.suggest import suggest_yaml

        description = describe(str(self.file))
        if self.only_yaml:
            print(suggest_yaml(description, self.robot), end="")
            return 0
        print(render(description))
        if self.yaml and description.is_convertible:
            print(
                f"\n# A start for robots/{self.robot}/defs.yaml; decide where a line says DECIDE\n{suggest_yaml(description, self.robot)}"
            )
        return 0


@dataclass(frozen=True)
class Convert:
    """Convert a robot's new and changed recordings to episodes and its datasets; nothing else is touched."""

    robot: tyro.conf.Positional[str]
    """Name of a folder in robots/ (or VLA_OPS_ROBOTS), or the path of one."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = ()
    """Convert exactly these recordings again, whatever the store says."""
    workers: int | None = None
    """Worker processes. Default: one for every two cores, or VLA_OPS_WORKERS."""

    def run(self) -> int:
        """Convert, write the dataset, and name what is in quarantine; exit code 1 if a worker died."""
        from vla_ops.bars import bars
        from vla_ops.datasets.refresh import refresh_lerobot_v3
        from vla_ops.episodes.ingest import ingest
        from vla_ops.episodes.plan import quarantine_reasons

        robot, store = _load(self.robot)
        watch = bars if sys.stdout.isatty() else None
        result = ingest(robot, store, say=print, only=self.only or None, workers=self.workers, watch=watch)
        print(refresh_lerobot_v3(robot, store, say=print).made.folder)
        for row in quarantine_reasons(store):
            print(f"NOT IN THE DATASET: {row['reason']}", file=sys.stderr)
        return 1 if result.lost else 0


@dataclass(frozen=True)
class NormStats:
    """Compute openpi's norm_stats.json for a robot's current dataset, from its numbers alone."""

    robot: tyro.conf.Positional[str]
    """Name of a folder in robots/ (or VLA_OPS_ROBOTS), or the path of one."""

    def run(self) -> int:
        """Compute, write and show them."""
        from vla_ops.datasets.lerobot_v3 import current_version
        from vla_ops.norm_stats import compute_norm_stats, write_norm_stats
        from vla_ops.norm_stats.table import render

        robot, store = _load(self.robot)
        current = current_version(store.root / "lerobot_v3")
        if current is None:
            raise DatasetError(f"{robot.name} has no dataset yet", todo=f"Run `vla-ops convert {robot.name}`.")
        stats = compute_norm_stats(current.folder, spec=robot.spec)
        path = write_norm_stats(store.root / "norm_stats", stats)
        print(f"{render(stats)}\n{path}")
        return 0


@dataclass(frozen=True)
class Status:
    """Show where a robot stands: recordings by state, dataset, norm stats, and what is in quarantine and why."""

    robot: tyro.conf.Positional[str]
    """Name of a folder in robots/ (or VLA_OPS_ROBOTS), or the path of one."""

    def run(self) -> int:
        """Print it."""
        from vla_ops.datasets.lerobot_v3 import current_version
        from vla_ops.episodes.plan import make_plan, quarantine_reasons

        robot, store = _load(self.robot)
        plan = make_plan(robot, store)
        states = ", ".join(f"{count} {state}" for state, count in plan.counts().items())
        print(f"{robot.name}\n  recordings  {len(plan.found)} ({states or 'none'})  {robot.recordings_uri}")
        made = current_version(store.root / "lerobot_v3")
        print(f"  lerobot_v3  {f'{made.episodes} episodes, {made.frames:,} frames  {made.folder}' if made else 'none yet'}")
        print(f"  norm_stats  {_norm_stats_of(robot, store, made.version) if made else 'none yet'}")
        for row in quarantine_reasons(store):
            print(f"  quarantine  {row['reason']}")
        return 0


type Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[NormStats, tyro.conf.subcommand("norm-stats")]
    | Annotated[Status, tyro.conf.subcommand("status")]
)


def _norm_stats_of(robot: Robot, store: RobotStore, dataset_version: str) -> str:
    from vla_ops.norm_stats import STATS_FILE, Provenance

    version = Provenance.of(robot.spec, robot=robot.name, dataset_version=dataset_version).version
    path = store.root / "norm_stats" / version / STATS_FILE
    return str(path) if path.exists() else f"none of this dataset and YAML yet: `vla-ops norm-stats {robot.name}`"


def _load(name: str) -> tuple[Robot, RobotStore]:
    from vla_ops.episodes.store import RobotStore
    from vla_ops.robot_file import load_robot

    folder = Path(name) if (Path(name) / "defs.yaml").is_file() else _robots() / name
    robot = load_robot(folder)
    return robot, RobotStore.of(robot.name)


def main() -> None:
    """Run one command; a VlaOpsError is a message, not a traceback."""
    try:
        command = tyro.cli(Command, prog="vla-ops", description="From a robot's raw recordings to datasets and norm stats.")
        sys.exit(command.run())
    except VlaOpsError as error:
        print(f"vla-ops: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        # Whoever read the output, `head` for one, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
