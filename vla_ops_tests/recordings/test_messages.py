"""Messages of every encoding as trees of fields, and numbers read from where they lie exactly as decoding reads them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import flatbuffers
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mcap.records import Schema

from vla_ops.errors import RecordingFormatError, SchemaMismatchError, StreamNotFoundError, UnknownEncodingError
from vla_ops.recordings.mcap_index import Batch
from vla_ops.recordings.mcap_numbers import NumberReader, stamps_of
from vla_ops.recordings.message_images import describe_image, holds_images, image_of
from vla_ops.recordings.message_layout import has_ros_header, numbers_place
from vla_ops.recordings.messages import (
    MessageKind,
    as_vector,
    child,
    default_field,
    field_names,
    follow,
    joint_names,
    message_kind,
    numeric_fields,
    stamp_ns,
)
from vla_ops_tests.recordings import flatbuffer_files as fbs
from vla_ops_tests.recordings.mcap_files import ROS_DEFINITIONS
from vla_ops_tests.recordings.pictures import as_jpeg, frame_picture

_RULE = "\n" + "=" * 80 + "\n"
_HEADERS = {
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
    return DEFINITIONS[kind][1] + _RULE + _HEADERS[encoding]


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


def decoded(kind: MessageKind, data: bytes, path: str) -> np.ndarray:
    vector = as_vector(follow(kind.decode(data), path))
    assert vector is not None
    return vector


def placed(kind: MessageKind, data: bytes, path: str) -> np.ndarray:
    place = numbers_place(kind, data, path)
    assert place is not None
    return place.read(np.frombuffer(data, np.uint8)[None, place.start : place.stop])[0]


# The fast path

finite32 = st.floats(width=32, allow_nan=False)
finite64 = st.floats(allow_nan=False)
# ASCII: ROS 1 writes bytes, and lengths in bytes are what moves the numbers.
text = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12)
encodings = pytest.mark.parametrize("encoding", ["cdr", "ros1"])


@st.composite
def joint_states(draw: st.DrawFn, width: int | None = None) -> Said:
    width = draw(st.integers(1, 9)) if width is None else width
    numbers = st.lists(finite64, min_size=width, max_size=width).map(tuple)
    names = draw(st.lists(text.filter(bool), min_size=width, max_size=width, unique=True))
    velocity = draw(numbers | st.just(()))
    stamp = draw(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 10**9 - 1)))
    return Said(draw(numbers), tuple(names), velocity, draw(text), stamp)


@encodings
@given(data=st.data())
def test_joint_states_are_read_from_their_place_as_decoded(encoding: str, data: st.DataObject) -> None:
    said = data.draw(joint_states())
    kind, message = ros_kind(encoding, "JointState"), encoded(encoding, "JointState", said)
    assert placed(kind, message, "position").tolist() == decoded(kind, message, "position").tolist() == list(said.values)
    if said.velocity:
        assert placed(kind, message, "velocity").tolist() == list(said.velocity)
    else:
        assert numbers_place(kind, message, "velocity") is None
    assert numbers_place(kind, message, "effort") is None


@encodings
@pytest.mark.parametrize(("kind_name", "floats"), [("Float32MultiArray", finite32), ("Float64MultiArray", finite64)])
@given(data=st.data())
def test_multi_arrays_are_read_from_their_place_as_decoded(
    encoding: str, kind_name: str, floats: st.SearchStrategy[float], data: st.DataObject
) -> None:
    said = Said(tuple(data.draw(st.lists(floats, min_size=1, max_size=20))), labels=tuple(data.draw(st.lists(text, max_size=4))))
    kind, message = ros_kind(encoding, kind_name), encoded(encoding, kind_name, said)
    assert placed(kind, message, "data").tolist() == decoded(kind, message, "data").tolist() == list(said.values)


@encodings
@given(values=st.lists(finite64, min_size=7, max_size=7), frame=text)
def test_poses_are_read_from_their_place_as_decoded(encoding: str, values: list[float], frame: str) -> None:
    kind = ros_kind(encoding, "PoseStamped")
    message = encoded(encoding, "PoseStamped", Said(tuple(values), frame=frame))
    for path, expected in (("pose", values), ("pose.position", values[:3]), ("pose.orientation", values[3:])):
        assert placed(kind, message, path).tolist() == decoded(kind, message, path).tolist() == expected
    assert numbers_place(kind, message, "pose.position.x") is None


@given(st.lists(finite32, min_size=1, max_size=20), st.none() | text, st.lists(text, max_size=4))
def test_flatbuffers_vectors_are_read_from_their_place_as_decoded(values: list[float], label: str | None, note: list[str]) -> None:
    message = flat(values, label=label, note=note)
    for path in ("floats", "position"):
        assert placed(FLAT, message, path).tolist() == decoded(FLAT, message, path).tolist() == values
    assert numbers_place(FLAT, message, "label") is numbers_place(FLAT, message, "note.a") is None


@encodings
@settings(max_examples=60)
@given(data=st.data())
def test_joints_of_any_order_and_frame_are_read_as_the_first_message_names_them(encoding: str, data: st.DataObject) -> None:
    first = data.draw(joint_states())
    said = [first]
    for _ in range(data.draw(st.integers(0, 5))):
        other = data.draw(joint_states(len(first.values)))
        order = data.draw(st.permutations(range(len(first.values))))
        names = tuple(first.names[k] for k in order)
        said.append(Said(other.values, names, other.velocity, data.draw(st.sampled_from([first.frame, other.frame])), other.stamp))
    kind = ros_kind(encoding, "JointState")
    messages = [encoded(encoding, "JointState", s) for s in said]
    found = NumberReader(kind, "position", messages[0]).read(batch(messages))
    expected = [[s.values[s.names.index(name)] for name in first.names] for s in said]
    assert found.tolist() == expected


@encodings
@pytest.mark.parametrize("kind_name", ["Float32MultiArray", "Float64MultiArray"])
@settings(max_examples=40)
@given(data=st.data())
def test_arrays_with_other_labels_than_the_first_are_decoded(encoding: str, kind_name: str, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(finite32, finite32, finite32), min_size=1, max_size=6))
    said = [Said(row, labels=tuple(data.draw(st.lists(text, max_size=3)))) for row in rows]
    messages = [encoded(encoding, kind_name, s) for s in said]
    found = NumberReader(ros_kind(encoding, kind_name), "", messages[0]).read(batch(messages))
    assert found.tolist() == [list(row) for row in rows]


@settings(max_examples=100)
@given(st.lists(st.tuples(finite32, finite32, st.none() | text, st.lists(text, max_size=4)), min_size=1, max_size=6))
def test_flatbuffers_laid_out_unlike_the_first_are_decoded(rows: list[tuple[float, float, str | None, list[str]]]) -> None:
    messages = [flat(row[:2], label=row[2], note=row[3]) for row in rows]
    for path in ("floats", "position"):
        assert NumberReader(FLAT, path, messages[0]).read(batch(messages)).tolist() == [list(row[:2]) for row in rows]


def test_a_message_that_ends_before_the_bytes_that_decide_is_decoded() -> None:
    """Tables may share a layout that lies behind the numbers: a shorter message does not reach as far."""
    long, short = flat([1.0, 2.0], label="x", note=["a", "b", "c", "d" * 40]), flat([3.0, 4.0])
    place = numbers_place(FLAT, long, "position")
    assert place is not None
    assert max(stop for _, stop in place.fixed) > len(short) > place.stop
    reader = NumberReader(FLAT, "position", long)
    assert reader.read(batch([long, short])).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(RecordingFormatError, match=r"does not decode.*message 1"):
        reader.read(batch([long, long[: place.stop]]))


def test_messages_that_are_alike_are_not_decoded() -> None:
    def refuse(data: bytes) -> Any:
        raise RecordingFormatError("decoded")

    kind = ros_kind("cdr", "JointState")
    messages = [encoded("cdr", "JointState", Said((k, 2.0 * k), ("a", "b"), stamp=(k, k))) for k in range(5)]
    reader = NumberReader(kind, "position", messages[0])
    reader.kind = MessageKind(kind.encoding, kind.schema, refuse, kind.definition)
    assert reader.read(batch(messages)).tolist() == [[k, 2.0 * k] for k in range(5)]
    other = encoded("cdr", "JointState", Said((1.0, 2.0), ("b", "a")))
    with pytest.raises(RecordingFormatError, match=r"decoded \[message 5\]"):
        reader.read(batch([*messages, other]))


@encodings
@given(data=st.data())
def test_a_message_cut_off_anywhere_has_no_place_or_one_within_it(encoding: str, data: st.DataObject) -> None:
    kind = ros_kind(encoding, "JointState")
    message = encoded(encoding, "JointState", data.draw(joint_states()))
    cut = message[: data.draw(st.integers(0, len(message)))]
    place = numbers_place(kind, cut, "position")
    assert place is None or (place.stop <= len(cut) and all(stop <= len(cut) for _, stop in place.fixed))


@given(st.binary(max_size=200), st.sampled_from(["JointState", "PoseStamped", "Float32MultiArray", "Float64MultiArray"]))
def test_bytes_of_anything_have_no_place_or_one_within_them(data: bytes, kind_name: str) -> None:
    for encoding, start in (("cdr", b"\0\1\0\0"), ("ros1", b"")):
        place = numbers_place(
            ros_kind(encoding, kind_name), start + data, {"JointState": "position", "PoseStamped": "pose"}.get(kind_name, "data")
        )
        assert place is None or place.stop <= len(start + data)


def test_big_endian_cdr_and_schemas_of_other_packages_have_no_place() -> None:
    kind = ros_kind("cdr", "JointState")
    message = encoded("cdr", "JointState", Said((1.0,), ("a",)))
    assert numbers_place(kind, message, "position") is not None
    assert numbers_place(kind, b"\0\0" + message[2:], "position") is None
    other = message_kind("cdr", Schema(1, schema_text("cdr", "JointState").encode(), "ros2msg", "vendor_msgs/msg/JointState"))
    assert numbers_place(other, message, "position") is None
    assert numbers_place(kind, message, "name") is None


@encodings
@given(stamps=st.lists(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 10**9 - 1)), min_size=1, max_size=8), frame=text)
def test_header_stamps_are_read_from_their_place_as_decoded(encoding: str, stamps: list[tuple[int, int]], frame: str) -> None:
    kind = ros_kind(encoding, "JointState")
    messages = [encoded(encoding, "JointState", Said((1.0,), ("a",), stamp=stamp, frame=frame)) for stamp in stamps]
    expected = [seconds * 10**9 + nanoseconds for seconds, nanoseconds in stamps]
    assert has_ros_header(kind)
    assert stamps_of(batch(messages), kind, "header").tolist() == expected
    assert [stamp_ns(kind.decode(m)) for m in messages] == expected


def test_a_header_that_is_not_first_is_decoded() -> None:
    kind = message_kind(
        "cdr", Schema(1, b"# a comment\nfloat64 x\nstd_msgs/Header header\n" + (_RULE + _HEADERS["cdr"]).encode(), "ros2msg", "t/msg/X")
    )
    assert not has_ros_header(kind)
    commented = ros_kind("cdr", "JointState").definition
    assert has_ros_header(MessageKind("cdr", "t/msg/Y", kind.decode, "# first\n\n" + commented))


# Trees of fields


def json_kind(schema: str = "S") -> MessageKind:
    return message_kind("json", Schema(1, b"{}", "jsonschema", schema))


@pytest.mark.parametrize(
    ("value", "vector"),
    [
        (3, [3]),
        (True, [1]),
        ([1, 2.5], [1, 2.5]),
        ([], []),
        ({"z": 3, "x": 1, "y": 2}, [1, 2, 3]),
        ({"w": 4, "z": 3, "y": 2, "x": 1}, [1, 2, 3, 4]),
        ({"orientation": {"x": 1, "y": 2, "z": 3, "w": 4}, "position": {"x": 5, "y": 6, "z": 7}}, [5, 6, 7, 1, 2, 3, 4]),
        ({"rotation": [1, 2], "translation": [0]}, [0, 1, 2]),
        ({"angular": {"x": 2}, "linear": {"x": 1}}, [1, 2]),
        (np.arange(4, dtype=np.uint8).reshape(2, 2), [0, 1, 2, 3]),
    ],
)
def test_numbers_points_and_poses_are_vectors_in_one_order(value: Any, vector: list[float]) -> None:
    found = as_vector(value)
    assert found is not None
    assert (found.dtype, found.tolist()) == (np.float64, vector)


@pytest.mark.parametrize("value", [None, "1", b"1", ["a"], [1, "a"], {}, {"x": 1, "q": 2}, {"position": 1, "name": "a"}, {"x": "a"}, [[1]]])
def test_what_is_no_vector_is_none(value: Any) -> None:
    assert as_vector(value) is None


def test_null_in_a_list_is_nan() -> None:
    assert np.isnan(as_vector([None, 1])).tolist() == [True, False]  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("value", [10**400, [1, -(10**400)], {"x": 10**400}])
def test_an_integer_beyond_any_float_is_a_damaged_message(value: Any) -> None:
    with pytest.raises(RecordingFormatError, match="too large"):
        as_vector(value)


def test_a_field_of_a_list_is_that_field_of_each_element() -> None:
    message = {"joints": [{"name": "a", "position": 1}, {"name": "b", "position": 2}]}
    assert follow(message, "joints.position") == [1, 2]
    assert follow(message, "") is message
    assert child([{"x": 1}], "x") == [1]


def test_a_path_that_leads_nowhere_is_named_with_the_nearest_numeric_field() -> None:
    message = {"header": {"stamp": 1}, "arm": {"position": [1, 2], "name": "x"}}
    with pytest.raises(StreamNotFoundError, match=r"no field 'arm.positon'.*one of: arm.position\. Did you mean 'arm.position'"):
        follow(message, "arm.positon")
    with pytest.raises(StreamNotFoundError, match=r"no field 'x'.*one of: label"):
        follow({"label": "a"}, "x")


def test_numeric_fields_leave_out_headers_texts_images_and_clouds() -> None:
    message = {
        "header": {"seq": 1},
        "timestamp": {"sec": 1, "nsec": 2},
        "name": ["a", "b"],
        "position": [1, 2],
        "empty": [],
        "cloud": [0.0] * 5000,
        "pose": {"position": {"x": 1, "y": 2, "z": 3}, "orientation": {"x": 0, "y": 0, "z": 0, "w": 1}},
        "deep": {"er": {"value": 3}},
        "joints": [{"name": "a", "effort": 1}, {"name": "b", "effort": 2}],
    }
    fields = numeric_fields(message)
    assert fields == {"position": 2, "pose.position": 3, "pose.orientation": 4, "deep.er.value": 1, "joints.effort": 2}


def test_a_message_within_itself_many_times_is_listed_only_so_deep() -> None:
    message: dict[str, Any] = {"value": 1}
    for _ in range(30):
        message = {"inner": message, "value": 1}
    assert 1 < len(numeric_fields(message)) < 10


@encodings
def test_the_default_field_of_common_messages_is_what_a_person_means(encoding: str) -> None:
    usual = {"JointState": "position", "PoseStamped": "pose", "Float32MultiArray": "data", "Float64MultiArray": "data"}
    said = Said((1.0, 2, 3, 4, 5, 6, 7), tuple("abcdefg"), (0.0,) * 7)
    for name, path in usual.items():
        kind = ros_kind(encoding, name)
        assert default_field(kind, kind.decode(encoded(encoding, name, said))) == path


def test_the_default_field_is_the_only_numeric_one_and_several_must_be_told_apart() -> None:
    assert default_field(json_kind(), {"label": "a", "state": {"q": [1, 2]}}) == "state.q"
    with pytest.raises(StreamNotFoundError, match=r"several numeric fields.*one of: a, b"):
        default_field(json_kind(), {"a": 1, "b": 2})
    with pytest.raises(StreamNotFoundError, match=r"hold no numbers.*found S"):
        default_field(json_kind(), {"label": "a"})


@pytest.mark.parametrize("key", ["name", "names", "joint_names"])
def test_joint_names_are_the_texts_beside_the_numbers(key: str) -> None:
    message = {"arm": {key: ["a", "b"], "position": [1, 2]}}
    assert joint_names(message, "arm.position", 2) == ("a", "b")
    assert joint_names(message, "arm.position", 3) == ()
    assert joint_names({"arm": {key: [1, 2], "position": [1, 2]}}, "arm.position", 2) == ()


def test_stamps_of_every_notation_are_nanoseconds() -> None:
    assert stamp_ns({"header": {"stamp": {"sec": 1, "nanosec": 2}}}) == 1_000_000_002
    assert stamp_ns({"timestamp": {"sec": 1, "nsec": 2}}) == 1_000_000_002
    assert stamp_ns({"header": {"stamp": {"secs": 3, "nsecs": 4}}}) == 3_000_000_004
    assert stamp_ns({"timestamp": {"seconds": 5, "nanos": 6}}) == 5_000_000_006
    assert stamp_ns({"timestamp": 12.5}) is stamp_ns({"header": {}}) is stamp_ns({}) is None


def test_protobuf_messages_have_their_fields_and_absent_ones_are_none() -> None:
    from foxglove_schemas_protobuf.JointStates_pb2 import JointStates
    from mcap_protobuf.schema import build_file_descriptor_set

    schema = Schema(1, build_file_descriptor_set(JointStates).SerializeToString(), "protobuf", "foxglove.JointStates")
    kind = message_kind("protobuf", schema)
    written = JointStates()
    written.joints.add(name="a", position=1.5)
    written.joints.add(name="b", position=2.5)
    message = kind.decode(written.SerializeToString())
    assert field_names(message) == ("timestamp", "joints")
    assert child(message, "timestamp") is None
    assert (default_field(kind, message), follow(message, "joints.position")) == ("joints.position", [1.5, 2.5])
    assert joint_names(message, "joints.position", 2) == ("a", "b")
    with pytest.raises(RecordingFormatError, match=r"does not decode.*found 3 bytes"):
        kind.decode(b"\xff\xff\xff")


# Encodings and schemas


def test_an_unknown_encoding_is_named_with_its_schema_and_the_known_ones() -> None:
    with pytest.raises(UnknownEncodingError, match=r"found msgpack with vendor schema t\.T; expected cdr.*json \| flatbuffer"):
        message_kind("msgpack", Schema(1, b"", "vendor", "t.T"))
    with pytest.raises(UnknownEncodingError, match="found cdr without a schema"):
        message_kind("cdr", None)
    with pytest.raises(UnknownEncodingError, match="found flatbuffer with nameless schema"):
        message_kind("flatbuffer", Schema(1, b"", "", "t.T"))


def test_events_of_a_service_are_refused_by_name() -> None:
    with pytest.raises(UnknownEncodingError, match=r"events of a service.*found t/srv/Add"):
        message_kind("cdr", Schema(1, b"int64 a\n---\nint64 b", "ros2msg", "t/srv/Add"))


@pytest.mark.parametrize(("encoding", "schema_encoding"), [("cdr", "ros2msg"), ("ros1", "ros1msg"), ("protobuf", "protobuf")])
def test_a_schema_that_does_not_parse_is_named(encoding: str, schema_encoding: str) -> None:
    schema = Schema(1, b"\xff\xfe no [[ schema \x00", schema_encoding, "t/msg/T")
    with pytest.raises(RecordingFormatError, match=rf"schema of {encoding} messages cannot be read.*schema t/msg/T"):
        message_kind(encoding, schema)


@pytest.mark.parametrize(("schema", "short"), [("sensor_msgs/msg/JointState", "JointState"), ("foxglove.RawImage", "RawImage"), ("", "")])
def test_the_short_name_of_a_schema_is_its_last_part(schema: str, short: str) -> None:
    assert MessageKind("json", schema, json.loads).short_schema == short


def test_a_field_of_other_width_or_without_numbers_is_refused_with_both() -> None:
    kind = json_kind()
    reader = NumberReader(kind, "q", b'{"q": [1, 2]}')
    with pytest.raises(SchemaMismatchError, match=r"message 1, field q.*found 3 values; expected 2 values"):
        reader.read(batch([b'{"q": [1, 2]}', b'{"q": [1, 2, 3]}']))
    with pytest.raises(SchemaMismatchError, match="found no numbers"):
        reader.read(batch([b'{"q": "a"}']))
    with pytest.raises(SchemaMismatchError, match=r"holds no numbers.*found str"):
        NumberReader(kind, "q", b'{"q": "a"}')


# Images


@dataclass(frozen=True)
class Picture:
    """What an image message of JSON holds."""

    schema: str
    content: dict[str, Any] = field(default_factory=dict)

    def read(self, *, bgr: bool = False) -> Any:
        return image_of(json_kind(self.schema), self.content, bgr=bgr)


JPEG = as_jpeg(frame_picture(3))
H264 = b"\0\0\0\1\x67"


@pytest.mark.parametrize(
    ("schema", "said", "data", "codec"),
    [
        ("CompressedImage", "png", JPEG, "jpeg"),
        ("CompressedImage", "jpeg", b"\x89PNG\r\n\x1a\n....", "png"),
        ("CompressedImage", "h264", H264, "h264"),
        ("CompressedImage", "H265", b"\0\0\1\x40", "hevc"),
        ("CompressedImage", "av1", b"\x12\0", "av1"),
        ("foxglove.CompressedVideo", "h264", H264, "h264"),
        ("foxglove.CompressedVideo", "H265", H264, "hevc"),
        ("foxglove.CompressedVideo", "av1", b"\x12\0", "av1"),
    ],
)
def test_compressed_images_are_what_their_bytes_say_and_videos_what_their_format_says(
    schema: str, said: str, data: bytes, codec: str
) -> None:
    for given_as in (data, base64.b64encode(data).decode(), list(data)):
        image = Picture(schema, {"format": said, "data": given_as}).read()
        assert (image.codec, image.data) == (codec, data)
    assert describe_image(json_kind(schema), {"format": said, "data": data}) == (codec, ())


@pytest.mark.parametrize(
    ("schema", "content", "said"),
    [
        ("CompressedImage", {"format": "h264", "data": b"no start code"}, "13 bytes beginning with b'no start', format 'h264'"),
        ("CompressedImage", {"data": b""}, "no bytes, format ''"),
        ("foxglove.CompressedVideo", {"format": "vp9", "data": H264}, "found vp9; expected h264"),
        ("foxglove.CompressedVideo", {"data": H264}, "found no format"),
        ("Image", {"encoding": "16UC1", "height": 1, "width": 1, "step": 2, "data": b"ab"}, "found 16UC1; expected rgb8"),
        ("PointCloud2", {"data": b""}, "not image messages; found PointCloud2"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_with_what_can(schema: str, content: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownEncodingError) as caught:
        Picture(schema, content).read()
    assert said in str(caught.value)


@pytest.mark.parametrize("data", ["not base64!", [1, 300], None, 5.0, [1, "a"]])
def test_data_that_is_no_bytes_is_refused(data: object) -> None:
    with pytest.raises(RecordingFormatError, match="neither bytes nor base64"):
        Picture("CompressedImage", {"format": "jpeg", "data": data}).read()


@given(
    st.sampled_from([("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("bgra8", 4), ("mono8", 1), ("8UC1", 1), ("8UC3", 3), ("8UC4", 4)]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_raw_pixels_become_rgb_whatever_their_rows_are_padded_to(encoding: tuple[str, int], height: int, width: int, padding: int) -> None:
    name, channels = encoding
    pixels = np.random.default_rng(height * 7 + width).integers(0, 256, (height, width, channels), np.uint8)
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (0, padding)), constant_values=9)
    # The last row's padding is often left out.
    data = rows.tobytes()[: rows.size - padding]
    picture = Picture("Image", {"encoding": name, "height": height, "width": width, "step": rows.shape[1], "data": data})
    for is_bgr in (False, True):
        order = [2, 1, 0] if is_bgr or name.startswith("bgr") else [0, 1, 2]
        expected = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels[..., order]
        image = picture.read(bgr=is_bgr)
        assert image.codec == "raw"
        np.testing.assert_array_equal(image.data, expected)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_a_raw_image_whose_size_is_more_than_its_bytes_is_refused_without_making_it(height: int, width: int, step: int, size: int) -> None:
    assume(not (height and width and width * 3 <= step and size >= step * (height - 1) + width * 3))
    with pytest.raises(RecordingFormatError, match=r"fewer bytes than its size says.*found \d+ bytes; expected \d+ x \d+ rgb8"):
        Picture("Image", {"encoding": "rgb8", "height": height, "width": width, "step": step, "data": bytes(size)}).read()


def test_a_raw_image_without_pixels_is_refused() -> None:
    for height, width in ((0, 5), (5, 0)):
        with pytest.raises(RecordingFormatError, match="fewer bytes"):
            Picture("Image", {"encoding": "rgb8", "height": height, "width": width, "step": 15, "data": bytes(75)}).read()


def test_images_are_told_by_their_schema_and_described_without_decoding() -> None:
    found = {
        name for name in ("sensor_msgs/msg/Image", "foxglove.RawImage", "CompressedVideo", "JointState") if holds_images(json_kind(name))
    }
    assert found == {"sensor_msgs/msg/Image", "foxglove.RawImage", "CompressedVideo"}
    content = {"encoding": "bgra8", "height": 4, "width": 6}
    assert describe_image(json_kind("RawImage"), content) == ("raw bgra8", (4, 6, 3))
