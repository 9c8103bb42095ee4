"""Read Zarr recordings, versions 2 and 3, in a folder or a zip: replay buffers (`data/*`, `meta/episode_ends`) of UMI and others.

Each episode of `meta/episode_ends` is a span; without it the whole store is one. Streams are listed as `data/NAME` and may be
named without `data/`. Chunks that are not in a store read as its fill value, as Zarr defines: writers leave out chunks that hold
nothing else. A copy that is not whole looks the same, so `notes` names them. For images, where they would be black pictures that
nobody took, and for arrays without a fill value they are refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.errors import RecordingError, RecordingFormatError, SchemaMismatchError, UnknownEncodingError, VlaOpsError
from vla_ops.recordings import other_format
from vla_ops.recordings.array_recording import ArrayRecording, array_name, as_text, plain_text, same_array
from vla_ops.recordings.arrays import Array, Rows
from vla_ops.recordings.base import OpenOptions, Source, Span
from vla_ops.recordings.place import Place, saying_failure
from vla_ops.recordings.zarr_store import FolderFiles, ZarrFiles, ZipFiles

if TYPE_CHECKING:
    import zarr

_TASK_ATTRIBUTES = ("task", "language_instruction", "instruction")


class ZarrRecording(ArrayRecording):
    """An open Zarr store. Chunks are read and decompressed without a lock of ours; cameras may be read from several threads."""

    def __init__(self, recording: str | Place, options: OpenOptions) -> None:
        super().__init__(recording, options)
        self._files: ZarrFiles = _open_files(self._place)
        self._known: dict[str, Rows] = {}

    def close(self) -> None:
        """Close the store."""
        self._files.close()
        self._place.close()

    def spans(self) -> list[Span]:
        """One span for each entry of `meta/episode_ends`, or the whole store as one. Raise SchemaMismatchError if they do not fit."""
        if not self._names:
            return []
        stops = self._episode_ends
        starts = [0, *stops[:-1]]
        return [Span(str(k), k, start, stop, self._task) for k, (start, stop) in enumerate(zip(starts, stops, strict=True))]

    def metadata(self) -> Mapping[str, str]:
        """Attributes of the root, `data` and `meta` as `attrs.NAME`, cut at 200 characters."""
        return {f"attrs.{name}": as_text(value) for name, value in self._files.attributes().items()}

    def notes(self) -> list[str]:
        """Numbers that are not in the store and read as its fill value, for the arrays that will be read."""
        return [note for name in self._names_read if (note := self._missing_numbers(name)) is not None]

    @property
    def _names_read(self) -> list[str]:
        if self.options.streams is None:
            return self._names
        read = {*map(array_name, map(Source.parse, self.options.streams)), *self.options.time_sources.values()}
        return [name for name in self._names if any(same_array(name, wanted) for wanted in read)]

    def _missing_numbers(self, name: str) -> str | None:
        array, _ = self._files.array(name)
        if array is None or len(array.shape) in (0, 4) or array.dtype.kind not in "biuf":
            return None
        missing = list(self._files.missing_rows(array, name, 0, array.shape[0]))
        if not missing:
            return None
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        rows = ", ".join(f"{start} to {stop}" for start, stop in missing[:4]) + more
        return (
            f"{name}: rows {rows} are not in the store and were read as its fill value {array.metadata.fill_value}; writers leave out "
            "chunks that hold nothing else, but a copy that is not whole looks the same"
        )

    @cached_property
    def _task(self) -> str | None:
        attributes = self._files.attributes()
        return next((plain_text(attributes[name]).strip() or None for name in _TASK_ATTRIBUTES if name in attributes), None)

    @cached_property
    def _names(self) -> list[str]:
        return [name for name in self._files.array_paths if not name.startswith("meta/")]

    @cached_property
    def _row_count(self) -> int:
        """The length most arrays have."""
        lengths = Counter(self._array_rows(name).count for name in self._names)
        return max(lengths, key=lambda n: (lengths[n], n), default=0)

    @cached_property
    def _episode_ends(self) -> list[int]:
        if "meta/episode_ends" not in self._files.array_paths:
            return [self._row_count]
        ends = self._array_rows("meta/episode_ends")
        stops = [int(stop) for stop in np.asarray(ends.read(0, ends.count)).reshape(-1)]
        self._check_ends(stops)
        return stops

    def _check_ends(self, stops: list[int]) -> None:
        for k, (before, stop) in enumerate(pairwise([0, *stops])):
            if stop <= before:
                raise SchemaMismatchError(
                    "episode_ends do not increase",
                    stream="meta/episode_ends",
                    found=f"episode {k} ends at {stop}",
                    expected=f"over {before}",
                )
        last = stops[-1] if stops else 0
        if last != self._row_count:
            raise SchemaMismatchError(
                "the last episode does not end where the data do",
                stream="meta/episode_ends",
                found=f"last end {last}",
                expected=f"{self._row_count}, the rows of most arrays",
                todo="The buffer was written to after its last complete episode, or a copy is not whole; write or copy it again.",
            )

    def _arrays(self, span: Span) -> list[str]:
        del span
        return self._names

    def _rows(self, name: str, span: Span) -> Rows | None:
        del span
        name = name.strip("/")
        found = next((path for path in (name, f"data/{name}") if path in self._names), None)
        return None if found is None else self._array_rows(found)

    def _steps(self, span: Span) -> int:
        del span
        return self._row_count

    def _array_rows(self, name: str) -> Rows:
        if name not in self._known:
            self._known[name] = self._rows_of(name)
        return self._known[name]

    def _rows_of(self, name: str) -> Rows:
        array, unreadable = self._files.array(name)
        if array is None:
            return Rows(name, np.dtype("V"), self._files.shape(name), None, _unread, unreadable=unreadable)
        dtype = np.dtype(str(array.dtype)) if array.dtype.kind != "O" else np.dtype(object)
        return Rows(
            name,
            dtype,
            tuple(array.shape),
            array.chunks[0] if array.chunks else None,
            _Reader(self._files, name, array, self._place),
            storage=_compressor(array),
            prefetch=lambda start, stop: self._files.prefetch_rows(array, name, start, stop),
        )


class _Reader:
    """Rows of one array; what the store's libraries raise on damaged chunks becomes a RecordingFormatError."""

    def __init__(self, files: ZarrFiles, name: str, array: zarr.Array[Any], place: Place) -> None:
        self.files, self.name, self.array, self.place = files, name, array, place

    def __call__(self, start: int, stop: int) -> Array:
        self.files.check_links(self.name)
        try:
            if len(self.array.shape) == 4 or self.array.metadata.fill_value is None:
                self._refuse_missing_chunks(start, stop)
            with saying_failure(self.place):
                return np.asarray(self.array[start:stop])
        except VlaOpsError:
            raise
        except ImportError as error:  # imagecodecs built without the library of this codec.
            raise UnknownEncodingError(
                f"the compressor cannot be loaded: {error}", stream=self.name, found=_compressor(self.array)
            ) from error
        except Exception as error:  # Each of the many codecs raises its own type.
            raise RecordingFormatError(
                f"rows {start} to {stop} cannot be read: {type(error).__name__}: {error}",
                stream=self.name,
                todo="The store is damaged; copy it again from the robot.",
            ) from error

    def _refuse_missing_chunks(self, start: int, stop: int) -> None:
        for first, last in self.files.missing_rows(self.array, self.name, start, stop):
            raise RecordingFormatError(
                f"{'images' if len(self.array.shape) == 4 else 'numbers'} of rows {first} to {last} are not in the store",
                stream=self.name,
                found="no chunk of them, or not all",
                todo="The copy is not whole; copy it again from the robot.",
            )


def _unread(start: int, stop: int) -> Array:
    raise RecordingFormatError("an array that cannot be read was read", found=f"rows {start} to {stop}")


def _compressor(array: zarr.Array[Any]) -> str:
    """The names of an array's compressors, such as `blosc` or `imagecodecs_jpegxl`."""
    names = []
    for codec in (*array.filters, *array.compressors):
        name = getattr(codec, "codec_id", None) or getattr(codec, "codec_name", None) or type(codec).__name__
        names.append(str(name).removesuffix("Codec").lower())
    return "+".join(names)


def _open_files(place: Place) -> ZarrFiles:
    """Open a store. Raise RecordingFormatError if it is none, UnsafePathError for entries that leave it."""
    path = place.path
    if path.rstrip("/").endswith(".partial"):
        raise RecordingFormatError("a recording that crashed: its collector renames `.partial` when it is complete", file=path)
    try:
        with saying_failure(place):
            files = _files_of(place)
    except OSError as error:
        raise RecordingError(f"cannot open the recording: {error.strerror or error}", file=path) from error
    if not files.array_paths:
        files.close()
        expected = "a Zarr 2 or 3 store, with .zarray or zarr.json in it"
        raise RecordingFormatError("no Zarr array in it", file=path, expected=expected, todo=other_format(place, "zarr"))
    return files


def _files_of(place: Place) -> ZarrFiles:
    # zarr itself is imported there.
    from vla_ops.recordings.zarr_remote import RemoteFolderFiles, RemoteZipFiles

    if place.is_remote:
        return RemoteFolderFiles(place) if place.is_folder else RemoteZipFiles(place)
    return FolderFiles(place.path) if place.is_folder else ZipFiles(place)
