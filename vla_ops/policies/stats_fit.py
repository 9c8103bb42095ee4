"""How a dataset sits in norm stats that were not computed from it: a report, a dimension a row, to be read before a week of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vla_ops.embodiment import Embodiment
from vla_ops.errors import StatsMismatchError
from vla_ops.norm_stats import Provenance
from vla_ops.norm_stats.aloha import action_to_pi, state_to_pi
from vla_ops.norm_stats.chunk_values import SingleValues, values_of_chunks
from vla_ops.norm_stats.columns import read_columns
from vla_ops.norm_stats.narrow import FLOORS, REACH_LIMIT
from vla_ops.policies.normalize import Numbers
from vla_ops.policies.policy_stats import PolicyStats
from vla_ops.robot import Dimension

type Verdict = Literal["fits", "off", "does not fit"]
type Float64 = npt.NDArray[np.float64]

COLUMNS = ("vector", "dimension", "unit", "outside q01..q99", "beyond 3 std", "mean shift in std", "std ratio", "furthest", "verdict")
# By the limit that is crossed first. Of a dataset's own stats 2 % are outside, 1 % or less beyond, the shift is 0 and the ratio 1.
_OFF = {"outside": 0.10, "beyond": 0.05, "shift": 1.0, "wide": 3.0, "tight": 0.2, "furthest": 20.0}
_BAD = {"outside": 0.50, "beyond": 0.25, "shift": 3.0, "wide": 10.0, "tight": 0.02, "furthest": REACH_LIMIT}
_EPSILON = 1e-6
_BLOCK_FRAMES = 32_768
_ORDER: tuple[Verdict, ...] = ("fits", "off", "does not fit")


@dataclass(frozen=True)
class DimensionFit:
    """One dimension of the data in units of the norm stats."""

    vector: Literal["state", "actions"]
    name: str
    unit: str
    # Fractions of the values; None where the stats have no quantiles.
    outside: float | None
    beyond: float
    # (mean of the data - mean of the stats) / std of the stats, and std of the data / std of the stats.
    shift: float
    ratio: float
    # The largest |normalised value|, by either way of normalising.
    furthest: float
    # The data do not move: they cannot be too tight.
    still: bool

    @property
    def verdict(self) -> Verdict:
        """`does not fit`: the model would see numbers it has never seen; `off`: worth a look."""
        return "does not fit" if self._crosses(_BAD) else "off" if self._crosses(_OFF) else "fits"

    def _crosses(self, limits: dict[str, float]) -> bool:
        return (
            (self.outside or 0.0) > limits["outside"]
            or self.beyond > limits["beyond"]
            or abs(self.shift) > limits["shift"]
            or self.ratio > limits["wide"]
            or (self.ratio < limits["tight"] and not self.still)
            or self.furthest > limits["furthest"]
        )


@dataclass(frozen=True)
class StatsFit:
    """All dimensions, the state's first."""

    robot: str
    origin: str
    frames: int
    dimensions: tuple[DimensionFit, ...]

    @property
    def verdict(self) -> Verdict:
        """That of the worst dimension."""
        return _ORDER[max(_ORDER.index(fit.verdict) for fit in self.dimensions)]

    def rows(self) -> list[dict[str, Any]]:
        """One row of COLUMNS a dimension."""
        return [
            dict(
                zip(
                    COLUMNS,
                    (
                        fit.vector,
                        fit.name,
                        fit.unit,
                        "-" if fit.outside is None else f"{fit.outside:.1%}",
                        f"{fit.beyond:.1%}",
                        f"{fit.shift:+.2f}",
                        f"{fit.ratio:.3g}",
                        f"{fit.furthest:.3g}",
                        fit.verdict,
                    ),
                    strict=True,
                )
            )
            for fit in self.dimensions
        ]

    def render(self) -> str:
        """The rows as an aligned text table."""
        cells = [list(COLUMNS), *([row[column] for column in COLUMNS] for row in self.rows())]
        widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
        head = f"{self.frames:,} frames of {self.robot} in the norm stats of {self.origin}: {self.verdict}"
        return "\n".join([head, *lines])

    def refuse_misfit(self) -> None:
        """Raise StatsMismatchError naming the dimensions that do not fit."""
        if bad := [fit for fit in self.dimensions if fit.verdict == "does not fit"]:
            raise StatsMismatchError(
                "the data do not sit in the norm stats that were asked for",
                robot=self.robot,
                file=self.origin,
                dimension=", ".join(f"{fit.vector} {fit.name}" for fit in bad),
                found=f"{bad[0].name}: mean off by {bad[0].shift:+.2f} std, std {bad[0].ratio:.3g} of theirs, up to {bad[0].furthest:.3g}",
                expected=f"within {_BAD['shift']:g} std, std {_BAD['tight']:g} .. {_BAD['wide']:g} of theirs, up to {_BAD['furthest']:g}",
                todo="Check units, signs and order of the dimensions against those the stats are of, or use the dataset's own norm stats.",
            )


def stats_fit(stats: PolicyStats, spec: Embodiment, dataset_folder: Path, *, robot: str) -> StatsFit:
    """How the states and action chunks of a LeRobot dataset folder sit in `stats`, reading no image.

    The values are those the norm stats are computed from: the same frames, deltas and adaptation. Raise what `read_columns` raises.
    """
    made = Provenance.of(spec, robot=robot, dataset_version="")
    columns = read_columns(
        dataset_folder, state_names=[dim.name for dim in spec.state_dims], action_names=[dim.name for dim in spec.action_dims]
    )
    turned = made.adapt_to_pi
    states = state_to_pi(columns.states) if turned else columns.states
    actions = action_to_pi(columns.actions) if turned else columns.actions
    last = np.cumsum(columns.lengths) - 1
    chunks = values_of_chunks(states, actions, last, horizon=made.horizon, delta_mask=made.delta_mask, delta_rotations=made.delta_rotations)
    single = [SingleValues(states[:, k], None, last, 1) for k in range(states.shape[1])]
    fits = [
        fit for k, values in enumerate(single) for fit in _fits("state", values.blocks(_BLOCK_FRAMES), [k], stats.state, made.state_dims)
    ]
    place = 0
    for values in chunks:
        dims = list(range(place, place + values.width))
        fits += _fits("actions", values.blocks(_BLOCK_FRAMES), dims, stats.actions, made.action_dims)
        place += values.width
    return StatsFit(robot, stats.origin, len(states), tuple(fits))


@dataclass
class _Seen:
    """Sums over the blocks of some dimensions, each [width]; the values are z-scores of the stats."""

    count: int
    total: Float64
    squares: Float64
    beyond: Float64
    outside: Float64
    furthest: Float64


def _fits(
    vector: Literal["state", "actions"], blocks: Iterator[Float64], place: list[int], numbers: Numbers, dims: Sequence[Dimension]
) -> list[DimensionFit]:
    numbers = numbers.take(place)
    seen = _Seen(0, *(np.zeros(len(place)) for _ in range(5)))
    for block in blocks:
        _see(seen, block, numbers)
    mean = seen.total / seen.count
    ratios = np.sqrt(np.maximum(seen.squares / seen.count - mean**2, 0.0))
    return [
        DimensionFit(
            vector,
            dims[k].name,
            dims[k].unit,
            None if numbers.q01 is None else float(seen.outside[i] / seen.count),
            float(seen.beyond[i] / seen.count),
            float(mean[i]),
            float(ratios[i]),
            float(seen.furthest[i]),
            still=bool(ratios[i] * (numbers.std[i] + _EPSILON) < FLOORS[dims[k].unit]),
        )
        for i, k in enumerate(place)
    ]


def _see(seen: _Seen, block: Float64, numbers: Numbers) -> None:
    """Add a block [width, n]."""
    scores = numbers.scale("z_score").forward(block.T).T
    size = np.abs(scores)
    seen.count += block.shape[1]
    seen.total += scores.sum(axis=1)
    seen.squares += (scores**2).sum(axis=1)
    seen.beyond += (size > 3).sum(axis=1)
    seen.furthest = np.maximum(seen.furthest, size.max(axis=1))
    if numbers.q01 is not None and numbers.q99 is not None:
        seen.outside += ((block < numbers.q01[:, None]) | (block > numbers.q99[:, None])).sum(axis=1)
        seen.furthest = np.maximum(seen.furthest, np.abs(numbers.scale("quantile").forward(block.T)).max(axis=0))
