"""Read FlatBuffers messages by the reflection schema (.bfbs) that recorders store beside them, without generated code.

Nothing is copied until it is asked for: a table looks a field up by name and follows its offset.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from flatbuffers.table import Table

from vla_ops.errors import RecordingFormatError, UnknownEncodingError

_IDENTIFIER = b"BFBS"
# BaseType of reflection.fbs, in its order.
_BOOL, _UBYTE, _FLOAT, _STRING, _VECTOR, _OBJECT, _ARRAY = 2, 4, 11, 13, 14, 15, 17
_SCALARS = {1: "u1", 2: "u1", 3: "i1", 4: "u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<u4", 9: "<i8", 10: "<u8", 11: "<f4", 12: "<f8"}
# Errors of following an offset that leads out of the buffer.
BROKEN_OFFSETS = (struct.error, IndexError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True)
class Field:
    """One field of a table (`slot`: its place in the vtable) or of a struct (`slot`: its offset)."""

    name: str
    slot: int
    base_type: int
    element: int
    index: int
    fixed_length: int
    default_integer: int
    default_real: float

    @property
    def element_dtype(self) -> str:
        """NumPy's name for the elements of a vector of numbers; empty for other fields."""
        return _SCALARS.get(self.element, "") if self.base_type == _VECTOR else ""


@dataclass(frozen=True)
class ObjectType:
    """A table or struct of the schema, its fields by name in the order of their slots."""

    name: str
    is_struct: bool
    size: int
    fields: Mapping[str, Field]


@dataclass(frozen=True)
class FlatSchema:
    """The types of a .bfbs, and the one that messages begin with."""

    objects: tuple[ObjectType, ...]
    root: ObjectType

    def read(self, data: bytes) -> FlatObject:
        """Open one message. Raise ValueError if it is too short to hold a table."""
        if len(data) < 8:
            raise ValueError(f"{len(data)} bytes are too few for a flatbuffer")
        (position,) = struct.unpack_from("<I", data)
        return FlatObject(self, self.root, Table(data, position))


@dataclass(frozen=True)
class FlatObject:
    """A table or struct in a message."""

    schema: FlatSchema
    type: ObjectType
    table: Table = field(repr=False)

    def names(self) -> tuple[str, ...]:
        """The names of its fields that can be read (no unions)."""
        return tuple(name for name, spec in self.type.fields.items() if _is_readable(spec))

    def get(self, name: str) -> object:
        """A field's value: a number, text, numbers as an array, bytes for ubyte vectors, an object, a list of objects, or None.

        Raise KeyError if the schema has no such field. What is absent is the default, an empty vector, or None.
        """
        spec = self.type.fields[name]
        try:
            return _value(self.schema, spec, self.table, self._place(spec))
        except BROKEN_OFFSETS as error:
            raise RecordingFormatError(f"a message does not decode: {error}", field=name, found=f"{len(self.table.Bytes)} bytes") from error

    def vector_at(self, name: str) -> tuple[int, int] | None:
        """Where the numbers of a vector field begin in the buffer and how many there are, or None where there is none."""
        spec = self.type.fields[name]
        place = self._place(spec)
        if spec.base_type != _VECTOR or not place:
            return None
        return _vector(self.table, place, _element_size(self.schema, spec))

    def layout_at(self, name: str) -> list[tuple[int, int]]:
        """The (start, stop) in the buffer that decide where the vector `name` lies: equal there, two messages have it in one place."""
        start, _ = self.vector_at(name) or (0, 0)
        position = self.table.Pos
        vtable = position - _number(self.table, position, "<i4")
        place = self._place(self.type.fields[name])
        size = _number(self.table, vtable, "<u2")
        return [(0, 4), (position, position + 4), (vtable, vtable + size), (place, place + 4), (start - 4, start)]

    def _place(self, spec: Field) -> int:
        if self.type.is_struct:
            return self.table.Pos + spec.slot
        offset = self.table.Offset(spec.slot)
        return self.table.Pos + offset if offset else 0


def _is_readable(spec: Field) -> bool:
    if spec.base_type == _VECTOR:
        return spec.element in {*_SCALARS, _STRING, _OBJECT}
    return spec.base_type in {*_SCALARS, _STRING, _OBJECT} or (spec.base_type == _ARRAY and spec.element in _SCALARS)


def _value(schema: FlatSchema, spec: Field, table: Table, place: int) -> object:
    kind = spec.base_type
    if kind in _SCALARS:
        default = spec.default_real if kind >= _FLOAT else spec.default_integer
        value = _number(table, place, _SCALARS[kind]) if place else default
        return bool(value) if kind == _BOOL else value
    if kind == _VECTOR:
        return _elements(schema, spec, table, place)
    if not place:
        return None
    if kind == _STRING:
        return _string(table, place)
    if kind == _OBJECT:
        inner = schema.objects[spec.index]
        return FlatObject(schema, inner, Table(table.Bytes, place if inner.is_struct else table.Indirect(place)))
    if kind == _ARRAY and spec.element in _SCALARS:
        return np.frombuffer(table.Bytes, _SCALARS[spec.element], spec.fixed_length, place)
    raise UnknownEncodingError("a FlatBuffers field of a kind that is not read here", field=spec.name, found=f"base type {kind}")


def _elements(schema: FlatSchema, spec: Field, table: Table, place: int) -> object:
    start, count = _vector(table, place, _element_size(schema, spec)) if place else (0, 0)
    if spec.element in _SCALARS:
        dtype = np.dtype(_SCALARS[spec.element])
        if spec.element == _UBYTE:
            return bytes(memoryview(table.Bytes)[start : start + count])
        return np.frombuffer(table.Bytes, dtype, count, start) if count else np.empty(0, dtype)
    if spec.element == _STRING:
        return [_string(table, start + 4 * k) for k in range(count)]
    if spec.element == _OBJECT:
        inner = schema.objects[spec.index]
        places = (start + inner.size * k if inner.is_struct else table.Indirect(start + 4 * k) for k in range(count))
        return [FlatObject(schema, inner, Table(table.Bytes, p)) for p in places]
    raise UnknownEncodingError("a FlatBuffers vector of a kind that is not read here", field=spec.name, found=f"base type {spec.element}")


def _element_size(schema: FlatSchema, spec: Field) -> int:
    """Bytes of one element of a vector: structs lie in it, tables and strings are offsets."""
    inner = schema.objects[spec.index] if spec.element == _OBJECT else None
    if inner is not None and inner.is_struct:
        return max(inner.size, 1)
    return np.dtype(_SCALARS[spec.element]).itemsize if spec.element in _SCALARS else 4


def _vector(table: Table, place: int, size: int) -> tuple[int, int]:
    """First element and length of the vector of elements of `size` bytes whose offset is at `place`.

    Raise IndexError if it is longer than its message: a damaged length may say four billion, and slices would be cut short silently.
    """
    at = table.Indirect(place)
    start, count = at + 4, _number(table, at, "<u4")
    if start + count * size > len(table.Bytes):
        raise IndexError(f"a vector of {count} elements at byte {start} is longer than its buffer")
    return start, count


def _string(table: Table, place: int) -> str:
    """The text whose offset is at `place`."""
    start, length = _vector(table, place, 1)
    return bytes(table.Bytes[start : start + length]).decode("utf-8", "replace")


def _number(table: Table, at: int, dtype: str) -> int:
    return np.frombuffer(table.Bytes, dtype, 1, at)[0].item()


def read_schema(data: bytes, name: str = "") -> FlatSchema:
    """Read a .bfbs. Messages begin with the table `name` if it is in there, else with its root table.

    Raise RecordingFormatError if it is none.
    """
    if data[4:8] != _IDENTIFIER:
        raise RecordingFormatError("the schema is not a binary FlatBuffers schema (.bfbs)", schema=name, found=f"bytes {data[:8].hex(' ')}")
    try:
        schema = Table(data, struct.unpack_from("<I", data)[0])
        tables = list(_tables(schema, 4))
        # Damaged offsets may give every table one long list of fields; reading the product would take hours.
        if 4 * sum(_list_at(table, 6)[1] for table in tables) > len(data):
            raise IndexError("there are more fields than bytes for them")
        objects = tuple(_object(table) for table in tables)
        root = schema.Offset(10 + 2)
        root_name = _object(Table(data, schema.Indirect(schema.Pos + root))).name if root else ""
    except BROKEN_OFFSETS as error:
        raise RecordingFormatError("the FlatBuffers schema is damaged", schema=name) from error
    by_name = {o.name: o for o in objects}
    if name not in by_name and root_name not in by_name:
        raise RecordingFormatError("the FlatBuffers schema lacks its table", schema=name, found=", ".join(by_name), expected=name)
    return FlatSchema(objects, by_name.get(name) or by_name[root_name])


def _object(table: Table) -> ObjectType:
    fields = sorted((_field(t) for t in _tables(table, 6)), key=lambda f: f.slot)
    size = _scalar(table, 12, "<i4")
    return ObjectType(_text(table, 4), bool(_scalar(table, 8, "u1")), int(size), {f.name: f for f in fields})


def _field(table: Table) -> Field:
    kind = Table(table.Bytes, table.Indirect(table.Pos + table.Offset(6)))
    return Field(
        name=_text(table, 4),
        slot=int(_scalar(table, 10, "<u2")),
        base_type=int(_scalar(kind, 4, "i1")),
        element=int(_scalar(kind, 6, "i1")),
        index=int(_scalar(kind, 8, "<i4", -1)),
        fixed_length=int(_scalar(kind, 10, "<u2")),
        default_integer=int(_scalar(table, 12, "<i8")),
        default_real=float(_scalar(table, 14, "<f8")),
    )


def _tables(table: Table, slot: int) -> Iterator[Table]:
    start, count = _list_at(table, slot)
    for k in range(count):
        yield Table(table.Bytes, table.Indirect(start + 4 * k))


def _list_at(table: Table, slot: int) -> tuple[int, int]:
    """First element and length of a vector of tables."""
    offset = table.Offset(slot)
    return _vector(table, table.Pos + offset, 4) if offset else (0, 0)


def _text(table: Table, slot: int) -> str:
    offset = table.Offset(slot)
    return _string(table, table.Pos + offset) if offset else ""


def _scalar(table: Table, slot: int, dtype: str, default: int = 0) -> float:
    offset = table.Offset(slot)
    return _number(table, table.Pos + offset, dtype) if offset else default
