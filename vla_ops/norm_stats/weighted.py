"""Statistics of a column whose values are drawn from several sources with given probabilities, exact in bounded memory.

Mean and std follow from the sources' own. A quantile is a value that occurs: the smallest v with P(x <= v) >= q. It is looked for in
two readings: the first counts values in bins, the second keeps those of the bins that the quantiles are in, equal ones once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vla_ops.norm_stats.chunk_values import ChunkValues
from vla_ops.norm_stats.chunks import VectorStats

type Float64 = npt.NDArray[np.float64]

_BINS = 4096
_BLOCK_FRAMES = 32_768
# Sums of probabilities are exact to about this.
_ROUNDING = 1e-12
QUANTILES = (0.01, 0.99)


def pooled(parts: Sequence[VectorStats], has: npt.NDArray[np.bool_], shares: Sequence[float], quantiles: Float64) -> VectorStats:
    """Pool the statistics [d] of sources, of each dimension over those with `has` [sources, d], in proportion to `shares`.

    `quantiles` [2, d] are q01 and q99; `count` is that of all rows.
    """
    weights = np.asarray(shares)[:, None] * has
    weights /= weights.sum(axis=0)
    mean = np.sum([weights[k] * part.mean for k, part in enumerate(parts)], axis=0)
    variance = np.sum([weights[k] * (part.std**2 + (part.mean - mean) ** 2) for k, part in enumerate(parts)], axis=0)
    low = np.where(has, [part.min for part in parts], np.inf).min(axis=0)
    high = np.where(has, [part.max for part in parts], -np.inf).max(axis=0)
    return VectorStats(mean, np.sqrt(variance), quantiles[0], quantiles[1], low, high, sum(part.count for part in parts))


def quantiles(sources: Sequence[ChunkValues], shares: Sequence[float]) -> Float64:
    """Return q01 and q99 of each dimension of the `sources`, which have the same ones, as [2, width]."""
    mass = np.asarray(shares) / sum(shares)
    # One value of a source with `count` values.
    each = [share / source.count for share, source in zip(mass, sources, strict=True)]
    bounds = _bounds(sources)
    counted = np.zeros((len(bounds), _BINS))
    for weight, source in zip(each, sources, strict=True):
        for block in source.blocks(_BLOCK_FRAMES):
            for k, values in enumerate(block):
                counted[k] += weight * np.bincount(_bin(values, *bounds[k]), minlength=_BINS)
    below = np.cumsum(counted, axis=1)
    wanted = [[int(np.searchsorted(row, q - _ROUNDING)) for q in QUANTILES] for row in below]
    kept = _values_in(sources, each, bounds, wanted)
    found = [
        [_rank(*kept[k][b], q - (below[k][b - 1] if b else 0.0)) for q, b in zip(QUANTILES, wanted[k], strict=True)]
        for k in range(len(bounds))
    ]
    return np.array(found).T


def _bounds(sources: Sequence[ChunkValues]) -> list[tuple[float, float]]:
    low, high = np.full(sources[0].width, np.inf), np.full(sources[0].width, -np.inf)
    for source in sources:
        for block in source.blocks(_BLOCK_FRAMES):
            low, high = np.minimum(low, block.min(axis=1)), np.maximum(high, block.max(axis=1))
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _bin(values: Float64, low: float, high: float) -> npt.NDArray[np.int64]:
    """The bin of each value; monotonic, so that a bin holds all values between its smallest and its largest."""
    if high <= low:
        return np.zeros(len(values), np.int64)
    return np.minimum(((values - low) / (high - low) * _BINS).astype(np.int64), _BINS - 1)


def _values_in(
    sources: Sequence[ChunkValues], each: Sequence[float], bounds: Sequence[tuple[float, float]], wanted: Sequence[Sequence[int]]
) -> list[dict[int, tuple[Float64, Float64]]]:
    """For each dimension and wanted bin its different values, ascending, and their probabilities."""
    kept: list[dict[int, tuple[Float64, Float64]]] = [{b: (np.empty(0), np.empty(0)) for b in bins} for bins in wanted]
    for weight, source in zip(each, sources, strict=True):
        for block in source.blocks(_BLOCK_FRAMES):
            for k, values in enumerate(block):
                bins = _bin(values, *bounds[k])
                for b, (known, mass) in kept[k].items():
                    kept[k][b] = _merged(known, mass, values[bins == b], weight)
    return kept


def _merged(known: Float64, mass: Float64, more: Float64, weight: float) -> tuple[Float64, Float64]:
    values, place = np.unique(np.concatenate([known, more]), return_inverse=True)
    added = np.bincount(place, weights=np.concatenate([mass, np.full(len(more), weight)]), minlength=len(values))
    return values, added.astype(np.float64)


def _rank(values: Float64, mass: Float64, share: float) -> float:
    place = int(np.searchsorted(np.cumsum(mass), share - _ROUNDING))
    return float(values[min(place, len(values) - 1)])
