"""What one camera contributes to one episode: an image stream and which of its images each frame of the timeline shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vla_ops.errors import RecordingFormatError
from vla_ops.recordings.base import EncodedImage, ImageStream, Int64


@dataclass(frozen=True)
class Track:
    """One camera of an episode. `indices` int64 [frames], non-decreasing: the image in the stream that each frame shows.

    The streams of one episode are read from different threads at the same time.
    """

    stream: ImageStream
    indices: Int64

    def __post_init__(self) -> None:
        indices = self.indices
        if len(indices) == 0 or (np.diff(indices) < 0).any() or indices[0] < 0 or indices[-1] >= len(self.stream.stamps_ns):
            raise ValueError(f"indices of {self.stream.name} must be non-decreasing, in 0..{len(self.stream.stamps_ns) - 1}, and not none")


@dataclass(frozen=True)
class Run:
    """`times` consecutive frames, from `frame` on, that show image `image` of the stream."""

    image: int
    frame: int
    times: int


def runs_of(indices: Int64) -> list[Run]:
    """Split the frames of a track into runs that show one image each."""
    starts = np.flatnonzero(np.concatenate([[True], np.diff(indices) > 0]))
    lengths = np.diff(np.append(starts, len(indices)))
    return [Run(*row) for row in zip(indices[starts].tolist(), starts.tolist(), lengths.tolist(), strict=True)]


def is_consecutive(indices: Int64) -> bool:
    """True where every frame shows the image after the previous frame's."""
    return bool((np.diff(indices) == 1).all())


def encoded_images(track: Track) -> Iterator[tuple[Run, EncodedImage]]:
    """Read every image that the track shows, once."""
    runs = runs_of(track.indices)
    packets = iter(track.stream.packets(np.array([run.image for run in runs])))
    for run in runs:
        image = next(packets, None)
        if image is None:
            raise RecordingFormatError("the stream ends before its last image", image=run.image)
        yield run, image
