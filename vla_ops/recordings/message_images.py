"""Image messages of ROS and foxglove as encoded images: what the bytes are is read from the bytes, not from the `format` text."""

from __future__ import annotations

import base64
import binascii
from typing import Any, cast

import numpy as np

from vla_ops.errors import RecordingFormatError, UnknownEncodingError
from vla_ops.recordings import leading
from vla_ops.recordings.base import EncodedImage, ImageCodec, UInt8
from vla_ops.recordings.messages import MessageKind, child, field_names

_COMPRESSED, _VIDEO = "CompressedImage", "CompressedVideo"
_RAW = frozenset({"Image", "RawImage"})
# Channels as stored; the first three (one for mono) become RGB.
_PIXELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4}
_VIDEO_FORMATS: dict[str, ImageCodec] = {"h264": "h264", "avc": "h264", "h265": "hevc", "hevc": "hevc", "av1": "av1"}
_START_CODES = (b"\0\0\0\1", b"\0\0\1")
_KNOWN_STILLS = "JPEG (ff d8 ff) | PNG (89 50 4e 47); as video: h264 | h265 | av1"


def holds_images(kind: MessageKind) -> bool:
    """True for image messages by their schema's name."""
    return kind.short_schema in {_COMPRESSED, _VIDEO, *_RAW}


def describe_image(kind: MessageKind, message: Any) -> tuple[str, tuple[int, ...]]:
    """Encoding and, for raw images, shape [H, W, 3] of an image message. Raise UnknownEncodingError if it cannot be read."""
    if kind.short_schema in _RAW:
        encoding = _raw_encoding(message)
        return f"raw {encoding}", (int(child(message, "height")), int(child(message, "width")), 3)
    return image_of(kind, message).codec, ()


def image_of(kind: MessageKind, message: Any, *, bgr: bool = False) -> EncodedImage:
    """The image of a message. Raw ones become RGB; `bgr` says that an `rgb8` is really BGR.

    Raise UnknownEncodingError for encodings that are not known, RecordingFormatError for messages without pixels.
    """
    if not holds_images(kind):
        raise UnknownEncodingError(
            "not image messages", found=kind.schema or kind.encoding, expected=" | ".join(sorted({_COMPRESSED, _VIDEO, *_RAW}))
        )
    if kind.short_schema in _RAW:
        return EncodedImage("raw", _raw_image(message, bgr=bgr))
    data = _bytes_of(message)
    said = str(child(message, "format")).lower() if "format" in field_names(message) else ""
    if kind.short_schema == _VIDEO:
        return EncodedImage(_video_codec(said), data)
    return EncodedImage(_still_codec(data, said), data)


def _still_codec(data: bytes, said: str) -> ImageCodec:
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    # Some image transports put video into CompressedImage.
    if said in _VIDEO_FORMATS and (said == "av1" or data.startswith(_START_CODES)):
        return _VIDEO_FORMATS[said]
    raise UnknownEncodingError(
        "a compressed image in an encoding that is not known here", found=f"{leading(data)}, format {said!r}", expected=_KNOWN_STILLS
    )


def _video_codec(said: str) -> ImageCodec:
    if said not in _VIDEO_FORMATS:
        raise UnknownEncodingError("video in a codec that is not known here", found=said or "no format", expected="h264 | h265 | av1")
    return _VIDEO_FORMATS[said]


def _raw_encoding(message: Any) -> str:
    encoding = str(child(message, "encoding"))
    if encoding not in _PIXELS:
        raise UnknownEncodingError("raw images in an encoding that is not read here", found=encoding, expected=" | ".join(_PIXELS))
    return encoding


def _raw_image(message: Any, *, bgr: bool) -> UInt8:
    encoding = _raw_encoding(message)
    height, width, step = (int(child(message, name)) for name in ("height", "width", "step"))
    channels, data = _PIXELS[encoding], _bytes_of(message)
    if not height or not width or width * channels > step or len(data) < step * (height - 1) + width * channels:
        size = f"{width} x {height} {encoding}, {step} bytes a row"
        raise RecordingFormatError("a raw image has fewer bytes than its size says", found=f"{len(data)} bytes", expected=size)
    rows = np.frombuffer(data.ljust(step * height, b"\0"), np.uint8, step * height).reshape(height, step)
    pixels = rows[:, : width * channels].reshape(height, width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    is_bgr = bgr or encoding.startswith("bgr")
    return np.ascontiguousarray(pixels[:, :, 2::-1] if is_bgr else pixels[:, :, :3])


def _bytes_of(message: Any) -> bytes:
    data = child(message, "data")
    if isinstance(data, bytes):
        return data
    try:
        if isinstance(data, str):
            return base64.b64decode(data, validate=True)
        return bytes(cast("list[int]", data))
    except (binascii.Error, ValueError, TypeError) as error:
        raise RecordingFormatError("the image's data is neither bytes nor base64", found=type(data).__name__) from error
