"""What an MCAP file holds and where: channels, schemas, chunks, attachments and metadata, read from its summary section.

Files without a summary, with one that leaves something out, and files that were cut off are scanned (`mcap_scan`).
Everything is read by position, so that several threads can read one open file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO

from mcap.exceptions import McapError
from mcap.records import AttachmentIndex, Channel, ChunkIndex, Footer, MetadataIndex, Schema, Statistics
from mcap.stream_reader import StreamReader

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings import MAGIC as MAGICS
from vla_ops.recordings import leading, other_format
from vla_ops.recordings.base import Int64
from vla_ops.recordings.byte_file import ByteFile
from vla_ops.recordings.place import Place

MAGIC = MAGICS["mcap"]
RECORD_HEAD = struct.Struct("<BQ")
# Opcode and length, then start of the summary, start of its offsets, and its CRC.
_FOOTER = struct.Struct("<BQQQI")
_FOOTER_OPCODE = 2
# What the library's record parsers raise on damaged bytes.
BROKEN_RECORD = (McapError, struct.error, UnicodeDecodeError, OverflowError)


@dataclass(frozen=True)
class Entries:
    """The messages of one channel in one chunk, in file order: log times int64 [n], and where their records begin int64 [n]."""

    log_ns: Int64
    offsets: Int64


@dataclass(frozen=True)
class ChunkPlace:
    """Where a chunk record lies, or, in a file without chunks, a run of messages (`is_plain`)."""

    start: int
    size: int
    is_plain: bool = False
    # Channel -> place of its message index; None where only the chunk itself tells what is in it.
    indexes: Mapping[int, int] | None = None
    # What a scan has found already.
    entries: Mapping[int, Entries] | None = None


@dataclass
class Contents:
    """What is in an MCAP file. Chunks in file order."""

    channels: dict[int, Channel] = field(default_factory=dict)
    schemas: dict[int, Schema] = field(default_factory=dict)
    chunks: list[ChunkPlace] = field(default_factory=list)
    attachments: list[AttachmentIndex] = field(default_factory=list)
    metadata: list[MetadataIndex] = field(default_factory=list)
    # Messages a channel as the summary says; None after a scan.
    counts: dict[int, int] | None = None
    # Where the whole part ends; None where the file is whole.
    cut_at: int | None = None


def check_magic(file: ByteFile, place: Place) -> None:
    """Raise RecordingFormatError unless the file begins as an MCAP file does."""
    if file.size == 0:
        raise RecordingFormatError(
            "the file is empty", found="0 bytes", expected="an MCAP file", todo="The recorder wrote nothing: remove it or copy it again."
        )
    head = file.read(0, len(MAGIC))
    if head != MAGIC:
        raise RecordingFormatError(
            "not an MCAP file",
            found=leading(head, file.size),
            expected=repr(MAGIC),
            todo=other_format(place, "mcap") or "Check `recordings.format` and `recordings.pattern`, or the robot's collector.",
        )


def is_whole(file: ByteFile) -> bool:
    """True where the file ends with the magic that a recorder writes last."""
    return file.size >= 2 * len(MAGIC) + _FOOTER.size and file.read(file.size - len(MAGIC), len(MAGIC)) == MAGIC


def read_summary(file: ByteFile) -> Contents | None:
    """What the summary section of a whole file says, or None if there is none or it does not say everything."""
    footer_at = file.size - len(MAGIC) - _FOOTER.size
    opcode, _, start, _, crc = _FOOTER.unpack(file.read(footer_at, _FOOTER.size))
    if opcode != _FOOTER_OPCODE or not len(MAGIC) <= start < footer_at:
        return None
    section = file.read(start, file.size - start)
    if crc and zlib.crc32(section[: -len(MAGIC) - 4]) != crc:
        return None
    contents, statistics = Contents(), None
    try:
        for record in StreamReader(BytesIO(section), skip_magic=True).records:
            if isinstance(record, Statistics):
                statistics = record
            _add(contents, record)
    except (*BROKEN_RECORD, ValueError):
        # A summary repeats what the data says: where it is damaged, the data is scanned.
        return None
    if statistics is None or not _is_complete(contents, statistics):
        return None
    contents.counts = dict(statistics.channel_message_counts)
    contents.chunks.sort(key=lambda chunk: chunk.start)
    return contents


def _add(contents: Contents, record: object) -> None:
    match record:
        case Channel():
            contents.channels[record.id] = record
        case Schema():
            contents.schemas[record.id] = record
        case AttachmentIndex():
            contents.attachments.append(record)
        case MetadataIndex():
            contents.metadata.append(record)
        case ChunkIndex():
            indexes = record.message_index_offsets or None
            contents.chunks.append(ChunkPlace(record.chunk_start_offset, record.chunk_length, indexes=indexes))
        case Footer() | _:
            pass


def _is_complete(contents: Contents, statistics: Statistics) -> bool:
    """False where a recorder left indexes, channels or schemas out of the summary, or wrote messages beside its chunks."""
    known = all(c in contents.channels for c in statistics.channel_message_counts)
    described = all(c.schema_id in {0, *contents.schemas} for c in contents.channels.values())
    counted = (
        len(contents.chunks) == statistics.chunk_count
        and len(contents.attachments) == statistics.attachment_count
        and len(contents.metadata) == statistics.metadata_count
        and len(contents.channels) >= statistics.channel_count
    )
    unchunked = statistics.message_count > 0 and not contents.chunks
    return known and described and counted and not unchunked


def without_indexes(chunk: ChunkPlace) -> ChunkPlace:
    """The chunk with its message indexes forgotten: they may be incomplete."""
    return replace(chunk, indexes=None)
