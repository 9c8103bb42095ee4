"""The folder in which fetched parts of remote recordings are kept, a folder for each recording, up to a size in all.

What is in use is held by a shared lock, so that worker processes of one run share it and never remove what another one reads.
The recordings that were not used for the longest time go first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from vla_ops.errors import SpecError
from vla_ops.recordings.remote.blocks import no_room

_LOCK = ".in_use"
_GB = 10**9
_DEFAULT_GB = 20.0
_REMOVED = ".removed-"


def cache_limit_bytes() -> int:
    """VLA_OPS_CACHE_GB in bytes, 20 GB where it is not set. Raise SpecError if it is no number."""
    asked = os.environ.get("VLA_OPS_CACHE_GB", "").strip()
    try:
        gigabytes = float(asked or _DEFAULT_GB)
    except ValueError:
        gigabytes = -1.0
    if not 0 <= gigabytes < 10**6:
        raise SpecError("VLA_OPS_CACHE_GB is not a size", found=asked, expected="gigabytes, 0 to keep nothing")
    return int(gigabytes * _GB)


class CacheFolder:
    """The parts that are kept of one recording; held until it is closed. Without a `cache`, a folder that is removed then."""

    def __init__(self, cache: Path | None, uri: str) -> None:
        self._cache, self._lock = cache, None
        try:
            if cache is None:
                self.path = Path(tempfile.mkdtemp(prefix="vla-ops-"))
            else:
                self.path = cache / hashlib.sha256(uri.encode()).hexdigest()[:24]
                self._lock = _hold(self.path)
        except OSError as error:
            raise no_room(error, cache or Path(tempfile.gettempdir())) from error

    def file(self, name: str, token: str) -> Path:
        """Where the content that `token` stands for of the file `name` is kept; what was kept of another content of it is removed."""
        stem = hashlib.sha256(name.encode()).hexdigest()[:20]
        folder = self.path / stem[:2]
        folder.mkdir(exist_ok=True)
        path = folder / f"{stem}-{hashlib.sha256(token.encode()).hexdigest()[:20]}"
        for old in folder.glob(f"{stem}-*"):
            if not old.name.startswith(path.name):
                # Who still reads it goes on reading: the file is there until it is closed.
                old.unlink(missing_ok=True)
        return path

    def close(self) -> None:
        """Let go of it, and bring the cache down to its size; closing twice is fine."""
        lock, self._lock = self._lock, None
        if self._cache is None:
            shutil.rmtree(self.path, ignore_errors=True)
        elif lock is not None:
            lock.close()
            trim(self._cache, cache_limit_bytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _hold(folder: Path) -> TextIO:
    """Hold a folder against being removed. One that is removed at this very moment is made anew."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / _LOCK).open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_SH)
        try:
            if os.fstat(lock.fileno()).st_ino == (folder / _LOCK).stat().st_ino:
                os.utime(folder / _LOCK)  # When it was last used.
                return lock
        except FileNotFoundError:
            pass
        lock.close()


def trim(cache: Path, limit_bytes: int) -> list[Path]:
    """Remove recordings, those not used for the longest time first, until the rest is not larger; return what was removed."""
    kept = sorted((_last_use(folder), _size(folder), folder) for folder in _folders(cache))
    total, removed = sum(size for _, size, _ in kept), list[Path]()
    for _, size, folder in kept:
        if total <= limit_bytes:
            break
        if _remove(folder):
            removed.append(folder)
            total -= size
    return removed


def _folders(cache: Path) -> list[Path]:
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
    """Remove a recording's folder unless somebody uses it."""
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
        shutil.rmtree(away, ignore_errors=True)
    return True
