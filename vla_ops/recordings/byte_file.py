"""A file that is read by position, wherever it is: what readers and the libraries below them need of one."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any, BinaryIO, Protocol, cast

from vla_ops.errors import RecordingError

# Where some bytes of a file begin, and how many they are.
type Range = tuple[int, int]


class ByteFile(Protocol):
    """A file that is read by position; safe to share between threads."""

    path: str
    size: int

    def read(self, at: int, size: int) -> bytes:
        """Read up to `size` bytes; fewer only where the file ends."""
        ...

    def prefetch(self, ranges: Iterable[Range]) -> None:
        """Say what will be read, in this order. Returns at once; a failure is raised by the read that needs it."""
        ...

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        ...


def closed() -> RecordingError:
    """The error for reading what was closed."""
    return RecordingError("the recording is closed", todo="Read its streams before it is closed.")


class FileView(io.RawIOBase):
    """Some bytes of a file as a file of their own."""

    def __init__(self, file: ByteFile, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer what is asked for, less only at the end."""
        target = memoryview(buffer).cast("B")
        data = self._file.read(self._start + self._at, min(len(target), max(0, self._size - self._at)))
        target[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at


def view(file: ByteFile, part: Range | None = None) -> BinaryIO:
    """The file, or a part of it, as Python's libraries want files; closing it leaves `file` open.

    It reads what is asked for and no more: a buffer would fetch what follows.
    """
    start, size = part or (0, file.size)
    return cast("BinaryIO", FileView(file, start, size))


def forget_frames(error: BaseException) -> None:
    """Let go of what the tracebacks of an error and its causes hold: h5py's open files crash if they live until the process ends."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
