"""Images that stand in parquet columns, as one flat file and the offsets of each in it, so that any of them can be read alone.

Parquet is read by row groups, which are whole episodes: for one frame in a shuffle all images of its episode would be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.errors import DatasetError
from vla_ops.files import only_one, replacing
from vla_ops.recordings.lerobot_index import EpisodePlace
from vla_ops.training.data.columns import episode_name
from vla_ops.training.data.frames import Frames, Int64
from vla_ops.training.data.kept import Cache, files_key

_ROWS = 256


@dataclass(frozen=True, eq=False)
class Stills:
    """The encoded image of row k is bytes `offsets[k]` .. `offsets[k + 1]` of the file at `path`."""

    path: Path
    offsets: Int64

    def span(self, row: int) -> tuple[int, int]:
        """Where the image of a row is."""
        return int(self.offsets[row]), int(self.offsets[row + 1])


def open_stills(frames: Frames, cache: Cache) -> dict[str, Stills]:
    """For each camera whose images stand in parquet files its flat file, written at the first time.

    Raise DatasetError for images that are not there, and StoreError for a full disk.
    """
    opened = {}
    for camera in frames.cameras:
        if camera in frames.stills:
            folder = cache.root / f"{files_key(frames, [camera])}-stills"
            if not folder.is_dir():
                with only_one(cache.root / "locks" / folder.name, lambda _: None):
                    if not folder.is_dir():
                        _write(folder, frames, camera)
            opened[camera] = Stills(folder / "images.bin", np.load(folder / "offsets.npy", mmap_mode="r"))
    return opened


def _write(folder: Path, frames: Frames, camera: str) -> None:
    with replacing(folder) as work:
        work.mkdir()
        lengths = []
        with open(work / "images.bin", "wb") as file:
            for data in _images(frames, camera):
                lengths.append(file.write(data))
        np.save(work / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))


def _images(frames: Frames, camera: str) -> Iterator[bytes]:
    """Yield the encoded images of all episodes in order."""
    import pyarrow.parquet as pq

    feature = frames.cameras[camera]
    for path, group in groupby(frames.places, key=lambda place: place.data):
        with pq.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(_ROWS, columns=[feature]) for row in batch.column(0))
            at = 0
            for place in group:
                for _ in range(place.first_row - at):
                    next(rows)
                at = place.first_row + place.length
                for frame in range(place.length):
                    yield _bytes(next(rows).as_py(), place, camera, frame)


def _bytes(stored: Any, place: EpisodePlace, camera: str, frame: int) -> bytes:
    data = stored.get("bytes") if isinstance(stored, dict) else stored
    if not data:
        where = {"file": place.data, "episode": episode_name(place.index), "stream": camera, "frame": frame}
        raise DatasetError("an image is not in its parquet file", **where, found=str(stored)[:80], expected="its bytes")
    return data
