"""`vla-ops`: the same functions as the assets, without Dagster, for a terminal beside a robot."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vla_ops.episodes.plan import Plan
    from vla_ops.episodes.pool import Workers
    from vla_ops.episodes.store import RobotStore
    from vla_ops.mixture_file import Mixture
    from vla_ops.robot_file import Robot

from vla_ops.cli_dataset import Dataset
from vla_ops.cli_export import Export
from vla_ops.cli_home import Home
from vla_ops.cli_named import named_mixture, named_robot, robots_folder, say
from vla_ops.cli_publish import Lineage, Policies, Publish, Pull
from vla_ops.cli_serve import Serve
from vla_ops.cli_train import Train, trainings_of
from vla_ops.errors import DatasetError, StatsMismatchError, VlaOpsError


@dataclass(frozen=True)
class Inspect:
    """Show what is in a recording (mcap, HDF5, Zarr) without decoding it, and a YAML to start from; or one converted episode."""

    file: tyro.conf.Positional[str]
    """Recording file, folder or URI (s3://, https://: only what is looked at is fetched); with --episode, the name of a robot."""
    robot: str = "my_robot"
    """Name of the robot in the suggested YAML."""
    yaml: bool = True
    """Also print a YAML stanza to start from."""
    only_yaml: bool = False
    """Print the YAML stanza alone, to be saved: `vla-ops inspect FILE --robot NAME --only-yaml > robots/NAME/defs.yaml`."""
    episode: Annotated[str | None, tyro.conf.arg(metavar="RECORDING/K")] = None
    """Show this episode of a robot: what is known of it, a contact sheet, plots and, with the extra `viz`, a Rerun recording."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder for the files that show the episode. Default: VLA_OPS_HOME/ROBOT/looks/RECORDING/K."""

    def run(self) -> int:
        """Print the streams and the stanza, or one of them; or the episode."""
        if self.episode is None:
            return self._recording()
        return self._look(self.episode)

    def _look(self, wanted: str) -> int:
        from vla_ops.episodes.look import look_at
        from vla_ops.homes.at_home import fetched
        from vla_ops.homes.needs import episode

        given = {"--robot": self.robot != "my_robot", "--no-yaml": not self.yaml, "--only-yaml": self.only_yaml}
        if wrong := [flag for flag, is_given in given.items() if is_given]:
            raise VlaOpsError(f"{wrong[0]} is for a recording, not for --episode", todo="`vla-ops inspect ROBOT --episode RECORDING/K`.")
        if Path(self.file).is_file():
            raise VlaOpsError(
                "--episode is of a robot, and this is a file", file=self.file, todo="`vla-ops inspect ROBOT --episode RECORDING/K`."
            )
        robot, store = named_robot(self.file)
        fetched({robot.name: episode(wanted)}, say)
        look = look_at(wanted, robot, store, out=self.out)
        print(f"{look.facts}\n", *look.files, *([look.note] if look.note else []), sep="\n")
        return 0

    def _recording(self) -> int:
        from vla_ops.recordings.base import OpenOptions
        from vla_ops.recordings.inspect import describe, render, sniff_format
        from vla_ops.recordings.place import as_place
        from vla_ops.recordings.suggest import suggest_yaml

        if self.out is not None:
            raise VlaOpsError("--out is for --episode", todo="`vla-ops inspect ROBOT --episode RECORDING/K --out FOLDER`.")
        path = Path(self.file)
        if (path / "defs.yaml").is_file() or (not path.exists() and (robots_folder() / path / "defs.yaml").is_file()):
            todo = f"`vla-ops inspect {self.file} --episode RECORDING/K` shows one of its episodes, `vla-ops status` what there is."
            raise VlaOpsError(f"{self.file} is a robot, not a recording", todo=todo)
        # A dataset that was copied in part can be looked at; converting it says what is missing.
        with closing(as_place(self.file)) as place:
            description = describe(place, OpenOptions(allow_truncated=sniff_format(place) == "lerobot"))
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
    """Name of a folder in robots/ (or VLA_OPS_ROBOTS), or the path of one; of a mixture, its dataset is made of its robots' datasets."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID [ID ...]")] = ()
    """Convert exactly these recordings again, whatever the store says."""
    workers: int | None = None
    """Recordings converted at once. Default: what the YAML says, or one for every two cores, or VLA_OPS_WORKERS."""
    ray: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Convert on this Ray cluster (`auto`, host:port or ray://host:10001) whatever the YAML says."""

    def run(self) -> int:
        """Convert, write the dataset, and name what is in quarantine and what the data say against the YAML.

        Exit code 1 if a worker died or a check that blocks fails.
        """
        from vla_ops.homes.at_home import at_home
        from vla_ops.homes.needs import data, needs_of

        if (mixture := named_mixture(self.robot)) is not None:
            with at_home(needs_of(mixture, data), say):
                return self._mix(mixture)
        robot, store = named_robot(self.robot)
        with at_home(needs_of(robot, data), say):
            return self._convert(robot, store)

    def _convert(self, robot: Robot, store: RobotStore) -> int:
        from vla_ops.bars import bars
        from vla_ops.datasets.refresh import refresh_lerobot_v3, refresh_views
        from vla_ops.episodes.ingest import ingest
        from vla_ops.episodes.plan import quarantine_reasons

        watch = bars if sys.stdout.isatty() else None
        result = ingest(robot, store, say=print, only=self.only or None, workers=self._workers(robot), watch=watch)
        refreshed = refresh_lerobot_v3(robot, store, say=print)
        print(refreshed.made.folder)
        for row in quarantine_reasons(store, robot.curation):
            print(f"NOT IN THE DATASET: {row['reason']}", file=sys.stderr)
        blocking = refreshed.judged.against(robot.spec, "block")
        for verdict in [*refreshed.judged.against(robot.spec, "warn"), *blocking]:
            print(f"MEASURED {verdict.check}: {verdict}", file=sys.stderr)
        for folder in [] if blocking else refresh_views(robot, store, say=print):
            print(folder)
        return 1 if result.lost or blocking else 0

    def _mix(self, mixture: Mixture) -> int:
        from vla_ops.datasets.mixture import refresh_mixture
        from vla_ops.episodes.store import RobotStore

        given = {"--only": self.only, "--workers": self.workers, "--ray": self.ray}
        if wrong := [flag for flag, value in given.items() if value]:
            raise VlaOpsError(f"{wrong[0]} is for a robot, and {mixture.name} is a mixture", todo="Convert its robots with it first.")
        print(refresh_mixture(mixture, RobotStore.of(mixture.name), say=print).made.folder)
        return 0

    def _workers(self, robot: Robot) -> Workers:
        from vla_ops.episodes.workers import workers_of
        from vla_ops.spec import ConversionSpec, RayConversion

        conversion = robot.spec.conversion
        if self.ray is not None:
            settings = (conversion.ray or RayConversion()).model_dump() | {"address": self.ray, "resource": None}
            conversion = ConversionSpec(ray=RayConversion.model_validate(settings))
        return workers_of(conversion, at_once=self.workers)


@dataclass(frozen=True)
class NormStats:
    """Compute openpi's norm_stats.json for a robot's current dataset, from its numbers alone."""

    robot: tyro.conf.Positional[str]
    """Name of a folder in robots/ (or VLA_OPS_ROBOTS), or the path of one."""

    def run(self) -> int:
        """Compute, write and show them."""
        from vla_ops.homes.at_home import at_home
        from vla_ops.homes.needs import dataset, needs_of
        from vla_ops.norm_stats.refresh import refresh_norm_stats
        from vla_ops.norm_stats.table import render

        if (mixture := named_mixture(self.robot)) is not None:
            with at_home(needs_of(mixture, dataset), say):
                return self._mix(mixture)
        robot, store = named_robot(self.robot)
        with at_home(needs_of(robot, dataset), say):
            refreshed = refresh_norm_stats(robot, store)
        print(f"{render(refreshed.stats)}\n{refreshed.path}")
        return 0

    def _mix(self, mixture: Mixture) -> int:
        from vla_ops.episodes.store import RobotStore
        from vla_ops.norm_stats.mixture import refresh_mixture_stats
        from vla_ops.norm_stats.mixture_report import stats_lines

        print(*stats_lines(refresh_mixture_stats(mixture, RobotStore.of(mixture.name))), sep="\n")
        return 0


@dataclass(frozen=True)
class Status:
    """Show where a robot stands: recordings by state, dataset, norm stats, trainings, and what is in quarantine and why."""

    robot: tyro.conf.Positional[str]
    """Name of a folder in robots/ (or VLA_OPS_ROBOTS), or the path of one."""

    def run(self) -> int:
        """Print it."""
        from vla_ops.datasets.lerobot_v3 import current_version
        from vla_ops.episodes.plan import make_plan, quarantine_reasons
        from vla_ops.episodes.store import RobotStore
        from vla_ops.homes.at_home import fetched
        from vla_ops.homes.needs import needs_of, said

        if (mixture := named_mixture(self.robot)) is not None:
            from vla_ops.norm_stats.mixture_report import status_lines

            fetched(needs_of(mixture, said, of_sources=said), say)
            store = RobotStore.of(mixture.name)
            print(*status_lines(mixture, store), *trainings_of(mixture, store), sep="\n")
            return 0
        robot, store = named_robot(self.robot)
        fetched({robot.name: said}, say)
        plan = make_plan(robot, store)
        states = ", ".join(f"{count} {state}" for state, count in plan.counts().items())
        print(f"{robot.name}\n  recordings  {len(plan.found)} ({states or 'none'})  {robot.recordings_uri}")
        made = current_version(store.root / "lerobot_v3")
        print(f"  lerobot_v3  {f'{made.episodes} episodes, {made.frames:,} frames  {made.folder}' if made else 'none yet'}")
        for line in _made_of(robot, store) if made else ("  norm_stats  none yet",):
            print(line)
        for line in (*trainings_of(robot, store), *_curation_of(robot, store, plan)):
            print(line)
        for row in quarantine_reasons(store, robot.curation):
            print(f"  quarantine  {row['reason']}")
        return 0


type Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[NormStats, tyro.conf.subcommand("norm-stats")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Dataset, tyro.conf.subcommand("dataset")]
    | Annotated[Publish, tyro.conf.subcommand("publish")]
    | Annotated[Pull, tyro.conf.subcommand("pull")]
    | Annotated[Policies, tyro.conf.subcommand("policies")]
    | Annotated[Lineage, tyro.conf.subcommand("lineage")]
    | Annotated[Home, tyro.conf.subcommand("home")]
)


def _curation_of(robot: Robot, store: RobotStore, plan: Plan) -> Iterator[str]:
    """What curation.yaml does, or what is wrong with it."""
    from vla_ops.episodes.curate import curated_episodes, excluded_rows

    if not robot.curation.decisions:
        return
    try:
        yield f"  curation    {curated_episodes(robot, store, plan)}"
    except DatasetError as error:
        yield f"  curation    {error}"
    for row in excluded_rows(robot.curation, [found.file.id for found in plan.found]):
        episode = "" if row["episode"] == "all" else f"/{row['episode']}"
        yield f"  excluded    {row['recording']}{episode}: {row['reason']}"


def _made_of(robot: Robot, store: RobotStore) -> Iterator[str]:
    """What is made of the dataset in use, or why nothing may be."""
    from vla_ops.datasets.refresh import accepted_dataset

    try:
        version = accepted_dataset(robot, store).version.version
    except DatasetError as error:
        yield f"  BLOCKED     {error}"
        return
    views = {"lerobot_v2.1": "lerobot_v21", "rlds": "rlds"}
    for folder in (views[name] for name in robot.spec.dataset.formats if name in views):
        found = next((store.root / folder).glob(f"{version}*"), None)
        yield f"  {folder:<11} {found or f'none of this version yet: `vla-ops convert {robot.name}`'}"
    yield f"  norm_stats  {_norm_stats_of(robot, store, version)}"


def _norm_stats_of(robot: Robot, store: RobotStore, dataset_version: str) -> str:
    from vla_ops.norm_stats import STATS_FILE
    from vla_ops.norm_stats.refresh import current_norm_stats

    try:
        return str(current_norm_stats(robot, store, dataset_version=dataset_version) / STATS_FILE)
    except StatsMismatchError:
        return f"none of this dataset and YAML yet: `vla-ops norm-stats {robot.name}`"


def main() -> None:
    """Run one command; a VlaOpsError is a message, not a traceback."""
    try:
        command = tyro.cli(Command, prog="vla-ops", description="From a robot's raw recordings to datasets, norm stats and checkpoints.")
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
