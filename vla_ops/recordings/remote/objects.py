"""Small files of a remote folder, fetched whole by one request each: the chunks of a Zarr store.

Each is kept as one file of the cache, its checksum behind its bytes, written beside its place and renamed into it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import google_crc32c

from vla_ops.errors import RecordingError
from vla_ops.recordings.remote.blocks import no_room
from vla_ops.recordings.remote.cache import CacheFolder
from vla_ops.recordings.remote.errors import NoRangesError
from vla_ops.recordings.remote.fetch import Found, Store
from vla_ops.recordings.remote.traffic import Task, Traffic

_SUM_BYTES = 4


class Objects:
    """The small files of one folder. Safe to share between threads. `find` says what the store shows of a file."""

    def __init__(self, store: Store, cache: CacheFolder, traffic: Traffic, find: Callable[[str], Found]) -> None:
        self._store, self._cache, self._traffic, self._find = store, cache, traffic, find
        self._lock, self._is_open = threading.Lock(), True
        self._on_the_way: dict[str, Task] = {}

    def read(self, name: str) -> bytes:
        """The whole file. Raise OutOfReachError where it cannot be had."""
        place = self._place(name)
        data = _kept(place)
        if data is None:
            self._wait(self._task(name))
            data = _kept(place)
        if data is None:
            raise RecordingError("what was fetched cannot be read again", file=place, todo="Look at the disk that VLA_OPS_HOME is on.")
        return data

    def prefetch(self, names: Iterable[str]) -> None:
        """Say what will be read, in this order."""
        self._traffic.in_background(self._task(name) for name in names if not self._place(name).exists())

    def close(self) -> None:
        """Fetch nothing more."""
        self._is_open = False
        with self._lock:
            waiting = list(self._on_the_way.values())
        for task in waiting:
            task.cancel()

    def _wait(self, task: Task) -> None:
        try:
            task.wait()
        except Exception as error:
            if self._is_open:
                self._traffic.failed(error)
            raise

    def _place(self, name: str) -> Path:
        found = self._find(name)
        return self._cache.file(name, f"{found.size}:{found.token}")

    def _task(self, name: str) -> Task:
        def done() -> None:
            with self._lock:
                if self._on_the_way.get(name) is task:
                    del self._on_the_way[name]

        with self._lock:
            if name in self._on_the_way:
                return self._on_the_way[name]
            task = self._on_the_way[name] = Task(lambda: self._fetch(name), done)
            return task

    def _fetch(self, name: str) -> None:
        found = self._find(name)
        data = self._data(found)
        _keep(self._cache.file(name, f"{found.size}:{found.token}"), data)
        self._traffic.came(len(data))

    def _data(self, found: Found) -> bytes:
        try:
            if found.size is not None:
                return self._store.read(found, 0, found.size) if found.size else b""
        except NoRangesError:
            pass
        beside = self._cache.path / f"whole-{os.getpid()}-{threading.get_ident()}"
        self._store.download(found, beside)
        try:
            return beside.read_bytes()
        finally:
            beside.unlink()


def _kept(place: Path) -> bytes | None:
    """What is kept there, or None if there is nothing or it is damaged."""
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        return None
    data = content[:-_SUM_BYTES]
    return data if content[len(data) :] == _sum(data) else None


def _keep(place: Path, data: bytes) -> None:
    # Not flushed: what a power loss takes is found by its checksum and fetched again.
    beside = place.with_name(f"{place.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        beside.write_bytes(data + _sum(data))
        beside.replace(place)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise no_room(error, place) from error


def _sum(data: bytes) -> bytes:
    return google_crc32c.value(data).to_bytes(_SUM_BYTES, "little")
