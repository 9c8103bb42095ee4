"""One camera of an episode as the JPEGs of an RLDS dataset: each frame is decoded once, resized, and encoded once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from vla_ops.episodes.store import Episode
from vla_ops.errors import DatasetError
from vla_ops.recordings.base import UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

type Resize = Literal["stretch", "pad"]

_RECONVERT = "Delete the episode's folder and convert its recording again."
# What TensorFlow's own JPEG encoder does.
_SUBSAMPLING = "420"


def camera_jpegs(episode: Episode, camera: str, *, size: int, resize: Resize, quality: int) -> list[bytes]:
    """Return every frame of a camera as a JPEG of `size` x `size`.

    Raise DatasetError naming episode and camera for a video that cannot be read or has other than the episode's number of frames.
    """
    jpegs = [encode_jpeg(np.asarray(resized(image, size, resize)), quality) for image in decoded_frames(episode, camera)]
    if len(jpegs) != episode.meta.length:
        raise DatasetError(
            "a video's frame count differs from the length of its episode",
            episode=episode.id,
            stream=camera,
            file=episode.video(camera),
            found=f"{len(jpegs)} frames decoded",
            expected=f"{episode.meta.length} frames",
            todo=_RECONVERT,
        )
    return jpegs


def decoded_frames(episode: Episode, camera: str) -> Iterator[Image]:
    """Yield the frames of a camera's video as RGB images, in the order they are shown."""
    import av
    from av.error import FFmpegError

    path, count = episode.video(camera), 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # Cameras and episodes are decoded in parallel; threads within one decoder would only delay its frames.
            stream.thread_count = 1
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    raise DatasetError("a video's frame is damaged", episode=episode.id, stream=camera, file=path, frame=count)
                yield frame.to_image()
                count += 1
    except (OSError, IndexError, FFmpegError) as error:
        raise DatasetError(
            "a video cannot be decoded",
            episode=episode.id,
            stream=camera,
            file=path,
            frame=count,
            found=str(error),
            todo=_RECONVERT,
        ) from error


def resized(image: Image, size: int, resize: Resize) -> Image:
    """Resize with Lanczos to a square: `stretch` changes the aspect, as OpenVLA-OFT's own data do; `pad` adds black bars."""
    from PIL import Image as Pil

    if image.size == (size, size):
        return image
    if resize == "stretch":
        return image.resize((size, size), Pil.Resampling.LANCZOS)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Pil.new("RGB", (size, size))
    square.paste(image.resize((width, height), Pil.Resampling.LANCZOS), ((size - width) // 2, (size - height) // 2))
    return square


def encode_jpeg(image: UInt8, quality: int) -> bytes:
    """Encode RGB [height, width, 3]. To the same bytes as Pillow, which however would keep other threads waiting."""
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(image, level=quality, subsampling=_SUBSAMPLING))
