"""Contents of files by their SHA-256, in a robot's folder of a home and on their way to and from it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vla_ops.errors import FetchError, HomeError, StoreError
from vla_ops.fetching.download import fetch_file
from vla_ops.fetching.remote import RemoteFile
from vla_ops.homes.state import BLOBS, Kept, blob_name
from vla_ops.publishing.hashing import HashedFile
from vla_ops.publishing.stores.base import NONE, Store

# What is smaller is fetched in one request.
_WHOLE = 8 << 20


class Blobs:
    """`store` is that of the robot's folder in the home; `incoming` a folder for what is being fetched, in which a killed fetch goes on."""

    def __init__(self, store: Store, incoming: Path) -> None:
        self._store, self._incoming = store, incoming

    def absent(self, files: Iterable[HashedFile]) -> dict[str, HashedFile]:
        """Those of which the store has not got the content, by name: of all of them at once, by a listing of all that is there."""
        named = {blob_name(file.sha256): file for file in files}
        return {name: named[name] for name in self._store.differing(BLOBS, named)}

    def send(
        self, files: Mapping[str, HashedFile], sent: Callable[[int], None], *, asked: bool, last: Mapping[str, HashedFile] = NONE
    ) -> None:
        """Put contents there by name, and then `last`; `asked` says that `absent` has just named them.

        Raise PublishError for a file that changes.
        """
        self._store.put_all({f"{BLOBS}/{name}": file for name, file in files.items()}, last=last, sent=sent, asked=asked)

    def fetch(self, wanted: Mapping[str, Kept]) -> dict[str, Path]:
        """Fetch the contents of files, by path; return by SHA-256 where they are until `clear`.

        Raise HomeError, naming the file, for a content that is not there as it was.
        """
        self._require_space(wanted)
        self._incoming.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(self._store.at_once, thread_name_prefix="home") as pool:
            fetched = pool.map(self._fetched, wanted, wanted.values())
            return {kept.sha256: file for kept, file in zip(wanted.values(), fetched, strict=True)}

    def clear(self) -> None:
        """Remove what was fetched: all of it is in its place."""
        shutil.rmtree(self._incoming, ignore_errors=True)

    def _fetched(self, path: str, kept: Kept) -> Path:
        target, name = self._incoming / kept.sha256, f"{BLOBS}/{blob_name(kept.sha256)}"
        if target.is_file():
            if _is(target, kept):
                return target
            # Not one that may go on: it has another name by now, or is too long.
            if target.stat().st_nlink > 1 or target.stat().st_size >= kept.size:
                target.unlink()
        if kept.size > _WHOLE:
            fetch_file(self._at(name, path), target)
        else:
            content = self._store.read(name)
            if content is None:
                raise self._lost(path, name, "is missing")
            target.unlink(missing_ok=True)
            target.write_bytes(content)
        if not _is(target, kept):
            target.unlink()
            raise self._lost(path, name, "has another content than its name says")
        _flush(target)
        os.utime(target, ns=(kept.mtime_ns, kept.mtime_ns))
        return target

    def _at(self, name: str, path: str) -> RemoteFile:
        try:
            return self._store.remote_file(name)
        except FetchError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise self._lost(path, name, "is missing") from error
            raise

    def _lost(self, path: str, name: str, why: str) -> HomeError:
        robot = self._store.uri.rpartition("/")[2]
        todo = f"It was damaged or removed there. A machine that has {path} sends it again: `vla-ops home mend {robot}`."
        return HomeError(f"a file of the home {why}", file=f"{self._store.uri}/{name}", todo=todo)

    def _require_space(self, wanted: Mapping[str, Kept]) -> None:
        there = next(folder for folder in (self._incoming, *self._incoming.parents) if folder.is_dir())
        needed, free = sum(kept.size for kept in wanted.values()), shutil.disk_usage(there).free
        if needed > free:
            found, expected = f"{free / 1e9:.2f} GB free", f"{needed / 1e9:.2f} GB"
            todo = "Free space there, or set VLA_OPS_HOME_COPY to a folder on another disk."
            raise StoreError("the disk will not hold what is fetched of the home", file=there, found=found, expected=expected, todo=todo)


def _is(file: Path, kept: Kept) -> bool:
    if file.stat().st_size != kept.size:
        return False
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest() == kept.sha256


def _flush(file: Path) -> None:
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())
