"""The folder in which fetched parts of remote recordings are kept, a folder for each recording, up to a size in all.

Worker processes of one run share it, and never remove what another one reads (vla_ops/kept.py).
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from vla_ops.kept import folders_in, hold, limit_bytes, trim
from vla_ops.recordings.remote.blocks import no_room


def cache_limit_bytes() -> int:
    """VLA_OPS_CACHE_GB in bytes, 20 GB where it is not set. Raise SpecError if it is no number."""
    return limit_bytes("VLA_OPS_CACHE_GB", 20.0)


class CacheFolder:
    """The parts that are kept of one recording; held until it is closed. Without a `cache`, a folder that is removed then."""

    def __init__(self, cache: Path | None, uri: str) -> None:
        self._cache, self._lock = cache, None
        try:
            if cache is None:
                self.path = Path(tempfile.mkdtemp(prefix="vla-ops-"))
            else:
                self.path = cache / hashlib.sha256(uri.encode()).hexdigest()[:24]
                self._lock = hold(self.path)
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
            trim(folders_in(self._cache), cache_limit_bytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
