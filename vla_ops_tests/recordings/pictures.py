"""Test pictures that carry their frame number as ten bars across the top, readable after JPEG and video encoding."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

_BITS = 10

type Picture = npt.NDArray[np.uint8]


def frame_picture(number: int, *, camera: int = 0, size: tuple[int, int] = (48, 80)) -> Picture:
    """A uint8 RGB picture [H, W, 3] of `number`: a gradient in the camera's colour below a bar code."""
    height, width = size
    rows = np.linspace(60, 200, height)[:, None, None]
    tint = np.array([(1.0, 0.5, 0.2), (0.2, 1.0, 0.5), (0.5, 0.2, 1.0), (0.8, 0.8, 0.3)][camera % 4])
    picture = np.broadcast_to(rows * tint, (height, width, 3)).astype(np.uint8).copy()
    bits = [(number >> b) & 1 for b in range(_BITS)]
    bar = np.repeat(np.array(bits, np.uint8) * 255, width // _BITS)
    picture[: height // 4, : len(bar)] = bar[None, :, None]
    return picture


def frame_number(picture: npt.NDArray[np.generic]) -> int:
    """The number that `frame_picture` drew."""
    height, width = picture.shape[:2]
    middle = picture[height // 8, :, :].astype(np.float64).mean(axis=-1)
    bar = width // _BITS
    return sum(int(middle[b * bar + bar // 2] > 127) << b for b in range(_BITS))


def as_jpeg(picture: Picture) -> bytes:
    """The picture as JPEG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "jpeg", quality=90, subsampling=0)
    return buffer.getvalue()


def from_bytes(data: bytes) -> Picture:
    """Decode JPEG or PNG bytes to uint8 RGB."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))
