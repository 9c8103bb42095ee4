"""A robot's folder as a home in a store has it: units, each of which is there whole or not at all, and their files by content.

::

    <home>/<robot>/state.json            the id of the state that is, and of those before it; only replaced by who has seen it
    <home>/<robot>/states/<id>           one state: unit -> file -> size, SHA-256, time
    <home>/<robot>/blobs/<ab>/<SHA-256>  contents of files, <ab> being how it begins

What is being removed from it is said in `removing`.

A unit is what appears at once on one disk, too: the episodes of a recording, a version of a dataset, a step of a run, or a single file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vla_ops.errors import HomeError

# What is being removed from a home is known from the second on: states have it while that goes on, so that nobody who does not know of it
# names what is about to go.
FORMAT, FORMAT_REMOVING = 1, 2
POINTER, STATES, BLOBS = "state.json", "states", "blobs"
# A recording's episodes are below a folder of any depth that has this file.
_EPISODES, _RECORDING = "episodes", "recording.json"
# Below these a unit is so many folders deep; elsewhere it is a file.
_DEPTH = {"lerobot_v3": 2, "lerobot_v21": 2, "rlds": 2, "norm_stats": 2, "exports": 3, "trainings": 4}
TRAININGS = "trainings"


@dataclass(frozen=True)
class Kept:
    """A file's content."""

    size: int
    sha256: str
    # Where it was made: what was changed last is told by it.
    mtime_ns: int


# Path below the robot's folder -> the file.
type Unit = Mapping[str, Kept]


@dataclass(frozen=True)
class State:
    """All units of a robot by name, which is their path."""

    units: Mapping[str, Unit] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Kept]:
        """All files by path."""
        return {path: kept for unit in self.units.values() for path, kept in unit.items()}

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        units = {unit: {path: [*astuple(kept)] for path, kept in sorted(files.items())} for unit, files in sorted(self.units.items())}
        return {"format": FORMAT, "units": units}

    @classmethod
    def from_json(cls, told: Any, *, file: object) -> State:
        """The inverse of `to_json`. Raise HomeError for what is none, is of a newer version, or names files outside of the folder."""
        try:
            if told["format"] > FORMAT_REMOVING:
                found, todo = told["format"], "Update vla_ops on this machine: another one that uses this home is newer."
                raise HomeError("the home was written by a newer version", file=file, found=found, expected=FORMAT_REMOVING, todo=todo)
            units = {unit: {path: Kept(*kept) for path, kept in files.items()} for unit, files in told["units"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise damaged(file, repr(error)) from error
        if outside := [path for unit in units.values() for path in unit if not _is_inside(path)]:
            raise damaged(file, f"{outside[0]!r}, which is outside of the robot's folder")
        return cls(units)

    def to_bytes(self, after: str | None, *, removing: str | None = None) -> bytes:
        """As a home keeps it, after another one: no two states of a home have the same id. `removing` is the list of what goes meanwhile.

        With its id in it, it can be none of those that the list names.
        """
        more = {} if removing is None else {"format": FORMAT_REMOVING, "removing": removing}
        return packed({"after": after, **self.to_json(), **more})

    @classmethod
    def from_bytes(cls, content: bytes, *, file: object) -> State:
        """The inverse of `to_bytes`. Raise what `from_json` raises."""
        return cls.from_json(unpacked(content, file=file), file=file)


def packed(told: Any) -> bytes:
    """JSON, compressed."""
    return gzip.compress(json.dumps(told, separators=(",", ":")).encode(), compresslevel=6, mtime=0)


def unpacked(content: bytes, *, file: object) -> Any:
    """The inverse of `packed`. Raise HomeError for what is none."""
    try:
        return json.loads(gzip.decompress(content))
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(file, repr(error)) from error


def damaged(file: object, found: str) -> HomeError:
    """The error for what cannot be read."""
    return HomeError("what a home keeps of a robot cannot be read", file=file, found=found, todo="It was damaged, or changed by hand.")


def state_id(content: bytes) -> str:
    """The name of a state: of its content."""
    return hashlib.sha256(content).hexdigest()[:16]


def blob_name(sha256: str) -> str:
    """Where a content lies below `blobs/`."""
    return f"{sha256[:2]}/{sha256}"


def content_of(unit: Unit | None) -> dict[str, str] | None:
    """What a unit is compared by: times say nothing."""
    return None if unit is None else {path: kept.sha256 for path, kept in unit.items()}


def units_of(paths: Iterable[str]) -> dict[str, str]:
    """The unit of every path of a robot's folder."""
    paths = list(paths)
    recordings = {path.rpartition("/")[0] for path in paths if path.startswith(f"{_EPISODES}/") and path.endswith(f"/{_RECORDING}")}
    return {path: _unit_of(path, recordings) for path in paths}


def is_of_recording(unit: str, files: Unit) -> bool:
    """Whether a unit is the episodes of a recording, and not a file that lies there."""
    return unit.startswith(f"{_EPISODES}/") and f"{unit}/{_RECORDING}" in files


def _unit_of(path: str, recordings: set[str]) -> str:
    first, *_ = parts = path.split("/")
    if first == _EPISODES:
        return next((str(folder) for folder in PurePosixPath(path).parents if str(folder) in recordings), path)
    return "/".join(parts[: _DEPTH.get(first, len(parts))])


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path
