"""One message of any encoding as a tree of fields: ROS 2 CDR, ROS 1, protobuf, JSON, FlatBuffers.

Decoders hand out whatever their library makes of a message; `child`, `as_vector` and `stamp_ns` look into all of them alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from mcap.records import Schema

from vla_ops.errors import RecordingFormatError, StreamNotFoundError, UnknownEncodingError
from vla_ops.recordings import missing_stream
from vla_ops.recordings.base import Float64
from vla_ops.recordings.flatbuffer import FlatObject, FlatSchema, read_schema

KNOWN_ENCODINGS = "cdr with ros2msg schemas | ros1 | protobuf | json | flatbuffer"
# Lists of numbers longer than this are point clouds and maps, not parts of a state vector.
WIDEST = 4096
_MOST_ELEMENTS = 64
_DEEPEST = 6
# Seconds and nanoseconds as ROS 2, foxglove JSON and FlatBuffers, ROS 1, and protobuf call them.
_TIMES = (("sec", "nanosec"), ("sec", "nsec"), ("secs", "nsecs"), ("seconds", "nanos"))
_HEADERS = frozenset({"header", "stamp", "timestamp"})
_AXES = ("x", "y", "z", "w")
# Composites that are one vector when taken whole, in this order.
_PAIRS = (("position", "orientation"), ("translation", "rotation"), ("linear", "angular"))
# Between request and response of a service definition.
_SERVICE = re.compile(rb"^---\s*$", re.MULTILINE)
_NAME_LISTS = ("name", "names", "joint_names")


@dataclass(frozen=True)
class MessageKind:
    """How the messages of a topic are to be read. `decode` raises RecordingFormatError for bytes that are no such message."""

    encoding: str
    schema: str
    decode: Callable[[bytes], Any]
    # Schema text of ROS messages, and the types of FlatBuffers ones, for those who read arrays without decoding.
    definition: str = ""
    flat: FlatSchema | None = None

    @property
    def short_schema(self) -> str:
        """`JointState` of `sensor_msgs/msg/JointState`, `RawImage` of `foxglove.RawImage`."""
        return self.schema.replace(".", "/").rpartition("/")[2]


def message_kind(encoding: str, schema: Schema | None) -> MessageKind:
    """Find the decoder of a topic. Raise UnknownEncodingError for encodings that are not known, RecordingFormatError for bad schemas."""
    name = schema.name if schema else ""
    if encoding == "cdr" and schema and _SERVICE.search(schema.data):
        raise UnknownEncodingError("events of a service are not read here", found=name, expected="messages")
    try:
        if encoding == "flatbuffer" and schema and schema.encoding == "flatbuffer":
            types = read_schema(schema.data, schema.name)
            return MessageKind(encoding, name, _checked(types.read), flat=types)
        decode = _decoder(encoding, schema)
    except (RecordingFormatError, UnknownEncodingError):
        raise
    except Exception as error:  # The libraries' schema parsers raise whatever they come across.
        raise RecordingFormatError(f"the schema of {encoding} messages cannot be read: {error}", schema=name) from error
    if decode is None:
        described = f"{encoding} with {schema.encoding or 'nameless'} schema {name}" if schema else f"{encoding} without a schema"
        raise UnknownEncodingError("messages in an encoding that is not known here", found=described, expected=KNOWN_ENCODINGS)
    definition = schema.data.decode("utf-8", "replace") if schema and encoding in ("cdr", "ros1") else ""
    return MessageKind(encoding, name, _checked(decode), definition)


def _decoder(encoding: str, schema: Schema | None) -> Callable[[bytes], Any] | None:
    match encoding:
        case "json":
            return json.loads
        case "cdr":
            from mcap_ros2.decoder import DecoderFactory
        case "ros1":
            from mcap_ros1.decoder import DecoderFactory
        case "protobuf":
            from mcap_protobuf.decoder import DecoderFactory
        case _:
            return None
    return DecoderFactory().decoder_for(encoding, schema)


def _checked(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def checked(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception as error:  # struct.error, DecodeError, UnicodeDecodeError, IndexError, ...: each library has its own.
            raise RecordingFormatError(f"a message does not decode: {error}", found=f"{len(data)} bytes") from error

    return checked


def field_names(value: Any) -> tuple[str, ...]:
    """The fields of a message or part of one; empty for numbers, text and lists."""
    if isinstance(value, Mapping):
        return tuple(map(str, value))
    if isinstance(value, FlatObject):
        return value.names()
    descriptor = getattr(value, "DESCRIPTOR", None)
    if descriptor is not None:
        return tuple(descriptor.fields_by_name)
    if isinstance(value, str | bytes | Real | Sequence | np.ndarray):
        return ()
    return tuple(getattr(value, "__slots__", ()))


def child(value: Any, name: str) -> Any:
    """A field of a message; of a list, that field of every element; None where it is absent.

    Raise KeyError if there is none of this name.
    """
    if isinstance(value, Mapping):
        return value[name]
    if isinstance(value, FlatObject):
        return value.get(name)
    descriptor = getattr(value, "DESCRIPTOR", None)
    if descriptor is not None:
        is_absent = descriptor.fields_by_name[name].has_presence and not value.HasField(name)
        return None if is_absent else getattr(value, name)
    if name in field_names(value):
        return getattr(value, name)
    if _is_list(value) and len(value):
        return [child(element, name) for element in value]
    raise KeyError(name)


def follow(message: Any, path: str) -> Any:
    """The part of a message that a dotted path names. Raise StreamNotFoundError with the fields there are."""
    value = message
    for name in path.split(".") if path else ():
        try:
            value = child(value, name)
        except KeyError as error:
            known = [*numeric_fields(message)] or field_names(message)
            raise missing_stream(path, known, kind="field") from error
    return value


def as_vector(value: Any) -> Float64 | None:
    """Numbers as float64 [width], or None for anything else. Points, quaternions and poses become x y z (w); null becomes NaN.

    Raise RecordingFormatError for integers that no float64 holds.
    """
    if isinstance(value, Real):
        return _float64([value])
    if isinstance(value, str | bytes) or value is None:
        return None
    if isinstance(value, np.ndarray) or _is_list(value):
        return _list_vector(value)
    return _composite_vector(value)


def _list_vector(values: Any) -> Float64 | None:
    if isinstance(values, np.ndarray):
        return values.astype(np.float64).reshape(-1)
    if any(not (isinstance(v, Real) or v is None) for v in values):
        return None
    # JSON has no NaN: writers put null in its place.
    return _float64([np.nan if v is None else v for v in values])


def _float64(values: list[Any]) -> Float64:
    try:
        return np.array(values, np.float64)
    except OverflowError as error:
        raise RecordingFormatError("a message holds an integer that is too large for a number", expected="at most 1.8e308") from error


def _composite_vector(value: Any) -> Float64 | None:
    names = field_names(value)
    if names and set(names) <= set(_AXES):
        ordered = [a for a in _AXES if a in names]
    else:
        ordered = next((pair for pair in _PAIRS if set(names) == set(pair)), ())
    parts = [as_vector(child(value, name)) for name in ordered]
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found and len(found) == len(parts) else None


def numeric_fields(message: Any) -> dict[str, int]:
    """Dotted paths of the numbers in a message with their widths; headers and stamps are left out."""
    return dict(_numeric(message, "", 0))


def _numeric(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    for name in field_names(value):
        if name in _HEADERS or depth > _DEEPEST:
            continue
        path, inner = f"{prefix}{name}", child(value, name)
        if _is_pair(inner):
            yield from _numeric(inner, f"{path}.", depth + 1)
            continue
        vector = as_vector(inner)
        if vector is not None:
            if 0 < len(vector) <= WIDEST:
                yield path, len(vector)
        elif _is_list(inner):
            yield from _of_elements(inner, path)
        else:
            yield from _numeric(inner, f"{path}.", depth + 1)


def _of_elements(elements: Sequence[Any], path: str) -> Iterator[tuple[str, int]]:
    """Numbers that every element of a list of messages has one of, as the positions of foxglove.JointStates."""
    if not 0 < len(elements) <= _MOST_ELEMENTS:
        return
    for name in field_names(elements[0]):
        if all(isinstance(child(element, name), Real) for element in elements):
            yield f"{path}.{name}", len(elements)


def _is_pair(value: Any) -> bool:
    return set(field_names(value)) in [set(pair) for pair in _PAIRS]


def _is_list(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping | FlatObject):
        return False
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def default_field(kind: MessageKind, message: Any) -> str:
    """The field that a source without one means. Raise StreamNotFoundError where that is not clear."""
    usual = {"JointState": "position", "FloatArray": "values", "JointStates": "joints.position"}
    usual |= dict.fromkeys(("PoseStamped", "PoseInFrame"), "pose") | dict.fromkeys(("TransformStamped",), "transform")
    if kind.short_schema in usual and usual[kind.short_schema].split(".")[0] in field_names(message):
        return usual[kind.short_schema]
    if kind.short_schema.endswith("MultiArray"):
        return "data"
    fields = numeric_fields(message)
    if len(fields) == 1:
        return next(iter(fields))
    if not fields:
        raise StreamNotFoundError("the messages hold no numbers", found=kind.schema or kind.encoding, expected="a numeric stream")
    listed = ", ".join(list(fields)[:20])
    raise StreamNotFoundError(
        "the messages have several numeric fields", expected=f"one of: {listed}", todo="Name it: `source: STREAM.field`."
    )


def joint_names(message: Any, path: str, width: int) -> tuple[str, ...]:
    """The names that a message gives the `width` numbers at `path`: a list of text beside them. Empty if there is none."""
    owner = follow(message, path.rpartition(".")[0])
    for name in _NAME_LISTS:
        try:
            names = child(owner, name)
        except KeyError:
            continue
        if _is_list(names) and len(names) == width and all(isinstance(n, str) for n in names):
            return tuple(names)
    return ()


def stamp_ns(message: Any) -> int | None:
    """`header.stamp` of ROS messages, `timestamp` of foxglove ones, in nanoseconds; None if there is neither."""
    for path in ("header.stamp", "timestamp"):
        value = message
        for name in path.split("."):
            value = child(value, name) if name in field_names(value) else None
        names = field_names(value)
        for seconds, nanoseconds in _TIMES:
            if seconds in names and nanoseconds in names:
                return int(child(value, seconds)) * 10**9 + int(child(value, nanoseconds))
    return None
