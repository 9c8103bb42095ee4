"""FlatBuffer messages read by the binary schema (.bfbs) that the recording carries; no generated code.

The layout of a .bfbs is itself a FlatBuffer: https://github.com/google/flatbuffers/blob/master/reflection/reflection.fbs
A decoded table is a dict of its fields; vectors of scalars are numpy arrays, vectors of bytes are bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# reflection.BaseType -> numpy dtype of scalars.
_SCALARS: dict[int, str] = {
    2: "<b1", 3: "<i1", 4: "<u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<u4", 9: "<i8", 10: "<u8", 11: "<f4", 12: "<f8", 1: "<u1",
}  # fmt: skip
_STRING, _VECTOR, _OBJ, _UNION = 13, 14, 15, 16
_BYTES = (3, 4)


@dataclass(frozen=True)
class _Field:
    name: str
    base: int
    element: int
    # Index of the object type, for tables, structs and vectors of them.
    index: int
    # Offset in the vtable for tables, in the struct itself for structs.
    offset: int


@dataclass(frozen=True)
class _Object:
    name: str
    fields: tuple[_Field, ...]
    is_struct: bool
    size: int


class FlatBufferSchema:
    """The object types of a .bfbs and its root table."""

    def __init__(self, bfbs: bytes) -> None:
        self._data = bfbs
        root = _u32(bfbs, 0)
        objects = _table_field(bfbs, root, 4)
        if objects is None:
            raise ValueError("the schema has no object types")
        self._objects = [self._object(position) for position in _vector_of_tables(bfbs, objects)]
        table = _table_field(bfbs, root, 12)
        if table is None:
            raise ValueError("the schema names no root table")
        name = self._text(_indirect(bfbs, table), 4)
        self._root = next(o for o in self._objects if o.name == name)

    def decode(self, data: bytes) -> dict[str, Any]:
        """Decode one message. Raise struct.error, ValueError or IndexError if its bytes do not fit the schema."""
        return self._table(data, _u32(data, 0), self._root)

    def _object(self, position: int) -> _Object:
        fields = _table_field(self._data, position, 6)
        found = [self._field(p) for p in _vector_of_tables(self._data, fields)] if fields is not None else []
        is_struct = _scalar(self._data, position, 8, "<b1", 0)
        size = _scalar(self._data, position, 12, "<i4", 0)
        # Stored by name; offsets give back the order of declaration.
        ordered = tuple(sorted(found, key=lambda f: f.offset))
        return _Object(self._text(position, 4), ordered, bool(is_struct), int(size))

    def _field(self, position: int) -> _Field:
        kind = _table_field(self._data, position, 6)
        if kind is None:
            raise ValueError("a field of the schema has no type")
        type_ = _indirect(self._data, kind)
        base, element = (int(_scalar(self._data, type_, slot, "<u1", 0)) for slot in (4, 6))
        index = int(_scalar(self._data, type_, 8, "<i4", -1))
        return _Field(self._text(position, 4), base, element, index, int(_scalar(self._data, position, 10, "<u2", 0)))

    def _text(self, position: int, slot: int) -> str:
        at = _table_field(self._data, position, slot)
        return "" if at is None else _string(self._data, at)

    def _table(self, data: bytes, position: int, kind: _Object) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for field in kind.fields:
            at = _table_field(data, position, field.offset)
            values[field.name] = _default(field) if at is None else self._value(data, at, field)
        return values

    def _value(self, data: bytes, at: int, field: _Field) -> Any:
        if field.base in _SCALARS:
            return np.frombuffer(data, _SCALARS[field.base], 1, at)[0].item()
        if field.base == _STRING:
            return _string(data, at)
        if field.base == _OBJ:
            kind = self._objects[field.index]
            return self._struct(data, at, kind) if kind.is_struct else self._table(data, _indirect(data, at), kind)
        if field.base == _VECTOR:
            return self._vector(data, at, field)
        return None

    def _struct(self, data: bytes, at: int, kind: _Object) -> dict[str, Any]:
        return {field.name: self._value(data, at + field.offset, field) for field in kind.fields}

    def _vector(self, data: bytes, at: int, field: _Field) -> Any:
        start = _indirect(data, at)
        count = _u32(data, start)
        if field.element in _BYTES:
            return data[start + 4 : start + 4 + count]
        if field.element in _SCALARS:
            return np.frombuffer(data, _SCALARS[field.element], count, start + 4)
        if field.element == _STRING:
            return [_string(data, start + 4 + 4 * k) for k in range(count)]
        kind = self._objects[field.index]
        if kind.is_struct:
            return [self._struct(data, start + 4 + kind.size * k, kind) for k in range(count)]
        return [self._table(data, _indirect(data, start + 4 + 4 * k), kind) for k in range(count)]


def decoder(bfbs: bytes) -> Callable[[bytes], dict[str, Any]]:
    """A function that decodes messages of the schema."""
    return FlatBufferSchema(bfbs).decode


def _default(field: _Field) -> Any:
    if field.base == _VECTOR:
        return b"" if field.element in _BYTES else np.zeros(0) if field.element in _SCALARS else []
    return "" if field.base == _STRING else 0 if field.base in _SCALARS else None


def _u32(data: bytes, at: int) -> int:
    return struct.unpack_from("<I", data, at)[0]


def _indirect(data: bytes, at: int) -> int:
    return at + _u32(data, at)


def _table_field(data: bytes, table: int, slot: int) -> int | None:
    """Where a field of a table lies, or None if it is absent. `slot` is its place in the vtable."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if slot >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + slot)[0]
    return table + offset if offset else None


def _scalar(data: bytes, table: int, slot: int, dtype: str, default: int) -> int:
    at = _table_field(data, table, slot)
    return default if at is None else np.frombuffer(data, dtype, 1, at)[0].item()


def _string(data: bytes, at: int) -> str:
    start = _indirect(data, at)
    return data[start + 4 : start + 4 + _u32(data, start)].decode("utf-8")


def _vector_of_tables(data: bytes, at: int) -> list[int]:
    start = _indirect(data, at)
    return [_indirect(data, start + 4 + 4 * k) for k in range(_u32(data, start))]
