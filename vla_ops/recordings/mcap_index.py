"""Which messages a topic has and where they lie, from message indexes alone; chunks without the topic are never touched."""

from __future__ import annotations

import bisect
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from threading import RLock

import numpy as np
from mcap.opcode import Opcode
from mcap.records import Channel, Schema

from vla_ops.errors import RecordingFormatError, SchemaMismatchError
from vla_ops.recordings import refuse_folder
from vla_ops.recordings.base import Int64, UInt8
from vla_ops.recordings.byte_file import ByteFile, Range
from vla_ops.recordings.mcap_chunks import MESSAGE_HEAD, Chunks, nanoseconds, walk
from vla_ops.recordings.mcap_file import RECORD_HEAD, Contents, Entries, check_magic, is_whole, read_summary
from vla_ops.recordings.mcap_scan import scan
from vla_ops.recordings.place import Place

_INDEX_HEAD = struct.Struct("<HI")
_MESSAGE_DATA = RECORD_HEAD.size + MESSAGE_HEAD.size
_NONE = np.empty(0, np.int64)
# More of a message index is not fetched ahead.
_LONG_INDEX = 2**14


@dataclass(frozen=True)
class Table:
    """All messages of a topic in the order recorded: log times, chunk numbers and places in their chunks, each int64 [n]."""

    log_ns: Int64
    chunks: Int64
    offsets: Int64

    def __len__(self) -> int:
        return len(self.log_ns)

    def part(self, start: int, stop: int) -> Table:
        """Messages start..stop."""
        return Table(self.log_ns[start:stop], self.chunks[start:stop], self.offsets[start:stop])


@dataclass(frozen=True)
class Batch:
    """Messages `first`, `first` + 1, ... of a topic, all in one chunk: `starts` and `lengths` of their data in `buffer`, int64 [n]."""

    buffer: UInt8
    starts: Int64
    lengths: Int64
    log_ns: Int64
    publish_ns: Int64
    first: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def message(self, k: int) -> bytes:
        """The data of the batch's message `k`."""
        return self.buffer[self.starts[k] : self.starts[k] + self.lengths[k]].tobytes()

    def columns(self, start: int, stop: int) -> UInt8:
        """Bytes start..stop of every message, uint8 [n, stop - start]; none may be shorter."""
        return gather(self.buffer, self.starts + start, stop - start)


def gather(buffer: UInt8, starts: Int64, width: int) -> UInt8:
    """The `width` bytes at each of `starts`, uint8 [n, width]."""
    return buffer[starts[:, None] + np.arange(width)]


class McapIndex:
    """The messages of an MCAP file by topic. Safe to share between threads."""

    def __init__(self, place: Place, *, allow_truncated: bool) -> None:
        refuse_folder(place, "mcap")
        self.file = place.file()
        try:
            check_magic(self.file, place)
            self.contents = self._read_contents(allow_truncated=allow_truncated)
        except BaseException:
            self.file.close()
            raise
        self.chunks = Chunks(self.file, self.contents.chunks)
        self._lock = RLock()
        self._tables: dict[str, Table] = {}

    def _read_contents(self, *, allow_truncated: bool) -> Contents:
        if is_whole(self.file):
            return read_summary(self.file) or scan(self.file, is_cut=False)
        contents = scan(self.file, is_cut=True)
        if not allow_truncated:
            raise _cut_off(self.file, contents)
        return contents

    @cached_property
    def topics(self) -> dict[str, tuple[Channel, ...]]:
        """Channels by topic, in the order of their ids; a publisher that reconnects may have several."""
        found: dict[str, tuple[Channel, ...]] = {}
        for number in sorted(self.contents.channels):
            channel = self.contents.channels[number]
            found[channel.topic] = (*found.get(channel.topic, ()), channel)
        return found

    def schema(self, topic: str) -> Schema | None:
        """The schema of a topic. Raise SchemaMismatchError if its channels have different ones."""
        channels = self.topics[topic]
        kinds = {c.message_encoding: self.contents.schemas.get(c.schema_id) for c in channels}
        schemas = [self.contents.schemas.get(c.schema_id) for c in channels]
        described = [(s.name, s.encoding, s.data) if s else None for s in schemas]
        if len(kinds) > 1 or any(d != described[0] for d in described):
            found = ", ".join(f"{c.message_encoding} {s.name if s else 'without schema'}" for c, s in zip(channels, schemas, strict=True))
            raise SchemaMismatchError("a topic has messages of several kinds", stream=topic, found=found, expected="one kind")
        return schemas[0]

    def table(self, topic: str) -> Table:
        """All messages of `topic` in the order recorded, read from the message indexes."""
        with self._lock:
            if topic not in self._tables:
                self._tables[topic] = self._read_table(topic)
            return self._tables[topic]

    def _read_table(self, topic: str) -> Table:
        table = self._collect(topic)
        counts = self.contents.counts
        if counts is not None and len(table) != sum(counts.get(c.id, 0) for c in self.topics[topic]):
            # The indexes do not hold what was written, as where some messages lie outside chunks.
            self._scan_instead()
            table = self._collect(topic)
        return table

    def _scan_instead(self) -> None:
        found = scan(self.file, is_cut=False)
        self.contents.chunks[:] = found.chunks
        self.contents.counts = None
        self.chunks.clear()
        self._tables.clear()

    def _collect(self, topic: str) -> Table:
        self.file.prefetch(self._index_ranges(topic))
        parts: list[Table] = []
        for number in range(len(self.contents.chunks)):
            found = [e for e in (self._entries(number, c.id) for c in self.topics[topic]) if e is not None]
            if not found:
                continue
            log_ns, offsets = np.concatenate([e.log_ns for e in found]), np.concatenate([e.offsets for e in found])
            # Some recorders sort their indexes by time.
            order = np.argsort(offsets, kind="stable")
            parts.append(Table(log_ns[order], np.full(len(order), number), offsets[order]))
        if not parts:
            return Table(_NONE, _NONE, _NONE)
        return Table(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("log_ns", "chunks", "offsets")))

    def _index_ranges(self, topic: str) -> Iterator[Range]:
        """Where the topic's message indexes are; what nothing tells the size of is taken for some hundred messages."""
        channels = {c.id for c in self.topics[topic]}
        indexes = [place.indexes for place in self.contents.chunks if place.indexes]
        starts = sorted({at for found in indexes for at in found.values()} | {place.start for place in self.contents.chunks})
        for at in sorted(at for found in indexes for channel, at in found.items() if channel in channels):
            after = bisect.bisect_right(starts, at)
            yield at, min(starts[after] - at if after < len(starts) else _LONG_INDEX, _LONG_INDEX)

    def prefetch(self, topic: str, messages: Int64) -> None:
        """Say that these messages of the topic will be read, by number."""
        self.file.prefetch(self._chunk_ranges(topic, messages))

    def _chunk_ranges(self, topic: str, messages: Int64) -> Iterator[Range]:
        for number in dict.fromkeys(self.table(topic).chunks[messages].tolist()):
            place = self.contents.chunks[number]
            yield place.start, place.size

    def _entries(self, number: int, channel: int) -> Entries | None:
        place = self.contents.chunks[number]
        if place.entries is not None:
            return place.entries.get(channel)
        if place.indexes is not None:
            return self._read_index(place.indexes[channel], channel) if channel in place.indexes else None
        entries = walk(self.chunks.data(number), place).entries
        self.contents.chunks[number] = type(place)(place.start, place.size, entries=entries)
        return entries.get(channel)

    def _read_index(self, at: int, channel: int) -> Entries:
        head = self.file.read(at, RECORD_HEAD.size + _INDEX_HEAD.size).ljust(RECORD_HEAD.size + _INDEX_HEAD.size, b"\0")
        opcode, _ = RECORD_HEAD.unpack_from(head)
        owner, size = _INDEX_HEAD.unpack_from(head, RECORD_HEAD.size)
        data = self.file.read(at + len(head), size) if opcode == Opcode.MESSAGE_INDEX else b""
        if opcode != Opcode.MESSAGE_INDEX or owner != channel or len(data) != size or size % 16:
            raise RecordingFormatError("a message index is damaged", byte=at, found=f"a record of kind {opcode} of channel {owner}")
        rows = np.frombuffer(data, "<u8").reshape(-1, 2)
        return Entries(nanoseconds(rows[:, 0]), rows[:, 1].astype(np.int64))

    def batches(self, topic: str, start: int, stop: int) -> Iterator[Batch]:
        """Yield messages start..stop of `topic` in the order recorded, chunk by chunk."""
        table = self.table(topic).part(start, stop)
        edges = [0, *(np.flatnonzero(np.diff(table.chunks)) + 1).tolist(), len(table)]
        for low, high in itertools.pairwise(edges):
            if high > low:
                yield self.batch(topic, table.part(low, high), first=start + low)

    def batch(self, topic: str, table: Table, *, first: int) -> Batch:
        """The messages of `table`, which lie in one chunk. Raise RecordingFormatError where the index is wrong."""
        number = int(table.chunks[0])
        buffer = np.frombuffer(self.chunks.data(number), np.uint8)
        if int(table.offsets.min()) < 0 or int(table.offsets.max()) > len(buffer) - _MESSAGE_DATA:
            raise _wrong_index(topic, number)
        heads = gather(buffer, table.offsets, _MESSAGE_DATA)
        lengths = _column(heads, 1, "<u8") - MESSAGE_HEAD.size
        channels = np.array([c.id for c in self.topics[topic]])
        starts = table.offsets + _MESSAGE_DATA
        is_message = (heads[:, 0] == Opcode.MESSAGE) & np.isin(_column(heads, 9, "<u2"), channels)
        if not (is_message & (lengths >= 0) & (lengths <= len(buffer) - starts)).all():
            raise _wrong_index(topic, number)
        return Batch(buffer, starts, lengths, table.log_ns, nanoseconds(_column(heads, 23, "<u8").view(np.uint64)), first)

    def close(self) -> None:
        """Close the file and forget its chunks."""
        self.chunks.clear()
        self.file.close()


def _column(heads: UInt8, at: int, dtype: str) -> Int64:
    size = np.dtype(dtype).itemsize
    return np.ascontiguousarray(heads[:, at : at + size]).view(dtype)[:, 0].astype(np.int64)


def _wrong_index(topic: str, chunk: int) -> RecordingFormatError:
    todo = "The file is damaged: copy it from the robot again, or repair it with `mcap recover`."
    return RecordingFormatError(
        "the message index points at something that is no message of the topic", stream=topic, chunk=chunk, todo=todo
    )


def _cut_off(file: ByteFile, contents: Contents) -> RecordingFormatError:
    messages = sum(_count(file, chunk.indexes, chunk.entries) for chunk in contents.chunks)
    size = file.size
    end = contents.cut_at or 0
    rest = ", or convert the part that is whole with `recordings: {truncated: keep_whole}`" if messages else "; no message in it is whole"
    return RecordingFormatError(
        "the file was cut off, as by a power loss or while it is being copied",
        byte=end,
        found=f"{end:,} of {size:,} bytes whole: {messages:,} messages in {len(contents.chunks)} chunks",
        expected="a file that ends with a footer",
        todo=f"Copy it from the robot again{rest}.",
    )


def _count(file: ByteFile, indexes: object, entries: object) -> int:
    if isinstance(entries, dict):
        return sum(len(e.log_ns) for e in entries.values())
    sizes = [file.read(at + RECORD_HEAD.size + 2, 4) for at in indexes.values()] if isinstance(indexes, dict) else []
    return sum(int.from_bytes(size, "little") // 16 for size in sizes)
