"""Frames or packets -> an mp4 whose frame k is at exactly k / rate, ready to be joined to others by copying packets."""

from __future__ import annotations

import hashlib
import io
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from vla_ops.episodes.store import VideoInfo
from vla_ops.errors import SchemaMismatchError, SpecError
from vla_ops.spec import VideoSpec

if TYPE_CHECKING:
    import av
    from av.container import OutputContainer
    from av.video.stream import VideoStream

# FFmpeg's raw demuxers, which make the stream parameters of an mp4 from a first packet.
_DEMUXERS = {"jpeg": "mjpeg", "mjpeg": "mjpeg", "h264": "h264", "hevc": "hevc", "av1": "obu"}
# SVT-AV1 ends the process with a floating point exception below this.
_SMALLEST_AV1 = 32
_BT601, _LIMITED = 5, 1
_TEMPORAL_DELIMITER = b"\x12\x00"


class _Mp4:
    """An mp4 with one video stream, written packet by packet. Left with an error, it is not finished."""

    stream: VideoStream

    def __init__(self, path: Path, rate_hz: int) -> None:
        import av

        self.step = Fraction(1, rate_hz)
        self.frames = 0
        # Nothing is reordered, so there is nothing for an edit list to shift; concatenation would have to undo it.
        self.container: OutputContainer = av.open(str(path), "w", format="mp4", container_options={"use_editlist": "0"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.container.close()

    def _mux(self, packet: av.Packet, number: int) -> None:
        packet.pts = packet.dts = number
        # Encoders leave the duration of the last packet open.
        packet.duration = 1
        packet.time_base = self.step
        packet.stream = self.stream
        self.container.mux(packet)


class FrameEncoder(_Mp4):
    """Encodes yuv420p frames as AV1 or H.264, without B-frames; to the same bytes whatever the number of `threads`."""

    def __init__(self, path: Path, first: av.VideoFrame, *, settings: VideoSpec, rate_hz: int, threads: int) -> None:
        refuse_size(first.height, first.width, settings.codec)
        # Read by SVT-AV1 when an encoder opens: no banner, and no complaint when an interrupted encode is closed.
        os.environ.setdefault("SVT_LOG", "0")
        super().__init__(path, rate_hz)
        self.settings, self.packets = settings, 0
        name = "libsvtav1" if settings.codec == "av1" else "libx264"
        stream = cast("VideoStream", self.container.add_stream(name, rate_hz, options=_options(settings, threads)))
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = self.step
        stream.codec_context.color_range, stream.codec_context.colorspace = _LIMITED, _BT601
        self.stream = stream

    def encode(self, frame: av.VideoFrame, times: int) -> None:
        """Encode `times` frames that look like `frame`."""
        for _ in range(times):
            frame.pts, frame.time_base = self.frames, self.step
            self.frames += 1
            self._write(self.stream.encode(frame))

    def finish(self) -> VideoInfo:
        """Write what the encoder still holds."""
        self._write(self.stream.encode(None))
        stream = self.stream
        return VideoInfo(stream.height, stream.width, self.settings.codec, "yuv420p", self.frames, _described(self.settings))

    def _write(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self._mux(packet, self.packets)
            self.packets += 1


def _options(settings: VideoSpec, threads: int) -> dict[str, str]:
    common = {"g": str(settings.gop), "crf": str(settings.crf)}
    if settings.codec == "av1":
        return common | {"preset": str(settings.preset), "svtav1-params": f"fast-decode=0:lp={threads}"}
    if settings.crf > 51:
        raise SpecError("dataset.video.crf is out of range for h264", found=settings.crf, expected="0..51")
    # A scene cut must not move the keyframes: every gop-th frame is one, whatever it shows.
    # x264 divides pictures among its threads: with another number of them the same frames would be other bytes.
    return common | {"preset": "veryfast", "bf": "0", "sc_threshold": "0", "threads": "1"}


def _described(settings: VideoSpec) -> dict[str, Any]:
    """The settings under the names LeRobot gives them in info.json."""
    common = {"g": settings.gop, "crf": settings.crf, "fast_decode": 0, "video_backend": "pyav", "extra_options": {}}
    return common | {"preset": settings.preset if settings.codec == "av1" else "veryfast"}


def refuse_size(height: int, width: int, codec: str) -> None:
    """Raise SchemaMismatchError for a size that the encoders cannot hold."""
    found = f"{width} x {height}"
    if height % 2 or width % 2:
        todo = "Set the camera to an even size, or keep its JPEGs as they are with dataset.video.codec: copy."
        raise SchemaMismatchError("odd size: a video stores color at half the resolution", found=found, expected="even", todo=todo)
    if codec == "av1" and min(height, width) < _SMALLEST_AV1:
        todo = "Set dataset.video.codec to h264."
        raise SchemaMismatchError("too small for AV1", found=found, expected=f"at least {_SMALLEST_AV1} x {_SMALLEST_AV1}", todo=todo)


class PacketCopier(_Mp4):
    """Writes recorded packets as they are."""

    def __init__(self, path: Path, codec: str, first: bytes, *, rate_hz: int) -> None:
        import av

        super().__init__(path, rate_hz)
        delimited = codec != "av1" or first.startswith(_TEMPORAL_DELIMITER)
        with av.open(io.BytesIO(first if delimited else _TEMPORAL_DELIMITER + first), format=_DEMUXERS[codec]) as source:
            template = source.streams.video[0]
            self.width, self.height, self.pix_fmt = template.width, template.height, template.pix_fmt or "yuv420p"
            self.stream = self.container.add_stream_from_template(template, opaque=True)
        self.stream.time_base = self.step
        self.codec = "mjpeg" if codec == "jpeg" else codec

    def copy(self, data: bytes, *, keyframe: bool) -> None:
        """Write one packet as the next frame."""
        import av

        packet = av.Packet(data)
        packet.is_keyframe = keyframe
        self._mux(packet, self.frames)
        self.frames += 1

    def finish(self) -> VideoInfo:
        """Describe what was written."""
        extradata = self.stream.codec_context.extradata
        header = hashlib.sha256(extradata).hexdigest()[:8] if extradata else ""
        return VideoInfo(self.height, self.width, self.codec, self.pix_fmt, self.frames, header=header)
