"""In-memory image streams for tests. Every image has its number as a barcode in its top rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np

from vla_ops.recordings.base import EncodedImage, ImageCodec, Int64, UInt8

CELLS = 16
BAR_ROWS = 8


def scene(number: int, height: int, width: int) -> UInt8:
    """A smooth moving picture [height, width, 3] with `number` as barcode: 16 cells, most significant bit left, white is 1."""
    y, x = np.mgrid[0:height, 0:width]
    red = 128 + 90 * np.sin((x + 3 * number) / 40)
    green = 128 + 90 * np.cos((y - 2 * number) / 30)
    blue = 128 + 60 * np.sin((x + y + number) / 50)
    image = np.stack([red, green, blue], axis=-1).astype(np.uint8)
    draw_barcode(image, number)
    return image


def draw_barcode(image: UInt8, number: int) -> None:
    """Draw `number` into the top rows."""
    width = image.shape[1]
    for cell in range(CELLS):
        on = number >> (CELLS - 1 - cell) & 1
        image[:BAR_ROWS, cell * width // CELLS : (cell + 1) * width // CELLS] = 255 if on else 0


def read_barcode(image: UInt8) -> int:
    """The number drawn in an RGB image [height, width, 3]."""
    width = image.shape[1]
    number = 0
    for cell in range(CELLS):
        left, right = cell * width // CELLS, (cell + 1) * width // CELLS
        quarter = max((right - left) // 4, 1)
        number = number << 1 | int(image[2 : BAR_ROWS - 2, left + quarter : right - quarter].mean() > 127)
    return number


@dataclass
class Frames:
    """An ImageStream of `count` scenes. `replaced` puts other bytes or arrays in the place of some."""

    count: int = 30
    height: int = 96
    width: int = 128
    rate_hz: float = 30.0
    name: str = "/camera"
    codec: ImageCodec = "raw"
    replaced: dict[int, bytes | UInt8] = field(default_factory=dict)

    @cached_property
    def stamps_ns(self) -> Int64:
        return np.round(np.arange(self.count) * 1e9 / self.rate_hz).astype(np.int64)

    def scene(self, number: int) -> UInt8:
        return scene(number, self.height, self.width)

    def encoded(self, number: int) -> bytes | UInt8:
        return self.scene(number)

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        for index in indices:
            number = int(index)
            yield EncodedImage(self.codec, self.replaced[number] if number in self.replaced else self.encoded(number))


@dataclass
class JpegFrames(Frames):
    """JPEG, 4:2:0 like most cameras' (`subsampling` 2), 4:2:2 (1) or 4:4:4 (0)."""

    codec: ImageCodec = "jpeg"
    quality: int = 90
    subsampling: int = 2
    mode: str = "RGB"

    def encoded(self, number: int) -> bytes:
        return jpeg(self.scene(number), quality=self.quality, subsampling=self.subsampling, mode=self.mode)


@dataclass
class PngFrames(Frames):
    codec: ImageCodec = "png"
    mode: str = "RGB"

    def encoded(self, number: int) -> bytes:
        return _saved(self.scene(number), self.mode, "PNG")


@dataclass
class VideoFrames(Frames):
    """H.264, H.265 or AV1 packets, in memory, as a camera that encodes would publish them."""

    codec: ImageCodec = "h264"
    gop: int = 10
    b_frames: int = 0

    @cached_property
    def coded(self) -> list[bytes]:
        return encode_packets([self.scene(k) for k in range(self.count)], self.codec, gop=self.gop, b_frames=self.b_frames)

    def encoded(self, number: int) -> bytes:
        return self.coded[number]


def jpeg(image: UInt8, *, quality: int = 90, subsampling: int = 2, mode: str = "RGB", progressive: bool = False) -> bytes:
    return _saved(image, mode, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)


def _saved(image: UInt8, mode: str, format: str, **options: object) -> bytes:
    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(image).convert(mode).save(file, format, **options)
        return file.getvalue()


def encode_packets(
    images: Sequence[UInt8], codec: str, *, gop: int = 10, b_frames: int = 0, matrix: int = 5, full_range: bool = False
) -> list[bytes]:
    """Encode RGB images to packets: Annex B or OBU, parameter sets at each keyframe. `matrix` is FFmpeg's number (1 is BT.709)."""
    import os

    import av

    os.environ.setdefault("SVT_LOG", "0")
    encoders = {
        "h264": ("libx264", {"preset": "veryfast", "bf": str(b_frames), "crf": "18"}),
        "hevc": ("libx265", {"preset": "ultrafast", "crf": "18", "x265-params": f"bframes={b_frames}:log-level=none:repeat-headers=1"}),
        "av1": ("libsvtav1", {"preset": "12", "crf": "20"}),
    }
    name, options = encoders[codec]
    context = av.CodecContext.create(name, "w")
    context.height, context.width = images[0].shape[:2]
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 30), Fraction(30)
    context.options = {**options, "g": str(gop)}
    context.colorspace, context.color_range = matrix, 2 if full_range else 1
    packets: list[bytes] = []
    for k, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format="yuv420p", src_colorspace=5, dst_colorspace=matrix, dst_color_range=2 if full_range else 1)
        frame.colorspace, frame.color_range = matrix, 2 if full_range else 1
        frame.pts = k
        packets += [bytes(packet) for packet in context.encode(frame)]
    return packets + [bytes(packet) for packet in context.encode(None)]
