"""Video packets in mp4 files: what an mp4 holds, which part of it is an episode, and writing packets at exact times.

Pictures are counted in the order they are shown in. Where an encoder stores them in another order (B-frames), a picture that is
needed by earlier ones comes before them; the decoding times of the written packets then run ahead of the times shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from vla_ops.errors import DatasetError
from vla_ops.recordings.base import Int64

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_AGAIN = "The copy is not whole, or a write was cut off: copy or make it again."


class PacketWriter:
    """An mp4 that packets are copied into: picture k is shown at exactly k / rate."""

    def __init__(self, path: Path, *, rate: Fraction, delay: int = 0) -> None:
        """Open the file. `delay`: by how many pictures at most one is stored after its place in the order shown."""
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self._output = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream: VideoStream | None = None
        # A rate of 29.97 is 2997 ticks a second and 100 ticks a picture.
        self._tick, self._step, self._delay = Fraction(1, rate.numerator), rate.denominator, delay
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._output.close()

    def copy(self, packet: Packet, source: VideoStream, shown: int) -> None:
        """Write a packet of `source` as picture number `shown`."""
        if self._stream is None:
            self._stream = self._output.add_stream_from_template(source, opaque=True)
            self._stream.time_base = self._tick
        packet.stream = self._stream
        packet.time_base = self._tick
        packet.pts, packet.dts = shown * self._step, (self.count - self._delay) * self._step
        packet.duration = self._step
        self._output.mux_one(packet)
        self.count += 1


def exact_rate(fps: float) -> Fraction:
    """The rate as it is written in decimals: 29.97 is 2997/100."""
    return Fraction(str(fps))


def extradata_digest(stream: VideoStream) -> str:
    """Digest of the codec's stream header, which the packets of a file share."""
    return hashlib.sha256(stream.codec_context.extradata or b"").hexdigest()[:16]


@dataclass(frozen=True)
class VideoTable:
    """What the packets of an mp4 say, none of them decoded."""

    path: Path
    # Times shown in units of `base`, int64 [n], ascending.
    times: Int64
    base: Fraction
    # For each packet as stored, the number of its picture; None where that is the order shown.
    order: Int64 | None
    # By packet as stored, bool [n].
    keyframes: npt.NDArray[np.bool_]
    # Packets that need another stream header, codec, size or pixel format cannot be in one file with these.
    settings: str
    # Kinds of other streams: audio, subtitle.
    others: tuple[str, ...]
    # Pictures that an edit list hides.
    hidden: int

    @classmethod
    def read(cls, path: Path) -> VideoTable:
        """Read a file. Raise DatasetError if it cannot be read to its end or has no pictures."""
        with opened_video(path) as (container, stream):
            found = [(p.pts, p.is_keyframe, p.is_discard, p.is_corrupt) for p in packets_of(container, stream)]
            if not found or any(pts is None for pts, *_ in found):
                raise DatasetError("a video holds no pictures with times", file=path, found=f"{len(found)} packets")
            if any(corrupt for *_, corrupt in found):
                raise DatasetError("a video is cut off within a picture", file=path, todo=_AGAIN)
            pts = np.array([pts for pts, *_ in found], np.int64)
            place = np.argsort(pts, kind="stable")
            order = np.empty_like(place)
            order[place] = np.arange(len(place))
            in_order = bool((np.diff(pts) > 0).all())
            return cls(
                path,
                pts[place],
                stream.time_base or Fraction(1),
                None if in_order else order,
                np.array([key for _, key, *_ in found], np.bool_),
                f"{stream.codec.canonical_name} {stream.width}x{stream.height} {stream.pix_fmt} header {extradata_digest(stream)}",
                tuple(other.type for other in container.streams if other.index != stream.index),
                sum(discarded for _, _, discarded, _ in found),
            )

    def __len__(self) -> int:
        return len(self.times)

    def first_at(self, seconds: float, fps: float) -> int:
        """Number of the first picture at or after a time counted from the first of all; half a frame early, for what was rounded."""
        shown = (self.times - self.times[0]) * float(self.base)
        return int(np.searchsorted(shown, seconds - 0.5 / fps))


@dataclass(frozen=True)
class Cut:
    """Pictures `first` up to `first + length` of an mp4: an episode."""

    table: VideoTable
    first: int
    length: int

    @property
    def is_whole(self) -> bool:
        """True where the file holds nothing else."""
        return self.length == len(self.table)

    @cached_property
    def _stored(self) -> Int64:
        """Where its packets are among the stored ones, ascending."""
        if self.table.order is None:
            return np.arange(self.first, self.first + self.length)
        return np.flatnonzero((self.table.order >= self.first) & (self.table.order < self.first + self.length))

    @property
    def stored_from(self) -> int:
        """Number of its first packet as stored."""
        return int(self._stored[0])

    @property
    def delay(self) -> int:
        """By how many pictures at most one is stored after its place in the order shown."""
        if self.table.order is None:
            return 0
        return int((np.arange(self.length) - (self.table.order[self._stored] - self.first)).max())

    def why_not_cut(self) -> str | None:
        """Why its packets cannot be decoded without others of the file, or None if they can."""
        stored, order = self._stored, self.table.order
        begins = self.first if order is None else int(np.flatnonzero(order == self.first)[0])
        if not self.table.keyframes[begins]:
            return "it does not begin with a keyframe"
        if begins != stored[0] or stored[-1] - stored[0] != self.length - 1:
            return "its pictures are stored between those of its neighbours (B-frames across the border)"
        return None

    def misplaced(self, fps: float) -> tuple[int, float] | None:
        """The first picture that is half a frame or more from k / fps, and its time in seconds; None if there is none."""
        shown = self._ticks() * float(self.table.base)
        off = np.abs(shown - np.arange(self.length) / fps) >= 0.5 / fps
        return (int(np.argmax(off)), float(shown[np.argmax(off)])) if off.any() else None

    def is_exact(self, rate: Fraction) -> bool:
        """True where picture k of the file is at exactly k / rate."""
        base = self.table.base
        expected = np.arange(self.length) * (rate.denominator * base.denominator)
        return bool(self.table.times[0] == 0 and (self._ticks() * (base.numerator * rate.numerator) == expected).all())

    def _ticks(self) -> Int64:
        mine = self.table.times[self.first : self.first + self.length]
        return mine - mine[0]


@contextmanager
def opened_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open an mp4 and its first video. Raise DatasetError naming the file for one that is damaged or holds no video."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), "r", metadata_errors="replace") as container:
            if not container.streams.video:
                raise DatasetError("a video file holds no video", file=path)
            yield container, container.streams.video[0]
    except FFmpegError as error:
        raise DatasetError("a video cannot be read", file=path, found=error.strerror or str(error), todo=_AGAIN) from error


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """Yield the packets in the order stored, without the demuxer's last, empty one."""
    return (packet for packet in container.demux(stream) if packet.size)
