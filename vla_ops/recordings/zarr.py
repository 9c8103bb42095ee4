"""Read Zarr recordings, versions 2 and 3, in a folder or a zip: replay buffers (`data/*`, `meta/episode_ends`) of UMI and others.

Each episode of `meta/episode_ends` is a span; without it the whole store is one. Streams are listed as `data/NAME` and may be
named without `data/`. Chunks that are not in a store read as its fill value, as Zarr defines, except for images, where that
would be a black picture that nobody took.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.errors import RecordingFormatError, SchemaMismatchError, UnknownEncodingError
from vla_ops.recordings.array_recording import ArrayRecording, as_text, plain_text
from vla_ops.recordings.arrays import Array, Rows
from vla_ops.recordings.base import OpenOptions, Span
from vla_ops.recordings.zarr_store import ZarrFiles, open_files

if TYPE_CHECKING:
    import zarr

_TASK_ATTRIBUTES = ("task", "language_instruction", "instruction")


class ZarrRecording(ArrayRecording):
    """An open Zarr store. Chunks are read and decompressed without a lock of ours; cameras may be read from several threads."""

    def __init__(self, path: str, options: OpenOptions) -> None:
        super().__init__(path, options)
        self._files: ZarrFiles = open_files(path)
        self._known: dict[str, Rows] = {}

    def close(self) -> None:
        """Close the store."""
        self._files.close()

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
        for k, (before, stop) in enumerate(zip([0, *stops], stops, strict=False)):
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
        read = _Reader(self._files, name, array)
        return Rows(name, dtype, tuple(array.shape), array.chunks[0] if array.chunks else None, read, storage=_compressor(array))


class _Reader:
    """Rows of one array; what the store's libraries raise on damaged chunks becomes a RecordingFormatError."""

    def __init__(self, files: ZarrFiles, name: str, array: zarr.Array[Any]) -> None:
        self.files, self.name, self.array = files, name, array

    def __call__(self, start: int, stop: int) -> Array:
        self.files.check_links(self.name)
        try:
            if len(self.array.shape) == 4:
                self._refuse_missing_chunks(start, stop)
            return np.asarray(self.array[start:stop])
        except RecordingFormatError:
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
        size = (self.array.shards or self.array.chunks)[0]
        for chunk in range(start // size, -(-stop // size)):
            key = self.files.chunk_key(self.array, self.name, chunk)
            if not self.files.has(key):
                raise RecordingFormatError(
                    f"images of rows {chunk * size} to {min((chunk + 1) * size, self.array.shape[0])} are not in the store",
                    stream=self.name,
                    found=f"no {key}",
                    todo="The copy is not whole; copy it again from the robot.",
                )


def _unread(start: int, stop: int) -> Array:
    raise RecordingFormatError("an array whose compressor is not installed was read", found=f"rows {start} to {stop}")


def _compressor(array: zarr.Array[Any]) -> str:
    """The names of an array's compressors, such as `blosc` or `imagecodecs_jpegxl`."""
    names = []
    for codec in (*array.filters, *array.compressors):
        name = getattr(codec, "codec_id", None) or getattr(codec, "codec_name", None) or type(codec).__name__
        names.append(str(name).removesuffix("Codec").lower())
    return "+".join(names)
