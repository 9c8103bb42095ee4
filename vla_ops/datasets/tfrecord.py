"""TFRecord files and `tf.train.Example`, without TensorFlow.

A file is a row of records, each: length (u64), masked CRC-32C of the length (u32), payload, masked CRC-32C of the payload (u32), all
little endian. An Example is a protobuf message: a map from names to lists of bytes, float32 or int64.

It is put together here because protobuf's own Python package takes 30 ms to serialize 12 MB of images, longer than all else but
encoding them. The tests compare the two.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np

from vla_ops.errors import DatasetError

type Values = Sequence[bytes] | Sequence[int] | Sequence[float]

_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
_HEAD = _LENGTH.size + _CRC.size
# What is in a record besides its payload.
FRAMING_BYTES = _HEAD + _CRC.size
# Protobuf messages end there, and so does what readers can read.
MAX_BYTES = 2**31 - 1
_DELIMITED = 2
_UINT64 = 2**64 - 1


def write_record(file: BinaryIO, payload: bytes) -> None:
    """Append one record."""
    length = _LENGTH.pack(len(payload))
    file.write(length + _masked_crc(length))
    file.write(payload)
    file.write(_masked_crc(payload))


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    # Rotated and shifted, because the CRC of data that hold their own CRC says nothing.
    return _CRC.pack((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def read_records(path: Path) -> Iterator[memoryview]:
    """Yield each record as it stands in the file, framing included; only what is looked at is read.

    Raise DatasetError naming the file and the record if one is cut off or its length is damaged.
    """
    with path.open("rb") as file:
        # Not closed by hand: whoever still looks at a record holds it open.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")
    at, number = 0, 0
    while at < len(data):
        length = bytes(data[at : at + _LENGTH.size])
        size = FRAMING_BYTES + _LENGTH.unpack(length)[0] if len(length) == _LENGTH.size else 0
        if data[at + _LENGTH.size : at + _HEAD] != _masked_crc(length) or at + size > len(data):
            raise damaged(path, f"record {number} is cut off or its length is damaged, at byte {at} of {len(data)}")
        yield data[at : at + size]
        at, number = at + size, number + 1


def checked_payload(record: memoryview, path: Path) -> bytes:
    """The payload of a record of `read_records`. Raise DatasetError naming the file if it is not what was written."""
    payload = bytes(record[_HEAD : -_CRC.size])
    if record[-_CRC.size :] != _masked_crc(payload):
        raise damaged(path, "a record's checksum is not that of its bytes")
    return payload


def damaged(path: Path, found: str) -> DatasetError:
    """The error for a file that is not as it was written."""
    return DatasetError("a TFRecord file is damaged", file=path, found=found, todo=f"Delete {path}; what it held is then written anew.")


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Serialize name -> values (all bytes, all int or all float, at least one) as a `tf.train.Example`, always to the same bytes."""
    # A map is a repeated message of key and value.
    entries = (_field(1, [*_field(1, [name.encode()]), *_field(2, _feature(features[name]))]) for name in sorted(features))
    return b"".join(_field(1, [part for entry in entries for part in entry]))


def _feature(values: Values) -> list[bytes]:
    if isinstance(values[0], bytes):
        return _field(1, [part for value in values for part in _field(1, [value])])
    if isinstance(values[0], float):
        return _field(2, _field(1, [np.asarray(values, "<f4").tobytes()]))
    return _field(3, _field(1, [_varint(int(value)) for value in values]))


def _field(number: int, parts: list[Any]) -> list[bytes]:
    """A length-delimited field that holds `parts` one after the other, as parts itself: megabytes of images are joined only once."""
    return [_varint(number << 3 | _DELIMITED) + _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    digits = bytearray()
    value &= _UINT64
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def count_values(record: memoryview, name: str) -> int:
    """Count the values of a bool feature in a record of `read_records`, without reading the others.

    Raise DatasetError if it is not an Example.
    """
    try:
        for _, features in _fields(record[_HEAD : -_CRC.size]):
            for _, entry in _fields(features):
                parts = dict(_fields(entry))
                if bytes(parts[1]) == name.encode():
                    # Feature.int64_list.value, packed: a bool is one byte.
                    return sum(len(packed) for _, values in _fields(parts[2]) for _, packed in _fields(values))
    except (IndexError, KeyError) as error:
        raise DatasetError("a record is not a tf.train.Example", found=repr(error)) from error
    return 0


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (number, bytes) of a message that has only length-delimited fields, as all down to an Example's values have."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        if tag & 7 != _DELIMITED:
            raise DatasetError("a record is not a tf.train.Example", found=f"wire type {tag & 7}", expected=f"wire type {_DELIMITED}")
        size, at = _read_varint(message, at)
        if at + size > len(message):
            raise IndexError(f"a field of {size} bytes in {len(message)}")
        yield tag >> 3, message[at : at + size]
        at += size


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
