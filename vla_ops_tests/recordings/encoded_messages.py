"""Write single messages as the library of their encoding does: ROS 2, ROS 1, FlatBuffers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import flatbuffers
import numpy as np
import pytest
from mcap.records import Schema

from vla_ops.recordings.mcap_index import Batch
from vla_ops.recordings.messages import (
    MessageKind,
    message_kind,
)
from vla_ops_tests.recordings import flatbuffer_files as fbs
from vla_ops_tests.recordings.mcap_files import ROS_DEFINITIONS

RULE = "\n" + "=" * 80 + "\n"

HEADERS = {
    "cdr": "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id",
    "ros1": "MSG: std_msgs/Header\nuint32 seq\ntime stamp\nstring frame_id",
}


_PACKAGE, _FLOAT32 = ROS_DEFINITIONS["Float32MultiArray"]

DEFINITIONS = {**ROS_DEFINITIONS, "Float64MultiArray": (_PACKAGE, _FLOAT32.replace("float32[]", "float64[]"))}

ARRAY = [
    fbs.Object(
        "t.Arm",
        {
            "label": fbs.Kind(fbs.STRING),
            "floats": fbs.Kind(fbs.VECTOR, fbs.FLOAT),
            "position": fbs.Kind(fbs.VECTOR, fbs.DOUBLE),
            "note": fbs.Kind(fbs.OBJECT, index=1),
        },
    ),
    fbs.Object("t.Note", {k: fbs.Kind(fbs.STRING) for k in ("a", "b", "c", "d")}),
]


@dataclass(frozen=True)
class Said:
    """What a message of any kind says; each kind takes what it has a place for."""

    values: tuple[float, ...]
    names: tuple[str, ...] = ()
    velocity: tuple[float, ...] = ()
    frame: str = "base"
    stamp: tuple[int, int] = (12, 345)
    labels: tuple[str, ...] = ()

    def content(self, kind: str) -> dict[str, Any]:
        """The message's fields without its header."""
        match kind:
            case "JointState":
                return {"name": list(self.names), "position": list(self.values), "velocity": list(self.velocity), "effort": []}
            case "PoseStamped":
                point, turn = (dict(zip("xyzw", part, strict=False)) for part in (self.values[:3], self.values[3:]))
                return {"pose": {"position": point, "orientation": turn}}
            case _:
                dim = [{"label": label, "size": len(label), "stride": k} for k, label in enumerate(self.labels)]
                return {"layout": {"dim": dim, "data_offset": 0}, "data": list(self.values)}


@cache
def schema_text(encoding: str, kind: str) -> str:
    return DEFINITIONS[kind][1] + RULE + HEADERS[encoding]


@cache
def ros_kind(encoding: str, kind: str) -> MessageKind:
    middle, schema_encoding = ("/msg", "ros2msg") if encoding == "cdr" else ("", "ros1msg")
    name = f"{DEFINITIONS[kind][0]}{middle}/{kind}"
    return message_kind(encoding, Schema(1, schema_text(encoding, kind).encode(), schema_encoding, name))


def encoded(encoding: str, kind: str, said: Said) -> bytes:
    """The message as the library of its encoding writes it."""
    return _as_cdr(kind, said) if encoding == "cdr" else _as_ros1(kind, said)


def _as_cdr(kind: str, said: Said) -> bytes:
    header = {"stamp": {"sec": said.stamp[0], "nanosec": said.stamp[1]}, "frame_id": said.frame}
    content = said.content(kind) | ({} if kind.endswith("Array") else {"header": header})
    return _cdr_encoder(kind)(content)


@cache
def _cdr_encoder(kind: str) -> Any:
    from mcap_ros2._dynamic import serialize_dynamic

    name = f"{DEFINITIONS[kind][0]}/msg/{kind}"
    return serialize_dynamic(name, schema_text("cdr", kind))[name]


@cache
def _ros1_classes(kind: str) -> dict[str, Any]:
    from mcap_ros1._vendor.genpy.dynamic import generate_dynamic

    return generate_dynamic(f"{DEFINITIONS[kind][0]}/{kind}", schema_text("ros1", kind))


def _as_ros1(kind: str, said: Said) -> bytes:
    from mcap_ros1._vendor.genpy import Time

    classes = _ros1_classes(kind)
    message = classes[f"{DEFINITIONS[kind][0]}/{kind}"]()
    if kind.endswith("Array"):
        message.layout.dim = [classes["std_msgs/MultiArrayDimension"](label, len(label), k) for k, label in enumerate(said.labels)]
        message.data = list(said.values)
    else:
        message.header.stamp, message.header.frame_id = Time(*said.stamp), said.frame
    if kind == "JointState":
        message.name, message.position, message.velocity = list(said.names), list(said.values), list(said.velocity)
    if kind == "PoseStamped":
        for axis, value in zip("xyz", said.values, strict=False):
            setattr(message.pose.position, axis, value)
        for axis, value in zip("xyzw", said.values[3:], strict=True):
            setattr(message.pose.orientation, axis, value)
    buffer = io.BytesIO()
    message.serialize(buffer)
    return buffer.getvalue()


FLAT = message_kind("flatbuffer", Schema(1, fbs.schema_bytes(ARRAY), "flatbuffer", "t.Arm"))


def flat(values: Sequence[float], *, label: str | None = None, note: Sequence[str] = ()) -> bytes:
    """A FlatBuffers message of t.Arm: the same numbers as float32 and float64."""
    builder = flatbuffers.Builder(64)
    # Written first, a table lies last; one with a vtable like the root's shares it.
    inner = _note(builder, note) if note else None
    text = builder.CreateString(label) if label is not None else None
    floats = builder.CreateNumpyVector(np.asarray(values, np.float32))
    doubles = builder.CreateNumpyVector(np.asarray(values, np.float64))
    builder.StartObject(4)
    for slot, place in enumerate((text, floats, doubles, inner)):
        if place is not None:
            builder.PrependUOffsetTRelativeSlot(slot, place, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _note(builder: flatbuffers.Builder, texts: Sequence[str]) -> int:
    places = [builder.CreateString(text) for text in texts]
    builder.StartObject(4)
    for slot, place in enumerate(places):
        builder.PrependUOffsetTRelativeSlot(slot, place, 0)
    return builder.EndObject()


def batch(messages: Sequence[bytes], gap: bytes = b"\xaa\xbb") -> Batch:
    """Messages as they lie in a chunk, something between them, nothing behind the last."""
    lengths = np.array([len(m) for m in messages])
    starts = np.cumsum([0, *(lengths[:-1] + len(gap))])
    buffer = np.frombuffer(gap.join(messages), np.uint8)
    times = np.arange(len(messages), dtype=np.int64)
    return Batch(buffer, starts, lengths, times, times)


encodings = pytest.mark.parametrize("encoding", ["cdr", "ros1"])


def json_kind(schema: str = "S") -> MessageKind:
    return message_kind("json", Schema(1, b"{}", "jsonschema", schema))
