"""Recorded video that begins between two keyframes, as it does where the recorder is started after the camera."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ops.episodes.bitstream import is_keyframe
from vla_ops.recordings.base import EncodedImage, ImageCodec, ImageStream, Int64

# Video whose pictures need their neighbours to be decoded.
INTER_CODECS = frozenset({"h264", "hevc", "av1"})


@dataclass(frozen=True)
class LaterImages:
    """An ImageStream without the first `skipped` images of `stream`."""

    stream: ImageStream
    skipped: int

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.stream.name

    @property
    def codec(self) -> ImageCodec:
        """The stream's codec."""
        return self.stream.codec

    @property
    def stamps_ns(self) -> Int64:
        """Stamps of what is left, int64 [n]."""
        return self.stream.stamps_ns[self.skipped :]

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the images at non-decreasing `indices`, counted from the first that is left."""
        return self.stream.packets(np.asarray(indices, np.int64) + self.skipped)


def from_first_keyframe(stream: ImageStream, notes: list[str]) -> ImageStream:
    """Leave out what comes before the first keyframe and note it: without that keyframe nothing can decode it.

    A stream without any keyframe is returned as it is: what is wrong with it shows when it is decoded.
    """
    skipped = _first_keyframe(stream) if stream.codec in INTER_CODECS else 0
    if not skipped:
        return stream
    later = LaterImages(stream, skipped)
    lost_s = (int(later.stamps_ns[0]) - int(stream.stamps_ns[0])) / 1e9
    notes.append(f"the {skipped} image(s) of {stream.name} before its first keyframe ({lost_s:.3f} s) cannot be decoded and are not used")
    return later


def _first_keyframe(stream: ImageStream) -> int:
    """Index of the first image that decoding can start at, or 0 if there is none."""
    for index, image in enumerate(stream.packets(np.arange(len(stream.stamps_ns)))):
        if isinstance(image.data, bytes) and is_keyframe(stream.codec, image.data):
            return index
    return 0
