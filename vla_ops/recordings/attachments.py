"""Videos kept as attachments of an MCAP file, as image streams: coded pictures without decoding, each with its own time."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from vla_ops.errors import RecordingError, RecordingFormatError, UnknownEncodingError
from vla_ops.recordings.base import EncodedImage, ImageCodec, Int64, StreamInfo, UInt8
from vla_ops.recordings.mcap_file import ByteFile
from vla_ops.recordings.mcap_scan import AttachmentPlace

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

# Containers by media type. Named, since a probed format may be a playlist that opens other files.
_CONTAINERS = {"video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "matroska", "video/webm": "matroska"}
_TO_START_CODES = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
_PACKET_CODECS = frozenset({"h264", "hevc", "av1", "mjpeg"})
_READ_BYTES = 2**20
# Matrices as FFmpeg numbers them: what is not BT.709, FCC, SMPTE 240M or BT.2020 is read as BT.601.
_ITU601, _OTHER_MATRICES = 5, frozenset({1, 4, 7, 9, 10})


class _Part(io.RawIOBase):
    """Some bytes of a file as a file of their own."""

    def __init__(self, file: ByteFile, start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._file.read(self._start + self._at, min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at


@dataclass(frozen=True)
class _Facts:
    """What the container says: presentation times in `time_base` units, int64 [n] in the order shown."""

    codec: str
    height: int
    width: int
    times: Int64
    numerator: int
    denominator: int
    # Pictures are stored in the order they are shown in, and all are shown.
    is_in_order: bool
    comment: str


class AttachedVideo:
    """One video attachment. `log_stamps`: the recorder's list of tick times, if it wrote one."""

    def __init__(self, file: ByteFile, place: AttachmentPlace, log_stamps: Int64 | None) -> None:
        self.name, self._file, self._place, self._log_stamps = place.name, file, place, log_stamps

    @cached_property
    def facts(self) -> _Facts:
        """Read the container's packets without decoding them. Raise RecordingFormatError if it is damaged."""
        with self.opened() as container:
            stream = container.streams.video[0]
            found = [(p.pts, p.is_discard) for p in container.demux(stream) if p.pts is not None]
            times = np.array([pts for pts, is_discarded in found if not is_discarded], np.int64)
            context, base = stream.codec_context, stream.time_base
            if base is None or not len(times):
                raise RecordingFormatError("the video holds no pictures with times", stream=self.name)
            is_in_order = bool((np.diff(times) > 0).all()) and len(times) == len(found)
            comment = {**container.metadata, **stream.metadata}.get("comment", "")
            codec = stream.codec.canonical_name
            return _Facts(codec, context.height, context.width, np.sort(times), base.numerator, base.denominator, is_in_order, comment)

    def info(self) -> StreamInfo:
        """The stream's line in a listing; without times where nothing says what they count from, `other` where it is damaged."""
        try:
            facts = self.facts
        except (RecordingFormatError, UnknownEncodingError) as error:
            return StreamInfo(self.name, "other", "", (), 0, encoding=error.what, schema=self._place.media_type)
        try:
            stamps = self.stamps_ns
            first, last = int(stamps[0]), int(stamps[-1])
        except RecordingError:
            first = last = None  # Reading the images raises it; a listing shows that there are none.
        shape = (facts.height, facts.width, 3)
        return StreamInfo(self.name, "images", "uint8", shape, len(facts.times), first, last, facts.codec, self._place.media_type)

    def images(self) -> VideoImages:
        """The video as an image stream: coded pictures, or decoded ones where the stored order is not the one shown in (B-frames)."""
        facts = self.facts
        codec = cast("ImageCodec", facts.codec) if facts.is_in_order and facts.codec in _PACKET_CODECS else "raw"
        return VideoImages(self.name, codec, self.stamps_ns, self)

    @cached_property
    def stamps_ns(self) -> Int64:
        """The time of each picture. Raise RecordingError where the file does not say what the video's times count from."""
        facts = self.facts
        base = _base_stamp(facts.comment)
        if base is not None:
            return np.array([(base + t) * facts.numerator * 10**9 // facts.denominator for t in facts.times.tolist()], np.int64)
        ticks = self._log_stamps
        if ticks is not None and len(ticks) == len(facts.times):
            return ticks
        raise RecordingError(
            "nothing says what the video's times count from",
            stream=self.name,
            found=f"{len(facts.times)} pictures, no base_stamp, " + ("no log_stamps" if ticks is None else f"{len(ticks)} log_stamps"),
            expected='{"base_stamp": N} in the video\'s comment, or an attachment log_stamps with a time for each picture',
        )

    @contextmanager
    def opened(self) -> Iterator[InputContainer]:
        """Open the video's container. Raise RecordingFormatError where it turns out to be damaged."""
        import av
        import av.error

        container = _CONTAINERS.get(self._place.media_type)
        if container is None:
            raise UnknownEncodingError(
                "a video attachment of a kind not known here",
                stream=self.name,
                found=self._place.media_type,
                expected=" | ".join(_CONTAINERS),
            )
        try:
            part = io.BufferedReader(_Part(self._file, self._place.start, self._place.size), _READ_BYTES)
            with av.open(part, "r", format=container, metadata_errors="replace", buffer_size=_READ_BYTES) as opened:
                if not opened.streams.video:
                    raise RecordingFormatError("the attachment holds no video", stream=self.name, found=self._place.media_type)
                yield opened
        except av.error.FFmpegError as error:
            raise RecordingFormatError(f"the video is damaged: {error.strerror}", stream=self.name) from error


@dataclass(frozen=True)
class VideoImages:
    """An ImageStream over a video attachment. Every call of `packets` opens the video anew, so that threads do not meet."""

    name: str
    codec: ImageCodec
    stamps_ns: Int64
    video: AttachedVideo

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

        with self.video.opened() as container:
            stream = container.streams.video[0]
            to_start_codes = (
                av.bitstream.BitStreamFilterContext(_TO_START_CODES[self.codec], stream) if self.codec in _TO_START_CODES else None
            )
            shown = (packet for packet in container.demux(stream) if packet.pts is not None)
            for number, packet in enumerate(shown):
                if number >= first:
                    data = b"".join(bytes(part) for part in to_start_codes.filter(packet)) if to_start_codes else bytes(packet)
                    yield number, EncodedImage(self.codec, data)

    def _decoded(self, wanted: frozenset[int]) -> Iterator[tuple[int, EncodedImage | None]]:
        """Yield all pictures in the order shown, those that are `wanted` as RGB."""
        with self.video.opened() as container:
            for number, frame in enumerate(container.decode(container.streams.video[0])):
                yield number, EncodedImage("raw", _as_rgb(frame)) if number in wanted else None


def checked_indices(name: str, indices: Sequence[int] | Int64, count: int) -> list[int]:
    """The indices as a list. Raise IndexError if they decrease or one is not in 0..count - 1."""
    wanted = np.asarray(indices, np.int64)
    if len(wanted) and ((np.diff(wanted) < 0).any() or wanted[0] < 0 or wanted[-1] >= count):
        raise IndexError(f"images {wanted.min()}..{wanted.max()} of {name}: indices must not decrease and lie in 0..{count - 1}")
    return wanted.tolist()


def _base_stamp(comment: str) -> int | None:
    """`base_stamp` of a comment such as {"base_stamp": 1749999999993334}; old collectors write single quotes."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(comment)
        except (ValueError, SyntaxError):
            continue
        stamp = value.get("base_stamp") if isinstance(value, dict) else None
        return int(stamp) if isinstance(stamp, int | float) else None
    return None


def _as_rgb(frame: av.VideoFrame) -> UInt8:
    matrix = frame.colorspace if frame.colorspace in _OTHER_MATRICES else _ITU601
    return np.ascontiguousarray(frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray(), np.uint8)
