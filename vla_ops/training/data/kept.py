"""Images that were decoded once, resized, for the next time: in memory, or on disk for the next run too.

One flat file with a place for every image and a file of marks beside it. Processes share them and write at will: an image is the same
whoever decodes it, and its mark is written after it. In memory the files have no name, so that nothing is left of a killed run. On disk
the mark is the image's checksum: what a power failure tore is decoded again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vla_ops.errors import StoreError
from vla_ops.fetching.fetched import cache_folder
from vla_ops.files import discard
from vla_ops.robot import fingerprint
from vla_ops.training.data.batch import UInt8
from vla_ops.training.data.frames import Frames

# Raise when the same videos would now give other pixels.
_DECODE_VERSION = 1
_MARK = 4
IMAGES = "images.u8"


@dataclass(frozen=True)
class Cache:
    """What is kept of decoded images, and how much of it: a dataset that needs more keeps its first frames only."""

    kind: Literal["none", "memory", "disk"] = "none"
    max_gb: float = 8.0
    # For `disk`, and for image files taken out of parquet; VLA_OPS_HOME/cache/frames where it is not said.
    folder: Path | None = None

    @property
    def root(self) -> Path:
        """Where files are kept."""
        return self.folder or cache_folder() / "frames"


class FrameCache:
    """Images by row and camera. `describe` is all that another process needs that has inherited the file descriptors."""

    def __init__(self, *, images: int, marks: int, cameras: int, size: int, capacity: int, checked: bool) -> None:
        self.images, self.marks, self.cameras, self.size = images, marks, cameras, size
        # Rows that have a place.
        self.capacity, self.checked = capacity, checked
        self.bytes = size * size * 3

    @property
    def descriptors(self) -> tuple[int, int]:
        """The open files."""
        return self.images, self.marks

    def describe(self) -> dict[str, Any]:
        """The arguments of an equal one."""
        names = ("images", "marks", "cameras", "size", "capacity", "checked")
        return {name: getattr(self, name) for name in names}

    def close(self) -> None:
        """Close the files; those in memory are gone with it."""
        for descriptor in self.descriptors:
            os.close(descriptor)

    def wants(self, row: int, camera: int) -> bool:
        """Whether it has a place for an image and not the image."""
        return row < self.capacity and not self._mark(self._place(row, camera))

    def get(self, row: int, camera: int, into: UInt8) -> bool:
        """Put a kept image into `into`, or return False."""
        if row >= self.capacity or not (mark := self._mark(self._place(row, camera))):
            return False
        read = os.preadv(self.images, [memoryview(into).cast("B")], self._place(row, camera) * self.bytes)
        return read == self.bytes and (not self.checked or mark == _checksum(into))

    def put(self, row: int, camera: int, image: UInt8) -> None:
        """Keep an image. Raise StoreError if it cannot be written."""
        if row >= self.capacity:
            return
        place, mark = self._place(row, camera), _checksum(image) if self.checked else 1
        try:
            os.pwrite(self.images, memoryview(np.ascontiguousarray(image)).cast("B"), place * self.bytes)
            os.pwrite(self.marks, mark.to_bytes(_MARK, "little"), place * _MARK)
        except OSError as error:
            todo = "Free space there, or set a smaller cache or none."
            raise StoreError(f"a decoded image cannot be kept: {error.strerror}", todo=todo) from error

    def _place(self, row: int, camera: int) -> int:
        return row * self.cameras + camera

    def _mark(self, place: int) -> int:
        return int.from_bytes(os.pread(self.marks, _MARK, place * _MARK), "little")


def open_cache(cache: Cache, frames: Frames, size: int, *, resize: str) -> FrameCache | None:
    """The cache of a dataset's images at this size. Raise StoreError where the disk has no room for it."""
    if cache.kind == "none" or not frames.cameras:
        return None
    a_row = len(frames.cameras) * (size * size * 3 + _MARK)
    capacity = min(len(frames), int(cache.max_gb * 1e9) // a_row)
    files = _in_memory() if cache.kind == "memory" else _on_disk(cache, frames, f"{size}-{resize}", wanted=capacity * a_row)
    images, marks = files
    return FrameCache(images=images, marks=marks, cameras=len(frames.cameras), size=size, capacity=capacity, checked=cache.kind == "disk")


def unnamed_file(name: str) -> int:
    """A file in memory that has no name and is gone with the last process that has it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def files_key(frames: Frames, cameras: Sequence[str]) -> str:
    """Changes with any file that images of these cameras are in, and with what of it is whose."""
    files = {
        place.data if camera in frames.stills else place.videos[frames.cameras[camera]].path
        for place in frames.places
        for camera in cameras
    }
    stats = sorted((path.relative_to(frames.folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    features = [frames.cameras[camera] for camera in cameras]
    starts = [[v.from_s for v in (place.videos.get(name) for name in features) if v] for place in frames.places]
    lengths = [[place.index, place.length, place.first_row] for place in frames.places]
    return fingerprint([_DECODE_VERSION, stats, features, starts, lengths, frames.fps])


def _in_memory() -> tuple[int, int]:
    return unnamed_file("vla_ops_images"), unnamed_file("vla_ops_marks")


def _on_disk(cache: Cache, frames: Frames, form: str, *, wanted: int) -> tuple[int, int]:
    key = f"{files_key(frames, list(frames.cameras))}-{form}"
    folder = cache.root / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.utime(folder)
        make_room(cache, wanted, keep=key)
        opened = [os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644) for name in (IMAGES, "marks.u32")]
    except OSError as error:
        raise StoreError(f"the cache of decoded images cannot be opened: {error.strerror}", file=folder) from error
    free = shutil.disk_usage(folder).free + os.fstat(opened[0]).st_blocks * 512
    if free < wanted:
        for descriptor in opened:
            os.close(descriptor)
        raise StoreError(
            "the disk has no room for the decoded images",
            file=folder,
            found=f"{free / 1e9:.1f} GB",
            expected=f"{wanted / 1e9:.1f} GB",
            todo="Set a smaller `max_gb`, another folder, or no cache.",
        )
    return opened[0], opened[1]


def make_room(cache: Cache, wanted: int, *, keep: str) -> None:
    """Remove decoded images of other datasets, the longest unused first, until all of them with `wanted` bytes more are within the bound.

    A run that still reads them has the files open, and keeps them until it ends.
    """
    kept = (p for p in cache.root.iterdir() if p.name != keep and (p / IMAGES).is_file())
    others = sorted(kept, key=lambda p: p.stat().st_mtime, reverse=True)
    left = int(cache.max_gb * 1e9) - wanted
    for folder in others:
        left -= sum(file.stat().st_blocks * 512 for file in folder.iterdir())
        if left < 0:
            discard(folder)


def _checksum(image: UInt8) -> int:
    # 0 is that nothing is there.
    return zlib.crc32(memoryview(np.ascontiguousarray(image)).cast("B")) or 1
