"""Folders of a cache: held by who uses them, and brought down to a size, those not used for the longest time first.

A hold is a shared lock on a file within, so that processes share a folder and none removes what another one reads; it ends with the
process, however that ends. When the file was last touched is when the folder was last used.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from vla_ops.errors import SpecError

_LOCK = ".in_use"
_GB = 10**9
_REMOVED = ".removed-"
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS}
_HELD: dict[Path, TextIO] = {}


def limit_bytes(variable: str, default_gb: float) -> int:
    """An environment variable of gigabytes, in bytes. Raise SpecError if it is no number."""
    asked = os.environ.get(variable, "").strip()
    try:
        gigabytes = float(asked or default_gb)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < 10**6:
        raise SpecError(f"{variable} is not a size", found=asked, expected="gigabytes, 0 to keep nothing")
    return int(gigabytes * _GB)


def hold(folder: Path) -> TextIO:
    """Hold a folder against `trim` until what is returned is closed. One that is removed at this very moment is made anew, empty."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _opened(folder / _LOCK)
        except FileNotFoundError:
            continue
        except FileExistsError:
            if folder.is_file():
                raise
            continue  # It was there, and was removed before it was looked at.
        fcntl.flock(lock, fcntl.LOCK_SH)
        if _is_of(lock, folder):
            _touch(folder / _LOCK)
            return lock
        lock.close()


def _opened(file: Path) -> TextIO:
    """To be locked: a cache of others, which may only be read, is held as well."""
    try:
        return file.open("a+", encoding="utf-8")
    except OSError as error:
        if error.errno not in _READ_ONLY or not file.exists():
            raise
        return file.open(encoding="utf-8")


def _touch(file: Path) -> None:
    """Say that it is used now, where that may be written."""
    try:
        os.utime(file)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise


def _is_of(lock: TextIO, folder: Path) -> bool:
    """Whether a hold is of the folder that is there now, and not of one that was removed since."""
    try:
        return os.fstat(lock.fileno()).st_ino == (folder / _LOCK).stat().st_ino
    except FileNotFoundError:
        return False


def hold_until_exit(folder: Path) -> None:
    """Hold a folder for as long as this process lives: for what is handed on as a path."""
    held = _HELD.get(folder)
    if held is not None and _is_of(held, folder):
        return
    _HELD[folder] = hold(folder)
    if held is not None:
        held.close()


def hold_around(path: Path) -> None:
    """Hold the folder of a cache that a path is in, if it is in one, for as long as this process lives."""
    for folder in (path, *path.parents):
        if (folder / _LOCK).is_file():
            hold_until_exit(folder)
            return


@atexit.register
def _let_go() -> None:
    for lock in _HELD.values():
        lock.close()


def trim(folders: Iterable[Path], limit_bytes: int) -> list[Path]:
    """Remove folders, those not used for the longest time first, until the rest is not larger; return what was removed."""
    kept = sorted((_last_use(folder), _size(folder), folder) for folder in folders)
    total, removed = sum(size for _, size, _ in kept), list[Path]()
    for _, size, folder in kept:
        if total <= limit_bytes:
            break
        if _remove(folder):
            removed.append(folder)
            total -= size
    return removed


def folders_in(cache: Path) -> list[Path]:
    """The folders directly in a cache."""
    try:
        return [Path(entry.path) for entry in os.scandir(cache) if entry.is_dir() and not entry.name.startswith(".")]
    except FileNotFoundError:
        return []


def _last_use(folder: Path) -> float:
    try:
        return (folder / _LOCK).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(folder: Path) -> int:
    """Bytes on disk: sparse files count for what is in them, an empty folder for a block."""
    sizes: dict[int, int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = Path(place, name).stat()
            except FileNotFoundError:
                continue
            sizes[found.st_ino] = found.st_blocks * 512
    return max(4096, sum(sizes.values()))


def _remove(folder: Path) -> bool:
    """Remove a folder unless somebody uses it."""
    try:
        lock = (folder / _LOCK).open("a+", encoding="utf-8")
    except OSError:
        return False
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # Out of the way in one step, so that nobody finds half of it.
        away = folder.with_name(f"{_REMOVED}{os.getpid()}-{time.monotonic_ns()}")
        try:
            folder.rename(away)
        except FileNotFoundError:
            return False
        # Also what a process left that was killed in the middle of this.
        for removed in folder.parent.glob(f"{_REMOVED}*"):
            shutil.rmtree(removed, ignore_errors=True)
    return True
