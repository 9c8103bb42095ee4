"""Which recordings are there, and are they the bytes they were: listing, content versions, local copies.

A recording is a file or folder below a root that matches a glob; its id is its path relative to the root. Roots are local
folders or anything fsspec opens. A listing reads no recording; a content version reads each new or touched one once.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vla_ops.errors import RecordingError
from vla_ops.files import is_work_in_progress, replacing, write_json


@dataclass(frozen=True)
class RecordingFile:
    """One recording as the listing shows it."""

    id: str
    uri: str
    size: int
    # Local: newest modification in ns. Remote: the store's own token of the content (ETag and the like).
    stamp: str
    # Newest modification, seconds since the epoch; 0 where the store does not say.
    modified_s: float
    is_folder: bool

    def is_settled(self, settle_s: float, now_s: float | None = None) -> bool:
        """False while the file was changed less than `settle_s` seconds ago: someone may still be writing it."""
        return (time.time() if now_s is None else now_s) - self.modified_s >= settle_s


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts 2.mcap before 10.mcap."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text) if part)


def list_recordings(root: str, pattern: str) -> list[RecordingFile]:
    """List the recordings below `root` in natural order.

    Raise RecordingError if the root cannot be listed, or if the pattern matches a recording and something inside it.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(root)
        if not fs.isdir(path):
            raise RecordingError("the recordings root is not there", file=root, todo="Check recordings.uri in the robot's YAML.")
        found: dict[str, dict[str, Any]] = fs.glob(posixpath.join(path, pattern), detail=True)
    except (OSError, ImportError, ValueError) as error:
        raise RecordingError(f"cannot list the recordings: {error}", file=root, todo="Check recordings.uri and credentials.") from error
    files = [_entry(fs, path, name, info) for name, info in found.items() if not is_work_in_progress(Path(name))]
    files.sort(key=lambda f: natural_key(f.id))
    _check_nesting(files)
    return files


def _entry(fs: Any, root: str, name: str, info: dict[str, Any]) -> RecordingFile:
    is_folder = info["type"] == "directory"
    parts: list[dict[str, Any]] = list(fs.find(name, detail=True).values()) if is_folder else [info]
    stamps = sorted(_stamp(part) for part in parts)
    return RecordingFile(
        id=posixpath.relpath(name, root),
        uri=fs.unstrip_protocol(name) if fs.protocol not in ("file", ("file", "local")) else name,
        size=sum(int(part["size"] or 0) for part in parts),
        stamp=stamps[-1] if len(stamps) == 1 else hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16],
        modified_s=max((_modified_s(part) for part in parts), default=0.0),
        is_folder=is_folder,
    )


def _stamp(info: dict[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "checksum"):
        if info.get(key):
            return f"{info['name']}:{str(info[key]).strip(chr(34))}"
    return f"{info['name']}:{info.get('size')}:{info.get('mtime', info.get('LastModified', info.get('updated', '')))}"


def _modified_s(info: dict[str, Any]) -> float:
    value = info.get("mtime", info.get("LastModified", info.get("last_modified", 0)))
    return value.timestamp() if hasattr(value, "timestamp") else float(value or 0)


def _check_nesting(files: Sequence[RecordingFile]) -> None:
    ids = {file.id for file in files}
    for file in files:
        outer = next((str(parent) for parent in PurePosixPath(file.id).parents if str(parent) in ids), None)
        if outer is not None:
            raise RecordingError(
                "recordings.pattern matches a recording and something inside it",
                file=outer,
                found=file.id,
                todo="Narrow recordings.pattern so that it matches each recording once.",
            )


def same_names(files: Iterable[RecordingFile]) -> dict[str, str]:
    """Id -> the earlier id that is the same name to a store that ignores case or normalises Unicode; ids are folder names there."""
    first: dict[str, str] = {}
    earlier = {file.id: first.setdefault(unicodedata.normalize("NFC", file.id).casefold(), file.id) for file in files}
    return {key: twin for key, twin in earlier.items() if twin != key}


@dataclass
class ContentVersions:
    """Content versions by recording id, remembered with the listing's stamp so that only new or touched files are read."""

    path: Path
    known: dict[str, dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> ContentVersions:
        """Read what is remembered at `path`; a missing or unreadable file is an empty memory, since all of it can be made again."""
        try:
            return cls(path, json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return cls(path, {})

    def of(self, file: RecordingFile) -> str:
        """The content version of `file`, from memory if its size and stamp are unchanged."""
        known = self.known.get(file.id)
        if known is None or (known["size"], known["stamp"]) != (file.size, file.stamp):
            known = {"size": file.size, "stamp": file.stamp, "version": content_version(file)}
            self.known[file.id] = known
        return known["version"]

    def save(self, present: Iterable[str]) -> None:
        """Write the memory of the recordings that are still there."""
        keep = set(present)
        kept = {k: v for k, v in self.known.items() if k in keep}
        if kept != self.known or not self.path.exists() or json.loads(self.path.read_text(encoding="utf-8")) != kept:
            write_json(self.path, kept)


def content_version(file: RecordingFile) -> str:
    """Hash of the bytes (first 16 hex digits of SHA-256); for remote files of the store's own content token."""
    if "://" in file.uri:
        return hashlib.sha256(f"{file.size}:{file.stamp}".encode()).hexdigest()[:16]
    try:
        return _hash_folder(Path(file.uri)) if file.is_folder else _hash_file(Path(file.uri))
    except OSError as error:
        raise RecordingError(f"cannot read the recording: {error.strerror}", file=file.uri) from error


def _hash_file(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def _hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}:{_hash_file(path)}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def local_copy(file: RecordingFile, cache: Path) -> Iterator[Path]:
    """Yield a local path of the recording: its own, or a download below `cache` that is removed afterwards."""
    if "://" not in file.uri:
        yield Path(file.uri)
        return
    import fsspec

    fs, path = fsspec.core.url_to_fs(file.uri)
    with replacing(cache / file.id) as work:
        fs.get(path, str(work), recursive=file.is_folder)
    try:
        yield cache / file.id
    finally:
        _forget(cache / file.id)


def _forget(path: Path) -> None:
    import shutil

    shutil.rmtree(path) if path.is_dir() else path.unlink()
