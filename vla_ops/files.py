"""Write beside the place and rename into it: a killed process leaves nothing half-written.

Work lies in `<name>.tmp-<pid>-<random>` next to its target, on the same file system. What a killed process left there is
removed by `sweep`, which leaves the work of living processes alone.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla_ops.errors import StoreError

_MARK = ".tmp-"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to make a file or folder at; on success it becomes `target`, on error it is removed.

    Raise StoreError naming the folder when the store is full or cannot be written.
    """
    work = target.with_name(f"{target.name}{_MARK}{os.getpid()}-{secrets.token_hex(4)}")
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


def _sync(path: Path) -> None:
    """Flush to disk, so that a power loss after the rename does not leave an empty file under a good name."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        if file.stat().st_nlink > 1:
            continue  # A hard link of what is in the store, flushed when it was written.
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with replacing(target) as work:
        work.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def sweep(folder: Path) -> list[Path]:
    """Remove what killed processes left directly in `folder`; return what was removed."""
    if not folder.is_dir():
        return []
    left = [p for p in folder.iterdir() if _MARK in p.name and not _alive(p.name.rsplit(_MARK, 1)[1].split("-")[0])]
    for path in left:
        _remove(path)
    return left


def is_work_in_progress(path: Path) -> bool:
    """True for the paths that `replacing` yields."""
    return _MARK in path.name


def _swap_in(work: Path, target: Path) -> None:
    if not target.is_dir():
        work.replace(target)
        return
    # A folder cannot be replaced in one step. Killed in between, the target is missing, never half-written.
    old = target.with_name(f"{target.name}{_MARK}{os.getpid()}-old-{secrets.token_hex(4)}")
    target.rename(old)
    work.rename(target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists() or path.is_symlink():
        path.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):
        return True
    return True


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
