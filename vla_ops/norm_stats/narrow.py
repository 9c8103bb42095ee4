"""Dimensions whose spread is too small to divide by, and the spread that is written for them instead.

openpi divides by `std + 1e-6` or by `q99 - q01 + 1e-6`. A joint that was held still, or that moved in one frame of a thousand, is
thereby magnified up to a million times: sensor noise reaches the model as hundreds, a rare movement as thousands (openpi #814:
-3200), and the loss explodes. As openpi reads norm_stats.json as it is, the protection must be in the numbers in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vla_ops.norm_stats.chunks import VectorStats
from vla_ops.robot import Dimension
from vla_ops.spec import Unit

# Below this std a dimension says nothing but noise. Each is about a third of a step of a common sensor: 4096 steps a turn,
# 0.3 mm, one pixel and a half. High enough that noise stays of the order of 1, low enough to leave slow delta actions alone.
FLOORS: dict[Unit, float] = {
    "rad": 5e-4,
    "deg": 0.03,
    "m": 1e-4,
    "mm": 0.1,
    "rad/s": 5e-3,
    "m/s": 1e-3,
    "N": 0.05,
    "Nm": 5e-3,
    "px": 0.5,
    "ratio": 1e-3,
    "1": 1e-4,
}
# q99 - q01 is 4.7 std of a normal distribution and 3.4 of a uniform one.
QUANTILE_STDS = 4.0
# A normalised value that no model learns from: its squared error outweighs ten thousand others.
REACH_LIMIT = 100.0
# What openpi adds to a divisor.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Spread:
    """What a dimension is divided by, and the largest |normalised value| of its data that results from it."""

    std: float
    q01: float
    q99: float
    z_reach: float
    quantile_reach: float


@dataclass(frozen=True)
class NarrowDimension:
    """A dimension that normalisation would magnify beyond use."""

    vector: Literal["state", "actions"]
    name: str
    unit: Unit
    # The least std that is written.
    floor: float
    measured: Spread
    written: Spread

    @property
    def widened(self) -> bool:
        """False where the spread is sound and a few far outliers are the trouble."""
        return (self.measured.std, self.measured.q01, self.measured.q99) != (self.written.std, self.written.q01, self.written.q99)

    @property
    def noise_seen(self) -> float:
        """What a change by the floor alone would look like to a model, were the measured numbers written."""
        return self.floor / (min(self.measured.std, (self.measured.q99 - self.measured.q01) / 2) + _EPSILON)

    @property
    def treatment(self) -> str:
        """What is done about it, for people."""
        now, then = self.measured, self.written
        if not self.widened:
            return (
                f"left as measured: q01 .. q99 spans {now.q99 - now.q01:.3g} {self.unit}, but single values normalise to "
                f"{now.quantile_reach:.3g}; look for a glitch in the recordings"
            )
        changes = [f"std {now.std:.3g} -> {then.std:.3g}"] if then.std != now.std else []
        if (then.q01, then.q99) != (now.q01, now.q99):
            changes.append(f"q01 .. q99 {now.q01:.6g} .. {now.q99:.6g} -> {then.q01:.6g} .. {then.q99:.6g}")
        return f"widened, in {self.unit}: {', '.join(changes)}; a change by {self.floor:g} would have been seen as {self.noise_seen:.3g}"

    def __str__(self) -> str:
        return f"{self.vector} {self.name}: {self.treatment}"


def find_narrow(vector: Literal["state", "actions"], stats: VectorStats, dims: Sequence[Dimension]) -> list[NarrowDimension]:
    """Return the dimensions of `stats` whose spread is below the floor of their unit, or some of whose data would normalise beyond 100.

    A std below the floor is raised to it; where q99 - q01 is below four floors, q01 and q99 move out to mean -+ two written stds
    (never in). Where the spread itself is sound nothing is changed: then a glitch is the trouble, and the truth stays.
    """
    found: list[NarrowDimension] = []
    for k, dim in enumerate(dims):
        floor = FLOORS[dim.unit]
        mean, std, q01, q99 = (float(values[k]) for values in (stats.mean, stats.std, stats.q01, stats.q99))
        extremes = float(stats.min[k]), float(stats.max[k])
        measured = _spread(extremes, mean=mean, std=std, q01=q01, q99=q99)
        if std >= floor and q99 - q01 >= QUANTILE_STDS * floor and measured.quantile_reach <= REACH_LIMIT:
            continue
        wide_std = max(std, floor)
        if q99 - q01 < QUANTILE_STDS * floor:
            reach = QUANTILE_STDS / 2 * wide_std
            q01, q99 = min(q01, mean - reach), max(q99, mean + reach)
        written = _spread(extremes, mean=mean, std=wide_std, q01=q01, q99=q99)
        found.append(NarrowDimension(vector, dim.name, dim.unit, floor, measured, written))
    return found


def _spread(extremes: tuple[float, float], *, mean: float, std: float, q01: float, q99: float) -> Spread:
    values = np.array(extremes)
    z_scores = (values - mean) / (std + _EPSILON)
    quantiles = (values - q01) / (q99 - q01 + _EPSILON) * 2 - 1
    return Spread(std, q01, q99, float(np.abs(z_scores).max()), float(np.abs(quantiles).max()))
