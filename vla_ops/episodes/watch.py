"""What is noticed of a camera's images while its video is made: statistics, a frozen or black camera, a change of size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.episodes.decode import Picture
from vla_ops.episodes.image_stats import ImageStats, pixel_step, sampled_frames, thinned_rgb
from vla_ops.episodes.signature import PictureSignature
from vla_ops.episodes.track import Run
from vla_ops.errors import SchemaMismatchError

if TYPE_CHECKING:
    import av


class ImageWatch:
    """Sees every image of one camera and episode, in order."""

    def __init__(self, frames: int) -> None:
        self.sampled = sampled_frames(frames)
        self.images = ImageStats()
        self.pictures = PictureSignature()
        self.size: tuple[int, int] | None = None
        self.before: tuple[bytes, int] | None = None
        self.frozen = self.longest_frozen = 0

    def see(self, picture: Picture) -> None:
        """Look at a decoded image. Raise SchemaMismatchError if its size is not the first one's."""
        self.see_size(picture.run, (picture.frame.width, picture.frame.height))
        self.see_signature(picture.run, picture.signature)
        if times := self.times_sampled(picture.run):
            self.sample(picture.frame, times)

    def see_size(self, run: Run, size: tuple[int, int]) -> None:
        """Raise SchemaMismatchError if `size` (width, height) is not the first image's."""
        self.size = self.size or size
        if size != self.size:
            raise SchemaMismatchError(
                "the camera's resolution changes midway",
                frame=run.frame,
                image=run.image,
                found=f"{size[0]} x {size[1]}",
                expected=f"{self.size[0]} x {self.size[1]} as at frame 0",
                todo="Split the recording there, or leave it out.",
            )

    def see_signature(self, run: Run, signature: bytes) -> None:
        """Notice an image that equals the one recorded before it."""
        if self.before is not None and self.before[0] == signature:
            self.frozen = (self.frozen or self.before[1]) + run.times
            self.longest_frozen = max(self.longest_frozen, self.frozen)
        else:
            self.frozen = 0
        self.before = (signature, run.times)

    def times_sampled(self, run: Run) -> int:
        """How many of the frames that show this image are in the statistics."""
        first, last = np.searchsorted(self.sampled, [run.frame, run.frame + run.times])
        return int(last - first)

    def sample(self, frame: av.VideoFrame, times: int) -> None:
        """Put a decoded image into the statistics and the signature."""
        image = thinned_rgb(frame, pixel_step(frame.height, frame.width))
        self.images.add(image, times)
        self.pictures.add(image, times)

    def stats(self) -> dict[str, Any]:
        """LeRobot's image statistics."""
        return self.images.stats()

    def measured(self) -> dict[str, Any]:
        """frozen_frames, black_fraction, luma_mean, signature, motion."""
        return {"frozen_frames": self.longest_frozen, **self.images.measured(), **self.pictures.measured()}
