"""The parts of a robot's vectors with where they stand in them, and the range each dimension moves through, by episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.spec import NextState, VectorPart

type Vector = Literal["state", "action"]

_FEATURES: dict[Vector, str] = {"state": "observation.state", "action": "action"}


@dataclass(frozen=True)
class Placed:
    """An entry of `state` or `action` in the YAML, and the columns it has in the vector."""

    vector: Vector
    part: VectorPart
    columns: slice
    dims: Sequence[Dimension]

    @property
    def subjects(self) -> list[str]:
        """How verdicts name the dimensions: `action left_elbow`."""
        return [f"{self.vector} {dim.name}" for dim in self.dims]

    def of(self, series: Series) -> Float64:
        """The part's columns of an episode, [frames, d]."""
        return getattr(series, self.vector)[:, self.columns]

    def line(self, text: str) -> str:
        """What to write where: the entry is found by its source, and where several read it by its joints."""
        joints = f" with `joints: [{', '.join(self.part.joints)}]`" if self.part.joints else ""
        return f"Write `{text}` in the entry of `{self.vector}` that reads `{self.part.source}`{joints}"


def placed_parts(spec: RobotSpec) -> list[Placed]:
    """All parts that were recorded: an action that is the next state says nothing that the state does not."""
    vectors: list[tuple[Vector, list[VectorPart]]] = [("state", spec.state)]
    if not isinstance(spec.action, NextState):
        vectors.append(("action", spec.action))
    return [placed for vector, parts in vectors for placed in _placed(vector, parts, spec)]


def _placed(vector: Vector, parts: Sequence[VectorPart], spec: RobotSpec) -> list[Placed]:
    dims = spec.state_dims if vector == "state" else spec.action_dims
    ends = np.cumsum([len(part.names) for part in parts]).tolist()
    slices = [slice(end - len(part.names), end) for part, end in zip(parts, ends, strict=True)]
    return [Placed(vector, part, columns, dims[columns]) for part, columns in zip(parts, slices, strict=True)]


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of every dimension of a vector in every episode, each [episodes, d], from episode.json.

    `low` and `high` are the 1st and 99th percentiles, which a single wrong sample does not move.
    """

    low: Float64
    high: Float64
    least: Float64
    most: Float64

    @classmethod
    def of(cls, seen: Seen, vector: Vector) -> Ranges:
        """Of all episodes, read or not."""
        stats = [meta.stats[_FEATURES[vector]] for meta in seen.metas]
        return cls(*(np.array([each[name] for each in stats], np.float64) for name in ("q01", "q99", "min", "max")))

    def at(self, columns: slice) -> Ranges:
        """Only these dimensions."""
        return Ranges(self.low[:, columns], self.high[:, columns], self.least[:, columns], self.most[:, columns])

    @property
    def size(self) -> Float64:
        """The largest absolute value, [episodes, d]."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def span(self) -> Float64:
        """From the lowest to the highest value of all episodes, [d]."""
        return self.high.max(axis=0) - self.low.min(axis=0)

    @property
    def whole(self) -> Float64:
        """As `span`, of every single sample."""
        return self.most.max(axis=0) - self.least.min(axis=0)

    def said(self, k: int) -> str:
        """From where to where dimension `k` goes."""
        return f"goes from {self.low[:, k].min():.4g} to {self.high[:, k].max():.4g}"


def fastest(seen: Seen, placed: Placed, rate_hz: float) -> Float64:
    """How fast each dimension is when it is fast, the 99th percentile, a second, [d]."""
    steps = [np.abs(np.diff(placed.of(series), axis=0)) for series in seen.sample if len(series.state) > 1]
    return np.quantile(np.concatenate(steps), 0.99, axis=0) * rate_hz if steps else np.zeros(len(placed.dims))
