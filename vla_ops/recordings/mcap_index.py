"""Where every message of an MCAP lies, from its indexes, without decompressing a chunk where the file allows it.

The order of a channel's messages here is the order in which they were recorded (position in the file), not the order of
their stamps, so that a clock that jumps back stays visible. Format: https://mcap.dev/spec
"""

from __future__ import annotations

import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.base import Int64

if TYPE_CHECKING:
    from mcap.records import Channel, Metadata, Schema

MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_ENTRY = np.dtype([("log_ns", "<u8"), ("offset", "<u8")])
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE_OP, _CHUNK, _MESSAGE_INDEX = 1, 2, 3, 4, 5, 6, 7
_ATTACHMENT, _METADATA, _DATA_END = 9, 12, 15
_CACHED_CHUNKS = 8
# A chunk number for messages that lie in the file itself.
NO_CHUNK = -1


@dataclass(frozen=True)
class Locations:
    """Messages of one channel in the order recorded: log stamps, chunk numbers and offsets, int64 [n] each."""

    log_ns: Int64
    chunk: Int64
    offset: Int64

    @classmethod
    def joined(cls, parts: list[Locations]) -> Locations:
        """Several channels of one topic as one, by position in the file."""
        log_ns, chunk, offset = (np.concatenate([getattr(p, name) for p in parts]) for name in ("log_ns", "chunk", "offset"))
        order = np.lexsort((offset, chunk))
        return cls(log_ns[order], chunk[order], offset[order])

    def take(self, chosen: Int64 | slice) -> Locations:
        """The messages at these positions."""
        return Locations(self.log_ns[chosen], self.chunk[chosen], self.offset[chosen])


@dataclass(frozen=True)
class RawMessage:
    """One undecoded message."""

    log_ns: int
    publish_ns: int
    data: bytes


@dataclass(frozen=True)
class AttachmentEntry:
    """One attachment: where its data lies in the file."""

    name: str
    media_type: str
    offset: int
    size: int


@dataclass
class _Contents:
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[int] = field(default_factory=list)
    attachments: list[tuple[int, int]] = field(default_factory=list)
    metadata: list[tuple[int, int]] = field(default_factory=list)
    # channel -> list of arrays [n] of (log_ns, offset), with the chunk each came from
    messages: dict[int, list[tuple[int, np.ndarray]]] = field(default_factory=dict)


class McapFile:
    """An open MCAP: its channels, where their messages are, and reading them. Safe for several threads."""

    def __init__(self, path: str, *, allow_truncated: bool) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        try:
            self.size = os.fstat(self._fd).st_size
            self._check_magic()
            self._contents = self._from_summary() or self._from_scan(allow_truncated=allow_truncated)
        except BaseException:
            self.close()
            raise
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def channels(self) -> dict[int, Channel]:
        """Channels by id."""
        return self._contents.channels

    def schema(self, channel: Channel) -> Schema | None:
        """The schema of a channel's messages, or None for schemaless ones."""
        return self._contents.schemas.get(channel.schema_id)

    def locations(self, channel: int) -> Locations:
        """Where the messages of a channel are."""
        parts = self._contents.messages.get(channel, [])
        if not parts:
            return Locations(*(np.zeros(0, np.int64) for _ in range(3)))
        entries = np.concatenate([entries for _, entries in parts])
        chunk = np.concatenate([np.full(len(entries), number, np.int64) for number, entries in parts])
        found = Locations(entries["log_ns"].astype(np.int64), chunk, entries["offset"].astype(np.int64))
        return Locations.joined([found])

    def messages(self, where: Locations) -> Iterator[RawMessage]:
        """Read messages one after the other; a chunk is decompressed once while messages keep coming from it."""
        for chunk, offset in zip(where.chunk.tolist(), where.offset.tolist(), strict=True):
            if chunk == NO_CHUNK:
                _, length = _RECORD.unpack(self._read(offset, _RECORD.size))
                body = self._read(offset + _RECORD.size, length)
            else:
                data = self._chunk(chunk)
                _, length = _RECORD.unpack_from(data, offset)
                body = data[offset + _RECORD.size : offset + _RECORD.size + length]
            _, _, log_ns, publish_ns = _MESSAGE.unpack_from(body)
            yield RawMessage(log_ns, publish_ns, body[_MESSAGE.size :])

    def attachments(self) -> list[AttachmentEntry]:
        """List the attachments without reading their data."""
        return [self._attachment(offset) for offset, _ in self._contents.attachments]

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file, such as a part of an attachment's data. Raise RecordingFormatError past its end."""
        return self._read(offset, length)

    def _attachment(self, offset: int) -> AttachmentEntry:
        # log_time, create_time, name, media type, size of the data
        at = offset + _RECORD.size + 16
        texts: list[str] = []
        for _ in range(2):
            (length,) = struct.unpack("<I", self._read(at, 4))
            texts.append(self._read(at + 4, length).decode("utf-8"))
            at += 4 + length
        (size,) = struct.unpack("<Q", self._read(at, 8))
        return AttachmentEntry(texts[0], texts[1], at + 8, size)

    def metadata(self) -> Iterator[Metadata]:
        """Read the metadata records."""
        from mcap.records import Metadata

        for offset, length in self._contents.metadata:
            yield Metadata.read(_stream(self._read(offset + _RECORD.size, length - _RECORD.size)))

    def close(self) -> None:
        """Close the file; twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) < length:
            raise RecordingFormatError("the file ends early", found=f"{self.size} bytes", expected=f"{offset + length} bytes")
        return data

    def _check_magic(self) -> None:
        head = os.pread(self._fd, len(MAGIC), 0)
        if self.size == 0:
            raise RecordingFormatError("the file is empty", found="0 bytes", todo="The recorder never wrote to it; delete it.")
        if head != MAGIC:
            raise RecordingFormatError("not an MCAP file", found=f"magic {head!r}", expected=f"{MAGIC!r}")

    def _from_summary(self) -> _Contents | None:
        """The contents from the summary section, or None where there is none or it does not index everything."""
        from mcap.exceptions import McapError
        from mcap.reader import SeekingReader

        with open(self.path, "rb") as handle:
            handle.seek(-len(MAGIC), os.SEEK_END)
            if handle.read() != MAGIC:
                return None
            handle.seek(0)
            try:
                summary = SeekingReader(handle).get_summary()
            except (McapError, struct.error, ValueError):
                return None
        if summary is None or summary.statistics is None or len(summary.channels) != summary.statistics.channel_count:
            return None
        counts = summary.statistics
        indexed = (len(summary.chunk_indexes), len(summary.attachment_indexes), len(summary.metadata_indexes))
        if indexed != (counts.chunk_count, counts.attachment_count, counts.metadata_count):
            return None
        contents = _Contents(dict(summary.schemas), dict(summary.channels))
        contents.attachments = [(a.offset, a.length) for a in summary.attachment_indexes]
        contents.metadata = [(m.offset, m.length) for m in summary.metadata_indexes]
        for number, chunk in enumerate(sorted(summary.chunk_indexes, key=lambda c: c.chunk_start_offset)):
            contents.chunks.append(chunk.chunk_start_offset)
            for channel, offset in chunk.message_index_offsets.items():
                contents.messages.setdefault(channel, []).append((number, self._message_index(offset)))
        found = sum(len(entries) for parts in contents.messages.values() for _, entries in parts)
        return contents if found == counts.message_count else None

    def _message_index(self, offset: int) -> np.ndarray:
        opcode, length = _RECORD.unpack(self._read(offset, _RECORD.size))
        if opcode != _MESSAGE_INDEX:
            raise RecordingFormatError("the chunk index points to no message index", found=f"opcode {opcode} at byte {offset}")
        return np.frombuffer(self._read(offset + _RECORD.size, length), _ENTRY, offset=6)

    def _from_scan(self, *, allow_truncated: bool) -> _Contents:
        """The contents by walking the file from its beginning, record by record; what follows a cut is not there."""
        contents, offset = _Contents(), len(MAGIC)
        while offset + _RECORD.size <= self.size:
            opcode, length = _RECORD.unpack(self._read(offset, _RECORD.size))
            end = offset + _RECORD.size + length
            if opcode == _DATA_END:
                return contents
            if end > self.size:
                break
            self._scan_record(contents, opcode, offset, length)
            offset = end
        if not allow_truncated:
            whole = sum(len(entries) for parts in contents.messages.values() for _, entries in parts)
            raise RecordingFormatError(
                "the file is cut off (power loss?)",
                found=f"{self.size} bytes without an end; whole up to byte {offset}, {whole} messages",
                expected="a footer",
                todo="`recordings: {truncated: keep_whole}` converts the part that is whole.",
            )
        return contents

    def _scan_record(self, contents: _Contents, opcode: int, offset: int, length: int) -> None:
        if opcode == _ATTACHMENT:
            contents.attachments.append((offset, length + _RECORD.size))
        elif opcode == _METADATA:
            contents.metadata.append((offset, length + _RECORD.size))
        elif opcode == _CHUNK:
            contents.chunks.append(offset)
            number = len(contents.chunks) - 1
            data = self._decompress(offset)
            _scan_messages(contents, data, number, base=0)
        elif opcode in (_SCHEMA, _CHANNEL, _MESSAGE_OP):
            _scan_messages(contents, self._read(offset, _RECORD.size + length), NO_CHUNK, base=offset)

    def _chunk(self, number: int) -> bytes:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
        data = self._decompress(self._contents.chunks[number])
        with self._lock:
            self._cache[number] = data
            while len(self._cache) > _CACHED_CHUNKS:
                self._cache.popitem(last=False)
        return data

    def _decompress(self, offset: int) -> bytes:
        from mcap.exceptions import McapError
        from mcap.records import Chunk
        from mcap.stream_reader import get_chunk_data_stream

        _, length = _RECORD.unpack(self._read(offset, _RECORD.size))
        try:
            stream, size = get_chunk_data_stream(Chunk.read(_stream(self._read(offset + _RECORD.size, length))), validate_crc=True)
        except (McapError, RuntimeError, ValueError, EOFError, struct.error, _zstd_error()) as error:
            raise RecordingFormatError(f"a damaged chunk: {error}", found=f"at byte {offset}") from error
        return stream.read(size)


def _zstd_error() -> type[Exception]:
    import zstandard

    return zstandard.ZstdError


def _stream(data: bytes):
    from mcap.data_stream import ReadDataStream

    return ReadDataStream(BytesIO(data))


def _scan_messages(contents: _Contents, data: bytes, chunk: int, *, base: int) -> None:
    """Index the schemas, channels and messages in `data`, whose first byte lies at `base`."""
    from mcap.records import Channel, Schema

    found: dict[int, list[tuple[int, int]]] = {}
    offset = 0
    while offset + _RECORD.size <= len(data):
        opcode, length = _RECORD.unpack_from(data, offset)
        body = offset + _RECORD.size
        if opcode == _MESSAGE_OP:
            channel, _, log_ns, _ = _MESSAGE.unpack_from(data, body)
            found.setdefault(channel, []).append((log_ns, base + offset))
        elif opcode == _SCHEMA:
            schema = Schema.read(_stream(data[body : body + length]))
            contents.schemas[schema.id] = schema
        elif opcode == _CHANNEL:
            channel = Channel.read(_stream(data[body : body + length]))
            contents.channels[channel.id] = channel
        offset = body + length
    for channel, entries in found.items():
        contents.messages.setdefault(channel, []).append((chunk, np.array(entries, _ENTRY)))


def is_mcap(path: Path) -> bool:
    """True if the file begins with MCAP's magic bytes."""
    with open(path, "rb") as handle:
        return handle.read(len(MAGIC)) == MAGIC
