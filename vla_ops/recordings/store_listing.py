"""What a listing says of one file's content and last change: of local files by `stat`, of remote ones by what their store calls it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from vla_ops.errors import RecordingError

# Hashes of the content alone: Google (MD5), Hugging Face (git's), GitHub. S3's ETag is one too; others' only change with it.
_HASHES = ("md5Hash", "blob_id", "sha")
_CHANGES = ("ETag", "etag", "generation", "checksum", "Content-MD5", "Digest")
_TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "modify", "created")


@dataclass(frozen=True)
class Listed:
    """A file in a listing. `name` is relative to its recording, empty for a recording of one file.

    `stamp` changes with the content. Where a store has a hash of the content it is that alone, so that copies have the same.
    """

    name: str
    size: int
    stamp: str
    modified_s: float


def local_files(path: Path) -> list[Listed]:
    """Stat a file, or all files below a folder, with links followed; what is gone by then is left out."""
    if not path.is_dir():
        return _local(path, "")
    paths = [Path(folder, name) for folder, _, names in path.walk() for name in names]
    return [listed for inner in paths for listed in _local(inner, inner.relative_to(path).as_posix())]


def _local(path: Path, name: str) -> list[Listed]:
    try:
        found = _stat(path)
    except FileNotFoundError:
        return []
    return [of_stat(found, name)]


def of_stat(found: os.stat_result, name: str) -> Listed:
    """What `stat` says of a local file."""
    # Tools that copy set the time of modification back; that of the inode they cannot.
    return Listed(name, found.st_size, f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}", found.st_mtime)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError:
        # A link to nothing: reading it will say so.
        return path.lstat()


def remote_file(fs: Any, info: Mapping[str, Any], name: str) -> Listed:
    """Read the entry of a remote listing. Raise RecordingError naming the file system if it has nothing that changes with the content."""
    if not _says_something(info):
        info = {**info, **fs.info(info["name"])}
    if not _says_something(info):
        raise RecordingError(
            "the store does not say whether a file has changed",
            file=info["name"],
            found=f"{type(fs).__name__} with {', '.join(sorted(map(str, info)))}",
            expected="an ETag, a checksum or a time of modification",
            todo="Put the recordings into a folder, or on S3, Google, Azure or Hugging Face.",
        )
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    hashes = (*_HASHES, "ETag") if protocols & {"s3", "s3a"} else _HASHES
    content, change, time = (_first(info, keys) for keys in (hashes, _CHANGES, _TIMES))
    size, modified_s = int(info.get("size") or 0), 0.0 if time is None else _seconds(time)
    # A listing and the entry of one file may write the same moment in two ways.
    moment = f"{modified_s:.6f}" if modified_s else time
    stamp = f"{info['name']}:{info.get('size')}:{moment}" if change is None else f"{info['name']}:{_bare(change)}"
    return Listed(name, size, stamp if content is None else _bare(content), modified_s)


def _says_something(info: Mapping[str, Any]) -> bool:
    return _first(info, (*_HASHES, *_CHANGES, *_TIMES)) is not None


def _first(info: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    return next((info[key] for key in keys if info.get(key)), None)


def _bare(token: object) -> str:
    return str(token).strip('"')


def _seconds(time: object) -> float:
    """Seconds since 1970; stores that name no time zone mean UTC. 0 for what is no time."""
    if isinstance(time, str):
        time = _parsed(time)
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return float(time) if isinstance(time, int | float) else 0.0


def _parsed(text: str) -> datetime | None:
    # ISO 8601, or HTTP's dates, or FTP's YYYYMMDDHHMMSS.
    for parse in (_of_digits, parsedate_to_datetime) if text[:14].isdecimal() else (datetime.fromisoformat, parsedate_to_datetime):
        try:
            return parse(text)
        except ValueError:
            continue
    return None


def _of_digits(text: str) -> datetime:
    return datetime.strptime(text[:14], "%Y%m%d%H%M%S")
