"""TFRecord files and Examples against a second reader, against what real tools wrote, and with damage of every sort."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.datasets.tfrecord import checked_payload, count_values, encode_example, read_records, write_record
from vla_ops.errors import DatasetError
from vla_ops_tests.datasets.rlds_reading import bitwise_crc32c, example_class, masked, parse_example, split_records

EXAMPLE = example_class()
FLOATS = st.floats(width=32, allow_nan=False)
VALUES = st.lists(st.binary(), min_size=1) | st.lists(FLOATS, min_size=1) | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1)


def write(path, payloads):
    with path.open("wb") as file:
        for payload in payloads:
            write_record(file, payload)
    return path


def test_the_bitwise_crc_is_crc32c():
    assert bitwise_crc32c(b"123456789") == 0xE3069283


@given(payloads=st.lists(st.binary(max_size=200), max_size=5))
def test_records_are_framed_with_the_masked_crc_of_length_and_payload(payloads, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("records") / "file", payloads)
    records = split_records(path)
    assert [payload for _, _, payload, _ in records] == payloads
    for length, of_length, payload, of_payload in records:
        assert of_length == masked(bitwise_crc32c(length))
        assert of_payload == masked(bitwise_crc32c(payload))
    assert [checked_payload(record, path) for record in read_records(path)] == payloads


@given(st.dictionaries(st.text(min_size=1), VALUES, min_size=1))
def test_an_example_is_what_protobuf_itself_writes_and_another_parser_reads(features):
    message = EXAMPLE()
    for name, values in features.items():
        kind = {bytes: "bytes_list", float: "float_list", int: "int64_list"}[type(values[0])]
        getattr(message.features.feature[name], kind).value.extend(values)
    ours = encode_example(features)
    # Which order protobuf gives a map is its own affair.
    assert (EXAMPLE.FromString(ours), len(ours)) == (message, message.ByteSize())
    assert parse_example(ours) == {name: [value % 2**64 if type(value) is int else value for value in v] for name, v in features.items()}


def test_an_example_is_the_same_bytes_whatever_the_order_of_its_features():
    features = {name: [float(k)] for k, name in enumerate("zyxwa")}
    assert encode_example(features) == encode_example(dict(reversed(features.items())))


def test_the_steps_of_real_episodes_are_counted_and_their_checksums_hold(recordings_dir):
    (path,) = (recordings_dir / "rlds").glob("bridge_dataset/*/*.tfrecord-*")
    records = list(read_records(path))
    assert [count_values(record, "steps/is_first") for record in records] == [10] * 25
    for record in records:
        features = parse_example(checked_payload(record, path))
        assert features["steps/is_first"] == [1] + [0] * 9
        assert len(features["steps/action"]) == 70
        assert parse_example(encode_example(features)) == features


def test_a_file_cut_off_anywhere_is_named_with_the_record(tmp_path):
    path = write(tmp_path / "file", [b"first", b"second"])
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        if size in (0, 16 + len(b"first")):
            assert len(list(read_records(path))) == min(size, 1)
            continue
        with pytest.raises(DatasetError, match=f"file {path}.*record {int(size > 21)} is cut off"):
            list(read_records(path))


def test_no_flipped_bit_goes_unseen(tmp_path):
    path = write(tmp_path / "file", [b"payload"])
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=str(path)):
            [checked_payload(record, path) for record in read_records(path)]


def test_a_record_that_is_no_example_is_refused(tmp_path):
    path = write(tmp_path / "file", [b"\x0a\x05\x0a\x03\x0a\x01"])
    with pytest.raises(DatasetError, match=r"not a tf\.train\.Example"):
        [count_values(record, "steps/is_first") for record in read_records(path)]
