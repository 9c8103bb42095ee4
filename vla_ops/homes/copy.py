"""One robot's folder on this machine: what is in it, and how a unit of it is replaced."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from vla_ops.checkpoints.layout import UNFINISHED
from vla_ops.errors import HomeError
from vla_ops.files import discard, holder, is_work_in_progress, link_or_copy, only_one, replacing
from vla_ops.homes.record import FOLDER, Record
from vla_ops.homes.state import TRAININGS, Kept, State, Unit, units_of
from vla_ops.publishing.hashing import HashedFile, Hashes

# Made again wherever they are wanted, or of this machine alone.
_NOT_KEPT = {"looks", "recordings", "cache", FOLDER}
_LOCKS = {".lock", ".in_use"}


@dataclass(frozen=True)
class Found:
    """What is in the folder, with what was left in the home."""

    mine: State
    # Path -> mtime_ns of those that are here.
    here: Mapping[str, int]
    # Of what is not as it was.
    hashed: Mapping[str, HashedFile] = field(default_factory=dict)
    # Runs that are being trained here: of them finished steps count, and other units are as they were.
    busy: tuple[str, ...] = ()

    def is_busy(self, unit: str) -> bool:
        """Whether a unit is of a run that is being trained here."""
        return _run_of(unit) in self.busy


class Copy:
    """`<copy of the home>/<robot>/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def alone(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Against whoever converts this robot's recordings on this machine."""
        return only_one(self.root, lambda who: say(f"waiting for {who}, which is converting recordings of {self.root.name}"))

    def look(self, record: Record) -> Found:
        """What is there; only what has another size or time than it had is read. Raise HomeError for a link."""
        base, there = record.base.files, dict(_walk(self.root))
        same = {path: base[path] for path, (size, mtime_ns) in there.items() if _is_as_it_was(path, size, mtime_ns, base, record)}
        others = [path for path in there if path not in same]
        busy = tuple(sorted({run for path in there if (run := _run_of(path)) is not None and holder(self.root / run) is not None}))
        others = [path for path in others if _run_of(path) not in busy or _is_finished(path)]
        hashes = Hashes(self.root / FOLDER / "hashes.json").of([self.root / path for path in others])
        hashed = dict(zip(others, hashes, strict=True))
        kept = same | {path: Kept(file.size, file.sha256, file.mtime_ns) for path, file in hashed.items()}
        return Found(_state(kept, record, busy), {path: there[path][1] for path in kept}, hashed, busy)

    def replace(self, unit: str, files: Unit, contents: Mapping[str, Path]) -> dict[str, int]:
        """Make a unit these files, at once; none removes it. `contents` says where each is by its SHA-256, to be linked.

        Return the times of the files.
        """
        target = self.root / unit
        if not files:
            self._remove(target)
            return {}
        with replacing(target) as work:
            for path, kept in files.items():
                source = contents[kept.sha256]
                if path == unit:
                    # Not a link: logs are appended to.
                    shutil.copyfile(source, work)
                    os.utime(work, ns=(kept.mtime_ns, kept.mtime_ns))
                else:
                    link_or_copy(source, work / Path(path).relative_to(unit))
            if work.is_dir():
                # Of several runs the one that wrote last is told by it.
                last_ns = max(kept.mtime_ns for kept in files.values())
                os.utime(work, ns=(last_ns, last_ns))
        return {path: (self.root / path).stat().st_mtime_ns for path in files}

    def _remove(self, target: Path) -> None:
        if target.exists():
            discard(target)
        for folder in target.parents:
            if folder == self.root or any(folder.iterdir()):
                return
            folder.rmdir()


def _walk(root: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path, size and time of every file that a home keeps."""
    for place, folders, files in os.walk(root):
        inner = "" if place == str(root) else f"{Path(place).relative_to(root).as_posix()}/"
        folders[:] = sorted(name for name in folders if _is_kept(name, inner))
        for name in (*files, *folders):
            if Path(place, name).is_symlink():
                todo = "Put what it points to in its place: a home in a store has no links."
                raise HomeError("there is a link in the copy of the home", file=f"{place}/{name}", todo=todo)
        for name in sorted(files):
            if _is_kept(name, inner):
                try:
                    found = Path(place, name).stat()
                except FileNotFoundError:
                    continue  # Removed a moment ago.
                yield f"{inner}{name}", (found.st_size, found.st_mtime_ns)


def _is_kept(name: str, inner: str) -> bool:
    if name in _LOCKS or UNFINISHED in name or is_work_in_progress(Path(name)):
        return False
    return bool(inner) or name not in _NOT_KEPT


def _is_as_it_was(path: str, size: int, mtime_ns: int, base: Mapping[str, Kept], record: Record) -> bool:
    return record.here.get(path) == mtime_ns and path in base and base[path].size == size


def _state(kept: Mapping[str, Kept], record: Record, busy: tuple[str, ...]) -> State:
    """The units of what is here and of what was left in the home; those of busy runs as they were."""
    left = {}
    for unit in record.base.units.values():
        were_here = [path for path in unit if path in record.here]
        # With all of what was here, the rest of a unit is removed, too.
        if not were_here or any(path in kept for path in were_here):
            left |= {path: file for path, file in unit.items() if path not in record.here}
    files = {**left, **kept}
    units: dict[str, dict[str, Kept]] = {}
    for path, unit in units_of(files).items():
        units.setdefault(unit, {})[path] = files[path]
    was = {unit: files for unit, files in record.base.units.items() if _run_of(unit) in busy and not _is_finished(unit)}
    return State({unit: files for unit, files in units.items() if unit not in was} | was)


def _is_finished(path: str) -> bool:
    """Whether a file of a run that is being trained is written at once: a step, which appears whole, or JSON, which is replaced."""
    parts = path.split("/")
    return parts[3].isdecimal() or parts[-1].endswith(".json")


def _run_of(path: str) -> str | None:
    parts = path.split("/")
    return "/".join(parts[:3]) if parts[0] == TRAININGS and len(parts) > 3 else None
