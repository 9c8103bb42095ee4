"""What the HDF5 and Zarr readers share: stored arrays of one episode become streams, with stamps from a rate or an array of times."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from vla_ops.errors import RecordingError, SchemaMismatchError, UnknownEncodingError
from vla_ops.recordings import missing_stream
from vla_ops.recordings.arrays import Layout, RowImages, Rows, image_layout, numbers_of
from vla_ops.recordings.base import Float64, Int64, Numbers, OpenOptions, Source, Span, StreamInfo
from vla_ops.recordings.place import Place, as_place
from vla_ops.recordings.stamps import stamps_from_rate, stamps_from_times

# Attributes hold whole MuJoCo models; a person wants to see the beginning.
LONGEST_TEXT = 200
# Robosuite keeps the rate of control in the middle of a long JSON text.
_RATE_IN_TEXT = re.compile(r'"(?:control_freq|fps)": ?\d{1,4}(?:\.\d{1,6})?')


@dataclass(frozen=True)
class Extent:
    """The rows of an array that belong to a span."""

    start: int
    stop: int


class ArrayRecording(ABC):
    """A recording of arrays whose row k is step k. A reader says which arrays there are and which rows are the span's."""

    def __init__(self, recording: str | Place, options: OpenOptions) -> None:
        self._place = as_place(recording)
        self.path = self._place.path
        self.options = options

    @abstractmethod
    def spans(self) -> list[Span]:
        """List the episodes in recording order."""

    def notes(self) -> list[str]:
        """Nothing."""
        return []

    @abstractmethod
    def metadata(self) -> Mapping[str, str]:
        """What the recording says of itself as flat text."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @abstractmethod
    def _arrays(self, span: Span) -> list[str]:
        """The names of all arrays of a span."""

    @abstractmethod
    def _rows(self, name: str, span: Span) -> Rows | None:
        """The array that a source calls `name`, or None."""

    @abstractmethod
    def _steps(self, span: Span) -> int:
        """How many rows an array with one row a step has."""

    def _lengths(self, span: Span) -> Int64 | None:
        """Lengths of padded JPEG rows where the file gives them: int64 [cameras, n]."""
        del span
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def streams(self) -> list[StreamInfo]:
        """List all arrays of the first episode; those that do not have one row a step are `other`."""
        spans = self.spans()
        return [self._info(name, spans[0]) for name in self._arrays(spans[0])] if spans else []

    def numbers(self, source: Source, span: Span) -> Numbers:
        """Read the columns of a numeric array, samples flattened. Raise StreamNotFoundError with the nearest names."""
        rows = self._find(source, span)
        extent = self._extent(rows, span)
        layout = rows.layout
        if layout.kind != "numbers":
            raise SchemaMismatchError(
                "not a numeric stream",
                stream=rows.name,
                found=f"{layout.kind}: {layout.dtype} {list(rows.shape)} {layout.encoding}".strip(),
                expected=f"numbers, one row for each of {self._steps(span)} steps",
                todo="Map images under `cameras`." if layout.kind == "images" else "`vla-ops inspect FILE` lists the numeric streams.",
            )
        rows.prefetch(extent.start, extent.stop)
        stamps = self._stamps(rows, extent, span)
        return Numbers(stamps, _columns(source, numbers_of(rows, extent.start, extent.stop)))

    def images(self, source: Source, span: Span) -> RowImages:
        """Open an array of images. Raise StreamNotFoundError with the nearest names, UnknownEncodingError if it holds none."""
        rows = self._find(source, span)
        extent = self._extent(rows, span)
        layout = image_layout(rows)
        return RowImages(
            name=rows.name,
            codec=layout.codec or "raw",
            stamps_ns=self._stamps(rows, extent, span),
            rows=rows,
            layout=layout,
            start=extent.start,
            bgr=any(same_array(str(source), bgr) for bgr in self.options.bgr_sources),
            lengths=self._lengths(span) if layout.codec == "jpeg" else None,
        )

    def stream_name(self, source: Source) -> str:
        """The array a source names. Raise StreamNotFoundError with the nearest names if no episode has it."""
        name = array_name(source)
        for span in self._every_span:
            if (rows := self._rows(name, span)) is not None:
                return rows.name
        raise missing_stream(name, self._arrays(self._every_span[0]) if self._every_span else ())

    @cached_property
    def _every_span(self) -> list[Span]:
        return self.spans()

    def _find(self, source: Source, span: Span) -> Rows:
        name = array_name(source)
        rows = self._rows(name, span)
        if rows is None:
            raise missing_stream(name, self._arrays(span))
        if rows.unreadable:
            raise UnknownEncodingError("the array cannot be read", stream=rows.name, found=rows.unreadable, expected=_COMPRESSORS)
        return rows

    def _extent(self, rows: Rows, span: Span) -> Extent:
        """The span's rows. Raise SchemaMismatchError where the array is not per step and has no times of its own."""
        steps = self._steps(span)
        if rows.shape and rows.count == steps:
            return Extent(span.start, steps if span.stop is None else min(span.stop, steps))
        if self._has_own_times(rows.name):
            return Extent(0, rows.count)
        raise SchemaMismatchError(
            "the array does not have one row a step",
            stream=rows.name,
            found=f"{rows.count} rows" if rows.shape else "a single value",
            expected=f"{steps}, as the actions and most arrays of the episode have",
            todo="If it was recorded at another rate, name the array of its times in `recordings.times`.",
        )

    def _stamps(self, rows: Rows, extent: Extent, span: Span) -> Int64:
        source = self._time_source(rows.name)
        if source is None:
            if self.options.rate_hz is None:
                raise RecordingError(
                    "the samples have no stamps",
                    stream=rows.name,
                    todo="Set `recordings.source_rate_hz`, or name an array in `recordings.times`.",
                )
            return stamps_from_rate(0, extent.stop - extent.start, self.options.rate_hz)
        times = self._find(Source(source), span)
        if times.count != rows.count:
            raise SchemaMismatchError(
                "as many times as samples are needed",
                stream=rows.name,
                found=f"{times.count} times in {times.name}",
                expected=f"{rows.count}, one for each row",
            )
        return stamps_from_times(times.read(extent.start, extent.stop), times.name)

    def _time_source(self, name: str) -> str | None:
        own = next((times for stream, times in self.options.time_sources.items() if same_array(stream, name)), None)
        return own or self.options.time_sources.get("*")

    def _has_own_times(self, name: str) -> bool:
        return any(same_array(stream, name) for stream in self.options.time_sources)

    def _info(self, name: str, span: Span) -> StreamInfo:
        rows = self._rows(name, span)
        if rows is None:
            return StreamInfo(name, "other", "", (), 0)
        per_step = bool(rows.shape) and rows.count == self._steps(span)
        if not per_step and not self._has_own_times(name):
            return StreamInfo(name, "other", str(rows.dtype), rows.shape, rows.count, encoding=rows.unreadable or rows.storage)
        layout = rows.layout
        extent = self._extent(rows, span)
        first, last = self._first_and_last(rows, extent, span, layout)
        count = extent.stop - extent.start
        return StreamInfo(name, layout.kind, layout.dtype, layout.shape, count, first, last, encoding=layout.encoding)

    def _first_and_last(self, rows: Rows, extent: Extent, span: Span, layout: Layout) -> tuple[int | None, int | None]:
        known = self.options.rate_hz is not None or self._time_source(rows.name) is not None
        if layout.kind == "other" or not known or extent.stop <= extent.start:
            return None, None
        stamps = self._stamps(rows, extent, span)
        return int(stamps[0]), int(stamps[-1])


_COMPRESSORS = "what numcodecs and imagecodecs read (Zarr), or what HDF5 and hdf5plugin, where it is installed, read"


def array_name(source: Source) -> str:
    """These formats have no fields: a dot is part of the array's name (`observation.state`)."""
    return source.beginnings[-1]


def _columns(source: Source, values: Float64) -> Float64:
    try:
        return source.take(values)
    except IndexError as error:
        found = f"{values.shape[1]} values a sample"
        raise SchemaMismatchError("a column is selected that the stream does not have", stream=str(source), found=found) from error


def same_array(left: str, right: str) -> bool:
    """True for two spellings of one array's name: with or without the leading slash, in Zarr also without `data/`."""
    return _bare(left) == _bare(right)


def _bare(name: str) -> str:
    return name.strip("/").removeprefix("data/")


def as_text(value: object) -> str:
    """An attribute or string dataset as one line of text of at most LONGEST_TEXT characters; a rate in what is cut away is kept."""
    text = " ".join(plain_text(value).split())
    if len(text) <= LONGEST_TEXT:
        return text
    rate = _RATE_IN_TEXT.search(text, LONGEST_TEXT - 30)
    end = f"... {rate[0]}" if rate else "..."
    return text[: LONGEST_TEXT - len(end)] + end


def plain_text(value: object) -> str:
    """Text of a string, bytes, a number or an array of them (one string: itself)."""
    import numpy as np

    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else value.tolist()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
