"""What a camera showed over an episode in a few numbers: its usual picture, and when it changed.

The usual picture tells which camera it is; when it changed tells which arm carries it. Both are made from the images that the
statistics sample, so no image is decoded for them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vla_ops.recordings.base import UInt8

# Cells of a picture: coarse enough not to see objects and noise, fine enough to see grippers, mounts and the table's edge.
ROWS, COLUMNS = 12, 16
# Pieces of time of the motion: half a second each in an episode of half a minute.
BINS = 64
_LUMA = np.array([0.299, 0.587, 0.114])


class PictureSignature:
    """Collects one camera's sampled images of one episode, in order."""

    def __init__(self) -> None:
        self._pictures: list[npt.NDArray[np.float32]] = []
        self._times: list[int] = []

    def add(self, image: UInt8, times: int = 1) -> None:
        """Add an RGB image [h, w, 3], already thinned out, that was sampled `times` times."""
        self._pictures.append(_cells(image))
        self._times.append(times)

    def measured(self) -> dict[str, list[int] | list[float]]:
        """`signature`: median luma 0..255 of each cell over the images, row by row [ROWS * COLUMNS].

        `motion`: mean change of a cell from one sampled image to the next, in each of at most BINS equally long pieces of the episode.
        """
        if not self._pictures:
            return {"signature": [], "motion": []}
        pictures = np.repeat(np.stack(self._pictures), self._times, axis=0)
        usual = np.rint(np.median(pictures, axis=0)).astype(int)
        changes = np.abs(np.diff(pictures, axis=0)).mean(axis=1)
        return {"signature": usual.tolist(), "motion": [round(float(mean), 2) for mean in pieces(changes)]}


def pieces(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The means of at most BINS consecutive pieces of `values` [n], as equal in length as can be; empty for none."""
    count = min(BINS, len(values))
    if not count:
        return np.zeros(0)
    starts = np.arange(count) * len(values) // count
    return np.add.reduceat(values.astype(np.float64), starts) / np.diff(np.append(starts, len(values)))


def _cells(image: UInt8) -> npt.NDArray[np.float32]:
    """Mean luma of each cell [ROWS * COLUMNS]; an image smaller than that repeats its pixels."""
    # Five rows and columns of pixels in a cell are enough for its mean.
    step = max(1, min(image.shape[0] // (5 * ROWS), image.shape[1] // (5 * COLUMNS)))
    image = image[::step, ::step]
    height, width = image.shape[:2]
    rows, columns = np.arange(ROWS) * height // ROWS, np.arange(COLUMNS) * width // COLUMNS
    sums = np.add.reduceat(np.add.reduceat(image, rows, axis=0, dtype=np.uint32), columns, axis=1)
    areas = np.outer(_widths(rows, height), _widths(columns, width))
    return ((sums @ _LUMA) / areas).astype(np.float32).ravel()


def _widths(starts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    # reduceat takes the one element at its start where the next start is no larger.
    return np.maximum(np.diff(np.append(starts, size)), 1)
