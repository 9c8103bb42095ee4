"""Write beside the place and rename into it: a killed process leaves nothing half-written.

Work lies in `<name>.tmp-<pid>-<random>-<host>` next to its target, on the same file system. What a killed process left there is
removed by `sweep`, which leaves the work of living processes alone. `only_one` keeps two processes from the same folder.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vla_ops.errors import StoreError

_MARK = ".tmp-"
_LOCK = ".lock"
_ASK_AGAIN_S, _SAY_EVERY_S = 0.2, 5.0
# Whether a process of another machine lives cannot be seen from here; no conversion takes this long.
_SURELY_DEAD_S = 24 * 3600
# Across file systems, or where an inode has as many names as it may have.
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to make a file or folder at; on success it becomes `target`, on error it is removed.

    Raise StoreError naming the folder when the store is full or cannot be written.
    """
    work = _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield work
        _sync(work)
        _swap_in(work, target)
    except StoreError:
        _remove(work)
        raise
    except OSError as error:
        _remove(work)
        if _is_of_store(error, target):
            raise _store_error(error, target) from error
        raise
    except BaseException:
        _remove(work)
        raise


def _beside(target: Path) -> Path:
    return target.with_name(f"{target.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}-{socket.gethostname()}")


def _sync(path: Path) -> None:
    """Flush to disk, so that a power loss after the rename does not leave an empty file under a good name."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        if file.stat().st_nlink > 1:
            continue  # A hard link of what is in the store, flushed when it was written.
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def link_or_copy(source: Path, target: Path) -> int:
    """Make `target` a hard link of `source`, or a copy where that cannot be; return the bytes that were not written again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(source, target)
        return 0
    return target.stat().st_size


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with replacing(target) as work:
        work.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sweep(folder: Path, *, target: str = "") -> list[Path]:
    """Remove what killed processes left directly in `folder`, by default whatever it was to become; return what was removed."""
    if not folder.is_dir():
        return []
    mine = (p for p in folder.iterdir() if is_work_in_progress(p) and (not target or p.name.startswith(f"{target}{_MARK}")))
    left = [p for p in mine if not _in_use(p)]
    for path in left:
        _remove(path)
    return left


def discard_work(target: Path) -> None:
    """Remove all work in progress on `target`, of living processes too: only for who knows that nobody is to finish it."""
    for path in target.parent.glob(f"{glob.escape(target.name)}{_MARK}*"):
        _remove(path)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Yield an empty folder in `parent` that is removed afterwards; what killed processes left there is removed first."""
    sweep(parent)
    work = _beside(parent / "scratch")
    try:
        work.mkdir(parents=True)
        yield work
    finally:
        _remove(work)


@contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """Yield a file of a name of its own in `folder`: another machine that sees it sees the same folder."""
    mark = _beside(folder / "mark")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        raise _store_error(error, folder) from error
    try:
        yield mark
    finally:
        _remove(mark)


@contextmanager
def only_one(folder: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder` against other processes, waiting until it is free; the hold ends with the process, however that ends.

    `waiting(who)` is called every five seconds while another process, `who`, holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise _store_error(error, folder) from error
    with handle:
        _wait_for_lock(handle, waiting)
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield


def holder(folder: Path) -> str | None:
    """Who holds `folder` by `only_one` at this moment, or None."""
    try:
        handle = (folder / _LOCK).open(encoding="utf-8")
    except FileNotFoundError:
        return None
    with handle:
        return None if _try_lock(handle) else handle.read()


def _wait_for_lock(handle: TextIO, waiting: Callable[[str], None]) -> None:
    said_s = -_SAY_EVERY_S
    while not _try_lock(handle):
        if time.monotonic() - said_s >= _SAY_EVERY_S:
            handle.seek(0)
            waiting(handle.read())
            said_s = time.monotonic()
        time.sleep(_ASK_AGAIN_S)


def _try_lock(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_work_in_progress(path: Path) -> bool:
    """True for the paths that `replacing` yields."""
    return _MARK in path.name


def discard(path: Path) -> None:
    """Remove a file or folder. It first gets the name of unfinished work, so that a killed process leaves no half of it."""
    work = _beside(path)
    path.rename(work)
    _remove(work)


def _swap_in(work: Path, target: Path) -> None:
    if not target.is_dir():
        work.replace(target)
        return
    # A folder cannot be replaced in one step. Killed in between, the target is missing, never half-written.
    old = _beside(target)
    target.rename(old)
    work.rename(target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists() or path.is_symlink():
        path.unlink(missing_ok=True)


def _in_use(work: Path) -> bool:
    pid, _, host = (*work.name.rsplit(_MARK, 1)[1].split("-", 2), "", "")[:3]
    if host != socket.gethostname():
        return time.time() - work.stat().st_mtime < _SURELY_DEAD_S
    return is_alive(pid)


def is_alive(pid: str) -> bool:
    """Whether a process of this machine is there; also if that cannot be told."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: str) -> bool:
    """True for a dead process that its parent has not asked for, as in a container whose first process asks for none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def _is_of_store(error: OSError, target: Path) -> bool:
    """Tell a store that is full or forbidden from a file that failed to be read while writing to it."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
        return False
    return error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(target.parent) or not target.parent.exists()


def _store_error(error: OSError, target: Path) -> StoreError:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(_existing(target)).free
        todo = "Free space there or set VLA_OPS_HOME to another disk, then run the same command again: what is done is kept."
        return StoreError("the store is full", found=f"{free / 1e6:.0f} MB free", file=target, todo=todo)
    return StoreError(f"cannot write to the store: {error.strerror or error}", file=target, todo="Check VLA_OPS_HOME and its permissions.")


def _existing(path: Path) -> Path:
    return next(p for p in [path, *path.parents] if p.exists())
