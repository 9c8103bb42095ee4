"""What an ingest job made, read back from the LeRobot dataset's own files by the names that it gives its dimensions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from vla_ops.episodes.plan import quarantine_reasons
from vla_ops_tests.robots.shipped import Ingestion, Motion

type Float64 = npt.NDArray[np.float64]

_VECTORS = {"state": "observation.state", "action": "action"}


def names(done: Ingestion, vector: str) -> list[str]:
    """The names of `state` or `action` in info.json, in their order."""
    features = json.loads((done.dataset / "meta" / "info.json").read_text())["features"]
    return features[_VECTORS[vector]]["names"]


def cameras(done: Ingestion) -> dict[str, list[int]]:
    """Camera -> [height, width, channels] in info.json."""
    features = json.loads((done.dataset / "meta" / "info.json").read_text())["features"]
    return {key.removeprefix("observation.images."): feature["shape"] for key, feature in features.items() if "images" in key}


def columns(done: Ingestion, episode: int, vector: str) -> dict[str, Float64]:
    """Name -> values of one dimension over the frames of an episode of the dataset."""
    table = pq.read_table(done.dataset / "data", columns=["episode_index", _VECTORS[vector]])
    rows = np.asarray(table["episode_index"]) == episode
    values = np.stack(table[_VECTORS[vector]].to_pylist())[rows].astype(np.float64)
    return dict(zip(names(done, vector), values.T, strict=True))


def matrix(done: Ingestion, episode: int, vector: str) -> Float64:
    """State or action of an episode of the dataset, [frames, d]."""
    return np.stack(list(columns(done, episode, vector).values()), axis=1)


def check_rows(done: Ingestion, motions: Iterable[Motion], named: Sequence[str]) -> None:
    """Every episode has the state and the command of its motion, each column under its name."""
    for episode, motion in enumerate(motions):
        for vector, rows in (("state", motion.state), ("action", motion.command)):
            values = columns(done, episode, vector)
            for column, name in enumerate(named):
                np.testing.assert_allclose(values[name], rows[:, column], atol=1e-6, err_msg=f"{vector} {name}")


def tasks(done: Ingestion) -> list[str]:
    """The task text of each episode of the dataset."""
    texts = {row["task_index"]: row["task"] for row in pq.read_table(done.dataset / "meta" / "tasks.parquet").to_pylist()}
    table = pq.read_table(done.dataset / "data", columns=["episode_index", "task_index"])
    indices = sorted(set(zip(table["episode_index"].to_pylist(), table["task_index"].to_pylist(), strict=True)))
    assert [k for k, _ in groupby(episode for episode, _ in indices)] == list(range(len(indices))), "an episode with several tasks"
    return [texts[task] for _, task in indices]


def mask(done: Ingestion) -> list[int]:
    """The delta mask as openpi writes it: runs of delta-encoded dimensions, and of others as negative numbers."""
    return [len(list(run)) * (1 if delta else -1) for delta, run in groupby(done.robot.spec.delta_mask)]


def norm_stats(done: Ingestion) -> dict[str, dict[str, list[float]]]:
    """norm_stats.json: `state` and `actions`."""
    return json.loads(done.norm_stats.read_text())["norm_stats"]


def reason(done: Ingestion, recording: str) -> str:
    """Why a recording is in quarantine."""
    (row,) = [row for row in quarantine_reasons(done.store) if row["recording"] == recording]
    return row["reason"]


def warnings(done: Ingestion, recording: str) -> list[str]:
    """The quality warnings of a recording's episodes."""
    return [f.message for episode in done.episodes(recording) for f in episode.meta.findings if f.level == "warn"]


def on_timeline(stamps_s: Float64, rows: Float64, start_s: float, frames: int, rate_hz: float) -> Float64:
    """Rows [n, d] taken at `stamps_s`, between samples in a straight line, at `frames` times from `start_s` on."""
    times = np.arange(frames) / rate_hz
    return np.stack([np.interp(times, stamps_s - start_s, column) for column in rows.T], axis=1)


def check_good(done: Ingestion, *, episodes: int) -> None:
    """Assert that the run succeeded, no check failed, all episodes are in the dataset and norm stats fit its vectors."""
    assert done.success
    assert done.failed == {}
    assert len(tasks(done)) == episodes
    for key, vector in (("state", "state"), ("actions", "action")):
        assert len(norm_stats(done)[key]["mean"]) == len(names(done, vector))
