"""What messages hold: trees of fields, and the encodings and schemas that they come in."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from mcap.records import Schema

from vla_ops.errors import RecordingFormatError, SchemaMismatchError, StreamNotFoundError, UnknownEncodingError
from vla_ops.recordings.mcap_numbers import NumberReader
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
from vla_ops_tests.recordings.encoded_messages import (
    Said,
    batch,
    encoded,
    encodings,
    json_kind,
    ros_kind,
)

# Trees of fields


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
