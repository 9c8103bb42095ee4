"""Where a recording is, a file or a folder, here or in a remote store: the little that readers need of either.

Readers read files by position. `prefetch` says what will be read next: local files ignore it, remote ones fetch it in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from vla_ops.errors import RecordingError
from vla_ops.recordings.byte_file import ByteFile, Range, closed, forget_frames


def is_uri(path: str | Path) -> bool:
    """True for what is in a store that fsspec opens, as `s3://bucket/a.mcap`."""
    return "://" in str(path)


class Place(Protocol):
    """A recording: one file, or a folder of files that are named relative to it."""

    path: str

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        ...

    @property
    def is_remote(self) -> bool:
        """True where reading is fetching."""
        ...

    @property
    def size_bytes(self) -> int:
        """Size of the file, or of the folder's files; of a remote folder as far as they were listed or opened."""
        ...

    def file(self, name: str = "") -> ByteFile:
        """Open the file, or one of the folder's. Raise RecordingError if it cannot be opened."""
        ...

    def has(self, name: str) -> bool:
        """True if there is a file of this name in the folder."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """The names of all files in a folder of the folder, at any depth."""
        ...

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders directly in a folder of the folder."""
        ...

    def local(self, name: str = "") -> Path:
        """The whole file, or one of the folder's, as a file of this machine."""
        ...

    def mirror(self, names: Iterable[str], folder: str) -> Path:
        """Fetch these files, so that exactly they are in `folder` below the path that is returned: there `local` puts files, too."""
        ...

    def read(self, name: str) -> bytes:
        """The whole of one of the folder's files, for files that are small and many."""
        ...

    def prefetch(self, names: Iterable[str]) -> None:
        """Say which of the folder's files will be asked for by `read`, in this order."""
        ...

    def prefetch_local(self, names: Iterable[str]) -> None:
        """Say which files will be asked for by `local`, in this order."""
        ...

    @property
    def fetched_bytes(self) -> int:
        """What was fetched since it was opened."""
        ...

    @property
    def failure(self) -> Exception | None:
        """Why something could not be fetched: libraries may have said that the data are damaged instead."""
        ...

    def close(self) -> None:
        """Close what is open; closing twice is fine."""
        ...


class LocalFile:
    """A file of this machine."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            self.size = os.fstat(self._fd).st_size
        except OSError as error:
            raise RecordingError(f"cannot open the recording: {error.strerror}") from error
        self._is_open = True

    def read(self, at: int, size: int) -> bytes:
        """Read up to `size` bytes; fewer only where the file ends."""
        if not self._is_open:
            raise closed()
        parts = []
        # Damaged lengths must not become allocations.
        size = min(size, self.size - at)
        while size > 0:
            try:
                part = os.pread(self._fd, size, at)
            except OSError as error:
                raise RecordingError(f"cannot read the recording: {error.strerror}", byte=at) from error
            if not part:
                break
            parts.append(part)
            at, size = at + len(part), size - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def prefetch(self, ranges: Iterable[Range]) -> None:
        """Nothing: it is here."""

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._is_open:
            self._is_open = False
            os.close(self._fd)


class LocalPlace:
    """A recording of this machine."""

    failure: Exception | None = None
    is_remote = False
    fetched_bytes = 0

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        return Path(self.path).is_dir()

    @property
    def size_bytes(self) -> int:
        """Size of the file, or of the folder's files."""
        path = Path(self.path)
        return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())

    def file(self, name: str = "") -> ByteFile:
        """Open the file, or one of the folder's. Raise RecordingError if it cannot be opened."""
        return LocalFile(str(self.local(name)))

    def has(self, name: str) -> bool:
        """True if there is a file of this name in the folder."""
        return self.local(name).is_file()

    def names(self, folder: str = "") -> list[str]:
        """The names of all files in a folder of the folder, at any depth."""
        return [path.relative_to(self.path).as_posix() for path in self.local(folder).rglob("*") if path.is_file()]

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders directly in a folder of the folder."""
        return sorted(path.relative_to(self.path).as_posix() for path in self.local(folder).iterdir() if path.is_dir())

    def local(self, name: str = "") -> Path:
        """The path itself."""
        return Path(self.path, name) if name else Path(self.path)

    def mirror(self, names: Iterable[str], folder: str) -> Path:
        """The path itself: they are there."""
        del names, folder
        return Path(self.path)

    def read(self, name: str) -> bytes:
        """The whole of one of the folder's files."""
        return self.local(name).read_bytes()

    def prefetch(self, names: Iterable[str]) -> None:
        """Nothing: they are here."""

    def prefetch_local(self, names: Iterable[str]) -> None:
        """Nothing: they are here."""

    def close(self) -> None:
        """Nothing is open."""


def as_place(recording: str | Path | Place, *, cache: Path | None = None, stamp: str = "") -> Place:
    """The place of a path or URI. What is fetched of a URI is kept in `cache`, or thrown away when it is closed.

    `stamp` is what a listing said of a remote file's content: with another one it counts as changed when it is opened.
    """
    if not isinstance(recording, str | Path):
        return recording
    if not is_uri(recording):
        return LocalPlace(str(recording))
    from vla_ops.recordings.remote.folder import RemotePlace

    return RemotePlace(str(recording), cache=cache, stamp=stamp)


@contextmanager
def saying_failure(place: Place) -> Iterator[None]:
    """Where something within could not be fetched, raise that, whatever a library or reader made of it."""
    try:
        yield
    except Exception as error:
        if place.failure is None or place.failure is error:
            raise
        forget_frames(error)
    if place.failure is not None:
        raise place.failure
