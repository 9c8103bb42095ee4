"""FlatBuffers messages read by their reflection schema: every kind of field, absent ones, and bytes that are damaged."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.records import Schema

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.flatbuffer import FlatObject, FlatSchema, read_schema
from vla_ops.recordings.messages import as_vector, field_names, follow, message_kind, numeric_fields
from vla_ops_tests.recordings.flatbuffer_files import (
    COMPRESSED_IMAGE,
    DOUBLE,
    FLOAT,
    FLOAT_ARRAY,
    OBJECT,
    STRING,
    UBYTE,
    UINT,
    VECTOR,
    Kind,
    Object,
    compressed_image,
    float_array,
    schema_bytes,
)

BOOL, SHORT = 2, 5
POINT = Object("t.Point", {"x": Kind(DOUBLE), "y": Kind(DOUBLE)}, is_struct=True)
JOINT = Object("t.Joint", {"name": Kind(STRING), "position": Kind(DOUBLE)})
EVERYTHING = [
    Object(
        "t.Everything",
        {
            "on": Kind(BOOL),
            "count": Kind(SHORT),
            "ratio": Kind(FLOAT),
            "label": Kind(STRING),
            "floats": Kind(VECTOR, FLOAT),
            "doubles": Kind(VECTOR, DOUBLE),
            "blob": Kind(VECTOR, UBYTE),
            "names": Kind(VECTOR, STRING),
            "place": Kind(OBJECT, index=1),
            "joint": Kind(OBJECT, index=2),
            "path": Kind(VECTOR, OBJECT, index=1),
            "joints": Kind(VECTOR, OBJECT, index=2),
        },
    ),
    POINT,
    JOINT,
]
SCHEMA = schema_bytes(EVERYTHING)


@dataclass(frozen=True)
class Whole:
    """A message with every field, and what is in it."""

    floats: tuple[float, ...] = (0.5, -1.25)
    doubles: tuple[float, ...] = (1e300, 2.0, 3.0)
    blob: bytes = b"\x00\xff\x10"
    names: tuple[str, ...] = ("left", "right\u00e9")
    path: tuple[tuple[float, float], ...] = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))

    def encoded(self) -> bytes:
        builder = flatbuffers.Builder(256)
        label = builder.CreateString("hello")
        joints = [_joint(builder, name, k + 0.5) for k, name in enumerate(self.names)]
        vectors = {
            4: builder.CreateNumpyVector(np.array(self.floats, np.float32)),
            5: builder.CreateNumpyVector(np.array(self.doubles, np.float64)),
            6: builder.CreateByteVector(self.blob),
            7: _offsets(builder, [builder.CreateString(name) for name in self.names]),
            9: _joint(builder, "alone", -7.0),
            10: _points(builder, self.path),
            11: _offsets(builder, joints),
        }
        builder.StartObject(12)
        builder.PrependBoolSlot(0, True, False)
        builder.PrependInt16Slot(1, -300, 0)
        builder.PrependFloat32Slot(2, 0.25, 0)
        builder.PrependUOffsetTRelativeSlot(3, label, 0)
        for slot, place in vectors.items():
            builder.PrependUOffsetTRelativeSlot(slot, place, 0)
        builder.PrependStructSlot(8, _point(builder, 9.0, -9.0), 0)
        builder.Finish(builder.EndObject())
        return bytes(builder.Output())


def _joint(builder: flatbuffers.Builder, name: str, position: float) -> int:
    text = builder.CreateString(name)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.PrependFloat64Slot(1, position, 0)
    return builder.EndObject()


def _point(builder: flatbuffers.Builder, x: float, y: float) -> int:
    builder.Prep(8, 16)
    builder.PrependFloat64(y)
    builder.PrependFloat64(x)
    return builder.Offset()


def _points(builder: flatbuffers.Builder, points: tuple[tuple[float, float], ...]) -> int:
    builder.StartVector(16, len(points), 8)
    for x, y in reversed(points):
        _point(builder, x, y)
    return builder.EndVector()


def _offsets(builder: flatbuffers.Builder, places: list[int]) -> int:
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return builder.EndVector()


def everything() -> FlatSchema:
    return read_schema(SCHEMA, "t.Everything")


def empty_message() -> bytes:
    builder = flatbuffers.Builder(16)
    builder.StartObject(12)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def read_all(value: object, depth: int = 0) -> int:
    """Read every field of an object and of those in it; return how many."""
    if isinstance(value, FlatObject) and depth < 5:
        return sum(1 + read_all(value.get(name), depth + 1) for name in value.names())
    if isinstance(value, list):
        return sum(read_all(element, depth + 1) for element in value)
    return 0


# Schemas


def test_the_types_are_read_with_their_fields_in_the_order_of_their_slots() -> None:
    schema = everything()
    assert [o.name for o in schema.objects] == ["t.Everything", "t.Point", "t.Joint"]
    assert tuple(schema.root.fields) == tuple(EVERYTHING[0].fields)
    assert [(o.is_struct, o.size) for o in schema.objects] == [(False, 0), (True, 16), (False, 0)]
    assert [f.slot for f in schema.objects[1].fields.values()] == [0, 8]
    assert schema.root.fields["floats"].element_dtype == "<f4"
    assert schema.root.fields["names"].element_dtype == schema.root.fields["count"].element_dtype == ""


def test_messages_begin_with_the_table_that_is_named_else_with_the_root() -> None:
    assert read_schema(SCHEMA, "t.Joint").root.name == "t.Joint"
    assert read_schema(SCHEMA, "elsewhere.Name").root.name == "t.Everything"
    assert read_schema(SCHEMA).root.name == "t.Everything"


@pytest.mark.parametrize("data", [b"", b"BFBS", bytes(8), b"table T { x: int; }", SCHEMA[8:]])
def test_what_is_no_binary_schema_is_named(data: bytes) -> None:
    with pytest.raises(RecordingFormatError, match=r"not a binary FlatBuffers schema \(\.bfbs\) \[schema t\.T\]"):
        read_schema(data, "t.T")


@pytest.mark.parametrize("size", [8, 12, 20, 60, 200])
def test_a_schema_cut_off_is_damaged(size: int) -> None:
    with pytest.raises(RecordingFormatError, match=r"damaged \[schema t\.Everything\]"):
        read_schema(SCHEMA[:size], "t.Everything")


def test_a_schema_without_any_table_is_named() -> None:
    builder = flatbuffers.Builder(16)
    builder.StartObject(8)
    builder.Finish(builder.EndObject(), file_identifier=b"BFBS")
    with pytest.raises(RecordingFormatError, match=r"lacks its table.*expected t\.T"):
        read_schema(bytes(builder.Output()), "t.T")


# Messages


def test_every_kind_of_field_is_read() -> None:
    message = everything().read(Whole().encoded())
    assert message.names() == tuple(EVERYTHING[0].fields)
    assert [message.get(name) for name in ("on", "count", "ratio", "label")] == [True, -300, 0.25, "hello"]
    assert np.asarray(message.get("floats")).tolist() == [0.5, -1.25]
    assert np.asarray(message.get("doubles")).tolist() == [1e300, 2.0, 3.0]
    assert message.get("blob") == b"\x00\xff\x10"
    assert message.get("names") == ["left", "right\u00e9"]


def test_objects_within_are_read_alone_and_in_lists() -> None:
    message = everything().read(Whole().encoded())
    assert as_vector(message.get("place")).tolist() == [9.0, -9.0]  # pyright: ignore[reportOptionalMemberAccess]
    assert follow(message, "joint.name") == "alone"
    assert follow(message, "path.y") == [2.0, 4.0, 6.0]
    assert follow(message, "joints.name") == ["left", "right\u00e9"]
    assert follow(message, "joints.position") == [0.5, 1.5]


def test_the_numbers_of_a_message_are_listed_by_their_paths() -> None:
    fields = numeric_fields(everything().read(Whole().encoded()))
    assert fields == {
        "on": 1,
        "count": 1,
        "ratio": 1,
        "floats": 2,
        "doubles": 3,
        "place": 2,
        "joint.position": 1,
        "path.x": 3,
        "path.y": 3,
        "joints.position": 2,
    }


def test_absent_fields_are_defaults_empty_vectors_or_none() -> None:
    message = everything().read(empty_message())
    assert [message.get(name) for name in ("on", "count", "ratio")] == [False, 0, 0.0]
    assert [message.get(name) for name in ("label", "place", "joint")] == [None, None, None]
    assert (np.asarray(message.get("floats")).dtype, np.asarray(message.get("doubles")).shape) == (np.float32, (0,))
    assert [message.get(name) for name in ("blob", "names", "path", "joints")] == [b"", [], [], []]
    assert message.vector_at("floats") is None


def test_a_field_that_the_schema_lacks_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        everything().read(empty_message()).get("nothing")


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=50))
def test_vectors_are_where_they_are_said_to_be(values: list[float]) -> None:
    data = float_array(values)
    message = read_schema(schema_bytes(FLOAT_ARRAY)).read(data)
    found = message.vector_at("values")
    assert found is not None
    start, count = found
    assert np.frombuffer(data, "<f4", count, start).tolist() == np.asarray(message.get("values")).tolist() == values


# Damage


@pytest.mark.parametrize("size", [0, 1, 4, 7])
def test_a_message_too_short_for_a_table_says_its_size(size: int) -> None:
    with pytest.raises(ValueError, match=f"{size} bytes are too few"):
        everything().read(bytes(size))


def with_length(data: bytes, name: str, length: int) -> bytes:
    """The message with another number of elements in one of its vectors."""
    found = everything().read(data).vector_at(name)
    assert found is not None
    return data[: found[0] - 4] + struct.pack("<I", length) + data[found[0] :]


@pytest.mark.parametrize("length", [1_000, 2**20, 2**31, 2**32 - 1])
@pytest.mark.parametrize("name", ["floats", "doubles", "blob", "names", "path", "joints"])
def test_a_vector_longer_than_its_message_is_refused_without_making_it(name: str, length: int) -> None:
    message = everything().read(with_length(Whole().encoded(), name, length))
    tracemalloc.start()
    try:
        with pytest.raises(RecordingFormatError, match=rf"does not decode.*field {name}.*bytes"):
            message.get(name)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_text_longer_than_its_message_is_refused() -> None:
    data = Whole().encoded()
    at = data.index(b"\x05\0\0\0hello")
    message = everything().read(data[:at] + struct.pack("<I", 10_000) + data[at + 4 :])
    with pytest.raises(RecordingFormatError, match=r"does not decode.*field label"):
        message.get("label")


def test_an_image_cut_off_is_refused_and_not_handed_out_short() -> None:
    data = compressed_image(bytes(range(200)), 5)
    schema = read_schema(schema_bytes(COMPRESSED_IMAGE))
    place = schema.read(data).vector_at("data")
    assert place is not None
    with pytest.raises(RecordingFormatError, match=r"does not decode.*field data"):
        schema.read(data[: place[0] + 100]).get("data")


def assert_read_or_refused(read: Callable[[], object]) -> None:
    tracemalloc.start()
    try:
        read_all(read())
    except (RecordingFormatError, ValueError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 20_000_000


bytes_changed = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6)


def damaged(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, value in changes:
        changed[at % len(changed)] = value
    return bytes(changed)


@settings(max_examples=150, deadline=2000)
@given(bytes_changed)
def test_damaged_messages_are_read_or_refused_at_once(changes: list[tuple[int, int]]) -> None:
    assert_read_or_refused(lambda: everything().read(damaged(Whole().encoded(), changes)))


@settings(max_examples=150, deadline=2000)
@given(bytes_changed)
def test_damaged_schemas_are_read_or_refused_at_once(changes: list[tuple[int, int]]) -> None:
    assert_read_or_refused(lambda: read_schema(damaged(SCHEMA, changes), "t.Everything").read(Whole().encoded()))


@settings(max_examples=100, deadline=2000)
@given(st.binary(max_size=400))
def test_bytes_of_anything_are_refused_at_once(data: bytes) -> None:
    assert_read_or_refused(lambda: everything().read(data))
    assert_read_or_refused(lambda: read_schema(data[:4] + b"BFBS" + data[4:]))


def test_a_schema_whose_types_are_one_type_many_times_is_refused_at_once() -> None:
    """Every table's field list may be as long as the file, and every table the same one: the product must not be read."""
    builder = flatbuffers.Builder(1 << 20)
    described = _field_of(builder)
    fields = _offsets(builder, [described] * 20_000)
    name = builder.CreateString("t.T")
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(1, fields, 0)
    table = builder.EndObject()
    objects = _offsets(builder, [table] * 20_000)
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(0, objects, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"BFBS")
    with pytest.raises(RecordingFormatError, match="damaged"):
        read_schema(bytes(builder.Output()), "t.T")


def _field_of(builder: flatbuffers.Builder) -> int:
    builder.StartObject(6)
    builder.PrependInt8Slot(0, FLOAT, 0)
    kind = builder.EndObject()
    name = builder.CreateString("x")
    builder.StartObject(14)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(1, kind, 0)
    return builder.EndObject()


# As messages of a recording


def test_a_flatbuffer_topic_is_decoded_by_its_schema() -> None:
    kind = message_kind("flatbuffer", Schema(1, SCHEMA, "flatbuffer", "t.Everything"))
    message = kind.decode(Whole().encoded())
    assert (kind.short_schema, field_names(message)[0]) == ("t/Everything".rpartition("/")[2], "on")
    with pytest.raises(RecordingFormatError, match=r"does not decode: 3 bytes are too few.*found 3 bytes"):
        kind.decode(b"abc")


def test_a_stamp_of_seconds_and_nanoseconds_is_a_struct() -> None:
    message = read_schema(schema_bytes(COMPRESSED_IMAGE)).read(compressed_image(b"x", 12_000_000_034))
    assert (follow(message, "timestamp.sec"), follow(message, "timestamp.nsec")) == (12, 34)
    assert {f.base_type for f in read_schema(schema_bytes(COMPRESSED_IMAGE)).objects[1].fields.values()} == {UINT}
