"""Chunks of an MCAP file: decompressed once, kept for the threads that read at about the same place, and walked where no index is."""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from threading import Lock
from typing import Any, Protocol

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from vla_ops.errors import RecordingError, RecordingFormatError, UnknownEncodingError
from vla_ops.recordings.base import Int64
from vla_ops.recordings.byte_file import ByteFile
from vla_ops.recordings.mcap_file import BROKEN_RECORD, RECORD_HEAD, ChunkPlace, Entries

# Decompressed chunks are kept up to this size, and always the last one. Cameras lie in the same chunks.
_KEPT_BYTES = 64 * 2**20
_COMPRESSIONS = "none | zstd | lz4"
# Of a chunk record, behind opcode and length: first and last log time, size decompressed, CRC, length of the compression's name.
_CHUNK_HEAD = struct.Struct("<QQQII")
# Of a message record, behind opcode and length: channel, sequence, log time, publish time.
MESSAGE_HEAD = struct.Struct("<HIQQ")
_LATEST = 2**63 - 1
# Recorders close a chunk after some MB; more than this is a damaged length.
_LARGEST_CHUNK = 4 * 2**30


@dataclass
class _Kept:
    lock: Lock = field(default_factory=Lock)
    data: bytes | None = None


class Chunks:
    """The decompressed chunks of a file by number. Each is decompressed by one thread while the others wait for it."""

    def __init__(self, file: ByteFile, places: list[ChunkPlace], kept_bytes: int = _KEPT_BYTES) -> None:
        self.file, self.places, self._kept_bytes = file, places, kept_bytes
        self._lock = Lock()
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        # For tests and benchmarks: how many were decompressed.
        self.loads = 0

    def data(self, number: int) -> bytes:
        """The records of chunk `number`. Raise RecordingFormatError if it is damaged."""
        with self._lock:
            kept = self._kept.setdefault(number, _Kept())
            self._kept.move_to_end(number)
        with kept.lock:
            if kept.data is None:
                kept.data = self._load(number)
            data = kept.data
        self._drop_oldest(number)
        return data

    def _load(self, number: int) -> bytes:
        self.loads += 1
        try:
            return load_chunk(self.file, self.places[number])
        except RecordingError as error:
            raise error.at(chunk=number) from error.__cause__

    def _drop_oldest(self, number: int) -> None:
        with self._lock:
            total = sum(len(k.data) for k in self._kept.values() if k.data is not None)
            for old in list(self._kept):
                if total <= self._kept_bytes:
                    return
                data = self._kept[old].data
                if old != number and data is not None:
                    total -= len(data)
                    del self._kept[old]

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()


def load_chunk(file: ByteFile, place: ChunkPlace) -> bytes:
    """Read and decompress one chunk, and compare its CRC where it has one."""
    record = file.read(place.start, place.size)
    if len(record) < place.size:
        raise _damaged(place, f"the file ends {place.size - len(record)} bytes before it does")
    if place.is_plain:
        return record
    at = RECORD_HEAD.size + _CHUNK_HEAD.size
    if len(record) < at or record[0] != Opcode.CHUNK:
        raise _damaged(place, f"a record of kind {record[0] if record else 'none'} in its place")
    _, _, size, crc, name_length = _CHUNK_HEAD.unpack_from(record, RECORD_HEAD.size)
    compression = record[at : at + name_length].decode("utf-8", "replace")
    begin = at + name_length + 8
    stored = memoryview(record)[begin : begin + int.from_bytes(record[begin - 8 : begin], "little")]
    data = _decompress(stored, compression, size=size, place=place)
    if len(data) != size or (crc and zlib.crc32(data) != crc):
        raise _damaged(place, "other bytes than were written (its CRC or length differs)")
    return data


def _decompress(data: memoryview, compression: str, *, size: int, place: ChunkPlace) -> bytes:
    import lz4.frame
    import zstandard

    if size > _LARGEST_CHUNK:
        raise _damaged(place, f"a size of {size:,} bytes")
    match compression:
        case "" | "none":
            return bytes(data)
        case "zstd":
            try:
                if zstandard.frame_content_size(data) not in {-1, size}:
                    raise _damaged(place, "another length than was written")
                return zstandard.decompress(data, max_output_size=size) if size else b""
            except zstandard.ZstdError as error:
                raise _damaged(place, "zstd data that does not decompress") from error
        case "lz4":
            try:
                return lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1)
            except (RuntimeError, EOFError) as error:
                raise _damaged(place, "lz4 data that does not decompress") from error
    raise UnknownEncodingError("a chunk is compressed in a way that is not known here", found=compression, expected=_COMPRESSIONS)


def _damaged(place: ChunkPlace, found: str) -> RecordingFormatError:
    todo = "The file was damaged after or while it was written: copy it from the robot again, or leave it out."
    return RecordingFormatError("a chunk is damaged", byte=place.start, found=found, todo=todo)


@dataclass(frozen=True)
class Walked:
    """What the records of a chunk are, found without an index."""

    entries: Mapping[int, Entries]
    channels: Mapping[int, Channel]
    schemas: Mapping[int, Schema]


def walk(data: bytes, place: ChunkPlace) -> Walked:
    """Go through all records of a chunk. Raise RecordingFormatError where they do not fit into it."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    channels: dict[int, Channel] = {}
    schemas: dict[int, Schema] = {}
    at = 0
    while at + RECORD_HEAD.size <= len(data):
        opcode, length = RECORD_HEAD.unpack_from(data, at)
        body = at + RECORD_HEAD.size
        if body + length > len(data):
            raise _damaged(place, f"a record that is longer than the chunk, {at} bytes into it")
        if opcode == Opcode.MESSAGE and length >= MESSAGE_HEAD.size:
            channel, _, log_ns, _ = MESSAGE_HEAD.unpack_from(data, body)
            times, offsets = found.setdefault(channel, ([], []))
            times.append(log_ns)
            offsets.append(at)
        elif opcode == Opcode.CHANNEL:
            channel = parse_record(Channel, data[body : body + length], at=place.start)
            channels[channel.id] = channel
        elif opcode == Opcode.SCHEMA:
            schema = parse_record(Schema, data[body : body + length], at=place.start)
            schemas[schema.id] = schema
        at = body + length
    return Walked({c: as_entries(*lists) for c, lists in found.items()}, channels, schemas)


class _Readable(Protocol):
    @staticmethod
    def read(stream: ReadDataStream) -> Any: ...


def parse_record[T: _Readable](kind: type[T], body: bytes, *, at: int) -> T:
    """Parse a record with the library. Raise RecordingFormatError naming the byte if it is damaged."""
    try:
        return kind.read(ReadDataStream(BytesIO(body)))
    except BROKEN_RECORD as error:
        raise RecordingFormatError(f"a {kind.__name__.lower()} record is damaged", byte=at) from error


def as_entries(times: list[int], offsets: list[int]) -> Entries:
    """Entries from lists, in file order."""
    return Entries(nanoseconds(np.array(times, np.uint64)), np.array(offsets, np.int64))


def nanoseconds(times: np.ndarray) -> Int64:
    """uint64 stamps as int64. Raise RecordingFormatError for stamps after the year 2262: a clock that was never set."""
    if len(times) and int(times.max()) > _LATEST:
        raise RecordingFormatError("a stamp is out of range", found=f"{int(times.max())} ns", expected=f"at most {_LATEST}")
    return times.astype(np.int64)
