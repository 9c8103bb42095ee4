"""Publications in a folder: on this disk, or on a share that others mount."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vla_ops.errors import PublishError, StoreError
from vla_ops.fetching.remote import RemoteFile, file_at
from vla_ops.files import is_work_in_progress, link_or_copy, only_one, replacing, sweep
from vla_ops.publishing.hashing import HashedFile, changed, hash_file
from vla_ops.publishing.stores.base import OneByOne, Pointer, Stored

_BLOCK = 4 << 20


@dataclass(frozen=True)
class LocalStore(OneByOne):
    """A folder of publications. What it holds is copied: links would change with the originals."""

    folder: Path
    at_once: int = 4

    @property
    def uri(self) -> str:
        """Its path."""
        return str(self.folder)

    def check(self) -> None:
        """See Store.check."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PublishError("the folder cannot be made", file=self.folder, found=error.strerror, todo="Name another.") from error
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PublishError("the folder cannot be written", file=self.folder, todo="Check its permissions, or name another.")

    def listed(self, folder: str) -> Mapping[str, int]:
        """See Store.listed."""
        root = self.folder / folder
        return {
            path.relative_to(root).as_posix(): path.stat().st_size
            for path in sorted(root.rglob("*"))
            if path.is_file() and not is_work_in_progress(path)
        }

    def put(self, name: str, file: HashedFile, *, like: str | None, sent: Callable[[int], None], asked: bool = False) -> None:
        """See Store.put."""
        target = self.folder / name
        if not asked and target.is_file() and self.differs(name, file) is None:
            return
        sweep(target.parent, target=target.name)
        with replacing(target) as work:
            # Within the store nobody writes to a file that is there: it may have two names.
            if like is not None and self.differs(like, file) is None:
                link_or_copy(self.folder / like, work)
                return
            file.require_unchanged()
            if (found := _copy(file.path, work, sent)) != file.sha256:
                raise changed(file.path, f"sha256 {found}", f"sha256 {file.sha256}")

    def differs(self, name: str, file: HashedFile) -> str | None:
        """See Store.differs."""
        path = self.folder / name
        if not path.is_file():
            return "is missing"
        if (size := path.stat().st_size) != file.size:
            return f"has {size} bytes instead of {file.size}"
        return None if hash_file(path).sha256 == file.sha256 else "has other bytes"

    def differing(self, folder: str, files: Mapping[str, HashedFile]) -> Mapping[str, str]:
        """See Store.differing."""
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="compare") as pool:
            found = pool.map(lambda name: self.differs(f"{folder}/{name}", files[name]), files)
            return {name: why for name, why in zip(files, found, strict=True) if why is not None}

    def read(self, name: str) -> bytes | None:
        """See Store.read."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def remote_file(self, name: str) -> RemoteFile:
        """See Store.remote_file."""
        return file_at(f"{self.uri}/{name}")

    def pointer(self, name: str) -> Pointer | None:
        """See Store.pointer."""
        content = self.read(name)
        return None if content is None else Pointer(content, hashlib.sha256(content).hexdigest())

    def point(self, name: str, content: bytes, *, seen: Pointer | None) -> bool:
        """See Store.point."""
        target = self.folder / name
        with only_one(self.folder, _patiently):
            if self.pointer(name) != seen:
                return False
            with replacing(target) as work:
                work.write_bytes(content)
        return True

    def folders(self) -> list[str]:
        """See Store.folders."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir()) if self.folder.is_dir() else []

    def stored(self, folder: str) -> Mapping[str, Stored]:
        """See Store.stored."""
        root, found = self.folder / folder, dict[str, Stored]()
        for path in sorted(root.rglob("*")):
            if not is_work_in_progress(path) and (about := _about(path)) is not None:
                found[path.relative_to(root).as_posix()] = Stored(about.st_size, _time_of(about))
        return found

    def remove(self, names: Iterable[str]) -> None:
        """See Store.remove. Folders stay: somebody may be about to write into one."""
        for name in names:
            path = self.folder / name
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                todo = "Check the permissions of its folder."
                raise PublishError("a file cannot be removed", file=path, found=error.strerror, todo=todo) from error

    def clear_unfinished(self, before: datetime) -> int:
        """See Store.clear_unfinished."""
        left = {path: _about(path) for path in self.folder.rglob("*") if is_work_in_progress(path)}
        old = [path for path, about in left.items() if about is not None and _time_of(about) < before]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)


def _about(path: Path) -> os.stat_result | None:
    """Of a file; None where there is none, any more perhaps: others rename and remove."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return None
    return about if stat.S_ISREG(about.st_mode) else None


def _time_of(about: os.stat_result) -> datetime:
    return datetime.fromtimestamp(about.st_mtime, UTC)


def _patiently(_who: str) -> None:
    """Pointers are written in no time."""


def _copy(source: Path, target: Path, sent: Callable[[int], None]) -> str:
    """Copy, and return the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    free = shutil.disk_usage(target.parent).free
    if free < source.stat().st_size:
        found, expected = f"{free / 1e6:.0f} MB free", f"{source.stat().st_size / 1e6:.0f} MB"
        raise StoreError(
            "the store is full", file=target.parent, found=found, expected=expected, todo="Free space there, then run the same again."
        )
    with open(source, "rb") as handle, open(target, "wb") as sink:
        while block := handle.read(_BLOCK):
            digest.update(block)
            sink.write(block)
            sent(len(block))
    return digest.hexdigest()
