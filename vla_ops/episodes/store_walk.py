"""Find what is in a robot's store without looking into what was written as a whole: one step a recording, not one a file."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from vla_ops.episodes.store import RECORDING, RobotStore
from vla_ops.files import is_work_in_progress

# Their folders are versions of a dataset, which have a file or more for each episode.
_VERSIONED = ("lerobot_v3", "lerobot_v21")


def stored_ids(store: RobotStore) -> list[str]:
    """Ids of all recordings the store holds episodes or quarantine entries of."""
    return sorted(converted_ids(store) | quarantined_ids(store))


def converted_ids(store: RobotStore) -> set[str]:
    """Ids of the recordings of which there are episodes."""
    return {folder for folder, files in _walk(store.episodes) if RECORDING in files and ".tmp-" not in folder}


def quarantined_ids(store: RobotStore) -> set[str]:
    """Ids of the recordings that have a quarantine entry."""
    files = (f"{folder}/{name}".removeprefix("/") for folder, files in _walk(store.quarantine) for name in files)
    return {file.removesuffix(".json") for file in files if file.endswith(".json") and ".tmp-" not in file}


def folders_with_work(store: RobotStore) -> Iterator[Path]:
    """The folders of the store in which there is unfinished work, a killed process's or a living one's."""
    for folder, names in _walk(store.root, but=_VERSIONED, with_folders=True):
        if any(".tmp-" in name and is_work_in_progress(Path(name)) for name in names):
            yield store.root / folder


def _walk(top: Path, *, but: Collection[str] = (), with_folders: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Each folder, by its path below `top`, and the names in it; not of what is in unfinished work, in an episode or in `but`."""
    start = len(str(top)) + 1
    for here, folders, files in os.walk(top):
        folder = here[start:]
        yield folder, [*files, *folders] if with_folders else files
        if folder in but:
            folders.clear()
        folders[:] = [name for name in folders if ".tmp-" not in name and not (RECORDING in files and name.isdecimal())]
