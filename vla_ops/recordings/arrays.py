"""Stored arrays, one row a sample, as numbers or images: what HDF5 datasets and Zarr arrays have in common.

Images are found as uint8 or float [n, H, W, 3], as rows of JPEG or PNG bytes padded to one width, or as rows of any length.
They are read block by block, so that a recording of any length costs the memory of one block a camera.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vla_ops.errors import RecordingFormatError, UnknownEncodingError
from vla_ops.recordings import leading
from vla_ops.recordings.base import EncodedImage, Float64, ImageCodec, Int64, UInt8

type Array = npt.NDArray[Any]
# How the pixels of raw images become uint8 RGB: as they are, times 255, or rounded.
type Pixels = Literal["uint8", "float 0..1", "float 0..255"]

# A stored chunk is read whole up to this size (a chunk would be decompressed again for each part of it); beyond, in parts.
_LARGEST_BLOCK = 64 * 2**20
# Arrays that are not chunked are read this much at a time.
_PLAIN_BLOCK = 8 * 2**20
# A sample with more numbers than this is a depth image, a map or audio, not a part of a state vector.
_WIDEST = 4096
_SMALLEST_IMAGE = 16
_JPEG, _PNG, _JPEG_END = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd9"
_KNOWN_BYTES = "JPEG (ff d8 ff), PNG (89 50 4e 47)"


@dataclass(frozen=True)
class Rows:
    """A stored array. `read(start, stop)` returns its rows and raises only VlaOpsErrors; `chunk_rows` is None where it is not chunked."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_rows: int | None
    read: Callable[[int, int], Array]
    # The compressor, for people.
    storage: str = ""
    # Why it cannot be read at all: a filter or compressor that is not installed, or that runs code.
    unreadable: str = ""
    # Says that rows start..stop will be read: of a recording that is not here they are fetched.
    prefetch: Callable[[int, int], None] = lambda _start, _stop: None

    @property
    def count(self) -> int:
        """Number of rows; 0 for a scalar."""
        return self.shape[0] if self.shape else 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return max(1, int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize)

    @cached_property
    def layout(self) -> Layout:
        """What the rows hold; for float images this reads the first block."""
        return layout_of(self)

    @property
    def block_rows(self) -> int:
        """How many rows are read at a time: one chunk, or part of a very large one."""
        if self.chunk_rows is None:
            return max(1, _PLAIN_BLOCK // self.row_bytes)
        return max(1, min(self.chunk_rows, _LARGEST_BLOCK // self.row_bytes))


@dataclass(frozen=True)
class Layout:
    """What the rows of an array hold. `shape` and `dtype` are those of one sample."""

    kind: Literal["numbers", "images", "other"]
    dtype: str
    shape: tuple[int, ...]
    encoding: str = ""
    codec: ImageCodec | None = None
    pixels: Pixels = "uint8"
    channels_first: bool = False


def layout_of(rows: Rows) -> Layout:
    """Tell what an array holds from its type, its shape and, where they leave it open, its first rows."""
    shape = rows.shape[1:]
    if not rows.shape or rows.unreadable:
        return Layout("other", str(rows.dtype), rows.shape, rows.unreadable or rows.storage)
    if rows.dtype.kind in "OSV" or (rows.dtype == np.uint8 and len(shape) == 1 and shape[0] > len(_PNG)):
        return _layout_of_bytes(rows)
    if rows.dtype.kind not in "biuf":
        return Layout("other", str(rows.dtype), shape, rows.storage)
    pixels = _pixels_of(rows)
    if pixels is not None:
        return _layout_of_pixels(rows, pixels)
    if int(np.prod(shape, dtype=np.int64)) > _WIDEST:
        return Layout("other", str(rows.dtype), shape, rows.storage)
    return Layout("numbers", str(rows.dtype), shape, rows.storage)


def image_layout(rows: Rows) -> Layout:
    """The layout of an array that is to be read as images. Raise UnknownEncodingError if it holds none that are known."""
    layout = rows.layout
    if layout.kind == "images":
        return layout
    if rows.count and (rows.dtype.kind in "OSV" or (rows.dtype == np.uint8 and len(rows.shape) == 2)):
        first = rows.read(0, 1)[0]
        found = leading(_as_bytes(first)) if isinstance(first, bytes | np.ndarray | np.void) else type(first).__name__
        raise UnknownEncodingError("the rows are no image encoding known here", stream=rows.name, found=found, expected=_KNOWN_BYTES)
    raise UnknownEncodingError(
        "not images",
        stream=rows.name,
        found=f"{rows.dtype} {list(rows.shape)}",
        expected="uint8 or float [n, H, W, 3], or rows of JPEG or PNG bytes",
        todo="Map it under `state` or `action` if it is numbers.",
    )


def numbers_of(rows: Rows, start: int, stop: int) -> Float64:
    """Read rows start..stop as float64 [n, width]; samples of higher rank are flattened in C order."""
    values = rows.read(start, stop)
    return np.ascontiguousarray(values, dtype=np.float64).reshape(len(values), int(np.prod(rows.shape[1:], dtype=np.int64)))


@dataclass(frozen=True)
class RowImages:
    """An ImageStream over rows `start` onwards. Holds no state, so that cameras can be read from several threads."""

    name: str
    codec: ImageCodec
    stamps_ns: Int64
    rows: Rows
    layout: Layout
    start: int = 0
    bgr: bool = False
    # Candidates for the length of row k where a file says them: int64 [cameras, n], in an order it does not say.
    lengths: Int64 | None = None

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the images at non-decreasing `indices`, holding one block of rows in memory."""
        size, block, first, last = self.rows.block_rows, None, 0, -1
        self._prefetch(indices)
        for index in indices:
            k = int(index)
            if not last <= k < len(self.stamps_ns) or k < 0:
                raise IndexError(f"image {k} of {self.name}: indices must not decrease and lie in 0..{len(self.stamps_ns) - 1}")
            row, last = self.start + k, k
            if block is None or row >= first + len(block):
                first = max(row // size * size, self.start)
                block = None  # Freed before the next is read, so that two are never held.
                block = self._block(first, min(row // size * size + size, self.start + len(self.stamps_ns)))
            yield self._image(block, row - first, row)

    def _prefetch(self, indices: Sequence[int] | Int64) -> None:
        if len(indices) and 0 <= int(indices[0]) <= int(indices[-1]) < len(self.stamps_ns):
            self.rows.prefetch(self.start + int(indices[0]), self.start + int(indices[-1]) + 1)

    def _block(self, start: int, stop: int) -> Array:
        block = self.rows.read(start, stop)
        if self.codec != "raw":
            return block
        return _to_uint8(block, self.layout, name=self.name, first=start - self.start)

    def _image(self, block: Array, position: int, row: int) -> EncodedImage:
        if self.codec == "raw":
            image = block[position][..., ::-1] if self.bgr else block[position]
            # A copy: whoever keeps the image must not keep its whole block.
            return EncodedImage("raw", np.array(image, order="C"))
        data = trimmed(_as_bytes(block[position]), None if self.lengths is None else self.lengths[:, row])
        if not data.startswith(_JPEG if self.codec == "jpeg" else _PNG):
            raise RecordingFormatError(
                f"the image is not {self.codec} as the first one is",
                stream=self.name,
                frame=row - self.start,
                found=leading(data),
                todo="The recorder failed here: drop this recording, or cut the episode before this frame.",
            )
        return EncodedImage(self.codec, data)


def trimmed(data: bytes, lengths: Int64 | None = None) -> bytes:
    """Cut the padding off JPEG or PNG bytes.

    A length that the file gives is believed if the image ends there. Otherwise zeros are cut, and for JPEG whatever follows
    its last end marker: buffers that are used again leave the tail of an earlier image there.
    """
    if lengths is not None:
        for length in lengths:
            if data[: int(length)].endswith(_JPEG_END):
                return data[: int(length)]
    data = data.rstrip(b"\0")
    if not data.startswith(_JPEG) or data.endswith(_JPEG_END):
        return data
    end = data.rfind(_JPEG_END)
    return data if end < 0 else data[: end + 2]


def _layout_of_bytes(rows: Rows) -> Layout:
    shape = rows.shape[1:]
    if len(shape) <= 1 and rows.count:
        first = rows.read(0, 1)[0]
        if rows.dtype.kind != "O" or isinstance(first, bytes | np.ndarray):
            data = _as_bytes(first)
            if data.startswith(_JPEG):
                return Layout("images", "uint8", (), "jpeg", "jpeg")
            if data.startswith(_PNG):
                return Layout("images", "uint8", (), "png", "png")
    if rows.dtype == np.uint8:
        return Layout("numbers", "uint8", shape, rows.storage)
    return Layout("other", "text or bytes" if rows.dtype.kind in "OS" else str(rows.dtype), shape, rows.storage)


def _as_bytes(row: object) -> bytes:
    return row if isinstance(row, bytes) else np.asarray(row).tobytes()


def _pixels_of(rows: Rows) -> Pixels | None:
    """How the rows are pictures, or None if they are not. One-channel floats are depth, and not taken for pictures."""
    shape = rows.shape[1:]
    if len(shape) != 3 or not rows.count:
        return None
    channels = (1, 3, 4) if rows.dtype == np.uint8 else (3,)
    channels_last = shape[2] in channels and min(shape[:2]) >= _SMALLEST_IMAGE
    if not channels_last and not (shape[0] == 3 and min(shape[1:]) >= _SMALLEST_IMAGE):
        return None
    if rows.dtype == np.uint8:
        return "uint8"
    return _float_range(rows) if rows.dtype.kind == "f" else None


def _layout_of_pixels(rows: Rows, pixels: Pixels) -> Layout:
    shape = rows.shape[1:]
    channels_first = shape[2] not in (1, 3, 4)
    words = ["raw", *([f"{rows.dtype} {pixels.removeprefix('float ')}"] if pixels != "uint8" else [])]
    words += ["CHW"] if channels_first else []
    words += [rows.storage] if rows.storage else []
    return Layout("images", str(rows.dtype), shape, " ".join(words), "raw", pixels, channels_first)


def _float_range(rows: Rows) -> Pixels | None:
    """Tell 0..1 from 0..255 by the first block that holds more than zeros and ones; None if it is neither."""
    size = rows.block_rows
    for start in range(0, rows.count, size):
        block = rows.read(start, min(start + size, rows.count))
        if not (block.min() >= 0 and block.max() < 256):  # False for NaN, too.
            return None
        if block.max() > 1:
            return "float 0..255"
        if (block % 1).any():
            return "float 0..1"
    return "float 0..255"


def _to_uint8(block: Array, layout: Layout, *, name: str, first: int) -> UInt8:
    """Bring raw images to uint8 [n, H, W, 3]."""
    if layout.pixels != "uint8":
        block = _rounded(block, 1.0 if layout.pixels == "float 0..1" else 255.0, name=name, first=first)
    if layout.channels_first:
        block = np.moveaxis(block, 1, -1)
    return np.repeat(block, 3, axis=-1) if block.shape[-1] == 1 else block[..., :3]


def _rounded(block: Array, highest: float, *, name: str, first: int) -> UInt8:
    pixels = np.empty(block.shape, np.uint8)
    for k, image in enumerate(block):
        if not (image.min() >= 0 and image.max() < highest * 256 / 255):  # False for NaN, too.
            raise _not_pixels(name, image, first + k)
        pixels[k] = np.minimum(np.rint(image * (255.0 / highest)), 255.0)
    return pixels


def _not_pixels(name: str, values: Array, frame: int) -> UnknownEncodingError:
    return UnknownEncodingError(
        "float images in a range that is not known",
        stream=name,
        frame=frame,
        found=f"values from {float(values.min()):.4g} to {float(values.max()):.4g}",
        expected="0..1 or 0..255, the same in the whole recording",
        todo="Store images as uint8.",
    )
