"""Every value of the action chunk as a model sees it, made a block of frames at a time, so that they are never all in memory.

Frame t of an episode with L frames has the chunk `action[min(t + h, L - 1)]` for h = 0 .. horizon - 1, of which the state of frame t
is taken away: by subtraction in single dimensions, by composition (`compose_delta`) in the dimensions of a rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.rotations import delta_between, quaternions
from vla_ops.robot import RotationGroup

type Floats = npt.NDArray[np.float32 | np.float64]
type Float64 = npt.NDArray[np.float64]
type Int64 = npt.NDArray[np.int64]

# A composed block has some ten arrays in use, a plain one four: all are to stay in the core's cache.
_COMPOSED_SHARE = 8


class ChunkValues(Protocol):
    """Some dimensions, made together: `width` numbers for each of frames x horizon."""

    @property
    def width(self) -> int:
        """How many dimensions."""
        ...

    @property
    def count(self) -> int:
        """Frames x horizon."""
        ...

    def blocks(self, frames: int) -> Iterator[Float64]:
        """Yield every value once, [width, n] with n up to `frames`. The array yielded may be changed and is reused: copy what is kept."""
        ...

    def sample(self, size: int, seed: int) -> Float64:
        """Return [width, size] values drawn at random, with replacement."""
        ...


@dataclass(frozen=True)
class SingleValues:
    """One dimension, and what is subtracted from a frame's whole chunk: None for absolute dimensions and for the state."""

    target: Floats
    reference: Floats | None
    # Index of each episode's last frame.
    last: Int64
    horizon: int
    width: int = 1

    @property
    def count(self) -> int:
        """Frames x horizon."""
        return len(self.target) * self.horizon

    def blocks(self, frames: int) -> Iterator[Float64]:
        """See ChunkValues."""
        for low in range(0, len(self.target), frames):
            high = min(low + frames, len(self.target))
            ahead = self.target[low : high + self.horizon - 1].astype(np.float64)
            base = np.zeros(high - low) if self.reference is None else self.reference[low:high].astype(np.float64)
            values = np.empty((1, high - low))
            for step in _steps(ahead[None], high - low, _ends(self.last, low, len(ahead)), self.horizon):
                yield np.subtract(step, base, out=values)

    def sample(self, size: int, seed: int) -> Float64:
        """See ChunkValues."""
        frame, step = _drawn(size, seed, self.last, self.horizon)
        values = self.target[step].astype(np.float64)
        return (values if self.reference is None else values - self.reference[frame])[None]


@dataclass(frozen=True)
class RotationValues:
    """The dimensions of one rotation [N, d], composed with the inverse of `reference` [N, d]."""

    target: Floats
    reference: Floats
    group: RotationGroup
    last: Int64
    horizon: int

    @property
    def width(self) -> int:
        """Numbers of the rotation's form."""
        return self.group.stop - self.group.start

    @property
    def count(self) -> int:
        """Frames x horizon."""
        return len(self.target) * self.horizon

    def blocks(self, frames: int) -> Iterator[Float64]:
        """See ChunkValues."""
        frames = max(frames // _COMPOSED_SHARE, 1)
        for low in range(0, len(self.target), frames):
            high = min(low + frames, len(self.target))
            # Components first and each in one piece: read once, and moved on step by step.
            ahead = np.ascontiguousarray(self._quaternions(self.target[low : high + self.horizon - 1]).T)
            base = np.ascontiguousarray(self._quaternions(self.reference[low:high]).T)
            for step in _steps(ahead, high - low, _ends(self.last, low, ahead.shape[1]), self.horizon):
                yield self._deltas(step.T, base.T)

    def sample(self, size: int, seed: int) -> Float64:
        """See ChunkValues."""
        frame, step = _drawn(size, seed, self.last, self.horizon)
        return self._deltas(self._quaternions(self.target[step]), self._quaternions(self.reference[frame]))

    def _quaternions(self, rows: Floats) -> Float64:
        return quaternions(rows.astype(np.float64), self.group.kind, self.group.unit)

    def _deltas(self, action: Float64, state: Float64) -> Float64:
        return np.ascontiguousarray(delta_between(action, state, self.group.kind, self.group.unit).T)


def values_of_chunks(
    states: Floats,
    actions: Floats,
    last: Int64,
    *,
    horizon: int,
    delta_mask: Sequence[bool],
    delta_rotations: Sequence[RotationGroup],
) -> list[ChunkValues]:
    """The values of all action dimensions in order, those of a rotation together; `last` are the indices of episodes' last frames."""
    groups = {group.start: group for group in delta_rotations}
    values: list[ChunkValues] = []
    k = 0
    while k < actions.shape[1]:
        group = groups.get(k)
        if group is not None:
            place = slice(group.start, group.stop)
            values.append(RotationValues(actions[:, place], states[:, place], group, last, horizon))
        else:
            values.append(SingleValues(actions[:, k], states[:, k] if delta_mask[k] else None, last, horizon))
        k += values[-1].width
    return values


def _ends(last: Int64, low: int, frames: int) -> Int64:
    """Places of episodes' last frames among `frames` from `low` on."""
    return last[slice(*np.searchsorted(last, (low, low + frames)))] - low


def _steps(ahead: Float64, frames: int, ends: Int64, horizon: int) -> Iterator[Float64]:
    """Yield the first `frames` columns of `ahead` [k, m] as each step of the chunk has them."""
    held = ahead[:, ends]
    for _ in range(horizon):
        yield ahead[:, :frames]
        # One step further: every frame sees its successor's value, but an episode's last frame keeps its own.
        ahead[:, :-1] = ahead[:, 1:]
        ahead[:, ends] = held


def _drawn(size: int, seed: int, last: Int64, horizon: int) -> tuple[Int64, Int64]:
    """Frames, and for each the frame that a random step of its chunk shows."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(last[-1] + 1, size=size)
    step = frame + rng.integers(horizon, size=size)
    return frame, np.minimum(step, last[np.searchsorted(last, frame)])
