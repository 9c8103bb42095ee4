"""Exact statistics of state and of the action chunk as a model sees it, in float64 and bounded memory.

Frame t of an episode with L frames has the chunk `action[min(t + h, L - 1)] - state[t]` for h = 0 .. horizon - 1 (the state is
subtracted in masked dimensions only, and rotations are composed: see `vla_ops.norm_stats.chunk_values`). All frames x horizon rows
count, repeated ends too, as they do in training.

One dimension is one column, read once in blocks of frames (those of a rotation together): moments about a value near the median, so
that nothing cancels, and only the values beyond two pivots are kept. The pivots come from a random sample and lie a little inside
the ranks looked for, so that the tails hold q01 and q99, which are then selected exactly. Counts prove it; should a pivot have
missed, the column is read again with wider ones. The sample thus decides how long it takes, never the result.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.rotations import check_rotations
from vla_ops.errors import DatasetError, RecordingError, SchemaMismatchError
from vla_ops.norm_stats.chunk_values import ChunkValues, Floats, SingleValues, values_of_chunks
from vla_ops.robot import RotationGroup

type Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VectorStats:
    """Statistics of a vector, each [d] in float64.

    A quantile is a value that occurs: the smallest v with count(x <= v) >= q * count, which is what openpi's histogram approaches.
    """

    mean: Column
    std: Column
    q01: Column
    q99: Column
    min: Column
    max: Column
    # Rows: frames for the state, frames x horizon for the action chunk.
    count: int


@dataclass(frozen=True)
class ChunkStats:
    """Statistics of the state [N, d] and of the action chunk [N, H, a] after the delta transform."""

    state: VectorStats
    actions: VectorStats


@dataclass(frozen=True)
class Effort:
    """How columns are read; changes time and memory, never a quantile."""

    # 256 KB a buffer: the four in use stay in the core's cache.
    block_frames: int = 32_768
    sample: int = 200_000
    # Six standard errors: a pivot misses about once in 10^9 columns.
    margin_sigmas: float = 6.0


def chunk_norm_stats(
    states: Floats,
    actions: Floats,
    lengths: Sequence[int] | npt.NDArray[np.int64],
    *,
    horizon: int,
    delta_mask: Sequence[bool],
    delta_rotations: Sequence[RotationGroup] = (),
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    effort: Effort = Effort(),
) -> ChunkStats:
    """Return the statistics of `states` [N, d] and of the chunks of `actions` [N, a] of episodes with `lengths` (sum N).

    Raise SchemaMismatchError for shapes that do not fit each other and DatasetError for no frames, NaN and Inf, and numbers in
    `delta_rotations` that are no rotation.
    """
    last = np.cumsum(np.asarray(lengths, dtype=np.int64)) - 1
    _check_shapes(states, actions, lengths, horizon=horizon, delta_mask=delta_mask)
    _refuse_nonfinite(states, last, vector="state", names=state_names)
    _refuse_nonfinite(actions, last, vector="action", names=action_names)
    for group in delta_rotations:
        if not all(delta_mask[group.start : group.stop]):
            raise SchemaMismatchError("a rotation is delta-encoded in part", dimension=group.start, found=group, expected="all or none")
        _refuse_no_rotation(states, group, vector="state", names=state_names)
        _refuse_no_rotation(actions, group, vector="action", names=action_names)
    state_values = [SingleValues(states[:, k], None, last, 1) for k in range(states.shape[1])]
    of_chunks = values_of_chunks(states, actions, last, horizon=horizon, delta_mask=delta_mask, delta_rotations=delta_rotations)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(of_chunks))) as threads:
        state = list(chain.from_iterable(threads.map(lambda values: _column_stats(values, effort), state_values)))
        chunk = list(chain.from_iterable(threads.map(lambda values: _column_stats(values, effort), of_chunks)))
    return ChunkStats(_stack(state, len(states)), _stack(chunk, len(states) * horizon))


def _check_shapes(
    states: Floats, actions: Floats, lengths: Sequence[int] | npt.NDArray[np.int64], *, horizon: int, delta_mask: Sequence[bool]
) -> None:
    if states.ndim != 2 or actions.ndim != 2 or len(states) != len(actions):
        raise SchemaMismatchError("state and action do not have one row a frame", found=f"{states.shape} and {actions.shape}")
    if len(states) == 0 or any(length < 1 for length in lengths):
        raise DatasetError("no statistics of an episode without frames", found=f"{len(states)} frames in {len(lengths)} episodes")
    if sum(lengths) != len(states):
        raise SchemaMismatchError("the episodes' lengths do not add up", found=f"{sum(lengths)} frames", expected=f"{len(states)} rows")
    if horizon < 1:
        raise SchemaMismatchError("a chunk has at least one step", found=f"horizon {horizon}")
    if len(delta_mask) != actions.shape[1]:
        raise SchemaMismatchError("the delta mask does not fit", found=f"{len(delta_mask)} entries", expected=f"{actions.shape[1]} actions")
    if any(delta_mask[states.shape[1] :]):
        raise SchemaMismatchError(
            "a delta action has no state at its place to be subtracted from",
            dimension=max(k for k, delta in enumerate(delta_mask) if delta),
            found=f"{states.shape[1]} state dimensions",
        )


def _refuse_nonfinite(values: Floats, last: npt.NDArray[np.int64], *, vector: str, names: Sequence[str] | None) -> None:
    finite = np.isfinite(values)
    if finite.all():
        return
    frame, k = (int(i) for i in np.argwhere(~finite)[0])
    episode = int(np.searchsorted(last, frame))
    raise DatasetError(
        f"a value of the {vector} is not finite: one such value makes all statistics of its dimension worthless",
        episode=episode,
        dimension=names[k] if names else k,
        frame=frame - (int(last[episode - 1]) + 1 if episode else 0),
        found=f"{values[frame, k]} ({int((~finite).sum())} such values in the dataset)",
        todo="Set quality.nonfinite_values to `quarantine` and convert again, or repair the recording.",
    )


def _refuse_no_rotation(values: Floats, group: RotationGroup, *, vector: str, names: Sequence[str] | None) -> None:
    dimensions = range(group.start, group.stop)
    try:
        called = [names[k] if names else str(k) for k in dimensions]
        check_rotations(values[:, dimensions].astype(np.float64), group.kind, called, vector)
    except RecordingError as error:
        raise DatasetError(
            f"{error.what}: their deltas cannot be composed", found=error.found, expected=error.expected, todo=error.todo, **error.where
        ) from error


@dataclass(frozen=True)
class _ColumnStats:
    mean: float
    std: float
    q01: float
    q99: float
    min: float
    max: float
    count: int


@dataclass(frozen=True)
class _Pivots:
    low: float
    high: float
    # A value of the column: differences from it are exactly 0 where the column is constant.
    centre: float


def _column_stats(chunks: ChunkValues, effort: Effort, attempt: int = 0) -> list[_ColumnStats]:
    """The statistics of each dimension of `chunks`, in order."""
    # Integer arithmetic: 0.99 * count in floats can round across a rank.
    rank01 = -(-chunks.count // 100)
    rank99_from_top = chunks.count + (-99 * chunks.count // 100) + 1
    found = []
    for scan in _scan(chunks, _pivots(chunks, effort, attempt), effort.block_frames):
        q01 = scan.low.smallest(rank01)
        negated_q99 = scan.high.smallest(rank99_from_top)
        if q01 is None or negated_q99 is None:
            return _column_stats(chunks, effort, attempt + 1)
        found.append(scan.stats(q01, -negated_q99))
    return found


def _pivots(chunks: ChunkValues, effort: Effort, attempt: int) -> list[_Pivots]:
    size = min(effort.sample, chunks.count)
    margin = effort.margin_sigmas * 8**attempt * (np.sqrt(0.01 * 0.99 / size) + 1 / size)
    inside = int((0.01 + margin) * size)
    columns = chunks.sample(size, seed=attempt)
    if inside >= size:
        return [_Pivots(np.inf, -np.inf, float(column[0])) for column in columns]
    orders = [np.partition(column, sorted({inside, size // 2, size - 1 - inside})) for column in columns]
    return [_Pivots(float(order[inside]), float(order[size - 1 - inside]), float(order[size // 2])) for order in orders]


@dataclass(frozen=True)
class _Tail:
    """The values below a pivot, and how often the pivot itself occurs: ties at it are counted, not kept."""

    pivot: float
    beyond: Column
    at_pivot: int

    def smallest(self, rank: int) -> float | None:
        """Return the value of `rank` (from 1) in the whole column, or None if it is above the pivot."""
        if rank <= self.beyond.size:
            return float(np.partition(self.beyond, rank - 1)[rank - 1])
        return self.pivot if rank <= self.beyond.size + self.at_pivot else None


@dataclass
class _Scan:
    """What has been read of a column. `high` is the tail of the negated column."""

    pivots: _Pivots
    # Sums of (x - centre) and of its square.
    total: float = 0.0
    squares: float = 0.0
    min: float = np.inf
    max: float = -np.inf
    count: int = 0
    below: list[Column] = field(default_factory=list)
    above: list[Column] = field(default_factory=list)
    at_low: int = 0
    at_high: int = 0

    def add(self, values: Column) -> None:
        """Read `values`, and overwrite them."""
        pivots = self.pivots
        self.count += values.size
        self.min, self.max = min(self.min, float(values.min())), max(self.max, float(values.max()))
        self.below.append(values[values < pivots.low])
        self.above.append(-values[values > pivots.high])
        self.at_low += np.count_nonzero(values == pivots.low)
        self.at_high += np.count_nonzero(values == pivots.high)
        np.subtract(values, pivots.centre, out=values)
        self.total += float(values.sum())
        self.squares += float(np.square(values, out=values).sum())

    @property
    def low(self) -> _Tail:
        return _Tail(self.pivots.low, np.concatenate(self.below), self.at_low)

    @property
    def high(self) -> _Tail:
        return _Tail(-self.pivots.high, np.concatenate(self.above), self.at_high)

    def stats(self, q01: float, q99: float) -> _ColumnStats:
        shift = self.total / self.count
        # The centre is within one std of the mean, so at most one bit cancels.
        std = float(np.sqrt(max(self.squares / self.count - shift * shift, 0.0)))
        return _ColumnStats(self.pivots.centre + shift, std, q01, q99, self.min, self.max, self.count)


def _scan(chunks: ChunkValues, pivots: Sequence[_Pivots], block_frames: int) -> list[_Scan]:
    scans = [_Scan(each) for each in pivots]
    for block in chunks.blocks(block_frames):
        for scan, values in zip(scans, block, strict=True):
            scan.add(values)
    return scans


def _stack(columns: Sequence[_ColumnStats], expected: int) -> VectorStats:
    """One VectorStats of `columns`, each of which must have seen `expected` values."""
    wrong = [k for k, column in enumerate(columns) if column.count != expected]
    if wrong:
        raise DatasetError("not every row entered the statistics", dimension=wrong[0], found=columns[wrong[0]].count, expected=expected)
    mean, std, q01, q99, low, high = (
        np.array([getattr(column, name) for column in columns]) for name in ("mean", "std", "q01", "q99", "min", "max")
    )
    return VectorStats(mean, std, q01, q99, low, high, expected)
