"""LeRobot's statistics of the index columns of an episode, and of a dataset from those of its episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from vla_ops.datasets.lerobot_layout import Layout
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.episodes.vector_stats import QUANTILES, vector_stats

# feature -> {min, max, mean, std, count, q01, ...} as nested lists.
type FeatureStats = Mapping[str, Mapping[str, Any]]


def episode_stats(k: int, meta: EpisodeMeta, layout: Layout) -> FeatureStats:
    """Return LeRobot's statistics of all features of the dataset's episode `k`."""
    first, task = layout.first_frames[k], layout.tasks[meta.task]
    return meta.stats | index_stats(meta.length, meta.rate_hz, episode_index=k, first_index=first, task_index=task)


def index_stats(length: int, rate_hz: int, *, episode_index: int, first_index: int, task_index: int) -> dict[str, dict[str, Any]]:
    """Return the statistics of timestamp, frame_index, episode_index, index and task_index of one episode."""
    timestamp, frame_index = _counting_stats(length, rate_hz)
    return {
        "timestamp": timestamp,
        "frame_index": frame_index,
        "episode_index": _constant_stats(frame_index, episode_index),
        "index": _shifted_stats(frame_index, first_index),
        "task_index": _constant_stats(frame_index, task_index),
    }


@lru_cache(maxsize=4096)
def _counting_stats(length: int, rate_hz: int) -> tuple[dict[str, Any], dict[str, Any]]:
    frame = np.arange(length, dtype=np.int64)[:, None]
    return vector_stats((frame / rate_hz).astype(np.float32)), vector_stats(frame)


def _shifted_stats(stats: Mapping[str, Any], by: int) -> dict[str, Any]:
    return {name: values if name in ("std", "count") else [value + by for value in values] for name, values in stats.items()}


def _constant_stats(stats: Mapping[str, Any], value: int) -> dict[str, Any]:
    return {name: [float(value)] for name in stats} | {"std": [0.0], "count": stats["count"]}


def aggregate_stats(parts: Sequence[FeatureStats]) -> dict[str, dict[str, Any]]:
    """Combine statistics as LeRobot does: pooled mean and variance, quantiles averaged by count.

    Associative up to float64 rounding, so a dataset's statistics can be continued with those of new episodes.
    """
    return {feature: _aggregate_feature([part[feature] for part in parts]) for feature in parts[0]}


def _aggregate_feature(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    count = _stack(parts, "count")[:, 0]
    total = float(count.sum())
    means = _stack(parts, "mean")
    weights = (count / total).reshape(-1, *[1] * (means.ndim - 1))
    mean = (means * weights).sum(axis=0)
    variance = ((_stack(parts, "std") ** 2 + (means - mean) ** 2) * weights).sum(axis=0)
    pooled = {
        "min": _stack(parts, "min").min(axis=0).tolist(),
        "max": _stack(parts, "max").max(axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": [int(total)],
    }
    # Datasets from elsewhere have no quantiles of images.
    shared = [q for q in QUANTILES if all(q in part for part in parts)]
    return pooled | {q: (_stack(parts, q) * weights).sum(axis=0).tolist() for q in shared}


def _stack(parts: Iterable[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([part[name] for part in parts], dtype=np.float64)
