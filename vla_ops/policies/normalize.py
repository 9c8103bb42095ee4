"""Normalising by mean and standard deviation (pi0) or by quantiles (every other model), as openpi computes it, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vla_ops.policies.steps import Float64, Floats, Now

type Normalisation = Literal["z_score", "quantile"]

# What openpi adds to a divisor.
_EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class Numbers:
    """What norm_stats.json says of one vector, each float64 [d]; files without quantiles exist."""

    mean: npt.NDArray[np.float64]
    std: npt.NDArray[np.float64]
    q01: npt.NDArray[np.float64] | None = None
    q99: npt.NDArray[np.float64] | None = None

    @property
    def width(self) -> int:
        """Dimensions."""
        return len(self.mean)

    def take(self, dims: Sequence[int]) -> Numbers:
        """The numbers of these dimensions, in this order."""
        k = list(dims)
        return Numbers(*(None if values is None else values[k] for values in (self.mean, self.std, self.q01, self.q99)))  # pyright: ignore[reportArgumentType]

    def as_json(self) -> dict[str, list[float]]:
        """As norm_stats.json has them."""
        values = {"mean": self.mean, "std": self.std, "q01": self.q01, "q99": self.q99}
        return {name: column.tolist() for name, column in values.items() if column is not None}

    def scale(self, by: Normalisation) -> Scale:
        """How a vector is normalised. Raise ValueError where quantiles are asked for and not there."""
        if by == "z_score":
            return Scale(by, self.mean, self.std + _EPSILON)
        if self.q01 is None or self.q99 is None:
            raise ValueError("the norm stats have no quantiles")
        return Scale(by, self.q01, self.q99 - self.q01 + _EPSILON)


@dataclass(frozen=True, eq=False)
class Scale:
    """(x - offset) / divisor, and for quantiles from 0 .. 1 on to -1 .. 1. Float64 whatever comes in."""

    by: Normalisation
    offset: npt.NDArray[np.float64]
    divisor: npt.NDArray[np.float64]

    def forward(self, values: Floats) -> Float64:
        """Normalise [..., d]."""
        scaled = (values - self.offset) / self.divisor
        return scaled if self.by == "z_score" else scaled * 2.0 - 1.0

    def back(self, values: Floats) -> Float64:
        """The inverse of `forward`."""
        scaled = values if self.by == "z_score" else (values + 1.0) / 2.0
        return scaled * self.divisor + self.offset


@dataclass(frozen=True, eq=False)
class Normalize:
    """State and actions in units of their statistics.

    The statistics are as wide as the vectors: openpi takes the first dimensions of wider ones in silence when it normalises, and takes
    them for 0 and 1 where they are narrower when it goes back.
    """

    state_scale: Scale
    action_scale: Scale

    def state(self, state: Floats) -> Float64:
        """See Step."""
        return self.state_scale.forward(state)

    def encode(self, actions: Floats, now: Now) -> Float64:  # noqa: ARG002 - other steps need it
        """See Step."""
        return self.action_scale.forward(actions)

    def decode(self, actions: Floats, now: Now) -> Float64:  # noqa: ARG002 - other steps need it
        """See Step."""
        return self.action_scale.back(actions)

    def describe(self) -> Mapping[str, Any]:
        """See Step."""
        scales = {"state": self.state_scale, "actions": self.action_scale}
        return {"by": self.state_scale.by} | {
            name: {"offset": scale.offset.tolist(), "divisor": scale.divisor.tolist()} for name, scale in scales.items()
        }
