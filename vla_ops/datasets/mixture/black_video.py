"""Black videos for cameras that a robot does not have: a short one is encoded once, longer ones are put together from its packets."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.datasets.video_concat import Clip, concatenate
from vla_ops.episodes.encode import FrameEncoder, PacketCopier
from vla_ops.episodes.store import VideoInfo
from vla_ops.spec import VideoSpec

if TYPE_CHECKING:
    import av

# Frames that are encoded, and that the shortest piece of which others are put together has.
_PIECE = 64
# Frames from one keyframe to the next: every second one, as recorded videos have it, would make black files ten times as large.
_GOP = 16
# Fine enough for H.264 to be black to the last bit.
_CRF = 10
# Y of black, U and V of no colour.
_LUMA, _CHROMA = 16, 128


class BlackVideos:
    """Makes black mp4s of one size and codec; `folder` is for the pieces."""

    def __init__(self, folder: Path, like: VideoInfo, *, rate_hz: int) -> None:
        """`like`: size and codec; AV1 and MJPEG are made as such, anything else as H.264."""
        self._folder, self._rate_hz = folder, rate_hz
        codec = like.codec if like.codec in ("av1", "mjpeg") else "h264"
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        self._like = VideoInfo(like.height, like.width, codec, pix_fmt, 0)

    @property
    def name(self) -> str:
        """Says what they are: two of one name and length are the same."""
        return f"black {self._like.codec} {self._like.height}x{self._like.width} at {self._rate_hz}"

    def write(self, target: Path, frames: int) -> None:
        """Write an mp4 of `frames` black frames, frame k at exactly k / rate."""
        clips = [self._clip(1 << power) for power in reversed(range(frames.bit_length())) if frames >> power & 1 and 1 << power >= _PIECE]
        rest = frames % _PIECE
        concatenate([*clips, *([self._clip(rest)] if rest else [])], target, rate_hz=self._rate_hz)

    def _clip(self, frames: int) -> Clip:
        path = self._folder / f"black_{frames}.mp4"
        if not path.exists() and frames <= _PIECE:
            self._encode(path, frames)
        elif not path.exists():
            concatenate([self._clip(frames // 2)] * 2, path, rate_hz=self._rate_hz)
        return Clip("black", path, replace(self._like, frames=frames))

    def _encode(self, path: Path, frames: int) -> None:
        if self._like.codec == "mjpeg":
            with PacketCopier(path, "jpeg", (image := self._jpeg()), rate_hz=self._rate_hz) as copier:
                for _ in range(frames):
                    copier.copy(image, keyframe=True)
            return
        frame = self._frame()
        settings = VideoSpec(codec="av1" if self._like.codec == "av1" else "h264", gop=_GOP, crf=_CRF)
        with FrameEncoder(path, frame, settings=settings, rate_hz=self._rate_hz, threads=1) as encoder:
            encoder.encode(frame, frames)
            encoder.finish()

    def _frame(self) -> av.VideoFrame:
        import av

        size = self._like.height * self._like.width
        luma, chroma = np.full(size, _LUMA, np.uint8), np.full(size // 2, _CHROMA, np.uint8)
        planes = np.concatenate([luma, chroma]).reshape(-1, self._like.width)
        return av.VideoFrame.from_ndarray(planes, format="yuv420p")

    def _jpeg(self) -> bytes:
        from PIL import Image

        data = io.BytesIO()
        Image.fromarray(np.zeros((self._like.height, self._like.width, 3), np.uint8)).save(data, "JPEG")
        return data.getvalue()
