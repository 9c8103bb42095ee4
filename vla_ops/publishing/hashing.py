"""A file as it was when it was hashed: what a manifest says of it, and what stores compare it by."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vla_ops.errors import PublishError
from vla_ops.files import write_json

# S3 takes at most 10,000 parts of a file, of 5 MiB at least.
_PART, _MOST_PARTS = 16 << 20, 9_000
_BLOCK = 1 << 20


@dataclass(frozen=True)
class HashedFile:
    """A local file and its hashes, in hexadecimal. `md5s` are those of its parts of `part_size` bytes; one, of nothing, if it is empty."""

    path: Path
    size: int
    mtime_ns: int
    sha256: str
    md5s: tuple[str, ...]

    @property
    def part_size(self) -> int:
        """Bytes of every part but the last."""
        return part_size_of(self.size)

    @property
    def etag(self) -> str:
        """What S3 calls a file that was uploaded whole (one part), or in these parts."""
        if len(self.md5s) == 1:
            return self.md5s[0]
        return f"{hashlib.md5(b''.join(map(bytes.fromhex, self.md5s)), usedforsecurity=False).hexdigest()}-{len(self.md5s)}"

    def require_unchanged(self) -> None:
        """Raise PublishError if the file was written to, or removed, since it was hashed."""
        try:
            now = self.path.stat()
        except OSError as error:
            raise changed(self.path, error.strerror, "a file that can be read") from error
        if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
            raise changed(self.path, f"{now.st_size} bytes", f"{self.size} bytes, as it was hashed")


def changed(path: Path, found: object, expected: object) -> PublishError:
    """The error for a file that is written to while it is published."""
    todo = "Something writes to it. Run the same again when that is done: what is there already is kept."
    return PublishError("a file changed while it was sent", file=path, found=found, expected=expected, todo=todo)


def part_size_of(size: int) -> int:
    """Bytes of every part but the last of a file of this size: 16 MiB, or more where that made too many."""
    return max(_PART, math.ceil(size / _MOST_PARTS / _BLOCK) * _BLOCK)


def hash_file(path: Path) -> HashedFile:
    """Read the file once. Raise PublishError if it was written to meanwhile."""
    with open(path, "rb") as handle:
        before = os.fstat(handle.fileno())
        left, part, whole, md5s = part_size_of(before.st_size), hashlib.md5(usedforsecurity=False), hashlib.sha256(), list[str]()
        while block := handle.read(min(_BLOCK, left)):
            whole.update(block)
            part.update(block)
            left -= len(block)
            if left == 0:
                md5s.append(part.hexdigest())
                left, part = part_size_of(before.st_size), hashlib.md5(usedforsecurity=False)
        if left != part_size_of(before.st_size) or not md5s:
            md5s.append(part.hexdigest())
        after = os.fstat(handle.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise changed(path, f"{after.st_size} bytes", f"{before.st_size} bytes")
    return HashedFile(path, before.st_size, before.st_mtime_ns, whole.hexdigest(), tuple(md5s))


class Hashes:
    """Hashes of files, remembered in `file` for as long as their size and time stay: what is published again need not be read again."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known = _read(file)

    def of(self, paths: Iterable[Path], *, at_once: int = 4) -> list[HashedFile]:
        """Each of `paths` hashed, in their order."""
        paths = list(paths)
        found = [self._remembered(path) for path in paths]
        anew = [path for path, known in zip(paths, found, strict=True) if known is None]
        with ThreadPoolExecutor(at_once, thread_name_prefix="hash") as pool:
            hashed = pool.map(hash_file, anew)
            files = [next(hashed) if known is None else known for known in found]
        if self._file is not None and anew:
            write_json(self._file, {str(f.path): [f.size, f.mtime_ns, f.sha256, *f.md5s] for f in files})
        return files

    def _remembered(self, path: Path) -> HashedFile | None:
        now, known = path.stat(), self._known.get(str(path))
        if known is None or known[:2] != [now.st_size, now.st_mtime_ns]:
            return None
        return HashedFile(path, known[0], known[1], known[2], tuple(known[3:]))


def _read(file: Path | None) -> dict[str, list]:
    try:
        known = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}  # Then all is read again.
    return known if isinstance(known, dict) else {}
