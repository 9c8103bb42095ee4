"""Read an MCAP file from its beginning: one without a summary section, or the whole part of one that was cut off."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mcap.opcode import Opcode
from mcap.records import AttachmentIndex, Channel, Metadata, MetadataIndex, Schema

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.byte_file import ByteFile
from vla_ops.recordings.mcap_chunks import MESSAGE_HEAD, as_entries, load_chunk, parse_record, walk
from vla_ops.recordings.mcap_file import MAGIC, RECORD_HEAD, ChunkPlace, Contents, without_indexes

_WINDOW = 2**20
# Messages outside chunks are read together up to about this many bytes.
_RUN_BYTES = 2**20
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass(frozen=True)
class _Record:
    at: int
    opcode: int
    size: int

    @property
    def body(self) -> int:
        return self.at + RECORD_HEAD.size

    @property
    def end(self) -> int:
        return self.body + self.size


def scan(file: ByteFile, *, is_cut: bool) -> Contents:
    """Find everything by going from record to record; chunks are decompressed only where they have no index.

    With `is_cut` the last chunk is checked and left out if it is damaged; `cut_at` then says where the whole part ends.
    """
    finder = _Finder(file)
    for record in finder.records():
        finder.add(record)
    finder.close_run()
    contents = finder.contents
    if is_cut:
        contents.cut_at = finder.end
        _check_last_chunk(file, contents)
    _look_into_chunks(file, contents)
    return contents


class _Finder:
    """Goes through the records of a file and notes where what is."""

    def __init__(self, file: ByteFile) -> None:
        self.file, self.contents, self.end = file, Contents(), len(MAGIC)
        self._window, self._window_at = b"", 0
        self._run: dict[int, tuple[list[int], list[int]]] = {}
        self._run_start = self._run_end = 0

    def records(self) -> Iterator[_Record]:
        """Yield all whole records of the data section."""
        while True:
            head = self._read(self.end, RECORD_HEAD.size)
            if len(head) < RECORD_HEAD.size:
                return
            record = _Record(self.end, *RECORD_HEAD.unpack(head))
            # File systems leave zeros where a power loss took the data.
            is_short = record.opcode == Opcode.MESSAGE and record.size < MESSAGE_HEAD.size
            if record.opcode == 0 or is_short or record.end > self.file.size or record.opcode == Opcode.FOOTER:
                return
            yield record
            self.end = record.end
            if record.opcode == Opcode.DATA_END:
                return

    def add(self, record: _Record) -> None:
        """Note one record."""
        contents = self.contents
        match record.opcode:
            case Opcode.MESSAGE:
                self._add_message(record)
            case Opcode.CHUNK:
                self.close_run()
                contents.chunks.append(ChunkPlace(record.at, record.end - record.at))
            case Opcode.MESSAGE_INDEX if contents.chunks and not contents.chunks[-1].is_plain:
                channel = int.from_bytes(self._read(record.body, 2), "little")
                last = contents.chunks[-1]
                contents.chunks[-1] = replace(last, indexes={**(last.indexes or {}), channel: record.at})
            case Opcode.CHANNEL:
                channel = parse_record(Channel, self._body(record), at=record.at)
                contents.channels[channel.id] = channel
            case Opcode.SCHEMA:
                schema = parse_record(Schema, self._body(record), at=record.at)
                contents.schemas[schema.id] = schema
            case Opcode.ATTACHMENT:
                self.close_run()
                contents.attachments.append(read_attachment_index(self.file, record.at))
            case Opcode.METADATA:
                name = parse_record(Metadata, self._body(record), at=record.at).name
                contents.metadata.append(MetadataIndex(record.at, record.end - record.at, name))

    def _add_message(self, record: _Record) -> None:
        if self._run and record.end - self._run_start > _RUN_BYTES:
            self.close_run()
        if not self._run:
            self._run_start = record.at
        channel, _, log_ns, _ = MESSAGE_HEAD.unpack(self._read(record.body, MESSAGE_HEAD.size))
        times, offsets = self._run.setdefault(channel, ([], []))
        times.append(log_ns)
        offsets.append(record.at - self._run_start)
        self._run_end = record.end

    def close_run(self) -> None:
        """End a run of messages that lie outside chunks."""
        if self._run:
            entries = {channel: as_entries(*lists) for channel, lists in self._run.items()}
            self.contents.chunks.append(ChunkPlace(self._run_start, self._run_end - self._run_start, is_plain=True, entries=entries))
            self._run = {}

    def _body(self, record: _Record) -> bytes:
        return self.file.read(record.body, record.size)

    def _read(self, at: int, size: int) -> bytes:
        start = at - self._window_at
        if start < 0 or start + size > len(self._window):
            self._window, self._window_at, start = self.file.read(at, _WINDOW), at, 0
        return self._window[start : start + size]


def _check_last_chunk(file: ByteFile, contents: Contents) -> None:
    """Leave out a last chunk of which only the length was written, and forget indexes that may be incomplete."""
    if not contents.chunks or contents.chunks[-1].is_plain:
        return
    last = contents.chunks[-1] = without_indexes(contents.chunks[-1])
    try:
        load_chunk(file, last)
    except RecordingFormatError:
        contents.chunks.pop()
        contents.cut_at = last.start


def _look_into_chunks(file: ByteFile, contents: Contents) -> None:
    """Walk the chunks that have no index or may hold the description of a channel that is not known yet."""
    for number, place in enumerate(contents.chunks):
        if place.indexes is not None and all(channel in contents.channels for channel in place.indexes):
            continue
        if place.is_plain:
            continue
        walked = walk(load_chunk(file, place), place)
        contents.channels.update(walked.channels)
        contents.schemas.update(walked.schemas)
        contents.chunks[number] = replace(place, entries=walked.entries)


def read_attachment_index(file: ByteFile, at: int) -> AttachmentIndex:
    """What the head of an attachment record says, without reading its data."""
    place = attachment_place(file, at)
    return AttachmentIndex(
        offset=at,
        length=place.record_size,
        create_time=place.create_ns,
        log_time=place.log_ns,
        data_size=place.size,
        name=place.name,
        media_type=place.media_type,
    )


@dataclass(frozen=True)
class AttachmentPlace:
    """An attachment and where its data lies."""

    name: str
    media_type: str
    log_ns: int
    create_ns: int
    start: int
    size: int
    record_size: int


def attachment_place(file: ByteFile, at: int) -> AttachmentPlace:
    """Read the head of the attachment record at `at`. Raise RecordingFormatError if there is none."""
    opcode, length = RECORD_HEAD.unpack(file.read(at, RECORD_HEAD.size).ljust(RECORD_HEAD.size, b"\0"))
    if opcode != Opcode.ATTACHMENT:
        raise RecordingFormatError("an attachment is not where the index says", byte=at, found=f"a record of kind {opcode}")
    body = at + RECORD_HEAD.size
    try:
        log_ns, create_ns = struct.unpack("<QQ", file.read(body, 16))
        name, after = _text(file, body + 16)
        media_type, after = _text(file, after)
        (size,) = _U64.unpack(file.read(after, 8))
    except struct.error as error:
        raise RecordingFormatError("an attachment record is damaged", byte=at) from error
    return AttachmentPlace(name, media_type, log_ns, create_ns, after + 8, size, length + RECORD_HEAD.size)


def _text(file: ByteFile, at: int) -> tuple[str, int]:
    (length,) = _U32.unpack(file.read(at, 4))
    return file.read(at + 4, length).decode("utf-8", "replace"), at + 4 + length


def read_metadata(file: ByteFile, index: MetadataIndex) -> Metadata:
    """Read one metadata record. Raise RecordingFormatError if it is damaged."""
    return parse_record(Metadata, file.read(index.offset + RECORD_HEAD.size, index.length - RECORD_HEAD.size), at=index.offset)
