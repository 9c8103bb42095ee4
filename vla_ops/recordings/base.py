"""What every recording reader gives: named streams with int64 nanosecond stamps, decoded as late as possible.

A reader opens one recording, lists what is in it without decoding it, and reads only the streams it is asked for.
Numbers come as one array. Images come as *encoded* bytes, one at a time, so that memory does not grow with the length
of the recording and JPEG packets can be copied without a generation loss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

type Int64 = npt.NDArray[np.int64]
type Float64 = npt.NDArray[np.float64]
type UInt8 = npt.NDArray[np.uint8]

# Which of a message's stamps is its time. Formats with one stamp a sample have only `log`.
type Clock = Literal["log", "publish", "header"]

# How the bytes of one image are to be read. `raw` is an array; the video codecs need their neighbours to be decoded.
type ImageCodec = Literal["jpeg", "png", "raw", "h264", "hevc", "av1", "mjpeg"]
VIDEO_CODECS: frozenset[str] = frozenset({"h264", "hevc", "av1", "mjpeg"})

_SOURCE = re.compile(r"^(?P<stream>(?:.*/)?[^/.\[\]]*)(?:\.(?P<field>[^\[\]]+))?(?:\[(?P<columns>[^\[\]]*)\])?$")


@dataclass(frozen=True)
class Source:
    """What a `source:` names: a stream, a field of its messages, and columns of that field.

    `/joint_states.position[0:6]`, `/observations/qpos[7]`, `data/robot0_eef_pos`, `/q[0,2,4]`. The field is empty for formats
    whose samples have no fields and for messages with only one numeric field.
    """

    stream: str
    field: str = ""
    columns: slice | tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a `source:`; raise ValueError with the accepted forms if it is none of them."""
        found = _SOURCE.match(text)
        if not found or not found["stream"]:
            raise ValueError(f"{text!r} is not a source; write STREAM, STREAM.field, STREAM[0:6] or STREAM.field[0,2]")
        return cls(found["stream"], found["field"] or "", _parse_columns(text, found["columns"]))

    def __str__(self) -> str:
        columns = self.columns
        if isinstance(columns, slice):
            inside = f"[{'' if columns.start is None else columns.start}:{'' if columns.stop is None else columns.stop}]"
        else:
            inside = "" if columns is None else f"[{','.join(map(str, columns))}]"
        return self.stream + (f".{self.field}" if self.field else "") + inside

    @property
    def beginnings(self) -> tuple[str, ...]:
        """The stream, then the stream with one, two, ... dotted parts of the field: any may be the stream's whole name."""
        parts = self.field.split(".") if self.field else []
        return tuple(".".join([self.stream, *parts[:count]]) for count in range(len(parts) + 1))

    def take(self, values: Float64) -> Float64:
        """Select this source's columns of `values` [n, width]."""
        return values if self.columns is None else values[:, self.columns]  # pyright: ignore[reportArgumentType]


def _parse_columns(text: str, columns: str | None) -> slice | tuple[int, ...] | None:
    if columns is None:
        return None
    try:
        if ":" in columns:
            start, stop = (int(part) if part.strip() else None for part in columns.split(":"))
            return slice(start, stop)
        return tuple(int(part) for part in columns.split(","))
    except ValueError as error:
        raise ValueError(f"columns [{columns}] of source {text!r} are neither a:b nor a list of integers") from error


@dataclass(frozen=True)
class StreamInfo:
    """One stream of a recording, known without decoding its samples."""

    name: str
    kind: Literal["numbers", "images", "other"]
    # dtype and shape of ONE sample; an empty shape where only decoding would tell (compressed images).
    dtype: str
    shape: tuple[int, ...]
    count: int
    first_ns: int | None = None
    last_ns: int | None = None
    # Encoding of the messages or images: cdr, json, jpeg, raw, h264, blosc, ...
    encoding: str = ""
    # Schema name of the messages, where the format has one.
    schema: str = ""
    # Numeric fields a `source:` can select, and the joint names the recording itself gives.
    fields: tuple[str, ...] = ()
    joint_names: tuple[str, ...] = ()

    @property
    def rate_hz(self) -> float | None:
        """Mean rate from count and stamps, or None where the stamps do not tell."""
        if self.count < 2 or self.first_ns is None or self.last_ns is None or self.last_ns <= self.first_ns:
            return None
        return (self.count - 1) * 1e9 / (self.last_ns - self.first_ns)


@dataclass(frozen=True)
class Span:
    """One episode inside a recording: a demo group, rows of a replay buffer, or the whole file.

    `clock_jump` says why a reader had to split where no episode boundary was declared (a clock that jumped back).
    """

    name: str
    index: int = 0
    start: int = 0
    stop: int | None = None
    task: str | None = None
    clock_jump: str | None = None


@dataclass(frozen=True)
class Numbers:
    """A numeric stream: `stamps_ns` int64 [n] in the order recorded, `values` float64 [n, width].

    `names` are the joint names of the columns where the messages carry them.
    """

    stamps_ns: Int64
    values: Float64
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class EncodedImage:
    """One image as it was recorded: compressed bytes, or for `raw` a uint8 array [H, W, 3] in RGB order."""

    codec: ImageCodec
    data: bytes | UInt8


@runtime_checkable
class ImageStream(Protocol):
    """The images of one stream."""

    @property
    def name(self) -> str:
        """The stream's name."""
        ...

    @property
    def codec(self) -> ImageCodec:
        """Encoding of the first image; each packet says its own."""
        ...

    @property
    def stamps_ns(self) -> Int64:
        """Stamps, int64 [n], in the order recorded."""
        ...

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the encoded images at non-decreasing `indices`, holding one (or one chunk) in memory at a time.

        For video codecs a packet is one coded picture; the packets before the first index that are needed to decode it are
        the caller's to ask for (ask from 0).
        """
        ...


@runtime_checkable
class Recording(Protocol):
    """An open recording. Readers are context managers; every error names the stream, the caller adds the file."""

    path: str

    def streams(self) -> list[StreamInfo]:
        """List all streams of the first episode without decoding them."""
        ...

    def spans(self) -> list[Span]:
        """List the episodes in recording order."""
        ...

    def notes(self) -> list[str]:
        """What a person should know of how it is read: that the file was cut off, that parts of an array are missing."""
        ...

    def metadata(self) -> Mapping[str, str]:
        """What the recording says of itself as flat text: task_info.station, attrs.env, ..."""
        ...

    def stream_name(self, source: Source) -> str:
        """The stream a source names; names may hold dots. Raise StreamNotFoundError with the nearest names if it is not there."""
        ...

    def numbers(self, source: Source, span: Span) -> Numbers:
        """Read a numeric stream. Raise StreamNotFoundError with the nearest names if it is not there."""
        ...

    def images(self, source: Source, span: Span) -> ImageStream:
        """Open an image stream lazily. Raise StreamNotFoundError with the nearest names if it is not there."""
        ...

    def close(self) -> None:
        """Release the file; closing twice is fine."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


@dataclass(frozen=True)
class OpenOptions:
    """How a recording is to be read; the part of a robot's spec that readers need."""

    clock: Clock = "log"
    # Rate of formats that store no stamps: sample k is at k / rate_hz.
    rate_hz: float | None = None
    # HDF5 and Zarr: the dataset or array that holds stamps in s, ms, us or ns, per stream or for all ("*").
    time_sources: Mapping[str, str] = field(default_factory=dict)
    # A file that was cut off (power loss): read what is whole instead of refusing it.
    allow_truncated: bool = False
    # Sources whose raw images are BGR, as collectors that use OpenCV store them; each is str(Source).
    bgr_sources: frozenset[str] = frozenset()
    # Sources that will be read, each str(Source): only their clocks and gaps matter. None: all.
    streams: frozenset[str] | None = None
