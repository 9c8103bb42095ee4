"""Where the numbers lie in messages of common kinds, so that thousands are read in one step instead of decoded one by one.

Read from the first message. The bytes that decide it (lengths, names, offsets) are compared in every other message; those that
differ there are decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from vla_ops.recordings.base import Float64, Int64, UInt8
from vla_ops.recordings.flatbuffer import BROKEN_OFFSETS
from vla_ops.recordings.messages import MessageKind

# Seconds and nanoseconds of a header: behind the encapsulation in CDR, behind the sequence number in ROS 1.
_STAMP = 4
_CDR_LITTLE_ENDIAN = b"\x00\x01"
_HEADER_FIRST = re.compile(r"^\s*(?:std_msgs/)?(?:msg/)?Header\s+header\s*(?:#|$)")
_FLOATS = {"Float32MultiArray": "<f4", "Float64MultiArray": "<f8"}
_POSES = {"pose": (0, 7), "pose.position": (0, 3), "pose.orientation": (3, 7)}


@dataclass(frozen=True)
class NumbersPlace:
    """`count` numbers at byte `start`. Messages that are equal in the `fixed` ranges have them in the same place."""

    start: int
    count: int
    dtype: str
    fixed: tuple[tuple[int, int], ...]

    @property
    def stop(self) -> int:
        """Where they end."""
        return self.start + self.count * np.dtype(self.dtype).itemsize

    def read(self, columns: UInt8) -> Float64:
        """The numbers from their bytes, uint8 [n, stop - start], as float64 [n, count]."""
        return np.ascontiguousarray(columns).view(self.dtype).astype(np.float64)


def numbers_place(kind: MessageKind, data: bytes, path: str) -> NumbersPlace | None:
    """Where `data` has the numbers of the field `path`, or None where only decoding tells."""
    try:
        if kind.flat is not None:
            return _in_flatbuffer(kind, data, path)
        find = _FINDERS.get(kind.short_schema)
        if find is None or not _is_ros(kind, data):
            return None
        return find(_Cursor(data, is_cdr=kind.encoding == "cdr"), kind.short_schema, path)
    except BROKEN_OFFSETS:
        return None


def _is_ros(kind: MessageKind, data: bytes) -> bool:
    package = kind.schema.partition("/")[0]
    known = package in {"sensor_msgs", "std_msgs", "geometry_msgs"}
    return known and (kind.encoding == "ros1" or (kind.encoding == "cdr" and data[:2] == _CDR_LITTLE_ENDIAN))


def _in_flatbuffer(kind: MessageKind, data: bytes, path: str) -> NumbersPlace | None:
    message = kind.flat.read(data) if kind.flat else None
    if message is None or path not in message.type.fields:
        return None
    found, dtype = message.vector_at(path), message.type.fields[path].element_dtype
    if found is None or not dtype or not found[1] or found[0] + found[1] * np.dtype(dtype).itemsize > len(data):
        return None
    return NumbersPlace(found[0], found[1], dtype, tuple(message.layout_at(path)))


@dataclass
class _Cursor:
    """Reads a ROS message from its beginning and notes which bytes decided where it is now."""

    data: bytes
    is_cdr: bool
    fixed: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.at = 4 if self.is_cdr else 0
        if self.is_cdr:
            self.fixed.append((0, 4))

    def length(self) -> int:
        """Read the length of a string or sequence."""
        self.align(4)
        (value,) = struct.unpack_from("<I", self.data, self.at)
        self._take(4)
        return value

    def text(self) -> None:
        """Pass a string."""
        self._take(self.length())

    def header(self) -> None:
        """Pass a std_msgs/Header; its stamp decides nothing."""
        self.at = _STAMP + 8
        self.text()

    def skip(self, size: int, *, align: int = 1) -> None:
        """Pass bytes whose value decides nothing."""
        self.align(align)
        self.at += size

    def align(self, size: int) -> None:
        """Go to the next multiple of `size`; ROS 1 has none."""
        if self.is_cdr:
            self.at += -(self.at - 4) % size

    def here(self, count: int, dtype: str) -> NumbersPlace | None:
        """`count` numbers from here on, or None if they do not fit."""
        place = NumbersPlace(self.at, count, dtype, tuple(self.fixed))
        return place if count and place.stop <= len(self.data) else None

    def _take(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise IndexError("the message ends early")
        self.fixed.append((self.at, self.at + size))
        self.at += size


def _joint_state(cursor: _Cursor, _: str, path: str) -> NumbersPlace | None:
    cursor.header()
    for _name in range(cursor.length()):
        cursor.text()
    for name in ("position", "velocity", "effort"):
        count = cursor.length()
        if count:
            cursor.align(8)
        if name == path:
            return cursor.here(count, "<f8")
        cursor.skip(8 * count)
    return None


def _multi_array(cursor: _Cursor, schema: str, path: str) -> NumbersPlace | None:
    for _dimension in range(cursor.length()):
        cursor.text()
        cursor.skip(8, align=4)
    cursor.skip(4, align=4)
    count, dtype = cursor.length(), _FLOATS[schema]
    cursor.align(np.dtype(dtype).itemsize)
    return cursor.here(count, dtype) if path == "data" else None


def _pose_stamped(cursor: _Cursor, _: str, path: str) -> NumbersPlace | None:
    if path not in _POSES:
        return None
    cursor.header()
    first, last = _POSES[path]
    cursor.skip(8 * first, align=8)
    return cursor.here(last - first, "<f8")


type _Finder = Callable[[_Cursor, str, str], NumbersPlace | None]
_FINDERS: dict[str, _Finder] = {"JointState": _joint_state, "PoseStamped": _pose_stamped, **dict.fromkeys(_FLOATS, _multi_array)}


def has_ros_header(kind: MessageKind) -> bool:
    """True for ROS messages that begin with a std_msgs/Header."""
    lines = (line for line in kind.definition.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return bool(_HEADER_FIRST.match(next(lines, "")))


STAMP_RANGE = (_STAMP, _STAMP + 8)


def stamps_of_headers(columns: UInt8, kind: MessageKind) -> Int64:
    """Stamps in ns from the bytes STAMP_RANGE of messages that begin with a header, uint8 [n, 8] -> int64 [n]."""
    parts = np.ascontiguousarray(columns).view("<u4" if kind.encoding == "ros1" else "<i4").astype(np.int64)
    nanoseconds = np.ascontiguousarray(columns[:, 4:]).view("<u4")[:, 0].astype(np.int64)
    return parts[:, 0] * 10**9 + nanoseconds
