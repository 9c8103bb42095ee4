"""Encoded images -> decoded frames, one at a time, as close to the encoder's pixel format as the source allows.

A JPEG holds YUV already: FFmpeg's decoder hands it over without the way through RGB that image libraries take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from vla_ops.episodes.bitstream import is_annexb, is_keyframe, read_jpeg_header, whole_jpeg
from vla_ops.episodes.image_stats import is_full_range, plane
from vla_ops.episodes.keyframes import INTER_CODECS
from vla_ops.episodes.track import Run, Track, encoded_images, runs_of
from vla_ops.errors import RecordingFormatError, UnknownEncodingError
from vla_ops.recordings.base import EncodedImage, ImageStream, UInt8

if TYPE_CHECKING:
    import av

_DECODERS = {"jpeg": "mjpeg", "mjpeg": "mjpeg", "png": "png", "h264": "h264", "hevc": "hevc", "av1": "libdav1d"}
_ITU601 = 5
_OTHER_MATRICES = frozenset({1, 4, 7, 9, 10})  # BT.709, FCC, SMPTE 240M, BT.2020
_LIMITED, _FULL = 1, 2


@dataclass(frozen=True)
class Picture:
    """A decoded image and the frames that show it. Two pictures with equal `signature` are the same picture."""

    run: Run
    frame: av.VideoFrame
    signature: bytes


def decoded(track: Track) -> Iterator[Picture]:
    """Decode every image that the track shows, once. Raise RecordingFormatError naming the image that does not decode."""
    if track.stream.codec in INTER_CODECS:
        yield from _decoded_video(track.stream, runs_of(track.indices))
        return
    stills = StillDecoder()
    for run, image in encoded_images(track):
        try:
            yield Picture(run, stills.decode(image), _signature(image))
        except (RecordingFormatError, UnknownEncodingError) as error:
            raise error.at(image=run.image) from error.__cause__


def _signature(image: EncodedImage) -> bytes:
    return image.data if isinstance(image.data, bytes) else image.data.tobytes()


class StillDecoder:
    """Decodes images that stand alone: JPEG, PNG, raw arrays."""

    def __init__(self) -> None:
        self.contexts: dict[str, av.VideoCodecContext] = {}

    def decode(self, image: EncodedImage) -> av.VideoFrame:
        """Decode one image. Raise RecordingFormatError if it is damaged anywhere."""
        if not isinstance(image.data, bytes):
            return _frame_of_array(image.data)
        if image.codec not in {"jpeg", "mjpeg", "png"}:
            raise UnknownEncodingError("an image of a still stream is not a still", found=image.codec, expected="jpeg | png | raw")
        data = image.data if image.codec == "png" else whole_jpeg(image.data, read_jpeg_header(image.data))
        frame = self._decode(image.codec, data)
        if image.codec == "png" and frame.format.components[0].bits > 8:
            raise UnknownEncodingError("a 16-bit image (a depth map?) cannot be a color video", found=frame.format.name)
        return frame

    def _decode(self, codec: str, data: bytes) -> av.VideoFrame:
        import av.error

        context = self.contexts.get(codec) or self.contexts.setdefault(codec, _open_decoder(codec))
        packet = av.Packet(data)
        # FFmpeg adds a PNG that is not marked as a keyframe to the image before it.
        packet.is_keyframe = True
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError as error:
            raise _undecodable(codec, data) from error
        if len(frames) != 1 or frames[0].is_corrupt:
            raise _undecodable(codec, data)
        return frames[0]


def _undecodable(codec: str, data: bytes) -> RecordingFormatError:
    todo = "The recording is damaged there: repair it or leave it out."
    return RecordingFormatError(f"a {codec} image does not decode", found=f"{len(data)} bytes", todo=todo)


def _open_decoder(codec: str) -> av.VideoCodecContext:
    import av

    context = cast("av.VideoCodecContext", av.CodecContext.create(_DECODERS[codec], "r"))
    # Cameras are decoded in parallel; threads within one decoder would only delay its frames.
    context.thread_count = 1
    if codec not in INTER_CODECS:
        # Without it a cut-off JPEG is a frame whose lower part is grey.
        context.options = {"err_detect": "explode"}
    return context


def _frame_of_array(image: UInt8) -> av.VideoFrame:
    import av

    formats = {2: "gray", 3: "rgb24", 4: "rgba"}
    channels = image.shape[2] if image.ndim == 3 else 2
    if image.dtype != np.uint8 or image.ndim not in {2, 3} or channels not in formats:
        raise UnknownEncodingError("not a raw color image", found=f"{image.dtype} {image.shape}", expected="uint8 [height, width, 3]")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=formats[channels])


def _decoded_video(stream: ImageStream, runs: Sequence[Run]) -> Iterator[Picture]:
    video = VideoDecoder(stream.codec)
    left = iter(runs)
    run = next(left)
    for image, frame in video.decode(stream.packets(np.arange(len(stream.stamps_ns)))):
        if image > run.image:
            todo = "The recording is damaged there: repair it or leave it out."
            raise RecordingFormatError("a video image lies before the first keyframe", image=run.image, expected=f">= {image}", todo=todo)
        if image == run.image:
            yield Picture(run, frame, thumbnail(frame))
            if (after := next(left, None)) is None:
                return
            run = after
    raise RecordingFormatError(
        f"{stream.codec} video ends early or does not decode", image=run.image, found=f"{video.shown} images decoded"
    )


def thumbnail(frame: av.VideoFrame) -> bytes:
    """Every 16th pixel of the luma: equal for two frames that show the same."""
    return plane(frame, 0)[::16, ::16].tobytes()


class VideoDecoder:
    """Decodes a video stream from its first keyframe on and numbers its frames in the order they are shown."""

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self.context = _open_decoder(codec)
        self.shown = 0
        self.first_shown: int | None = None
        # Frames are shown in another order than they are coded in (B-frames).
        self.reorders = False

    def decode(self, packets: Iterator[EncodedImage]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield (image, frame), where image counts packets from 0."""
        started, data = False, b""
        for number, image in enumerate(packets):
            data = _video_bytes(image, number)
            started = started or is_keyframe(self.codec, data)
            if started:
                yield from self._feed(data, number)
        if not started:
            annexb = self.codec == "av1" or is_annexb(data)
            found = "no keyframe with its parameter sets" if annexb else "length-prefixed packets"
            raise RecordingFormatError(
                f"{self.codec} video cannot be decoded", found=found, expected="Annex B with SPS and PPS at keyframes"
            )
        yield from self._feed(None, -1)

    def _feed(self, data: bytes | None, number: int) -> Iterator[tuple[int, av.VideoFrame]]:
        import av.error

        packet = None if data is None else av.Packet(data)
        if packet is not None:
            packet.pts = packet.dts = number
        try:
            frames = self.context.decode(packet)
        except av.error.FFmpegError as error:
            raise RecordingFormatError(f"a {self.codec} packet does not decode", image=number) from error
        for frame in frames:
            yield self._number(frame), frame

    def _number(self, frame: av.VideoFrame) -> int:
        if self.first_shown is None:
            self.first_shown = frame.pts
        image = self.first_shown + self.shown
        self.shown += 1
        self.reorders = self.reorders or frame.pts != image
        if frame.is_corrupt:
            raise RecordingFormatError(f"{self.codec} video is damaged", image=image)
        return image


def _video_bytes(image: EncodedImage, number: int) -> bytes:
    if not isinstance(image.data, bytes):
        raise UnknownEncodingError("a video stream holds an array", image=number, found=image.codec)
    return image.data


class ToYuv420:
    """Converts decoded frames to what the encoders are given: yuv420p, limited range, BT.601.

    BT.601 because LeRobot's readers take every video to be that, whatever it says of itself.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self.reformatter = VideoReformatter()

    def convert(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return a frame (the same one where nothing is to be done) that forces no picture type on the encoder."""
        name = frame.format.name
        if not name.startswith(("yuv", "gray")):
            converted = self.reformatter.reformat(frame, format="yuv420p")
        else:
            full = is_full_range(frame) or name == "gray"
            if full and name == "yuv420p":
                # Between equal formats swscale copies planes, whatever the ranges.
                frame = self._yuv(frame, "yuv444p", _FULL, _FULL)
            converted = self._yuv(frame, "yuv420p", _FULL if full else _LIMITED, _LIMITED)
        converted.color_range = _LIMITED
        converted.pict_type = 0
        return converted

    def _yuv(self, frame: av.VideoFrame, format: str, source_range: int, target_range: int) -> av.VideoFrame:
        matrix = frame.colorspace if frame.colorspace in _OTHER_MATRICES else _ITU601
        keep = source_range == target_range == _FULL
        return self.reformatter.reformat(
            frame,
            format=format,
            src_colorspace=matrix,
            dst_colorspace=matrix if keep else _ITU601,
            src_color_range=source_range,
            dst_color_range=target_range,
        )
