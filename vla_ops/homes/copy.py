"""One robot's folder on this machine: what is in it, and how a unit of it is replaced."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from vla_ops.checkpoints.layout import UNFINISHED
from vla_ops.errors import HomeError
from vla_ops.files import discard, holder, is_work_in_progress, link_or_copy, only_one, replacing, sweep
from vla_ops.homes.record import FOLDER, Record
from vla_ops.homes.state import TRAININGS, Kept, State, Unit, units_of
from vla_ops.publishing.hashing import HashedFile, Hashes

# Made again wherever they are wanted, or of this machine alone.
_NOT_KEPT = {"looks", "recordings", "cache", FOLDER}
_LOCKS = {".lock", ".in_use"}
_WANDB = "wandb"
# As often is looked again where files vanish while they are read.
_LOOKS = 5


@dataclass(frozen=True)
class Found:
    """What is in the folder, with what was left in the home."""

    mine: State
    # Path -> mtime_ns of those that are here.
    here: Mapping[str, int]
    # Of what is not as it was.
    hashed: Mapping[str, HashedFile] = field(default_factory=dict)
    # Runs that are being trained here: of them finished steps count, and other units are as they were.
    busy: frozenset[str] = frozenset()
    # Units of which a part was left in the home, and what was here was changed or removed: nobody knows whether they belong together.
    apart: frozenset[str] = frozenset()
    links: tuple[str, ...] = ()

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
        """What is there; only what has another size or time than it had is read. Raise HomeError for what cannot be read."""
        for left in reversed(range(_LOOKS)):
            try:
                return self._looked(record)
            # Removed in between, as a trainer removes old steps.
            except FileNotFoundError as error:
                if not left:
                    todo = "Run the same again when nothing else works in it."
                    raise HomeError("files vanish while they are read", file=error.filename or self.root, todo=todo) from error
            except OSError as error:
                raise _unreadable(error, self.root) from error
        raise AssertionError("unreachable")

    def _looked(self, record: Record) -> Found:
        links: list[str] = []
        base, there = record.base.files, dict(_walk(self.root, links))
        same = {path: base[path] for path, (size, mtime_ns) in there.items() if _is_as_it_was(path, size, mtime_ns, base, record)}
        runs = {run for path in there if (run := _run_of(path)) is not None}
        busy = frozenset(run for run in runs if holder(self.root / run) is not None)
        others = [path for path in there if path not in same and (_run_of(path) not in busy or _is_finished(path))]
        hashes = Hashes(self.root / FOLDER / "hashes.json").of([self.root / path for path in others])
        hashed = dict(zip(others, hashes, strict=True))
        kept = same | {path: Kept(file.size, file.sha256, file.mtime_ns) for path, file in hashed.items()}
        mine, apart = _state(kept, record, busy)
        return Found(mine, {path: there[path][1] for path in kept}, hashed, busy, apart, tuple(links))

    def remove(self, unit: str) -> None:
        """Remove a unit, and the folders that are empty then."""
        target = self.root / unit
        if target.exists():
            discard(target)
        for folder in target.parents:
            if folder == self.root or not folder.is_dir() or any(folder.iterdir()):
                return
            folder.rmdir()

    def place(self, unit: str, files: Unit, contents: Mapping[str, Path], shared: Collection[str] = ()) -> dict[str, int]:
        """Make a unit these files, at once. Return their times.

        `contents` says where each is by its SHA-256; `shared` are those that are put in several places.
        """
        target = self.root / unit
        sweep(target.parent, target=target.name)
        with replacing(target) as work:
            for path, kept in files.items():
                source = contents[kept.sha256]
                if path == unit:
                    shutil.copyfile(source, work)
                    os.utime(work, ns=(kept.mtime_ns, kept.mtime_ns))
                else:
                    is_alone = kept.sha256 not in shared and source.stat().st_nlink == 1
                    _put(source, work / Path(path).relative_to(unit), kept, link=is_alone or can_be_linked(unit, path, kept))
            if work.is_dir():
                # Of several runs the one that wrote last is told by it.
                last_ns = max(kept.mtime_ns for kept in files.values())
                os.utime(work, ns=(last_ns, last_ns))
        return {path: (self.root / path).stat().st_mtime_ns for path in files}


def can_be_linked(unit: str, path: str, kept: Kept) -> bool:
    """Whether a file may have another name besides: not what is written to in place, as logs are, and files of runs may be."""
    return path != unit and kept.size > 0 and unit.split("/", maxsplit=1)[0] != TRAININGS


def _put(source: Path, target: Path, kept: Kept, *, link: bool) -> None:
    if link:
        link_or_copy(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    os.utime(target, ns=(kept.mtime_ns, kept.mtime_ns))


def _walk(root: Path, links: list[str]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Path, size and time of every file that a home keeps; links are named in `links`."""

    def unreadable(error: OSError) -> None:
        # What cannot be read was not removed.
        raise error

    for place, folders, files in os.walk(root, onerror=unreadable):
        inner = "" if place == str(root) else f"{Path(place).relative_to(root).as_posix()}/"
        folders[:] = sorted(name for name in folders if _is_kept(name, inner))
        for name in sorted(files):
            if _is_kept(name, inner):
                found = Path(place, name).lstat()
                if stat.S_ISREG(found.st_mode):
                    yield _encodable(f"{inner}{name}", root), (found.st_size, found.st_mtime_ns)
                elif stat.S_ISLNK(found.st_mode):
                    links.append(f"{inner}{name}")
        links.extend(f"{inner}{name}" for name in folders if Path(place, name).is_symlink())


def _encodable(path: str, root: Path) -> str:
    try:
        path.encode()
    except UnicodeEncodeError as error:
        todo = "Rename it: a home in a store has names in UTF-8."
        raise HomeError("the name of a file is no text", file=root, found=ascii(path), todo=todo) from error
    return path


def _unreadable(error: OSError, root: Path) -> HomeError:
    todo = "Make it readable for this user: what cannot be read is not taken for removed, and nothing was fetched or sent."
    return HomeError(f"the copy of the home cannot be read: {error.strerror or error}", file=error.filename or root, todo=todo)


def is_left_behind(link: str) -> bool:
    """Whether a link may stay on this machine: W&B makes some for whoever looks at a run's folder."""
    return link.startswith(f"{TRAININGS}/") and link.split("/")[3:4] == [_WANDB]


def _is_kept(name: str, inner: str) -> bool:
    if name in _LOCKS or UNFINISHED in name or is_work_in_progress(Path(name)):
        return False
    return bool(inner) or name not in _NOT_KEPT


def _is_as_it_was(path: str, size: int, mtime_ns: int, base: Mapping[str, Kept], record: Record) -> bool:
    return record.here.get(path) == mtime_ns and path in base and base[path].size == size


def _state(kept: Mapping[str, Kept], record: Record, busy: frozenset[str]) -> tuple[State, frozenset[str]]:
    """The units of what is here and of what was left in the home, those of busy runs as they were; and which are apart."""
    left: dict[str, Kept] = {}
    for unit in record.base.units.values():
        were_here = [path for path in unit if path in record.here]
        # With all of what was here, the rest of a unit is removed, too.
        if not were_here or any(path in kept for path in were_here):
            left |= {path: file for path, file in unit.items() if path not in record.here}
    files = {**left, **kept}
    units: dict[str, dict[str, Kept]] = {}
    for path, unit in units_of(files).items():
        units.setdefault(unit, {})[path] = files[path]
    apart = {unit for unit, files in units.items() if _is_apart(files, record.base.units.get(unit, {}), kept, record)}
    was = {unit: files for unit, files in record.base.units.items() if _run_of(unit) in busy and not _is_finished(unit)}
    return State({unit: files for unit, files in units.items() if unit not in was} | was), frozenset(apart - was.keys())


def _is_apart(unit: Unit, was: Unit, kept: Mapping[str, Kept], record: Record) -> bool:
    if not any(path not in kept for path in unit):
        return False
    changed = any(path in kept and (path not in was or was[path].sha256 != file.sha256) for path, file in unit.items())
    return changed or any(path in record.here and path not in kept for path in was)


def _is_finished(path: str) -> bool:
    """Whether a file of a run that is being trained is written at once: a step, which appears whole, or JSON, which is replaced."""
    parts = path.split("/")
    return parts[3].isdecimal() or (len(parts) == 4 and parts[3].endswith(".json"))


def _run_of(path: str) -> str | None:
    parts = path.split("/")
    return "/".join(parts[:3]) if parts[0] == TRAININGS and len(parts) > 3 else None
