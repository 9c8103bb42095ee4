"""LeRobot v3.0 datasets from episode folders: parquet rows and video packets are copied, no image is decoded.

`<store>/lerobot_v3/<version>/` is immutable. A new version hard-links the files that hold the same episodes as before and
writes the others; files are never changed in place, and are read-only because versions share them. `current.json` names the
version in use and is written last.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vla_ops.datasets.lerobot_features import check_episodes, make_features
from vla_ops.datasets.lerobot_layout import Entry
from vla_ops.datasets.lerobot_version import VERSION_FILE, PreviousVersion, VersionWriter
from vla_ops.datasets.ticks import Progress
from vla_ops.episodes.store import Episode
from vla_ops.errors import DatasetError
from vla_ops.files import replacing, sweep, write_json
from vla_ops.recordings.discover import natural_key
from vla_ops.robot import RobotSpec, fingerprint

# Raise when the same episodes would now give other files: every dataset is then written anew.
FORMAT_VERSION = 1
CURRENT = "current.json"


@dataclass(frozen=True)
class DatasetVersion:
    """A dataset on disk and what writing it took."""

    folder: Path
    version: str
    episodes: int
    frames: int
    bytes_written: int
    # In files shared with the previous version.
    bytes_linked: int
    # Episodes that the previous version had not, and that it had and this one has not; a changed episode counts in both.
    added: int
    removed: int
    previous: str | None
    # False: this version was there already and nothing was done.
    created: bool
    # For validation: of `episodes` and `frames`, those that no training reads.
    held_out_episodes: int = 0
    held_out_frames: int = 0

    @property
    def training_frames(self) -> int:
        """Frames that trainings read."""
        return self.frames - self.held_out_frames

    def summary(self) -> str:
        """One line on what is there and what writing it took."""
        if not self.created:
            return f"version {self.version} is up to date: {self._holds}"
        shared = f", {self.bytes_linked / 1e6:.2f} MB shared with version {self.previous}" if self.previous else ""
        return (
            f"version {self.version}: {self._holds}; {self.added} added, {self.removed} removed; "
            f"{self.bytes_written / 1e6:.2f} MB written{shared}"
        )

    @property
    def _holds(self) -> str:
        held_out = f" ({self.held_out_episodes} episodes held out for validation)" if self.held_out_episodes else ""
        return f"{self.episodes} episodes, {self.frames:,} frames{held_out}"


def order_episodes(episodes: Sequence[Episode], previous: Path | None) -> list[Episode]:
    """Return the episodes in dataset order: those unchanged since the version at `previous` as they stand there, then the others.

    The others are in natural order of their ids (rec_2 before rec_10). A changed episode is a new one.
    """
    before = PreviousVersion.read(previous, FORMAT_VERSION) if previous else None
    rank = {entry.key: k for k, entry in enumerate(before.layout.entries)} if before else {}
    kept = sorted((e for e in episodes if (e.id, e.version) in rank), key=lambda e: rank[e.id, e.version])
    return kept + sorted((e for e in episodes if (e.id, e.version) not in rank), key=lambda e: natural_key(e.id))


def write_lerobot_v3(
    root: Path,
    episodes: Sequence[Episode],
    *,
    spec: RobotSpec,
    robot: str,
    progress: Progress | None = None,
    held_out: Collection[str] = (),
) -> DatasetVersion:
    """Write `root/<version>/` from `episodes` in this order and make it the current version; do nothing if it is there.

    `progress(done, total)` counts episodes written, once for each stream (data and every camera). `held_out` are ids of the episodes
    for validation: they are in the dataset, which says so, but in none of its statistics. Raise DatasetError or
    SchemaMismatchError, naming episodes and both values, for episodes that cannot be one dataset, and StoreError for a full disk.
    """
    check_episodes(episodes, spec)
    features = make_features(episodes, list(spec.cameras))
    entries = tuple(Entry(e.id, e.version, e.meta.length, e.meta.task) for e in episodes)
    for_validation = _places(entries, held_out)
    version = _version(features, entries, robot=robot, licence=spec.dataset.licence, held_out=for_validation)
    current = current_version(root)
    if (root / version).is_dir():
        return _already(root, version, entries, current, for_validation)
    sweep(root)
    previous = PreviousVersion.read(current.folder, FORMAT_VERSION) if current else None
    writer = VersionWriter(episodes, entries, features=features, spec=spec, robot=robot, previous=previous, held_out=for_validation)
    with replacing(root / version) as work:
        written = writer.write(work, {"format": FORMAT_VERSION, "version": version}, progress)
    before = {entry.key for entry in previous.layout.entries} if previous else set()
    now = {entry.key for entry in entries}
    made = DatasetVersion(
        folder=root / version,
        version=version,
        episodes=len(entries),
        frames=sum(entry.length for entry in entries),
        bytes_written=written.new,
        bytes_linked=written.linked,
        added=len(now - before),
        removed=len(before - now),
        previous=current.version if current else None,
        created=True,
        held_out_episodes=len(for_validation),
        held_out_frames=sum(entries[k].length for k in for_validation),
    )
    set_current(root, made)
    return made


def update_dataset(
    root: Path,
    episodes: Sequence[Episode],
    *,
    spec: RobotSpec,
    robot: str,
    progress: Progress | None = None,
    held_out: Collection[str] = (),
) -> DatasetVersion:
    """Write the dataset of `episodes` in the order of the version in use; see `order_episodes` and `write_lerobot_v3`."""
    current = current_version(root)
    ordered = order_episodes(episodes, current.folder if current else None)
    return write_lerobot_v3(root, ordered, spec=spec, robot=robot, progress=progress, held_out=held_out)


def _places(entries: Sequence[Entry], held_out: Collection[str]) -> list[int]:
    """Indices of the episodes with these ids. Raise DatasetError if one is not there, or if none is left for training."""
    places = [k for k, entry in enumerate(entries) if entry.id in held_out]
    if missing := set(held_out) - {entries[k].id for k in places}:
        raise DatasetError("an episode that is to be held out is not in the dataset", episode=min(missing))
    if len(places) == len(entries):
        raise DatasetError("every episode is held out: none is left for training", found=f"{len(places)} episodes")
    return places


@dataclass(frozen=True)
class Held:
    """What a dataset holds, counted from its parquet files: `listed` episodes, and frames."""

    listed: int
    frames: int

    @classmethod
    def by(cls, folder: Path) -> Held:
        """Count. Raise DatasetError naming the file if one was damaged since it was written."""
        return cls(_rows(folder, "meta/episodes/*/*.parquet"), _rows(folder, "data/*/*.parquet"))


def _rows(folder: Path, pattern: str) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    for path in folder.glob(pattern):
        try:
            count += pq.read_metadata(path).num_rows
        except (pa.ArrowInvalid, OSError) as error:
            todo = f"Delete {folder}; the next run writes it anew from the episodes."
            raise DatasetError("not a whole parquet file", file=path, found=str(error), todo=todo) from error
    return count


def _version(features: dict[str, Any], entries: Sequence[Entry], *, robot: str, licence: str, held_out: Sequence[int]) -> str:
    # The repo id is not in it: renaming a dataset on the Hub does not change what is in it.
    episodes = [[e.id, e.version, e.length, e.task] for e in entries]
    made_of = {"format": FORMAT_VERSION, "robot": robot, "licence": licence, "features": features, "episodes": episodes}
    return fingerprint(made_of | ({"held_out": list(held_out)} if held_out else {}))


def _already(root: Path, version: str, entries: Sequence[Entry], current: DatasetVersion | None, held_out: Sequence[int]) -> DatasetVersion:
    """The version as it is on disk, made the current one if another one was (a recording was removed and came back)."""
    if current is not None and current.version == version:
        return current
    frames = sum(entry.length for entry in entries)
    previous = current.version if current else None
    found = DatasetVersion(root / version, version, len(entries), frames, 0, 0, 0, 0, previous, created=False)
    found = replace(found, held_out_episodes=len(held_out), held_out_frames=sum(entries[k].length for k in held_out))
    set_current(root, found)
    return found


def set_current(root: Path, version: DatasetVersion) -> None:
    """Make `version`, which is below `root`, the one in use."""
    summary = asdict(version)
    del summary["folder"], summary["created"]
    write_json(root / CURRENT, summary)


def current_version(root: Path) -> DatasetVersion | None:
    """Return the version in use with nothing written, or None if there is none or its folder was deleted."""
    path = root / CURRENT
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        found = DatasetVersion(folder=root / summary["version"], created=False, **summary)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError("cannot be read", file=path, found=repr(error), todo="Delete it; the dataset is then written anew.") from error
    if not (found.folder / VERSION_FILE).is_file():
        return None
    return replace(found, bytes_written=0, bytes_linked=0, added=0, removed=0)
