"""Which frames come when: an endless (or, for validation, finite) row of samples that is a pure function of a seed.

Sample i of it is the same whatever was asked before, on every host, with every number of workers. Where a run stands in it is
`{"seed", "epoch", "position", "frames"}`: `position` samples of that epoch have been used, of `frames` that an epoch has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vla_ops.datasets.mixture import read_sampling
from vla_ops.errors import DatasetError
from vla_ops.training.data.frames import Frames, Int64

_KEYS = ("seed", "epoch", "position", "frames")
# A counter of Philox gives four numbers, of which each weighted sample takes two.
_SAMPLES_A_COUNTER = 2


class Order(Protocol):
    """Rows of frames, by the number of the sample."""

    @property
    def seed(self) -> int:
        """What the order depends on."""
        ...

    @property
    def frames(self) -> int:
        """Samples in an epoch."""
        ...

    @property
    def ends(self) -> bool:
        """Whether it ends after one epoch."""
        ...

    def rows(self, start: int, count: int) -> Int64:
        """Rows of the samples `start` .. `start + count - 1`."""
        ...


class Shuffled:
    """Every row once an epoch, each epoch in another order. A batch may lie in two epochs, so that none is ever cut short.

    The order is that of 64-bit numbers of Philox, whose stream NumPy promises not to change, unlike that of its `permutation`.
    """

    ends = False

    def __init__(self, rows: Int64, *, seed: int) -> None:
        self._rows, self.seed, self.frames = rows, seed, _checked(len(rows))
        self._last: tuple[int, Int64] | None = None

    def rows(self, start: int, count: int) -> Int64:
        """Rows of the samples from `start` on."""
        parts = []
        while count > 0:
            epoch, position = divmod(start, self.frames)
            parts.append(self._epoch(epoch)[position : position + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate([np.empty(0, np.int64), *parts])

    def _epoch(self, epoch: int) -> Int64:
        # Of the last epoch only: a permutation of ten million frames takes a second.
        last = self._last
        if last is None or last[0] != epoch:
            last = self._last = (epoch, self._rows[np.argsort(_philox(self.seed, epoch).random_raw(self.frames), kind="stable")])
        return last[1]


@dataclass(frozen=True, eq=False)
class Source:
    """A part of a mixture: its training rows, and its share of the samples in any unit."""

    name: str
    share: float
    rows: Int64


class Weighted:
    """With replacement: each sample's source by its share, then any of the source's rows alike. An epoch is as many samples as rows."""

    ends = False

    def __init__(self, sources: Sequence[Source], *, seed: int) -> None:
        empty = [source.name for source in sources if source.share > 0 and not len(source.rows)]
        shares = np.array([source.share for source in sources], np.float64)
        if empty or not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
            raise DatasetError(
                "sources cannot be drawn from",
                found=f"no training frames in {', '.join(empty)}" if empty else f"shares {shares.tolist()}",
                expected="frames in every source that has a share, and a share above 0 in at least one",
            )
        self.seed, self.frames = seed, _checked(sum(len(source.rows) for source in sources))
        self._upto = np.cumsum(shares) / shares.sum()
        self._lengths = np.array([len(source.rows) for source in sources], np.int64)
        self._starts = np.cumsum([0, *self._lengths[:-1]])
        self._all = np.concatenate([source.rows for source in sources])

    def rows(self, start: int, count: int) -> Int64:
        """Rows of the samples from `start` on."""
        numbers = _philox(self.seed, 0)
        numbers.advance(start // _SAMPLES_A_COUNTER)
        skipped = start % _SAMPLES_A_COUNTER
        raw = numbers.random_raw(2 * (skipped + count)).reshape(-1, 2)[skipped:]
        share, place = (raw >> np.uint64(11)).astype(np.float64).T * 2.0**-53
        source = np.searchsorted(self._upto, share, side="right")
        source = np.minimum(source, np.flatnonzero(self._lengths)[-1])
        return self._all[self._starts[source] + (place * self._lengths[source]).astype(np.int64)]


class InOrder:
    """Every row once, then the end."""

    ends, seed = True, 0

    def __init__(self, rows: Int64) -> None:
        self._rows, self.frames = rows, _checked(len(rows))

    def rows(self, start: int, count: int) -> Int64:
        """Rows of the samples from `start` on, fewer at the end."""
        return self._rows[start : start + count]


def state_of(order: Order, used: int) -> dict[str, int]:
    """Where a run stands that has used so many samples of all hosts together."""
    epoch, position = divmod(used, order.frames)
    return {"seed": order.seed, "epoch": epoch, "position": position, "frames": order.frames}


def used_by(order: Order, state: Mapping[str, Any]) -> int:
    """The inverse of `state_of`. Raise DatasetError for the state of another order."""
    if set(state) != set(_KEYS) or not all(isinstance(state[key], int) for key in _KEYS):
        raise DatasetError("not a place in the data", found=dict(state), expected=", ".join(_KEYS))
    here = {"seed": order.seed, "frames": order.frames}
    if any(state[key] != value for key, value in here.items()):
        raise DatasetError(
            "the run stood in another order of frames than this one",
            found=f"seed {state['seed']}, {state['frames']} frames an epoch",
            expected=f"seed {order.seed}, {order.frames} frames an epoch",
            todo="Resume with the seed and the dataset version the run was started with, or start a new run from its checkpoint.",
        )
    return state["epoch"] * order.frames + state["position"]


def mixture_sources(frames: Frames) -> list[Source] | None:
    """The sources of a mixture and their shares, as its meta/sampling.json says; None for a dataset that is no mixture."""
    if frames.source_of is None:
        return None
    training = frames.training_rows()
    of_training = frames.source_of[training]
    drawn = read_sampling(frames.folder).sources
    return [Source(each.name, each.probability, training[of_training == k]) for k, each in enumerate(drawn)]


def _checked(frames: int) -> int:
    if frames < 1:
        raise DatasetError("there is no frame to read", found="0 frames")
    return frames


def _philox(seed: int, stream: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([seed, stream], np.uint64))
