"""One message of an MCAP -> numbers, an encoded image, or a stamp, whatever its encoding.

Decoded messages are objects with slots (ROS 1, ROS 2), protobuf messages or dicts (JSON, FlatBuffers); `members` hides which.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.errors import RecordingFormatError, UnknownEncodingError
from vla_ops.recordings.base import EncodedImage, Float64, ImageCodec

if TYPE_CHECKING:
    from mcap.records import Channel, Schema

type Decoder = Callable[[bytes], Any]

KNOWN_ENCODINGS = ("cdr (ROS 2)", "ros1", "protobuf", "json", "flatbuffer")
_IMAGE_SCHEMAS = ("CompressedImage", "CompressedVideo", "RawImage", "Image")
# The numbers of a message when `source:` names no field.
_DEFAULT_FIELDS = {
    "JointState": "position", "FloatArray": "values", "PoseStamped": "pose", "PoseInFrame": "pose", "Pose": "",
    "Float32MultiArray": "data", "Float64MultiArray": "data", "Float32": "data", "Float64": "data",
}  # fmt: skip
_NOT_NUMBERS = frozenset({"header", "timestamp", "stamp", "layout"})
_RAW_CHANNELS = {"rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "8UC4": 4, "mono8": 1, "8UC1": 1}
_VIDEO_FORMATS: dict[str, ImageCodec] = {"h264": "h264", "h265": "hevc", "hevc": "hevc", "av1": "av1"}


def make_decoder(channel: Channel, schema: Schema | None) -> Decoder:
    """The decoder of a channel's messages. Raise UnknownEncodingError naming the encoding and those that are known."""
    match channel.message_encoding, schema.encoding if schema else "":
        case "json", _:
            return json.loads
        case ("cdr", _) | ("ros1", _) | ("protobuf", _):
            decode = _library_decoder(channel, schema)
            if decode is not None:
                return decode
        case "flatbuffer", "flatbuffer" if schema is not None:
            from vla_ops.recordings.flatbuffer import decoder

            return decoder(schema.data)
    raise UnknownEncodingError(
        "no decoder for the messages' encoding",
        stream=channel.topic,
        found=f"message encoding {channel.message_encoding!r}, schema encoding {schema.encoding if schema else None!r}",
        expected=" | ".join(KNOWN_ENCODINGS),
    )


def _library_decoder(channel: Channel, schema: Schema | None) -> Decoder | None:
    match channel.message_encoding:
        case "cdr":
            from mcap_ros2.decoder import DecoderFactory
        case "ros1":
            from mcap_ros1.decoder import DecoderFactory
        case _:
            from mcap_protobuf.decoder import DecoderFactory
    return DecoderFactory().decoder_for(channel.message_encoding, schema)


def decode(decoder: Decoder, data: bytes, *, stream: str, number: int) -> Any:
    """Decode one message. Raise RecordingFormatError naming the stream and the message's number if its bytes are damaged."""
    try:
        return decoder(data)
    except Exception as error:  # Every decoder library has its own; all of them mean that these bytes are not such a message.
        raise RecordingFormatError(f"message {number} does not decode: {error}", stream=stream) from error


def members(message: Any) -> Mapping[str, Any] | None:
    """The named members of a decoded message or part of one, or None for a leaf."""
    if isinstance(message, Mapping):
        return message
    if hasattr(message, "DESCRIPTOR") and hasattr(message, "ListFields"):
        return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    slots = getattr(type(message), "__slots__", None)
    if slots and not isinstance(message, str | bytes | int | float):
        return {name: getattr(message, name) for name in slots if hasattr(message, name)}
    return None


def is_image(schema_name: str) -> bool:
    """True for the image and video messages of ROS and Foxglove."""
    return schema_type(schema_name) in _IMAGE_SCHEMAS


def schema_type(schema_name: str) -> str:
    """`sensor_msgs/msg/JointState`, `foxglove.RawImage` -> the last part."""
    return schema_name.replace("/", ".").rpartition(".")[2]


def default_field(schema_name: str) -> str | None:
    """The field that an empty one stands for, or None where the message itself must tell."""
    return _DEFAULT_FIELDS.get(schema_type(schema_name))


def numeric_fields(message: Any) -> dict[str, int]:
    """Dotted path -> width of every numeric member, in order of declaration; stamps and layouts are not numbers of the robot."""
    return dict(_numeric_fields(message, ""))


def _numeric_fields(message: Any, prefix: str) -> Iterator[tuple[str, int]]:
    for name, value in (members(message) or {}).items():
        path = f"{prefix}{name}"
        if name in _NOT_NUMBERS or isinstance(value, str | bytes | None):
            continue
        if members(value) is not None:
            yield from _numeric_fields(value, f"{path}.")
        elif (numbers := flatten(value)) is not None:
            yield path, len(numbers)


def flatten(value: Any) -> list[float] | np.ndarray | None:
    """The numbers of a leaf, list or object in order of declaration, or None if there is anything else in it."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bool | int | float | np.number):
        return [float(value)]
    if isinstance(value, str | bytes) or value is None:
        return None
    parts = members(value)
    items = list(parts.values()) if parts is not None else list(value)
    if all(isinstance(item, int | float) for item in items):
        return items
    flat = [flatten(item) for item in items]
    return None if any(part is None for part in flat) else [number for part in flat if part is not None for number in part]


def pick(message: Any, field: str) -> Any:
    """The member at a dotted path; an empty path is the message itself. Raise KeyError with the part that is missing."""
    for part in field.split(".") if field else []:
        inside = members(message)
        if inside is None or part not in inside:
            raise KeyError(part)
        message = inside[part]
    return message


def numbers_of(message: Any, field: str) -> Float64 | None:
    """The numbers at `field` as float64 [width], or None if it holds something else."""
    flat = flatten(pick(message, field))
    return None if flat is None else np.asarray(flat, np.float64)


def joint_names(message: Any) -> tuple[str, ...]:
    """`name` of a JointState, empty for messages without one."""
    names = (members(message) or {}).get("name", ())
    return tuple(str(name) for name in names) if not isinstance(names, str | bytes) else ()


def header_stamp_ns(message: Any) -> int | None:
    """The sensor's own stamp: header.stamp of ROS messages, `timestamp` of Foxglove ones; None where there is none."""
    inside = members(message) or {}
    stamp = (members(inside.get("header")) or {}).get("stamp", inside.get("timestamp"))
    parts = members(stamp) if stamp is not None else None
    if parts is None:
        return None
    seconds = next((parts[k] for k in ("sec", "secs", "seconds") if k in parts), None)
    nanos = next((parts[k] for k in ("nsec", "nsecs", "nanosec", "nanos") if k in parts), None)
    return None if seconds is None or nanos is None else int(seconds) * 1_000_000_000 + int(nanos)


def image_of(message: Any, schema_name: str, *, bgr: bool) -> EncodedImage:
    """The image of a message as it was recorded; raw ones as uint8 [H, W, 3] in RGB order.

    Raise UnknownEncodingError naming the encoding, RecordingFormatError for data of the wrong size.
    """
    inside = members(message) or {}
    data = inside.get("data", b"")
    data = _base64(data) if isinstance(data, str) else bytes(data)
    match schema_type(schema_name):
        case "CompressedVideo":
            codec = _VIDEO_FORMATS.get(str(inside.get("format", "")).lower())
            if codec is None:
                raise UnknownEncodingError("unknown video format", found=repr(inside.get("format")), expected=" | ".join(_VIDEO_FORMATS))
            return EncodedImage(codec, data)
        case "CompressedImage":
            return EncodedImage(_sniff(data, str(inside.get("format", ""))), data)
        case _:
            return EncodedImage("raw", _raw(inside, data, bgr=bgr))


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise RecordingFormatError(f"image data is not base64: {error}") from error


def _sniff(data: bytes, declared: str) -> ImageCodec:
    # `format` is free text ("rgb8; jpeg compressed bgr8") and often wrong; the first bytes are not.
    if data[:2] == b"\xff\xd8":
        return "jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "png"
    raise UnknownEncodingError("unknown image format", found=f"format {declared!r}, first bytes {data[:8]!r}", expected="jpeg | png")


def _raw(inside: Mapping[str, Any], data: bytes, *, bgr: bool) -> np.ndarray:
    encoding, height, width = str(inside["encoding"]), int(inside["height"]), int(inside["width"])
    channels = _RAW_CHANNELS.get(encoding)
    if channels is None:
        raise UnknownEncodingError("unknown raw image encoding", found=repr(encoding), expected=" | ".join(_RAW_CHANNELS))
    step = int(inside.get("step") or width * channels)
    if len(data) != step * height:
        raise RecordingFormatError("raw image data of the wrong size", found=f"{len(data)} bytes", expected=f"{height} rows of {step}")
    pixels = np.frombuffer(data, np.uint8).reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    swap = encoding.startswith("bgr") or (encoding.startswith("8U") and bgr)
    return np.ascontiguousarray(pixels[:, :, 2::-1] if swap else pixels[:, :, :3])


# Errors that reading a member of a half-right message can raise.
MESSAGE_ERRORS = (KeyError, ValueError, TypeError, struct.error)
