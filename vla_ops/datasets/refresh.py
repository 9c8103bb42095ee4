"""Bring a robot's datasets up to date with its episodes: the one path behind the assets and the CLI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import overload

from vla_ops.datasets.judged import Judged, judged, refuse_contradicted
from vla_ops.datasets.lerobot_layout import Entry, Layout
from vla_ops.datasets.lerobot_v3 import DatasetVersion, Held, current_version, update_dataset
from vla_ops.datasets.lerobot_v21 import View, write_lerobot_v21
from vla_ops.datasets.lerobot_version import VERSION_FILE
from vla_ops.datasets.rlds import RldsSettings, RldsView, write_rlds
from vla_ops.episodes.curate import curated_episodes
from vla_ops.episodes.plan import make_plan, quarantine_reasons
from vla_ops.episodes.progress import Steps
from vla_ops.episodes.store import Episode, RobotStore, load_episode
from vla_ops.errors import DatasetError
from vla_ops.files import only_one
from vla_ops.robot_file import Robot


@dataclass(frozen=True)
class Refreshed:
    """A dataset and the episodes it was made of, as curation.yaml leaves them."""

    made: DatasetVersion
    episodes: list[Episode]
    # Read back from its files.
    held: Held
    # Ids of the episodes that no training reads.
    held_out: frozenset[str]
    # What the data say against the YAML.
    judged: Judged


def refresh_lerobot_v3(robot: Robot, store: RobotStore, *, say: Callable[[str], None]) -> Refreshed:
    """Write the LeRobot v3.0 dataset of all usable episodes; nothing is done where it is there.

    Waits for a run that is converting the robot's recordings. Raise DatasetError with the reasons if no episode is usable, if some
    were made with another YAML, or if curation.yaml names what is not there.
    """
    with only_one(store.root, lambda who: say(f"{robot.name}: waiting, {who} is converting its recordings")):
        curated = curated_episodes(robot, store, make_plan(robot, store))
        if not curated.episodes:
            raise _nothing_usable(robot, store)
        if robot.curation.decisions:
            say(f"curation.yaml: {curated}")
        steps = Steps("lerobot_v3", say)
        root, held_out = store.root / "lerobot_v3", curated.held_out
        made = update_dataset(root, curated.episodes, spec=robot.spec, robot=robot.name, progress=steps.show, held_out=held_out)
        held = Held.by(made.folder)
        say(f"lerobot_v3 {made.summary()}")
        found = judged(made, curated.episodes, store, robot.spec)
    return Refreshed(made, curated.episodes, held, held_out, found)


@dataclass(frozen=True)
class Accepted:
    """A dataset that something is made of, and its episodes in its order: read when they are looked at, which may be never."""

    version: DatasetVersion
    episodes: Sequence[Episode]


def accepted_dataset(robot: Robot, store: RobotStore) -> Accepted:
    """The v3.0 dataset in use. Raise DatasetError where there is none, where it was made with another YAML or of episodes that are not
    those of the store any more, or where the data contradict the YAML in a check that blocks.
    """
    current = current_version(store.root / "lerobot_v3")
    if current is None:
        todo = f"Run the job {robot.name}_ingest, or `vla-ops convert {robot.name}`."
        raise DatasetError(f"{robot.name} has no dataset yet", todo=todo)
    made_with = json.loads((current.folder / VERSION_FILE).read_text(encoding="utf-8"))["spec_fingerprint"]
    if made_with != robot.spec.conversion_fingerprint:
        raise DatasetError(
            f"the dataset of {robot.name} was made before the YAML was changed",
            file=current.folder,
            found=f"fingerprint {made_with}",
            expected=robot.spec.conversion_fingerprint,
            todo=f"Convert again first: the job {robot.name}_ingest, or `vla-ops convert {robot.name}`.",
        )
    episodes = episodes_of(current.folder, store)
    refuse_contradicted(judged(current, episodes, store, robot.spec), robot.spec)
    return Accepted(current, episodes)


def refresh_lerobot_v21(robot: Robot, store: RobotStore, *, say: Callable[[str], None]) -> View:
    """Write the LeRobot v2.1 view of the v3.0 dataset in use; nothing is done where it is there.

    Waits for a run that is converting the robot's recordings. Raise what `accepted_dataset` raises.
    """
    with only_one(store.root, lambda who: say(f"{robot.name}: waiting, {who} is converting its recordings")):
        source, steps = accepted_dataset(robot, store), Steps("lerobot_v21", say)
        root, v30 = store.root / "lerobot_v21", source.version.folder
        view = write_lerobot_v21(root, v30, source.episodes, spec=robot.spec, robot=robot.name, progress=steps.show)
    say(f"lerobot_v21 {view.summary()}")
    return view


def refresh_rlds(robot: Robot, store: RobotStore, *, say: Callable[[str], None]) -> RldsView:
    """Write the RLDS view of the v3.0 dataset in use, as `refresh_lerobot_v21` does."""
    with only_one(store.root, lambda who: say(f"{robot.name}: waiting, {who} is converting its recordings")):
        source, steps = accepted_dataset(robot, store), Steps("rlds", say)
        options = {"settings": RldsSettings(**robot.spec.dataset.rlds.model_dump()), "progress": steps.show}
        view = write_rlds(store.root / "rlds", source.version.folder, source.episodes, spec=robot.spec, robot=robot.name, **options)
    say(f"rlds {view.summary()}")
    return view


def refresh_views(robot: Robot, store: RobotStore, *, say: Callable[[str], None]) -> list[Path]:
    """Bring the views that the YAML asks for up to date; return their folders."""
    makers = {"lerobot_v2.1": refresh_lerobot_v21, "rlds": refresh_rlds}
    return [make(robot, store, say=say).folder for name, make in makers.items() if name in robot.spec.dataset.formats]


def episodes_of(v30: Path, store: RobotStore) -> Sequence[Episode]:
    """The episodes of the v3.0 dataset in `v30`, in its order and with its task texts.

    Raise DatasetError naming the first that was converted again or removed since. That is read from one file a recording, and the
    episodes themselves only when the sequence is first looked at.
    """
    entries = Layout.from_json(json.loads((v30 / VERSION_FILE).read_text(encoding="utf-8"))).entries
    versions: dict[str, str] = {}
    for recording in dict.fromkeys(entry.id.rpartition("/")[0] for entry in entries):
        if (record := store.read_recording(recording)) is not None:
            made_from = f"{record['source_version']}-{record['spec_fingerprint']}"
            versions |= {f"{recording}/{k}": f"{made_from}-{k}" for k in record["episodes"]}
    for entry in entries:
        _check_is_as_in(entry, versions.get(entry.id), v30)
    return _Unread(entries, store, v30)


def _check_is_as_in(entry: Entry, version: str | None, v30: Path) -> None:
    if version != entry.version:
        raise DatasetError(
            "an episode of the dataset was converted again or removed since",
            file=v30,
            episode=entry.id,
            found=version or "none in the store",
            expected=entry.version,
            todo="Make the v3.0 dataset again first: `lerobot_v3`, or `vla-ops convert`.",
        )


class _Unread(Sequence[Episode]):
    """Episodes that are read from the store at the first look."""

    def __init__(self, entries: Sequence[Entry], store: RobotStore, v30: Path) -> None:
        self.entries, self.store, self.v30 = entries, store, v30

    @cached_property
    def _read(self) -> list[Episode]:
        return [self._of(entry) for entry in self.entries]

    def _of(self, entry: Entry) -> Episode:
        recording, _, index = entry.id.rpartition("/")
        episode = load_episode(self.store.recording_folder(recording) / index)
        _check_is_as_in(entry, episode.version, self.v30)
        return replace(episode, meta=replace(episode.meta, task=entry.task))

    @overload
    def __getitem__(self, index: int) -> Episode: ...
    @overload
    def __getitem__(self, index: slice) -> list[Episode]: ...
    def __getitem__(self, index: int | slice) -> Episode | list[Episode]:
        return self._read[index]

    def __iter__(self) -> Iterator[Episode]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self.entries)


def _nothing_usable(robot: Robot, store: RobotStore) -> DatasetError:
    reasons = [row["reason"] for row in quarantine_reasons(store)]
    if not reasons:
        todo = f"Put recordings matching {robot.spec.recordings.pattern} below {robot.recordings_uri}, and convert them first."
        return DatasetError(f"{robot.name} has no episodes", todo=todo)
    shown = "\n".join(f"- {reason}" for reason in reasons[:20])
    return DatasetError(f"no episode of {robot.name} is usable; {len(reasons)} in quarantine:\n{shown}")
