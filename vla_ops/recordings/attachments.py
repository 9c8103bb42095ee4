"""Videos kept as MCAP attachments (AIRBOT): an mp4 whose frames are stamped `base_stamp` + pts."""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from vla_ops.errors import RecordingFormatError, UnknownEncodingError
from vla_ops.recordings.base import VIDEO_CODECS, EncodedImage, ImageCodec, Int64
from vla_ops.recordings.mcap_index import AttachmentEntry, McapFile

LOG_STAMPS = "log_stamps"


class AttachedVideo:
    """The frames of an mp4 attachment as an ImageStream; `stamps_ns` in order of presentation."""

    def __init__(self, file: McapFile, entry: AttachmentEntry, log_stamps: Int64 | None) -> None:
        self.name, self._file, self._entry = entry.name, file, entry
        from av.error import FFmpegError

        try:
            with self._open() as container:
                stream = container.streams.video[0]
                codec: str = stream.codec_context.name
                packets = [(p.pts, p.dts) for p in container.demux(stream) if p.size and p.pts is not None]
                base, unit = _base_stamp(container), stream.time_base
                self.shape = (stream.height, stream.width, 3)
        except (FFmpegError, IndexError) as error:
            raise RecordingFormatError(f"the attached video does not open: {error}", stream=self.name) from error
        if codec not in VIDEO_CODECS:
            raise UnknownEncodingError("unknown video codec", stream=self.name, found=codec, expected=" | ".join(sorted(VIDEO_CODECS)))
        pts = [pts for pts, _ in packets if pts is not None]
        # With B-frames packets are not in order of presentation and cannot be copied one by one.
        self._reordered = any(b < a for a, b in pairwise(pts))
        self._packet_codec: ImageCodec = codec  # pyright: ignore[reportAttributeAccessIssue]
        self.codec: ImageCodec = "raw" if self._reordered else self._packet_codec
        self.stamps_ns = self._stamps(sorted(pts), base, unit, log_stamps)

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the coded pictures (Annex B for H.264 and H.265), or decoded RGB images where the video has B-frames."""
        wanted = iter([int(i) for i in indices])
        current = next(wanted, None)
        for number, image in enumerate(self._pictures()):
            while current == number:
                yield image
                current = next(wanted, None)
            if current is None:
                return

    def _pictures(self) -> Iterator[EncodedImage]:
        from av.bitstream import BitStreamFilterContext
        from av.error import FFmpegError

        with self._open() as container:
            stream = container.streams.video[0]
            try:
                if self._reordered:
                    for frame in container.decode(stream):
                        yield EncodedImage("raw", frame.to_ndarray(format="rgb24"))
                    return
                name = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}.get(self._packet_codec)
                annex_b = BitStreamFilterContext(name, stream) if name else None
                for packet in container.demux(stream):
                    if packet.size and packet.pts is not None:
                        for coded in annex_b.filter(packet) if annex_b else [packet]:
                            yield EncodedImage(self._packet_codec, bytes(coded))
            except FFmpegError as error:
                raise RecordingFormatError(f"the attached video is damaged: {error}", stream=self.name) from error

    def _open(self) -> Any:
        import av

        return av.open(_Window(self._file, self._entry), format="mp4")

    def _stamps(self, pts: list[int], base: int | None, unit: Fraction | None, log_stamps: Int64 | None) -> Int64:
        if base is not None and unit is not None:
            return np.array([round((base + p) * unit * 1_000_000_000) for p in pts], np.int64)
        if log_stamps is not None and len(log_stamps) == len(pts):
            return log_stamps
        ticks = "no log_stamps" if log_stamps is None else f"{len(log_stamps)} log_stamps"
        raise RecordingFormatError(
            "the attached video does not say when its frames were taken",
            stream=self.name,
            found=f"{len(pts)} frames, no base_stamp in the container's comment, {ticks}",
            expected="a base_stamp, or one log stamp a frame",
        )


def _base_stamp(container: Any) -> int | None:
    comment = container.metadata.get("comment", "")
    try:
        value = json.loads(comment)
    except ValueError:
        try:
            # Old collectors wrote Python's repr, with single quotes.
            value = ast.literal_eval(comment)
        except (ValueError, SyntaxError):
            return None
    stamp = value.get("base_stamp") if isinstance(value, dict) else None
    return int(stamp) if isinstance(stamp, int | float) else None


class _Window(io.RawIOBase):
    """An attachment's data as a file, read piece by piece."""

    def __init__(self, file: McapFile, entry: AttachmentEntry) -> None:
        self._file, self._entry, self._at = file, entry, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._entry.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._entry.size - self._at)
        data = self._file.read(self._entry.offset + self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data
