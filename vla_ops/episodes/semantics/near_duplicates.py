"""Find episodes that are nearly the same as another: re-recorded with other bytes, exported again, or a trimmed copy.

Copies with the same bytes never get here: `recordings.duplicates` stops them. What is compared are the state's trajectories, so a
copy is found whatever its images, and two demonstrations by a script or a steady hand are not copies: those still differ by far
more than a copy does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from vla_ops.episodes.semantics.episode_list import exclusion
from vla_ops.episodes.semantics.seen import Float64, Seen
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.robot import RobotSpec

# What remains between two trajectories at their best shift, over how much they move (RMS of both, each dimension in its range over the
# dataset). A copy that was trimmed, resampled half a frame later or given sensor noise leaves up to 0.04; the closest of hundreds of
# demonstrations leave 0.26 (one script, robots/aloha_sim), 0.14 (one person, Push-T) and 0.11 (one controller, a cart pole).
_COPY = 0.05
# Of the shorter one this share must lie within the longer one.
_OVERLAP = 0.8
# An RMS motion of less than this share of the dimensions' ranges is an arm at rest, and all arms at rest are alike.
_MOVES = 0.02
_FEWEST_FRAMES = 16
# Each episode is compared with this many whose ranges and quantiles are closest to its own: trimming keeps most of those.
_NEAREST = 8
_OF_RANGES = ("min", "q10", "q50", "q90", "max")
# At every fourth frame a copy is within this, and most others are not.
_COARSE = 4
_PERHAPS = 0.4
# Rows of the table of all pairs' differences that are in memory at once.
_AT_ONCE = 500
# Up to so many episodes all pairs are looked at; of more, each one's nearest along the directions in which episodes differ most, of
# which so many are kept and measured: a copy is near in every direction.
_MOST_PAIRED = 5000
_DIRECTIONS, _KEPT = 6, 4 * _NEAREST


@dataclass(frozen=True)
class Alike:
    """How far apart the motions of two episodes are at the best shift: frame 0 of `second` is frame `shift` of `first`."""

    first: int
    second: int
    distance: float
    shift: int


def judge_near_duplicates(seen: Seen, _spec: RobotSpec) -> list[Verdict]:
    """Name each episode that is nearly the same as a longer or earlier one."""
    found = sorted(_compared(seen), key=lambda alike: alike.distance)
    if not found:
        return [Verdict("near_duplicates", "episodes", "cannot tell", "cannot tell: there are no two episodes in which the robot moves")]
    named: dict[int, Verdict] = {}
    for alike in found:
        kept, copy = _which_is_copy(seen, alike)
        if alike.distance < _COPY and copy not in named and kept not in named:
            named[copy] = _named(seen, alike, kept, copy)
    if named:
        return [named[episode] for episode in sorted(named)]
    first, second = (seen.metas[k].id for k in (found[0].first, found[0].second))
    said = f"the closest two of those compared, {first} and {second}, differ by {found[0].distance:.0%} of their motion"
    return [Verdict("near_duplicates", "episodes", "agrees", said)]


def _which_is_copy(seen: Seen, alike: Alike) -> tuple[int, int]:
    """The episode to keep and the one to leave out: the longer and, of equals, the earlier one is kept."""
    pair = sorted((alike.first, alike.second), key=lambda k: (-seen.metas[k].length, k))
    return pair[0], pair[1]


def _named(seen: Seen, alike: Alike, kept: int, copy: int) -> Verdict:
    original, other = seen.metas[kept].id, seen.metas[copy].id
    shift = alike.shift if kept == alike.first else -alike.shift
    where = f", beginning {shift} frames into it" if shift > 0 else f", beginning {-shift} frames before it" if shift else ""
    found = (
        f"nearly the same as {original}{where}: its motion differs by {alike.distance:.2%}, where copies differ by less than {_COPY:.0%}"
    )
    todo = f"It counts twice in training. Leave it out in curation.yaml: {exclusion([other], f'same as {original}')}."
    return Verdict("near_duplicates", f"episode {other}", "contradicts", found, "every episode is one of its own", todo)


def _compared(seen: Seen) -> Iterator[Alike]:
    """Compare the trajectories of each episode and those whose ranges are closest to its own."""
    if len(seen.metas) < 2:
        return
    ranges = np.array([[meta.stats["observation.state"][name] for name in _OF_RANGES] for meta in seen.metas], np.float64)
    low, high = ranges[:, 0].min(axis=0), ranges[:, -1].max(axis=0)
    span = np.where(high > low, high - low, 1.0)

    @lru_cache(maxsize=4096)
    def trajectory(episode: int) -> Trajectory:
        return Trajectory.of((seen.read(seen.metas[episode]).state - low) / span)

    for first, second in _candidates(((ranges - low) / span).reshape(len(ranges), -1)):
        one, other = trajectory(first), trajectory(second)
        if min(one.motion, other.motion) >= _MOVES and min(len(one.values), len(other.values)) >= _FEWEST_FRAMES:
            distance, shift = _closest(one, other)
            yield Alike(first, second, distance, shift)


def _candidates(features: Float64) -> list[tuple[int, int]]:
    """Pairs of rows of which one is among the nearest of the other."""
    return _by_directions(features) if len(features) > _MOST_PAIRED else _by_pairs(features)


def _by_directions(features: Float64) -> list[tuple[int, int]]:
    """As `_by_pairs`, among the rows that are close in the features' main directions: n log n instead of n squared."""
    from scipy.spatial import KDTree

    centred = features - features.mean(axis=0)
    main = np.linalg.eigh(centred.T @ centred)[1][:, -_DIRECTIONS:]
    places = centred @ main
    pairs: set[tuple[int, int]] = set()
    tree = KDTree(places, balanced_tree=False)
    for start in range(0, len(features), _AT_ONCE):
        close = np.asarray(tree.query(places[start : start + _AT_ONCE], k=_KEPT + 1)[1])
        rows = np.arange(start, start + len(close))
        apart = ((features[close] - features[rows, None]) ** 2).sum(axis=2)
        apart[close == rows[:, None]] = np.inf
        nearest = np.take_along_axis(close, np.argpartition(apart, _NEAREST - 1, axis=1)[:, :_NEAREST], axis=1)
        pairs |= {(min(int(k), int(n)), max(int(k), int(n))) for k, row in zip(rows, nearest, strict=True) for n in row if n != k}
    return sorted(pairs)


def _by_pairs(features: Float64) -> list[tuple[int, int]]:
    square = (features**2).sum(axis=1)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(features), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        apart = square[some, None] + square[None] - 2 * features[some] @ features.T
        apart[np.arange(len(apart)), start + np.arange(len(apart))] = np.inf
        count = min(_NEAREST, len(features) - 1)
        nearest = np.argpartition(apart, count - 1, axis=1)[:, :count]
        pairs |= {(min(start + k, int(n)), max(start + k, int(n))) for k, row in enumerate(nearest) for n in row}
    return sorted(pairs)


@dataclass(frozen=True)
class Trajectory:
    """A state trajectory [frames, dimensions], each dimension in 0..1; sums of its squares up to each frame; its RMS motion."""

    values: Float64
    sums: Float64
    motion: float

    @classmethod
    def of(cls, values: Float64) -> Trajectory:
        """Measure `values`."""
        sums = np.concatenate([[0.0], np.cumsum((values**2).sum(axis=1))])
        return cls(values, sums, float(np.sqrt(np.mean((values - values.mean(axis=0)) ** 2))))

    @cached_property
    def coarse(self) -> Trajectory:
        """Every fourth frame of it."""
        return Trajectory.of(self.values[::_COARSE])


def _closest(first: Trajectory, second: Trajectory) -> tuple[float, int]:
    """`difference`, or where that is far from a copy's an estimate of it that costs a quarter."""
    rough, shift = difference(first.coarse, second.coarse)
    return difference(first, second) if rough < _PERHAPS else (rough, shift * _COARSE)


def difference(first: Trajectory, second: Trajectory) -> tuple[float, int]:
    """RMS difference over RMS motion at the best shift, and the shift: where in `first` the second one's frame 0 is."""
    n, m = len(first.values), len(second.values)
    needed = math.ceil(_OVERLAP * min(n, m))
    shifts = np.arange(needed - m, n - needed + 1)
    start, stop = np.maximum(shifts, 0), np.minimum(n, m + shifts)
    power = first.sums[stop] - first.sums[start] + second.sums[stop - shifts] - second.sums[start - shifts]
    apart = (power - 2 * _products(first.values, second.values)[shifts]) / (stop - start) / first.values.shape[1]
    best = int(np.argmin(apart))
    motion = np.sqrt((first.motion**2 + second.motion**2) / 2)
    return float(np.sqrt(max(0.0, _between(apart, best))) / motion), int(shifts[best])


def _products(first: Float64, second: Float64) -> Float64:
    """Sum of first[t + shift] * second[t] over frames and dimensions, at index `shift` (negative ones from the end)."""
    size = 1 << (len(first) + len(second) - 1).bit_length()
    spectrum = np.fft.rfft(first, size, axis=0) * np.fft.rfft(second, size, axis=0).conj()
    return np.fft.irfft(spectrum.sum(axis=1), size)


def _between(apart: Float64, best: int) -> float:
    """The lowest value between frames, from the parabola through the best shift and its neighbours: a copy may begin half a frame later."""
    if not 0 < best < len(apart) - 1:
        return float(apart[best])
    before, at, after = apart[best - 1 : best + 2]
    bend = before - 2 * at + after
    return float(at - (before - after) ** 2 / (8 * bend)) if bend > 0 else float(at)
