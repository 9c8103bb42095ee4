"""Open an HDF5 file, here or in a remote store, and read the rows of its datasets; of a remote file only their chunks are fetched."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.errors import RecordingError, RecordingFormatError
from vla_ops.recordings import MAGIC, leading, other_format, refuse_folder
from vla_ops.recordings.arrays import Array, Rows
from vla_ops.recordings.byte_file import Range
from vla_ops.recordings.hdf5_links import missing_filter
from vla_ops.recordings.place import Place, saying_failure
from vla_ops.recordings.remote.hdf5_view import collect, hdf5_view

if TYPE_CHECKING:
    import h5py


def open_file(place: Place) -> tuple[h5py.File, Callable[[], None]]:
    """Open it; with it comes what is to be called when it is closed. Raise RecordingFormatError saying what is wrong with it."""
    path = place.path
    size = _size(place)
    refuse_folder(place, "hdf5")
    if path.endswith(".partial"):
        raise RecordingFormatError(
            "a recording that crashed: its collector renames `.partial` when the file is complete", file=path, found=f"{size} bytes"
        )
    try:
        with saying_failure(place):
            return _opened(place)
    except BlockingIOError as error:
        raise RecordingFormatError("another program is still writing the file", file=path, found=str(error)) from error
    except OSError as error:
        todo = other_format(place, "hdf5") or "Copy it again from the robot; an HDF5 file that was cut off cannot be read in part."
        raise RecordingFormatError(_why_not_opened(place, size, str(error)), file=path, todo=todo) from error.with_traceback(None)


def _opened(place: Place) -> tuple[h5py.File, Callable[[], None]]:
    import h5py

    if not place.is_remote:
        # Best effort: read-only network file systems cannot lock.
        return h5py.File(place.path, "r", locking="best-effort"), _nothing
    file, closed = hdf5_view(place.file())
    try:
        return h5py.File(file, "r"), closed
    except BaseException:
        closed()
        raise


def _nothing() -> None:
    """A file of this machine needs nothing more when it is closed."""


def _why_not_opened(place: Place, size: int, said: str) -> str:
    if size == 0:
        return "the file is empty (0 bytes)"
    file = place.file()
    magic = file.read(0, 8)
    file.close()
    if magic != MAGIC["hdf5"]:
        return f"not an HDF5 file: {leading(magic, size)}"
    return f"the HDF5 file is truncated or corrupt ({size} bytes): {said}"


def _size(place: Place) -> int:
    if place.is_remote:
        return 0 if place.is_folder else place.file().size
    try:
        return Path(place.path).stat().st_size
    except OSError as error:
        raise RecordingError(f"cannot open the recording: {error.strerror}", file=place.path) from error


def rows_of(dataset: h5py.Dataset, name: str, place: Place) -> Rows:
    """The rows of a dataset."""

    def read(start: int, stop: int) -> Array:
        collect()
        try:
            with saying_failure(place):
                return dataset[start:stop]
        except (OSError, RuntimeError) as error:
            raise RecordingFormatError(
                f"rows {start} to {stop} cannot be read: {error}", stream=name, todo="The file is damaged; copy it again from the robot."
            ) from error

    shape = dataset.shape or ()
    chunks = dataset.chunks
    return Rows(
        name,
        dataset.dtype,
        shape,
        chunks[0] if chunks else None,
        read,
        storage=dataset.compression or "",
        unreadable=missing_filter(dataset),
        prefetch=_prefetching(dataset, place),
    )


def _prefetching(dataset: h5py.Dataset, place: Place) -> Callable[[int, int], None]:
    """What says that rows start..stop of the dataset will be read."""
    chunk_rows = dataset.chunks[0] if dataset.chunks else 0
    known: list[dict[int, list[Range]]] = []

    def prefetch(start: int, stop: int) -> None:
        if not place.is_remote:
            return
        with saying_failure(place):
            if chunk_rows and not known:
                known.append(_chunks_by_row(dataset, chunk_rows))
            place.file().prefetch(_ranges(known[0], chunk_rows, start, stop) if known else _plain_range(dataset, start, stop))

    return prefetch


def _chunks_by_row(dataset: h5py.Dataset, chunk_rows: int) -> dict[int, list[Range]]:
    """Where the chunks are, by their number along the first axis."""
    found: dict[int, list[Range]] = {}

    def note(chunk: Any) -> None:
        found.setdefault(chunk.chunk_offset[0] // chunk_rows, []).append((chunk.byte_offset, chunk.size))

    dataset.id.chunk_iter(note)
    return found


def _ranges(known: dict[int, list[Range]], chunk_rows: int, start: int, stop: int) -> Iterator[Range]:
    return itertools.chain.from_iterable(known.get(number, ()) for number in range(start // chunk_rows, -(-stop // chunk_rows)))


def _plain_range(dataset: h5py.Dataset, start: int, stop: int) -> list[Range]:
    """The rows of a dataset that is not chunked; none where its values stand with its metadata."""
    offset = dataset.id.get_offset()
    row = int(np.prod(dataset.shape[1:], dtype=np.int64)) * dataset.id.get_type().get_size()
    return [] if offset is None else [(offset + start * row, (stop - start) * row)]
