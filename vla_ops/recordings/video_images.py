"""Pictures of a video in a container as an image stream: coded ones without decoding, each with its own time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.base import EncodedImage, ImageCodec, Int64, UInt8

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

_TO_START_CODES = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_PACKET_CODECS = frozenset({"h264", "hevc", "av1", "mjpeg"})
# Matrices as FFmpeg numbers them: what is not BT.709, FCC, SMPTE 240M or BT.2020 is read as BT.601.
_ITU601, _OTHER_MATRICES = 5, frozenset({1, 4, 7, 9, 10})

# Opens the container anew, so that threads do not meet in one.
type Opener = Callable[[], AbstractContextManager[InputContainer]]


@dataclass(frozen=True)
class VideoFacts:
    """What the container says: presentation times in `numerator / denominator` s, int64 [n] in the order shown."""

    codec: str
    height: int
    width: int
    times: Int64
    numerator: int
    denominator: int
    # Pictures are stored in the order they are shown in, and all are shown.
    is_in_order: bool
    comment: str

    @property
    def image_codec(self) -> ImageCodec:
        """That of the coded pictures, or `raw` where they have to be decoded because their stored order is not the one shown (B-frames)."""
        return cast("ImageCodec", self.codec) if self.is_in_order and self.codec in _PACKET_CODECS else "raw"


def video_facts(name: str, opened: Opener) -> VideoFacts:
    """Read the container's packets without decoding them. Raise RecordingFormatError if it is damaged or has no pictures."""
    with opened() as container:
        stream = container.streams.video[0]
        found = [(p.pts, p.is_discard) for p in container.demux(stream) if p.pts is not None]
        times = np.array([pts for pts, is_discarded in found if not is_discarded], np.int64)
        context, base = stream.codec_context, stream.time_base
        if base is None or not len(times):
            raise RecordingFormatError("the video holds no pictures with times", stream=name)
        is_in_order = bool((np.diff(times) > 0).all()) and len(times) == len(found)
        comment = {**container.metadata, **stream.metadata}.get("comment", "")
        codec = stream.codec.canonical_name
        return VideoFacts(codec, context.height, context.width, np.sort(times), base.numerator, base.denominator, is_in_order, comment)


@dataclass(frozen=True)
class VideoImages:
    """An ImageStream over a video, or over the part of it that begins at `first_pts`."""

    name: str
    codec: ImageCodec
    stamps_ns: Int64
    opened: Opener
    # Presentation time of the first picture in the container's units; reading begins at the last keyframe before it.
    first_pts: int | None = None

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the pictures at non-decreasing `indices`; H.264 and H.265 with start codes, and parameter sets at keyframes."""
        wanted = checked_indices(self.name, indices, len(self.stamps_ns))
        if not wanted:
            return
        pictures = self._decoded(frozenset(wanted)) if self.codec == "raw" else self._coded(wanted[0])
        number, image = -1, None
        for index in wanted:
            while number < index:
                number, image = next(pictures, (len(self.stamps_ns), None))
            if image is None:
                raise RecordingFormatError(
                    "the video ends before its last picture", stream=self.name, frame=index, expected=f"{len(self.stamps_ns)} pictures"
                )
            yield image

    def _coded(self, first: int) -> Iterator[tuple[int, EncodedImage]]:
        """Yield the coded pictures from number `first` on."""
        import av.bitstream

        with self.opened() as container:
            stream = container.streams.video[0]
            to_start_codes = (
                av.bitstream.BitStreamFilterContext(_TO_START_CODES[self.codec], stream) if self.codec in _TO_START_CODES else None
            )
            self._seek(container)
            shown = (packet for packet in container.demux(stream) if packet.pts is not None and self._is_mine(packet.pts))
            for number, packet in enumerate(shown):
                if number >= first:
                    data = b"".join(bytes(part) for part in to_start_codes.filter(packet)) if to_start_codes else bytes(packet)
                    yield number, EncodedImage(self.codec, data)

    def _decoded(self, wanted: frozenset[int]) -> Iterator[tuple[int, EncodedImage | None]]:
        """Yield all pictures in the order shown, those that are `wanted` as RGB."""
        with self.opened() as container:
            self._seek(container)
            frames = (frame for frame in container.decode(container.streams.video[0]) if frame.pts is None or self._is_mine(frame.pts))
            for number, frame in enumerate(frames):
                yield number, EncodedImage("raw", _as_rgb(frame)) if number in wanted else None

    def _seek(self, container: InputContainer) -> None:
        if self.first_pts is not None:
            container.seek(self.first_pts, stream=container.streams.video[0], backward=True)

    def _is_mine(self, pts: int) -> bool:
        return self.first_pts is None or pts >= self.first_pts


def checked_indices(name: str, indices: Sequence[int] | Int64, count: int) -> list[int]:
    """The indices as a list. Raise IndexError if they decrease or one is not in 0..count - 1."""
    wanted = np.asarray(indices, np.int64)
    if len(wanted) and ((np.diff(wanted) < 0).any() or wanted[0] < 0 or wanted[-1] >= count):
        raise IndexError(f"images {wanted.min()}..{wanted.max()} of {name}: indices must not decrease and lie in 0..{count - 1}")
    return wanted.tolist()


def _as_rgb(frame: av.VideoFrame) -> UInt8:
    matrix = frame.colorspace if frame.colorspace in _OTHER_MATRICES else _ITU601
    return np.ascontiguousarray(frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray(), np.uint8)
