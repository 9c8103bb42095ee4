"""Videos kept as attachments of an MCAP file, as image streams: coded pictures without decoding, each with its own time."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.errors import RecordingError, RecordingFormatError, UnknownEncodingError
from vla_ops.recordings.base import Int64, StreamInfo
from vla_ops.recordings.byte_file import ByteFile, view
from vla_ops.recordings.mcap_scan import AttachmentPlace
from vla_ops.recordings.video_images import VideoFacts, VideoImages, video_facts

if TYPE_CHECKING:
    from av.container import InputContainer

# Containers by media type. Named, since a probed format may be a playlist that opens other files.
_CONTAINERS = {"video/mp4": "mp4", "video/quicktime": "mov", "video/x-matroska": "matroska", "video/webm": "matroska"}
_READ_BYTES = 2**20


class AttachedVideo:
    """One video attachment. `log_stamps`: the recorder's list of tick times, if it wrote one."""

    def __init__(self, file: ByteFile, place: AttachmentPlace, log_stamps: Int64 | None) -> None:
        self.name, self._file, self._place, self._log_stamps = place.name, file, place, log_stamps

    @cached_property
    def facts(self) -> VideoFacts:
        """Read the container's packets without decoding them. Raise RecordingFormatError if it is damaged."""
        return video_facts(self.name, self.opened)

    def info(self) -> StreamInfo:
        """The stream's line in a listing; without times where nothing says what they count from, `other` where it is damaged."""
        try:
            facts = self.facts
        except (RecordingFormatError, UnknownEncodingError) as error:
            return StreamInfo(self.name, "other", "", (), 0, encoding=error.what, schema=self._place.media_type)
        try:
            stamps = self.stamps_ns
            first, last = int(stamps[0]), int(stamps[-1])
        except RecordingError:
            first = last = None  # Reading the images raises it; a listing shows that there are none.
        shape = (facts.height, facts.width, 3)
        return StreamInfo(self.name, "images", "uint8", shape, len(facts.times), first, last, facts.codec, self._place.media_type)

    def images(self) -> VideoImages:
        """The video as an image stream."""
        return VideoImages(self.name, self.facts.image_codec, self.stamps_ns, self.opened)

    @cached_property
    def stamps_ns(self) -> Int64:
        """The time of each picture. Raise RecordingError where the file does not say what the video's times count from."""
        facts = self.facts
        base = _base_stamp(facts.comment)
        if base is not None:
            return np.array([(base + t) * facts.numerator * 10**9 // facts.denominator for t in facts.times.tolist()], np.int64)
        ticks = self._log_stamps
        if ticks is not None and len(ticks) == len(facts.times):
            return ticks
        raise RecordingError(
            "nothing says what the video's times count from",
            stream=self.name,
            found=f"{len(facts.times)} pictures, no base_stamp, " + ("no log_stamps" if ticks is None else f"{len(ticks)} log_stamps"),
            expected='{"base_stamp": N} in the video\'s comment, or an attachment log_stamps with a time for each picture',
        )

    @contextmanager
    def opened(self) -> Iterator[InputContainer]:
        """Open the video's container. Raise RecordingFormatError where it turns out to be damaged."""
        import av
        import av.error

        container = _CONTAINERS.get(self._place.media_type)
        if container is None:
            raise UnknownEncodingError(
                "a video attachment of a kind not known here",
                stream=self.name,
                found=self._place.media_type,
                expected=" | ".join(_CONTAINERS),
            )
        try:
            place = self._place.start, self._place.size
            self._file.prefetch([place])
            part = view(self._file, place)
            with av.open(part, "r", format=container, metadata_errors="replace", buffer_size=_READ_BYTES) as opened:
                if not opened.streams.video:
                    raise RecordingFormatError("the attachment holds no video", stream=self.name, found=self._place.media_type)
                yield opened
        except av.error.FFmpegError as error:
            raise RecordingFormatError(f"the video is damaged: {error.strerror}", stream=self.name) from error


def _base_stamp(comment: str) -> int | None:
    """`base_stamp` of a comment such as {"base_stamp": 1749999999993334}; old collectors write single quotes."""
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(comment)
        except (ValueError, SyntaxError):
            continue
        stamp = value.get("base_stamp") if isinstance(value, dict) else None
        return int(stamp) if isinstance(stamp, int | float) else None
    return None
