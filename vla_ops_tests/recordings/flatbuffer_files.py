"""Build FlatBuffers messages and their binary schemas (.bfbs) with the flatbuffers builder, as foxglove and AIRBOT write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import flatbuffers
import numpy as np

# BaseType of reflection.fbs.
UBYTE, UINT, FLOAT, DOUBLE, STRING, VECTOR, OBJECT = 4, 8, 11, 12, 13, 14, 15
_SIZES = {UBYTE: 1, UINT: 4, FLOAT: 4, DOUBLE: 8}


@dataclass(frozen=True)
class Kind:
    """The type of a field: a base type, the elements of a vector, or the place of an object in the schema."""

    base: int
    element: int = 0
    index: int = -1


@dataclass(frozen=True)
class Object:
    """A table, or a struct of numbers."""

    name: str
    fields: Mapping[str, Kind]
    is_struct: bool = False


FLOAT_ARRAY = [Object("airbot_fbs.FloatArray", {"values": Kind(VECTOR, FLOAT)})]
_TIME = Object("foxglove.Time", {"sec": Kind(UINT), "nsec": Kind(UINT)}, is_struct=True)
COMPRESSED_IMAGE = [
    Object(
        "foxglove.CompressedImage",
        {"timestamp": Kind(OBJECT, index=1), "frame_id": Kind(STRING), "data": Kind(VECTOR, UBYTE), "format": Kind(STRING)},
    ),
    _TIME,
]
RAW_IMAGE = [
    Object(
        "foxglove.RawImage",
        {
            "timestamp": Kind(OBJECT, index=1),
            "frame_id": Kind(STRING),
            "width": Kind(UINT),
            "height": Kind(UINT),
            "encoding": Kind(STRING),
            "step": Kind(UINT),
            "data": Kind(VECTOR, UBYTE),
        },
    ),
    _TIME,
]


def schema_bytes(objects: Sequence[Object]) -> bytes:
    """The .bfbs of `objects`; the first is the root table."""
    builder = flatbuffers.Builder(1024)
    tables = [_write_object(builder, o) for o in objects]
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    vector = builder.EndVector()
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.PrependUOffsetTRelativeSlot(4, tables[0], 0)
    builder.Finish(builder.EndObject(), file_identifier=b"BFBS")
    return bytes(builder.Output())


def _write_object(builder: flatbuffers.Builder, spec: Object) -> int:
    offset, fields = 0, []
    for slot, (name, kind) in enumerate(spec.fields.items()):
        fields.append((name, _write_field(builder, name, kind, slot=slot, offset=offset if spec.is_struct else 4 + 2 * slot)))
        offset += _SIZES.get(kind.base, 0)
    # reflection.fbs keeps fields sorted by name.
    builder.StartVector(4, len(fields), 4)
    for _, field in sorted(fields, reverse=True):
        builder.PrependUOffsetTRelative(field)
    vector = builder.EndVector()
    name = builder.CreateString(spec.name)
    builder.StartObject(8)
    builder.PrependUOffsetTRelativeSlot(0, name, 0)
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    builder.PrependBoolSlot(2, spec.is_struct, 0)
    builder.PrependInt32Slot(4, offset if spec.is_struct else 0, 0)
    return builder.EndObject()


def _write_field(builder: flatbuffers.Builder, name: str, kind: Kind, *, slot: int, offset: int) -> int:
    builder.StartObject(6)
    builder.PrependInt8Slot(0, kind.base, 0)
    builder.PrependInt8Slot(1, kind.element, 0)
    builder.PrependInt32Slot(2, kind.index, -1)
    described = builder.EndObject()
    text = builder.CreateString(name)
    builder.StartObject(14)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.PrependUOffsetTRelativeSlot(1, described, 0)
    builder.PrependUint16Slot(2, slot, 0)
    builder.PrependUint16Slot(3, offset, 0)
    return builder.EndObject()


def float_array(values: Sequence[float] | np.ndarray) -> bytes:
    """One airbot_fbs.FloatArray."""
    builder = flatbuffers.Builder(64)
    vector = builder.CreateNumpyVector(np.asarray(values, np.float32))
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def compressed_image(data: bytes, stamp_ns: int, format: str = "jpeg") -> bytes:
    """One foxglove.CompressedImage."""
    builder = flatbuffers.Builder(len(data) + 256)
    texts = [builder.CreateString("airbot"), builder.CreateByteVector(data), builder.CreateString(format)]
    builder.StartObject(4)
    _time_slot(builder, stamp_ns)
    for slot, place in enumerate(texts, start=1):
        builder.PrependUOffsetTRelativeSlot(slot, place, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def raw_image(pixels: np.ndarray, stamp_ns: int, encoding: str = "rgb8") -> bytes:
    """One foxglove.RawImage of uint8 pixels [H, W, C]."""
    builder = flatbuffers.Builder(pixels.size + 256)
    frame, data, said = builder.CreateString("airbot"), builder.CreateByteVector(pixels.tobytes()), builder.CreateString(encoding)
    height, width, channels = pixels.shape
    builder.StartObject(7)
    _time_slot(builder, stamp_ns)
    builder.PrependUOffsetTRelativeSlot(1, frame, 0)
    builder.PrependUint32Slot(2, width, 0)
    builder.PrependUint32Slot(3, height, 0)
    builder.PrependUOffsetTRelativeSlot(4, said, 0)
    builder.PrependUint32Slot(5, width * channels, 0)
    builder.PrependUOffsetTRelativeSlot(6, data, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _time_slot(builder: flatbuffers.Builder, stamp_ns: int) -> None:
    builder.Prep(4, 8)
    builder.PrependUint32(stamp_ns % 10**9)
    builder.PrependUint32(stamp_ns // 10**9)
    builder.PrependStructSlot(0, builder.Offset(), 0)
