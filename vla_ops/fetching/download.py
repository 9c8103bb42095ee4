"""Remote checkpoints, fetched once, verified, cached.

::

    <cache>/<name>-<hash of the URI>/<version>/content/...     as it was there
    <cache>/<name>-<hash of the URI>/<version>/download.json   URI, and each file's size and CRC32C
    <cache>/<name>-<hash of the URI>/<version>.part/           what is being fetched; a killed download goes on in it, file by file

A version is the names, sizes and hashes of the listing, so what has changed there is fetched anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from vla_ops.errors import FetchError, StoreError
from vla_ops.fetching.checksum import checksum
from vla_ops.fetching.remote import RemoteFile, list_files
from vla_ops.files import discard, only_one, write_json
from vla_ops.kept import folders_in, hold, hold_until_exit, limit_bytes, trim

DOWNLOAD_FILE, CONTENT = "download.json", "content"
_BLOCK = 16 << 20
# A dozen of pi0.5's checkpoints.
_CACHE_GB = 200.0
_AT_ONCE, _ATTEMPTS, _PAUSE_S, _SAY_EVERY_S = 4, 4, 0.25, 5.0


def download(
    uri: str,
    cache: Path,
    *,
    parts: Sequence[str] = ("params", "assets"),
    check: Callable[[Sequence[RemoteFile]], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Fetch a checkpoint's folder, or a single file, into the cache; return where it is there.

    Of a step folder only `parts` are fetched, of a run only its last step. `check` may refuse what is listed there. `say` hears of
    progress. Several processes may ask for the same at once: one fetches, the others wait. Where the store cannot be reached the newest
    copy is taken.
    Raise FetchError for what cannot be listed or fetched, and for a file that is not what the store says it is.
    """
    place = cache / _slug(uri)
    try:
        listed = list_files(uri)
    except FetchError as error:
        kept = _newest(place)
        if kept is None:
            raise
        say(f"{error}. Taken is the copy of {_fetched_at(kept)}.")
        hold_until_exit(kept)
        return _content(kept)
    check(listed)
    files = _chosen(listed, parts)
    version = place / _version(files)
    while not _is_held(version):
        with only_one(place, lambda who: say(f"waiting for {who}, which is fetching {uri}")):
            if not (version / DOWNLOAD_FILE).is_file():
                _fetch_all(uri, files, version, say)
    trim_models(cache, say)
    return _content(version)


def trim_models(cache: Path, say: Callable[[str], None]) -> None:
    """Bring `<cache>/<name>/<version>/` down to VLA_OPS_MODEL_CACHE_GB (200): what was not used for the longest time goes first.

    What a process has asked for stays as long as it lives. Raise SpecError if the variable is no number.
    """
    versions = [version for name in folders_in(cache) for version in folders_in(name)]
    for removed in trim(versions, limit_bytes("VLA_OPS_MODEL_CACHE_GB", _CACHE_GB)):
        say(f"removed {removed} from the cache: it was not used for the longest time, and VLA_OPS_MODEL_CACHE_GB is reached")


def _is_held(version: Path) -> bool:
    """Hold what is there whole for as long as this process lives; False where it is not there, or was removed a moment ago."""
    if not (version / DOWNLOAD_FILE).is_file():
        return False
    hold_until_exit(version)
    return (version / DOWNLOAD_FILE).is_file()


@dataclass
class _Progress:
    """Says how far it is, at most every few seconds."""

    uri: str
    total: int
    say: Callable[[str], None]
    done: int = 0
    said_s: float = 0.0

    def __post_init__(self) -> None:
        self._lock, self.said_s = Lock(), time.monotonic()

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            if time.monotonic() - self.said_s >= _SAY_EVERY_S:
                self.said_s = time.monotonic()
                self.say(f"{self.uri}: {self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB")


def _chosen(files: list[RemoteFile], parts: Sequence[str]) -> list[RemoteFile]:
    steps = {int(file.name.split("/")[0]) for file in files if file.name.split("/")[0].isdecimal()}
    if steps and not any(file.name.startswith(tuple(f"{part}/" for part in parts)) for file in files):
        last = f"{max(steps)}/"
        files = [file.below(last) for file in files if file.name.startswith(last)]
    if any(file.name.startswith("params/") for file in files):
        return [file for file in files if "/" not in file.name or file.name.split("/")[0] in parts]
    return files


def _fetch_all(uri: str, files: list[RemoteFile], version: Path, say: Callable[[str], None]) -> None:
    part = version.with_name(f"{version.name}.part")
    targets = [part / CONTENT / file.name for file in files]
    missing = sum(file.size for file in files) - sum(target.stat().st_size for target in targets if target.is_file())
    _require_space(version, missing, uri)
    progress = _Progress(uri, sum(file.size for file in files), say)
    with hold(part):
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sums = list(pool.map(lambda file, target: fetch_file(file, target, added=progress.add), files, targets))
        listed = {file.name: {"bytes": file.size, "crc32c": sum_} for file, sum_ in zip(files, sums, strict=True)}
        write_json(part / DOWNLOAD_FILE, {"uri": uri, "fetched": datetime.now(UTC).isoformat(timespec="seconds"), "files": listed})
        if version.exists():
            discard(version)
        part.rename(version)


def fetch_file(file: RemoteFile, target: Path, *, added: Callable[[int], None] = lambda _: None) -> str:
    """Fetch one file, from where an earlier attempt ended; return its CRC32C. `added` hears of bytes.

    Raise FetchError for what cannot be fetched or is not what the store says it is, StoreError where it cannot be kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(_ATTEMPTS):
        try:
            _append(file, target, added)
            return _verified(file, target)
        except StoreError:
            raise
        # Each store has errors of its own; the last one is raised.
        except Exception as error:
            if attempt == _ATTEMPTS - 1:
                if isinstance(error, FetchError):
                    raise
                todo = "Check the network and run the same again: what was fetched is kept."
                raise FetchError("a file cannot be fetched", file=file.url, found=f"{type(error).__name__}: {error}", todo=todo) from error
            time.sleep(_PAUSE_S * 2**attempt)
    raise AssertionError("unreachable")


def _append(file: RemoteFile, target: Path, added: Callable[[int], None]) -> None:
    have = target.stat().st_size if target.is_file() else 0
    if have > file.size:
        target.unlink()
        have = 0
    added(have)
    if have == file.size and target.is_file():
        return
    try:
        _copy(file.fs.open(file.path, "rb", block_size=_BLOCK, cache_type="none"), target, have, added)
    except ValueError:
        # A web server that cannot send a part of a file: from the beginning, in one stream.
        added(-target.stat().st_size)
        _copy(file.fs.open(file.path, "rb", block_size=0), target, 0, added)


def _copy(source: Any, target: Path, start: int, added: Callable[[int], None]) -> None:
    with source, open(target, "ab" if start else "wb") as sink:
        if start:
            source.seek(start)
        while block := source.read(_BLOCK):
            _write(sink, block, target)
            added(len(block))


def _write(sink: Any, block: bytes, target: Path) -> None:
    try:
        sink.write(block)
    except OSError as error:
        todo = "Free space there, then run the same again: what was fetched is kept."
        raise StoreError(f"cannot write to the cache: {error.strerror}", file=target, todo=todo) from error


def _verified(file: RemoteFile, target: Path) -> str:
    size = target.stat().st_size
    if size != file.size:
        # What is there stays, for the next attempt to go on from.
        raise FetchError("the file ended early", file=file.url, found=f"{size} bytes", expected=f"{file.size} bytes")
    sum_ = checksum(target, flush=True)
    crc32c = None if file.crc32c is None else base64.b64decode(file.crc32c).hex()
    md5 = None if file.md5 is None else _md5(target)
    if crc32c not in (None, sum_) or md5 != file.md5:
        target.unlink()
        raise FetchError(
            "the file is not what its store says", file=file.url, found=md5 or sum_, expected=file.md5 or crc32c, todo="Fetch again."
        )
    return sum_


def _md5(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "md5").hexdigest()


def _version(files: list[RemoteFile]) -> str:
    listed = [[file.name, file.size, file.stamp] for file in sorted(files, key=lambda file: file.name)]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def _slug(uri: str) -> str:
    name = uri.rstrip("/").partition("://")[2].replace("/", "_")[-60:]
    return f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)}-{hashlib.sha256(uri.encode()).hexdigest()[:12]}"


def _newest(place: Path) -> Path | None:
    kept = [file.parent for file in place.glob(f"*/{DOWNLOAD_FILE}") if not file.parent.name.endswith(".part")]
    return max(kept, key=_fetched_at, default=None)


def _fetched_at(version: Path) -> str:
    return json.loads((version / DOWNLOAD_FILE).read_text(encoding="utf-8"))["fetched"]


def _content(version: Path) -> Path:
    """The folder, or the file where the URI is of one."""
    content = version / CONTENT
    files = json.loads((version / DOWNLOAD_FILE).read_text(encoding="utf-8"))["files"]
    only = next(iter(files)) if len(files) == 1 else ""
    return content / only if only and "/" not in only else content


def _require_space(version: Path, missing: int, uri: str) -> None:
    free = shutil.disk_usage(version.parent).free
    if missing > free:
        todo = "Free space there or set VLA_OPS_HOME to another disk."
        found, expected = f"{free / 1e9:.2f} GB free", f"{missing / 1e9:.2f} GB"
        raise StoreError(f"the cache's disk will not hold {uri}", file=version.parent, found=found, expected=expected, todo=todo)
