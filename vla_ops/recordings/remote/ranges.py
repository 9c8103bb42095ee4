"""A remote file that is read by position: what is asked for is fetched once, kept on disk, and read from there.

Ranges that lie near each other are fetched together, large ones in parts, and several at a time. What was announced with `prefetch` is
fetched in the background, in its order; a read waits only for its own bytes.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vla_ops.recordings.byte_file import Range, closed
from vla_ops.recordings.remote.blocks import BLOCK, Blocks
from vla_ops.recordings.remote.errors import NoRangesError
from vla_ops.recordings.remote.fetch import Found, Store
from vla_ops.recordings.remote.traffic import Task, Traffic

# One request: large enough that its latency does not count, small enough that parts of one file come at the same time.
_PART_BLOCKS = 4 * 2**20 // BLOCK
# A smaller file is fetched whole at once: that takes no longer than finding out what of it is needed.
_SMALL_BYTES = 2**20
# Blocks between two ranges that are fetched with them rather than by another request. A picture of a camera that is not mapped is more.
_GAP_BLOCKS = 16 * 2**10 // BLOCK
# What nobody announced is read in steps of this much: indexes lie together. Where reading goes on, steps double up to the largest.
_STEP_BLOCKS = 64 * 2**10 // BLOCK
_LARGEST_STEP_BLOCKS = 2 * 2**20 // BLOCK
# So many places of a file are read on from at once: cameras by their threads.
_READERS = 16


class RangedFile:
    """One remote file. Safe to share between threads."""

    def __init__(self, store: Store, found: Found, kept: Path, traffic: Traffic) -> None:
        self.path, self._found, self._store, self._traffic = found.uri, found, store, traffic
        self._lock, self.is_open = threading.Lock(), True
        self._on_the_way: dict[int, Task] = {}
        # Where steps ended -> their size.
        self._steps: OrderedDict[int, int] = OrderedDict()
        size = found.size
        if size is None:
            self._store.download(found, kept)
            size = kept.stat().st_size
            traffic.came(size)
        self.size = size
        self._blocks = Blocks(kept, size)
        self._is_whole_here = found.size is None
        if size <= _SMALL_BYTES:
            self.prefetch([(0, size)])

    def read(self, at: int, size: int) -> bytes:
        """Read up to `size` bytes, fetching what is not here; fewer only where the file ends. Raise OutOfReachError."""
        if not self.is_open:
            raise closed()
        size = min(size, self.size - at)
        if size <= 0:
            return b""
        self._have(at // BLOCK, (at + size - 1) // BLOCK)
        return self._blocks.read(at, size)

    def prefetch(self, ranges: Iterable[Range]) -> None:
        """Say what will be read, in this order. Returns at once; a failure is raised by the read that needs it."""
        if not self.is_open or self._is_whole_here:
            return
        for first, last in _together(_blocks_of(ranges, self.size)):
            self._traffic.in_background(self._tasks(first, last))

    def whole(self) -> Path:
        """The file on this machine, all of it fetched."""
        if self.size:
            self._have(0, self._blocks.count - 1)
        return self._blocks.path

    def close(self) -> None:
        """Close the file; closing twice is fine. What is on its way is thrown away."""
        self.is_open = False
        with self._lock:
            waiting = list(self._on_the_way.values())
        for task in waiting:
            task.cancel()
        self._blocks.close()

    def _have(self, first: int, last: int) -> None:
        """Bring the blocks first..last here."""
        if self._is_whole_here:
            return
        tasks = self._tasks(first, last, announced=False)
        self._traffic.in_background(tasks[1:])
        try:
            for task in tasks:
                task.wait()
        except Exception as error:
            if self.is_open:
                self._traffic.failed(error)
            raise

    def _tasks(self, first: int, last: int, *, announced: bool = True) -> list[Task]:
        """What is to be done before the blocks first..last are here; some of it others have begun."""
        with self._lock:
            missing = self._blocks.missing(first, last)
            found = {id(task): task for k in missing if (task := self._on_the_way.get(k)) is not None}
            todo = [k for k in missing if k not in self._on_the_way]
            if todo and not announced:
                todo = self._stretched(todo)
            return [*found.values(), *(self._task(*part) for part in _in_parts(_together((k, k) for k in todo)))]

    def _task(self, first: int, last: int) -> Task:
        """Fetch the blocks first..last by one request."""
        numbers = range(first, last + 1)

        def done() -> None:
            with self._lock:
                for number in numbers:
                    if self._on_the_way.get(number) is task:
                        del self._on_the_way[number]

        task = Task(lambda: self._fetch(first, last), done)
        self._on_the_way.update(dict.fromkeys(numbers, task))
        return task

    def _stretched(self, todo: Sequence[int]) -> list[int]:
        """These blocks, and some more behind them as far as they are not here."""
        before = next((end for end in reversed(self._steps) if end <= todo[0] <= end + _GAP_BLOCKS), None)
        step = _STEP_BLOCKS if before is None else min(2 * self._steps.pop(before), _LARGEST_STEP_BLOCKS)
        end = min(max(todo[0] + step, todo[-1] + 1), self._blocks.count)
        self._steps[end] = step
        while len(self._steps) > _READERS:
            self._steps.popitem(last=False)
        more = [k for k in self._blocks.missing(todo[-1], end - 1) if k not in self._on_the_way and k > todo[-1]]
        return [*todo, *more]

    def _fetch(self, first: int, last: int) -> None:
        start, stop = first * BLOCK, min((last + 1) * BLOCK, self.size)
        try:
            data = self._store.read(self._found, start, stop)
            self._blocks.write(first, data)
            self._traffic.came(len(data))
        except NoRangesError:
            self._download()

    def _download(self) -> None:
        """Fetch the whole from a server that has no ranges; one thread does, the others find it here."""
        with self._traffic.lock:
            if self._is_whole_here:
                return
            beside = self._blocks.path.with_name(f"{self._blocks.path.name}.whole-{os.getpid()}")
            self._store.download(self._found, beside)
            with open(beside, "rb") as file:
                for number in itertools.count(0, _PART_BLOCKS):
                    if not (data := file.read(_PART_BLOCKS * BLOCK)):
                        break
                    self._blocks.write(number, data)
            beside.unlink()
            self._is_whole_here = True
            self._traffic.fetched_bytes += self.size
            self._traffic.requests += 1


def _blocks_of(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """First and last block of each range, as far as it lies in the file."""
    for at, length in ranges:
        stop = min(at + length, size)
        if 0 <= at < stop:
            yield at // BLOCK, (stop - 1) // BLOCK


def _together(runs: Iterable[Range]) -> Iterator[Range]:
    """The runs in their order; one that begins in the one before, or shortly behind it, is made one with it."""
    current: Range | None = None
    for first, last in runs:
        if current is not None and current[0] <= first <= current[1] + 1 + _GAP_BLOCKS:
            current = current[0], max(current[1], last)
            continue
        if current is not None:
            yield current
        current = first, last
    if current is not None:
        yield current


def _in_parts(runs: Iterable[Range]) -> Iterator[Range]:
    for first, last in runs:
        for start in range(first, last + 1, _PART_BLOCKS):
            yield start, min(start + _PART_BLOCKS - 1, last)
