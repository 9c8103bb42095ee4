"""What was fetched of one remote file, on disk: a sparse file, and beside it a checksum for each block that is there.

A block counts as there once its checksum is written, after its bytes. So whatever ends the process (a kill, a power loss), the next
one keeps what arrived whole and fetches only the rest. Two processes may fill one file at once: they write the same bytes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import google_crc32c
import numpy as np

from vla_ops.errors import StoreError
from vla_ops.recordings.byte_file import closed

# Pictures are some 50 kB, and lie between those of other cameras: what a block holds of them is fetched in vain.
BLOCK = 4 * 2**10
_ENTRY = 4
_SUMS = ".sums"


class Blocks:
    """The blocks of one file that are on disk. Safe to share between threads."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size, self.count = path, size, -(-size // BLOCK)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._sums_fd = os.open(path.with_name(path.name + _SUMS), os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, size)
        os.ftruncate(self._sums_fd, self.count * _ENTRY)
        self._sums = np.frombuffer(os.pread(self._sums_fd, self.count * _ENTRY, 0), "<u4").copy()
        # Of an earlier process: to be compared before they are believed.
        self._unchecked = self._sums != 0
        self._lock, self._is_open = Lock(), True

    def missing(self, first: int, last: int) -> list[int]:
        """Those of the blocks first..last that are not there; what an earlier process left is compared with its checksum."""
        with self._lock:
            self._refuse_closed()
            for number in (np.flatnonzero(self._unchecked[first : last + 1]) + first).tolist():
                if self._sums[number] != _sum(self._read(number)):
                    self._sums[number] = 0
                self._unchecked[number] = False
            return (np.flatnonzero(self._sums[first : last + 1] == 0) + first).tolist()

    def read(self, at: int, size: int) -> bytes:
        """Bytes that are there."""
        # Under the lock: when it is closed, the descriptor may be given to another file.
        with self._lock:
            self._refuse_closed()
            return os.pread(self._fd, size, at)

    def write(self, first: int, data: bytes) -> None:
        """Keep the blocks from number `first` on. Raise StoreError when the disk is full."""
        sums = np.array([_sum(part) for part in _parts(data)], "<u4")
        with self._lock:
            if not self._is_open:
                return
            try:
                _write_all(self._fd, data, first * BLOCK)
                _write_all(self._sums_fd, sums.tobytes(), first * _ENTRY)
            except OSError as error:
                raise no_room(error, self.path) from error
            self._sums[first : first + len(sums)] = sums
            self._unchecked[first : first + len(sums)] = False

    def close(self) -> None:
        """Close both files; closing twice is fine."""
        with self._lock:
            if self._is_open:
                self._is_open = False
                os.close(self._fd)
                os.close(self._sums_fd)

    def _refuse_closed(self) -> None:
        if not self._is_open:
            raise closed()

    def _read(self, number: int) -> bytes:
        return os.pread(self._fd, min(BLOCK, self.size - number * BLOCK), number * BLOCK)


def no_room(error: OSError, path: Path) -> StoreError:
    """The error for a cache that cannot be written."""
    todo = "Check VLA_OPS_HOME and its permissions."
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(f"cannot write what was fetched: {error.strerror or error}", file=path, todo=todo)
    free = shutil.disk_usage(path.parent).free
    todo = "Free space there, lower VLA_OPS_CACHE_GB, or set VLA_OPS_HOME to another disk, then run the same command again."
    return StoreError("no room for what is fetched", file=path, found=f"{free / 1e6:.0f} MB free", todo=todo)


def _parts(data: bytes) -> Iterator[memoryview]:
    block = memoryview(data)
    for at in range(0, len(data), BLOCK):
        yield block[at : at + BLOCK]


def _sum(data: bytes | memoryview) -> int:
    """CRC-32C, never 0: that means not there."""
    return google_crc32c.value(bytes(data)) or 1


def _write_all(fd: int, data: bytes, at: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, at)
        rest, at = rest[written:], at + written
