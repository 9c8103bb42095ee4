"""Which recordings are there, and are they the bytes they were: listing and content versions.

A recording is a file or folder below a root that matches a glob; its id is its path relative to the root. Roots are local
folders or anything fsspec opens. A listing reads no recording; a content version reads each new or touched one once.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import posixpath
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vla_ops.errors import RecordingError
from vla_ops.files import is_work_in_progress, replacing
from vla_ops.recordings.local_listing import is_plain, local_matches
from vla_ops.recordings.store_listing import Listed, local_files, of_stat, remote_file

# Called with the number of bytes that were newly read.
type Progress = Callable[[int], None]

_HASH_BLOCK = 2**20
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class RecordingFile:
    """One recording as the listing shows it."""

    id: str
    uri: str
    size: int
    # Changes with the content. Local: times and inode. Remote: the store's own token of the content (ETag and the like).
    stamp: str
    # Newest modification, seconds since the epoch; 0 where the store does not say.
    modified_s: float
    is_folder: bool

    def is_settled(self, settle_s: float, now_s: float | None = None) -> bool:
        """False while the file was changed less than `settle_s` seconds ago: someone may still be writing it."""
        return (time.time() if now_s is None else now_s) - self.modified_s >= settle_s


def natural_key(text: str) -> tuple[str | int, ...]:
    """Sort key that puts 2.mcap before 10.mcap."""
    # Text and numbers in turn, beginning with text, so that a text never meets a number.
    parts: list[str | int] = [*_DIGITS.split(text)]
    parts[1::2] = map(int, parts[1::2])
    return tuple(parts)


def list_recordings(root: str, pattern: str) -> list[RecordingFile]:
    """List the recordings below `root` in natural order.

    Raise RecordingError if the root cannot be listed, or if the pattern matches a recording and something inside it.
    """
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(root)
        # Stores remember what they listed for as long as the process lives.
        fs.invalidate_cache()
        if not fs.isdir(path):
            todo = "Make the folder or a link of this name, or correct recordings.uri in the robot's YAML."
            raise RecordingError("the recordings root is not there", file=root, todo=todo)
        is_local = fs.protocol in ("file", ("file", "local"))
        files = list(_local_entries(path, pattern) if is_local and is_plain(pattern) else _entries(fs, path, pattern))
    except (OSError, ImportError, ValueError) as error:
        raise RecordingError(f"cannot list the recordings: {error}", file=root, todo="Check recordings.uri and credentials.") from error
    files.sort(key=lambda f: natural_key(f.id))
    _check_nesting(files)
    return files


def _local_entries(path: str, pattern: str) -> Iterator[RecordingFile]:
    """As `_entries`, of a local folder: one look at each file."""
    for key, entry in local_matches(path, pattern):
        if not _is_meant(key, pattern):
            continue
        if entry.is_dir():
            parts, modified_s = local_files(Path(entry.path)), entry.stat().st_mtime
            newest = max((part.modified_s for part in parts), default=modified_s)
            yield RecordingFile(key, entry.path, sum(part.size for part in parts), _stamp_of_all(parts), newest, is_folder=True)
        elif (found := _stat(entry)) is not None:
            file = of_stat(found, "")
            yield RecordingFile(key, entry.path, file.size, file.stamp, file.modified_s, is_folder=False)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Of what a link leads to, and of the link itself where that is nothing; None for what is gone by then."""
    try:
        return entry.stat()
    except OSError:
        try:
            return entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None


def _entries(fs: Any, path: str, pattern: str) -> Iterator[RecordingFile]:
    found: dict[str, dict[str, Any]] = fs.glob(posixpath.join(glob.escape(path), pattern), detail=True)
    for name, info in found.items():
        key = _key(path, name)
        if _is_meant(key, pattern):
            yield _entry(fs, key, name, info)


def _is_meant(key: str, pattern: str) -> bool:
    """False for work in progress and for hidden files and folders (macOS, rsync, a trash) unless the pattern begins a name with a dot."""
    is_hidden = "/." in f"/{key}" and "/." not in f"/{pattern}"
    return not is_hidden and not (".tmp-" in key and is_work_in_progress(Path(key)))


def _key(folder: str, name: str) -> str:
    """The path of `name` relative to `folder`. Raise RecordingError where it leaves it: on object stores `..` is a name like others."""
    inside = folder.rstrip("/") + "/"
    key = name.removeprefix(inside).rstrip("/") if name.startswith(inside) else posixpath.relpath(name, folder)
    if {"", ".", ".."} & set(key.split("/")):
        raise RecordingError(
            "the name of a recording leads out of its folder",
            file=name,
            found=repr(key),
            expected=f"a name below {folder}",
            todo="Rename it, or narrow recordings.pattern so that it does not match.",
        )
    return key


def _entry(fs: Any, key: str, name: str, info: dict[str, Any]) -> RecordingFile:
    is_local = fs.protocol in ("file", ("file", "local"))
    # A linked folder is listed as neither a folder nor a file.
    is_folder = Path(name).is_dir() if is_local else info["type"] == "directory"
    if is_local:
        parts = local_files(Path(name))
    elif is_folder:
        parts = [remote_file(fs, part, _key(name, part["name"])) for part in fs.find(name, detail=True).values()]
    else:
        parts = [remote_file(fs, info, "")]
    return RecordingFile(
        id=key,
        uri=name if is_local else fs.unstrip_protocol(name),
        size=sum(part.size for part in parts),
        stamp=parts[0].stamp if len(parts) == 1 and not is_folder else _stamp_of_all(parts),
        modified_s=max((part.modified_s for part in parts), default=info.get("mtime", 0.0)),
        is_folder=is_folder,
    )


def _stamp_of_all(parts: Sequence[Listed]) -> str:
    lines = sorted(f"{part.name}:{part.size}:{part.stamp}" for part in parts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _check_nesting(files: Sequence[RecordingFile]) -> None:
    ids, folders = {file.id for file in files}, {posixpath.dirname(file.id) for file in files}
    outer_of = {folder: next((p for p in (folder, *map(str, PurePosixPath(folder).parents)) if p in ids), None) for folder in folders}
    for file in files if any(outer_of.values()) else ():
        if (outer := outer_of[posixpath.dirname(file.id)]) is not None:
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
    """Content versions by recording id, remembered with the listing's stamp so that only new or touched files are read.

    While files are read, what is known is written at least every `save_every_s` seconds: stopped, hours of reading are not lost.
    """

    path: Path
    known: dict[str, dict[str, Any]]
    save_every_s: float = 5.0
    _saved_s: float = field(default_factory=time.monotonic)
    _is_changed: bool = False

    @classmethod
    def load(cls, path: Path) -> ContentVersions:
        """Read what is remembered at `path`; a missing or unreadable file is an empty memory, since all of it can be made again."""
        try:
            return cls(path, json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return cls(path, {})

    def of(self, file: RecordingFile, progress: Progress | None = None) -> str:
        """The content version of `file`, from memory if its size and stamp are unchanged."""
        known = self.known.get(file.id)
        if known is None or (known["size"], known["stamp"]) != (file.size, file.stamp):
            known = {"size": file.size, "stamp": file.stamp, "version": content_version(file, progress)}
            self.known[file.id], self._is_changed = known, True
            if time.monotonic() - self._saved_s >= self.save_every_s:
                _write(self.path, self.known)
                self._saved_s = time.monotonic()
        return known["version"]

    def save(self, present: Iterable[str]) -> None:
        """Write the memory of the recordings that are still there."""
        keep = set(present)
        kept = {k: v for k, v in self.known.items() if k in keep}
        if self._is_changed or len(kept) != len(self.known) or not self.path.exists():
            _write(self.path, kept)


def _write(path: Path, known: dict[str, dict[str, Any]]) -> None:
    # On one line: Python's encoder for indented JSON takes ten times as long, and this grows with the recordings.
    with replacing(path) as work:
        work.write_text(json.dumps(known, ensure_ascii=False) + "\n", encoding="utf-8")


def content_version(file: RecordingFile, progress: Progress | None = None) -> str:
    """Hash of the bytes (first 16 hex digits of SHA-256); for remote files of the store's own content token."""
    if "://" in file.uri:
        return hashlib.sha256(f"{file.size}:{file.stamp}".encode()).hexdigest()[:16]
    try:
        return _hash_folder(Path(file.uri), progress) if file.is_folder else _hash_file(Path(file.uri), progress)
    except OSError as error:
        raise RecordingError(f"cannot read the recording: {error.strerror}", file=file.uri) from error


def _hash_file(path: Path, progress: Progress | None) -> str:
    digest, block = hashlib.sha256(), memoryview(bytearray(_HASH_BLOCK))
    with open(path, "rb", buffering=0) as handle:
        while size := handle.readinto(block):
            digest.update(block[:size])
            if progress is not None:
                progress(size)
    return digest.hexdigest()[:16]


def _hash_folder(folder: Path, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}:{_hash_file(path, progress)}\n".encode())
    return digest.hexdigest()[:16]
