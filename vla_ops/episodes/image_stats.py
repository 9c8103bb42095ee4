"""LeRobot's per-episode image statistics, from 256-bin histograms of the images it would sample.

The same frames of an episode and the same pixels of a frame are taken as LeRobot 0.6 takes. A histogram of bytes makes every
number exact, where LeRobot's own are float32 sums and quantiles of 5,000 bins: the two differ by less than a tenth of a grey value.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vla_ops.recordings.base import Int64, UInt8

if TYPE_CHECKING:
    import av

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
# An image whose mean is below this is black.
_BLACK = 4.0
_LUMA = np.array([0.299, 0.587, 0.114])
# Shares of red and blue in luma by FFmpeg's number of the color matrix: BT.709, SMPTE 240M, BT.2020. All others are BT.601.
_LUMA_OF = {1: (0.2126, 0.0722), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}


def sampled_frames(length: int) -> Int64:
    """The frames of an episode of `length` frames that LeRobot takes: all up to 100, then length ** 0.75, at most 10,000."""
    count = max(min(length, 100), min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, count)).astype(np.int64)


def pixel_step(height: int, width: int) -> int:
    """Every how many rows and columns LeRobot takes a pixel: such that the longer side has 150 or a little more."""
    longer = max(height, width)
    return 1 if longer < 300 else longer // 150


class ImageStats:
    """Histograms of the sampled images of one camera and episode."""

    def __init__(self) -> None:
        self.histograms = np.zeros((3, 256), dtype=np.int64)
        self.images = 0
        self.black = 0
        self.luma = 0.0

    def add(self, image: UInt8, times: int = 1) -> None:
        """Add an RGB image [h, w, 3], already thinned out, that was sampled `times` times."""
        counts = np.stack([np.bincount(image[..., channel].ravel(), minlength=256) for channel in range(3)])
        means = counts @ np.arange(256) / counts[0].sum()
        self.histograms += counts * times
        self.images += times
        self.black += times * bool(means.mean() < _BLACK)
        self.luma += times * float(means @ _LUMA)

    def stats(self) -> dict[str, Any]:
        """min, max, mean, std and quantiles as [3][1][1] lists in 0..1, count as [images]."""
        counts = self.histograms
        values, total = np.arange(256), counts.sum(axis=1, keepdims=True)
        mean = counts @ values / total[:, 0]
        variance = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total[:, 0]
        below = np.cumsum(counts, axis=1)
        result = {"min": (counts > 0).argmax(axis=1), "max": 255 - (counts[:, ::-1] > 0).argmax(axis=1), "mean": mean}
        result["std"] = np.sqrt(variance)
        result |= {name: (below >= q * total).argmax(axis=1) for name, q in _QUANTILES.items()}
        return {name: _per_channel(value / 255) for name, value in result.items()} | {"count": [self.images]}

    def measured(self) -> dict[str, float]:
        """black_fraction: sampled images that are black; luma_mean in 0..1."""
        count = max(self.images, 1)
        return {"black_fraction": self.black / count, "luma_mean": self.luma / count / 255}


def _per_channel(values: npt.NDArray[np.floating[Any]]) -> list[list[list[float]]]:
    return [[[float(value)]] for value in values]


def thinned_rgb(frame: av.VideoFrame, step: int) -> UInt8:
    """The RGB values [h, w, 3] of every `step`-th row and column of a decoded frame.

    Only those pixels are converted. Chroma is interpolated linearly between its samples, which is what libjpeg does.
    """
    grid = _chroma_grid(frame.format.name, frame.height, frame.width, step)
    if grid is None:
        return np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)[::step, ::step]
    luma = plane(frame, 0)[::step, ::step].astype(np.float32)
    blue, red = (grid.at(plane(frame, k)) - np.float32(128) for k in (1, 2))
    if not is_full_range(frame):
        luma, blue, red = (luma - 16) * np.float32(255 / 219), blue * np.float32(255 / 224), red * np.float32(255 / 224)
    of_red, of_blue = _LUMA_OF.get(frame.colorspace, (0.299, 0.114))
    of_green = 1 - of_red - of_blue
    green = luma - 2 * of_blue * (1 - of_blue) / of_green * blue - 2 * of_red * (1 - of_red) / of_green * red
    rgb = np.stack([luma + 2 * (1 - of_red) * red, green, luma + 2 * (1 - of_blue) * blue], axis=-1)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def is_full_range(frame: av.VideoFrame) -> bool:
    """True where black is 0 and white 255, as in JPEG; False for 16 and 235, as in most video."""
    return frame.color_range == 2 or frame.format.name.startswith("yuvj")


def plane(frame: av.VideoFrame, index: int) -> UInt8:
    """A view of a plane of 8-bit samples, without the padding of its lines."""
    one = frame.planes[index]
    return np.frombuffer(one, np.uint8).reshape(-1, one.line_size)[: one.height, : one.width]


class _ChromaGrid:
    """Where the thinned pixels lie between the samples of a subsampled plane."""

    def __init__(self, shape: tuple[int, int], subsampling: tuple[int, int], step: int) -> None:
        self.rows = _between(shape[0], subsampling[0], step)
        self.columns = _between(shape[1], subsampling[1], step)

    def at(self, samples: UInt8) -> npt.NDArray[np.float32]:
        """Interpolate `samples` at the thinned pixels."""
        (top, bottom, down), (left, right, across) = self.rows, self.columns
        down = down[:, None]
        rows = samples[top] * (1 - down) + samples[bottom] * down
        return (rows[:, left] * (1 - across) + rows[:, right] * across).astype(np.float32, copy=False)


def _between(size: int, subsampling: int, step: int) -> tuple[Int64, Int64, npt.NDArray[np.float32]]:
    """For every `step`-th pixel of a line: the sample before, the sample after, and the weight of the latter."""
    samples = -(-size // subsampling)
    place = np.clip((np.arange(0, size, step) + 0.5) / subsampling - 0.5, 0, samples - 1)
    before = place.astype(np.int64)
    return before, np.minimum(before + 1, samples - 1), (place - before).astype(np.float32)


_SUBSAMPLING = {"420p": (2, 2), "422p": (1, 2), "444p": (1, 1), "440p": (2, 1)}


@lru_cache(maxsize=64)
def _chroma_grid(format: str, height: int, width: int, step: int) -> _ChromaGrid | None:
    subsampling = _SUBSAMPLING.get(format.removeprefix("yuvj").removeprefix("yuv"))
    return None if subsampling is None else _ChromaGrid((height, width), subsampling, step)
