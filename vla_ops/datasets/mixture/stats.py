"""LeRobot's statistics of a mixture: of each dimension and camera over the episodes that have it, never over what stands in for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.datasets.lerobot_features import INDEX_COLUMNS, video_key
from vla_ops.datasets.lerobot_layout import Layout
from vla_ops.datasets.lerobot_stats import FeatureStats, aggregate_stats, index_stats
from vla_ops.datasets.mixture.features import COLUMN, masks
from vla_ops.datasets.mixture.placed import Placed
from vla_ops.episodes.vector_stats import QUANTILES, STATS
from vla_ops.mixture_schema import VECTORS, Schema

type Float64 = npt.NDArray[np.float64]

_BLACK = [[[0.0]], [[0.0]], [[0.0]]]


def placed_stats(placed: Placed, k: int, *, schema: Schema, layout: Layout) -> FeatureStats:
    """Statistics of the mixture's episode `k` as it is in the files: what it lacks is 0 and black."""
    meta, placement = placed.episode.meta, placed.placement
    stats: dict[str, Mapping[str, Any]] = {}
    for vector in VECTORS:
        stats[COLUMN[vector]] = _padded(meta.stats[COLUMN[vector]], getattr(placement, vector))
    for camera in schema.cameras:
        own = placement.cameras[camera]
        stats[video_key(camera)] = meta.stats[video_key(own)] if own is not None else _constant(_BLACK, meta.length)
    for name, values in masks(schema, placement).items():
        stats[name] = _constant([float(value) for value in values], meta.length)
    first, task = layout.first_frames[k], layout.tasks[meta.task]
    return stats | index_stats(meta.length, meta.rate_hz, episode_index=k, first_index=first, task_index=task)


def _padded(stats: Mapping[str, Any], places: Sequence[int | None]) -> dict[str, Any]:
    return {
        name: values if name == "count" else [0.0 if column is None else values[column] for column in places]
        for name, values in stats.items()
    }


def _constant(value: Any, frames: int) -> dict[str, Any]:
    return dict.fromkeys(STATS, value) | {"std": (np.array(value) * 0.0).tolist(), "count": [frames]}


def mixture_stats(placed: Sequence[Placed], each: Sequence[FeatureStats], schema: Schema) -> dict[str, Any]:
    """Statistics of the whole from those of the episodes that trainings read."""
    found: dict[str, Any] = {}
    for vector in VECTORS:
        has = np.array([p.placement.has(vector) for p in placed])
        found[COLUMN[vector]] = _where_present([stats[COLUMN[vector]] for stats in each], has)
    for camera in schema.cameras:
        key = video_key(camera)
        found |= aggregate_stats([{key: s[key]} for p, s in zip(placed, each, strict=True) if p.placement.cameras[camera] is not None])
    others = [*masks(schema, placed[0].placement), *INDEX_COLUMNS]
    return found | aggregate_stats([{name: stats[name] for name in others} for stats in each])


def _where_present(parts: Sequence[Mapping[str, Any]], has: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Pool the statistics [d] of episodes, of each dimension over those with `has` [episodes, d]; `count` is that of all episodes."""
    stacked: dict[str, Float64] = {name: np.array([part[name] for part in parts], dtype=np.float64) for name in STATS}
    weights = stacked["count"] * has
    weights /= weights.sum(axis=0)
    mean = (stacked["mean"] * weights).sum(axis=0)
    variance = ((stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2) * weights).sum(axis=0)
    pooled = {
        "min": np.where(has, stacked["min"], np.inf).min(axis=0),
        "max": np.where(has, stacked["max"], -np.inf).max(axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
    } | {name: (stacked[name] * weights).sum(axis=0) for name in QUANTILES}
    return {name: values.tolist() for name, values in pooled.items()} | {"count": [int(stacked["count"].sum())]}
