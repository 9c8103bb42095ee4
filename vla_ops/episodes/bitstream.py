"""What the headers of encoded images say, read without decoding them: size of a JPEG, whether it is whole, keyframes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vla_ops.errors import RecordingFormatError, UnknownEncodingError

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Start-of-frame markers; C4, C8 and CC in the same range are tables.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: restart markers and TEM.
_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}

# NAL unit types. H.264: 5 is an IDR picture, 7 and 8 are SPS and PPS. H.265: 16..21 are random access pictures, 32..34 VPS, SPS, PPS.
_H264_KEY, _H264_SETS = frozenset({5}), frozenset({7, 8})
_HEVC_KEY, _HEVC_SETS = frozenset(range(16, 22)), frozenset({32, 33, 34})
_AV1_SEQUENCE_HEADER = 1


@dataclass(frozen=True)
class JpegHeader:
    """A JPEG's frame header. `sampling` holds horizontal and vertical factors, one byte a component, as in the file."""

    width: int
    height: int
    sampling: tuple[int, ...]
    # Which SOF marker: 0 baseline, 1 extended, 2 progressive, ...
    process: int
    # Where the compressed data begins.
    data_start: int


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Parse the markers up to the compressed data. Raise RecordingFormatError if `data` is no JPEG or ends before it."""
    if data[:2] != b"\xff\xd8":
        raise RecordingFormatError("not a JPEG image", found=f"bytes {data[:4].hex(' ') or 'none'}", expected="ff d8 ff")
    frame: tuple[int, bytes] | None = None
    for marker, body, end in _segments(data):
        if marker in _SOF:
            frame = (marker - 0xC0, body)
        elif marker == _SOS:
            if frame is None or len(frame[1]) < 6 + 3 * frame[1][5]:
                break
            return _jpeg_header(*frame, data_start=end)
    raise RecordingFormatError("a JPEG image ends within its header", found=f"{len(data)} bytes")


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield (marker, body, end) of each marker segment."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _BARE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, data[at + 4 : end], end
        at = end


def _jpeg_header(process: int, body: bytes, *, data_start: int) -> JpegHeader:
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    sampling = tuple(body[7 + 3 * k] for k in range(body[5]))
    return JpegHeader(width, height, sampling, process, data_start)


def whole_jpeg(data: bytes, header: JpegHeader) -> bytes:
    """Return the JPEG without padding after its end. Raise RecordingFormatError if the end-of-image marker is missing."""
    # Searched behind the header only: a thumbnail in there has a marker of its own.
    end = data.rfind(b"\xff\xd9", header.data_start)
    if end < 0:
        raise RecordingFormatError(
            "a JPEG image is cut off: its end-of-image marker is missing",
            found=f"{len(data)} bytes",
            todo="Repair or drop the recording; decoders would fill the missing part with grey.",
        )
    return data if end + 2 == len(data) else data[: end + 2]


def refuse_uncommon_jpeg(header: JpegHeader) -> None:
    """Raise UnknownEncodingError for a JPEG that MJPEG decoders need not read: progressive, lossless, 12 bit, CMYK."""
    if header.process > 1 or len(header.sampling) not in {1, 3}:
        names = {0: "baseline", 1: "extended", 2: "progressive", 3: "lossless"}
        found = f"{names.get(header.process, f'SOF{header.process}')}, {len(header.sampling)} components"
        todo = "Set dataset.video.codec to av1 or h264, which decode it."
        raise UnknownEncodingError("this kind of JPEG cannot be copied into a video", found=found, expected="baseline", todo=todo)


def is_keyframe(codec: str, packet: bytes) -> bool:
    """True where decoding can start at this Annex B (H.264, H.265) or OBU (AV1) packet and it carries its own parameter sets."""
    if codec == "av1":
        # Encoders write a sequence header only before a keyframe.
        return _AV1_SEQUENCE_HEADER in set(_obu_types(packet))
    key, sets = (_H264_KEY, _H264_SETS) if codec == "h264" else (_HEVC_KEY, _HEVC_SETS)
    types = set(_nal_types(codec, packet))
    return bool(types & key) and sets <= types


def _nal_types(codec: str, packet: bytes) -> Iterator[int]:
    at = packet.find(b"\x00\x00\x01")
    while 0 <= at < len(packet) - 3:
        first = packet[at + 3]
        yield first & 0x1F if codec == "h264" else (first >> 1) & 0x3F
        at = packet.find(b"\x00\x00\x01", at + 3)


def _obu_types(packet: bytes) -> Iterator[int]:
    at = 0
    while at < len(packet):
        kind, extended, sized = (packet[at] >> 3) & 0xF, packet[at] & 4, packet[at] & 2
        yield kind
        if not sized:
            return
        at += 2 if extended else 1
        size, shift = 0, 0
        while at < len(packet):
            byte = packet[at]
            size |= (byte & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if not byte & 0x80:
                break
        at += size


def is_annexb(packet: bytes) -> bool:
    """True for start codes; False for the length-prefixed form that mp4 and mkv hold."""
    return packet.startswith((b"\x00\x00\x01", b"\x00\x00\x00\x01"))
