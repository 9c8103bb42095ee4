"""Recorded packets -> mp4 without decoding them for it: JPEGs as MJPEG, video as the video it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ops.episodes.bitstream import JpegHeader, is_annexb, is_keyframe, read_jpeg_header, refuse_uncommon_jpeg, whole_jpeg
from vla_ops.episodes.decode import Picture, StillDecoder, VideoDecoder, thumbnail
from vla_ops.episodes.encode import PacketCopier
from vla_ops.episodes.store import VideoInfo
from vla_ops.episodes.track import Run, Track, encoded_images, is_consecutive
from vla_ops.episodes.watch import ImageWatch
from vla_ops.errors import RecordingFormatError, SchemaMismatchError, SpecError, VlaOpsError
from vla_ops.recordings.base import EncodedImage

if TYPE_CHECKING:
    import av

# Encoders that reorder do so from the start; this many packets show it.
_PROBED = 64


def copy_jpegs(path: Path, track: Track, *, rate_hz: int, watch: ImageWatch, count: Callable[[int], None]) -> VideoInfo:
    """Write each frame's JPEG as it is. Only the images that the statistics sample are decoded."""
    images = _whole_jpegs(track, watch)
    stills = StillDecoder()
    run, data = next(images)
    with PacketCopier(path, "jpeg", data, rate_hz=rate_hz) as copier:
        while True:
            for _ in range(run.times):
                copier.copy(data, keyframe=True)
            if times := watch.times_sampled(run):
                watch.sample(_decode(stills, data, run), times)
            count(run.times)
            following = next(images, None)
            if following is None:
                return copier.finish()
            run, data = following


def _whole_jpegs(track: Track, watch: ImageWatch) -> Iterator[tuple[Run, bytes]]:
    """Yield each image's bytes, after its header was compared with the first one's."""
    first: JpegHeader | None = None
    for run, image in encoded_images(track):
        try:
            header, data = _check_jpeg(image)
        except VlaOpsError as error:
            raise error.at(image=run.image) from error.__cause__
        watch.see_size(run, (header.width, header.height))
        watch.see_signature(run, data)
        first = first or header
        if header.sampling != first.sampling:
            todo = "Set dataset.video.codec to av1 or h264, which bring all images to one form."
            raise SchemaMismatchError(
                "the JPEGs' color subsampling changes midway", frame=run.frame, found=header.sampling, expected=first.sampling, todo=todo
            )
        yield run, data


def _check_jpeg(image: EncodedImage) -> tuple[JpegHeader, bytes]:
    if image.codec not in {"jpeg", "mjpeg"} or not isinstance(image.data, bytes):
        todo = "Set dataset.video.codec to av1 or h264."
        raise SpecError("only JPEG and video recordings can be copied", found=f"{image.codec} images", expected="jpeg", todo=todo)
    header = read_jpeg_header(image.data)
    refuse_uncommon_jpeg(header)
    return header, whole_jpeg(image.data, header)


def _decode(stills: StillDecoder, data: bytes, run: Run) -> av.VideoFrame:
    try:
        return stills.decode(EncodedImage("jpeg", data))
    except RecordingFormatError as error:
        raise error.at(image=run.image) from error.__cause__


def why_not_copied(track: Track) -> str | None:
    """Why a recorded video cannot become the camera's video packet by packet, or None if it can."""
    codec, first = track.stream.codec, int(track.indices[0])
    if not is_consecutive(track.indices):
        return "frames of the timeline repeat or skip its images"
    packet = next(iter(track.stream.packets(track.indices[:1]))).data
    if not isinstance(packet, bytes) or (codec != "av1" and not is_annexb(packet)):
        return "its packets have no start codes"
    if not is_keyframe(codec, packet):
        return f"image {first} is not a keyframe with its parameter sets"
    probe = VideoDecoder(codec)
    for _ in probe.decode(islice(track.stream.packets(track.indices[:_PROBED]), _PROBED)):
        if probe.reorders:
            return "it has B-frames"
    return None


def copy_video(path: Path, track: Track, *, rate_hz: int, watch: ImageWatch, count: Callable[[int], None]) -> VideoInfo:
    """Write each packet as it is. All are decoded on the way: for the statistics, and so that what is written is known to be whole."""
    codec, start = track.stream.codec, int(track.indices[0])
    packets = track.stream.packets(track.indices)
    first = next(packets)
    with PacketCopier(path, codec, _bytes(first), rate_hz=rate_hz) as copier:
        decoder = VideoDecoder(codec)
        for number, frame in decoder.decode(_copied(copier, codec, first, packets)):
            if decoder.reorders:
                raise RecordingFormatError("B-frames begin midway", image=start + number, todo="Set dataset.video.codec to another codec.")
            watch.see(Picture(Run(start + number, number, 1), frame, thumbnail(frame)))
            count(1)
        if decoder.shown != len(track.indices):
            found = f"{decoder.shown} decodable images"
            raise RecordingFormatError(f"{codec} video is damaged", found=found, expected=f"{len(track.indices)} packets")
        return copier.finish()


def _copied(copier: PacketCopier, codec: str, first: EncodedImage, rest: Iterator[EncodedImage]) -> Iterator[EncodedImage]:
    copier.copy(_bytes(first), keyframe=True)
    yield first
    for image in rest:
        copier.copy(_bytes(image), keyframe=is_keyframe(codec, _bytes(image)))
        yield image


def _bytes(image: EncodedImage) -> bytes:
    if not isinstance(image.data, bytes):
        raise RecordingFormatError("a video stream holds an array", found=image.codec)
    return image.data
