"""Numbers that are read from their place in a message's bytes are those that decoding it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.records import Schema

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.mcap_numbers import NumberReader, stamps_of
from vla_ops.recordings.message_layout import has_ros_header, numbers_place
from vla_ops.recordings.messages import (
    MessageKind,
    as_vector,
    follow,
    message_kind,
    stamp_ns,
)
from vla_ops_tests.recordings.encoded_messages import (
    FLAT,
    HEADERS,
    RULE,
    Said,
    batch,
    encoded,
    encodings,
    flat,
    ros_kind,
    schema_text,
)


def decoded(kind: MessageKind, data: bytes, path: str) -> np.ndarray:
    vector = as_vector(follow(kind.decode(data), path))
    assert vector is not None
    return vector


def placed(kind: MessageKind, data: bytes, path: str) -> np.ndarray:
    place = numbers_place(kind, data, path)
    assert place is not None
    return place.read(np.frombuffer(data, np.uint8)[None, place.start : place.stop])[0]


finite32 = st.floats(width=32, allow_nan=False)

finite64 = st.floats(allow_nan=False)

# ASCII: ROS 1 writes bytes, and lengths in bytes are what moves the numbers.
text = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12)


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
        "cdr", Schema(1, b"# a comment\nfloat64 x\nstd_msgs/Header header\n" + (RULE + HEADERS["cdr"]).encode(), "ros2msg", "t/msg/X")
    )
    assert not has_ros_header(kind)
    commented = ros_kind("cdr", "JointState").definition
    assert has_ros_header(MessageKind("cdr", "t/msg/Y", kind.decode, "# first\n\n" + commented))
