"""Exact statistics of state and of the action chunk as a model sees it, in float64 and bounded memory.

Frame t of an episode with L frames has the chunk `action[min(t + h, L - 1)] - state[t]` for h = 0 .. horizon - 1 (the state is
subtracted in masked dimensions only). All frames x horizon rows count, repeated ends too, as they do in training.

One dimension is one column, read once in blocks of frames: moments about a value near the median, so that nothing cancels, and
only the values beyond two pivots are kept. The pivots come from a random sample and lie a little inside the ranks looked for, so
that the tails hold q01 and q99, which are then selected exactly. Counts prove it; should a pivot have missed, the column is read
again with wider ones. The sample thus decides how long it takes, never the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_ops.errors import DatasetError, SchemaMismatchError

type Floats = npt.NDArray[np.float32 | np.float64]
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
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    effort: Effort = Effort(),
) -> ChunkStats:
    """Return the statistics of `states` [N, d] and of the chunks of `actions` [N, a] of episodes with `lengths` (sum N).

    Raise SchemaMismatchError for shapes that do not fit each other and DatasetError for no frames, NaN and Inf.
    """
    last = np.cumsum(np.asarray(lengths, dtype=np.int64)) - 1
    _check_shapes(states, actions, lengths, horizon=horizon, delta_mask=delta_mask)
    _refuse_nonfinite(states, last, vector="state", names=state_names)
    _refuse_nonfinite(actions, last, vector="action", names=action_names)
    state_columns = [_Chunks(states[:, k], None, last, 1) for k in range(states.shape[1])]
    action_columns = [_Chunks(actions[:, k], states[:, k] if delta else None, last, horizon) for k, delta in enumerate(delta_mask)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(action_columns))) as threads:
        state = list(threads.map(lambda column: _column_stats(column, effort), state_columns))
        chunk = list(threads.map(lambda column: _column_stats(column, effort), action_columns))
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


@dataclass(frozen=True)
class _Chunks:
    """All chunk values of one dimension: frames x horizon of them, made a block at a time."""

    target: Floats
    # What is subtracted from a frame's whole chunk; None for absolute dimensions and for the state.
    reference: Floats | None
    # Index of each episode's last frame.
    last: npt.NDArray[np.int64]
    horizon: int

    @property
    def count(self) -> int:
        return len(self.target) * self.horizon

    def blocks(self, frames: int) -> Iterator[Column]:
        """Yield every value once. The array yielded is reused: copy what is kept."""
        for low in range(0, len(self.target), frames):
            high = min(low + frames, len(self.target))
            ahead = self.target[low : high + self.horizon - 1].astype(np.float64)
            base = np.zeros(high - low) if self.reference is None else self.reference[low:high].astype(np.float64)
            ends = self.last[slice(*np.searchsorted(self.last, (low, low + len(ahead))))] - low
            held = ahead[ends]
            values = np.empty(high - low)
            for _ in range(self.horizon):
                yield np.subtract(ahead[: high - low], base, out=values)
                # One step further: every frame sees its successor's value, but an episode's last frame keeps its own.
                ahead[:-1] = ahead[1:]
                ahead[ends] = held

    def sample(self, size: int, seed: int) -> Column:
        """Return `size` values drawn at random, with replacement."""
        rng = np.random.default_rng(seed)
        frame = rng.integers(len(self.target), size=size)
        step = frame + rng.integers(self.horizon, size=size)
        values = self.target[np.minimum(step, self.last[np.searchsorted(self.last, frame)])].astype(np.float64)
        return values if self.reference is None else values - self.reference[frame]


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


def _column_stats(chunks: _Chunks, effort: Effort, attempt: int = 0) -> _ColumnStats:
    # Integer arithmetic: 0.99 * count in floats can round across a rank.
    rank01 = -(-chunks.count // 100)
    rank99_from_top = chunks.count + (-99 * chunks.count // 100) + 1
    scan = _scan(chunks, _pivots(chunks, effort, attempt), effort.block_frames)
    q01 = scan.low.smallest(rank01)
    negated_q99 = scan.high.smallest(rank99_from_top)
    if q01 is None or negated_q99 is None:
        return _column_stats(chunks, effort, attempt + 1)
    return scan.stats(q01, -negated_q99)


def _pivots(chunks: _Chunks, effort: Effort, attempt: int) -> _Pivots:
    size = min(effort.sample, chunks.count)
    values = chunks.sample(size, seed=attempt)
    margin = effort.margin_sigmas * 8**attempt * (np.sqrt(0.01 * 0.99 / size) + 1 / size)
    inside = int((0.01 + margin) * size)
    if inside >= size:
        return _Pivots(np.inf, -np.inf, float(values[0]))
    order = np.partition(values, sorted({inside, size // 2, size - 1 - inside}))
    return _Pivots(float(order[inside]), float(order[size - 1 - inside]), float(order[size // 2]))


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


@dataclass(frozen=True)
class _Scan:
    """What one reading of a column gives. `high` is the tail of the negated column."""

    centre: float
    # Sums of (x - centre) and of its square.
    total: float
    squares: float
    min: float
    max: float
    count: int
    low: _Tail
    high: _Tail

    def stats(self, q01: float, q99: float) -> _ColumnStats:
        shift = self.total / self.count
        # The centre is within one std of the mean, so at most one bit cancels.
        std = float(np.sqrt(max(self.squares / self.count - shift * shift, 0.0)))
        return _ColumnStats(self.centre + shift, std, q01, q99, self.min, self.max, self.count)


def _scan(chunks: _Chunks, pivots: _Pivots, block_frames: int) -> _Scan:
    below: list[Column] = []
    above: list[Column] = []
    at_low = at_high = seen = 0
    total = squares = 0.0
    low, high = np.inf, -np.inf
    for values in chunks.blocks(block_frames):
        seen += values.size
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        below.append(values[values < pivots.low])
        above.append(-values[values > pivots.high])
        at_low += np.count_nonzero(values == pivots.low)
        at_high += np.count_nonzero(values == pivots.high)
        np.subtract(values, pivots.centre, out=values)
        total += float(values.sum())
        squares += float(np.square(values, out=values).sum())
    return _Scan(
        centre=pivots.centre,
        total=total,
        squares=squares,
        min=low,
        max=high,
        count=seen,
        low=_Tail(pivots.low, np.concatenate(below), at_low),
        high=_Tail(-pivots.high, np.concatenate(above), at_high),
    )


def _stack(columns: Sequence[_ColumnStats], expected: int) -> VectorStats:
    """One VectorStats of `columns`, each of which must have seen `expected` values."""
    wrong = [k for k, column in enumerate(columns) if column.count != expected]
    if wrong:
        raise DatasetError("not every row entered the statistics", dimension=wrong[0], found=columns[wrong[0]].count, expected=expected)
    mean, std, q01, q99, low, high = (
        np.array([getattr(column, name) for column in columns]) for name in ("mean", "std", "q01", "q99", "min", "max")
    )
    return VectorStats(mean, std, q01, q99, low, high, expected)
