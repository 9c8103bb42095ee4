"""Robots, episodes and LeRobot folders for the norm stats tests, and the plain numpy that says what is right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ops.robot import RobotSpec

ARM = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
ALOHA = [f"{side}_{name}" for side in ("left", "right") for name in ARM]


def make_spec(names: Sequence[str], *, horizon: int = 50, action_space: str = "delta", unit: str = "rad", **other: Any) -> RobotSpec:
    """A robot with these dimensions in state and action; those with `gripper` in their name are grippers in `ratio`."""

    def part(name: str, k: int, stream: str) -> dict[str, Any]:
        gripper = "gripper" in name
        return {
            "source": f"{stream}[{k}:{k + 1}]",
            "names": [name],
            "unit": "ratio" if gripper else unit,
            "kind": "gripper" if gripper else "joint",
        }

    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "unused", "pattern": "*", "format": "mcap"},
            "timeline": {"rate_hz": 50},
            "state": [part(name, k, "/qpos") for k, name in enumerate(names)],
            "action": [part(name, k, "/action") for k, name in enumerate(names)],
            "task": {"text": "test"},
            "dataset": {"repo_id": "test/test"},
            "norm_stats": {"action_space": action_space, "action_horizon": horizon},
            **other,
        }
    )


def all_chunks(
    states: npt.NDArray[Any], actions: npt.NDArray[Any], lengths: Sequence[int], *, horizon: int, delta_mask: Sequence[bool]
) -> npt.NDArray[np.float64]:
    """Every chunk [N, H, a], the slow and obvious way."""
    chunks, start = [], 0
    for length in lengths:
        for t in range(length):
            base = np.zeros(actions.shape[1])
            for k, delta in enumerate(delta_mask):
                base[k] = states[start + t, k] if delta else 0.0
            chunks.append([np.float64(actions[start + min(t + h, length - 1)]) - base for h in range(horizon)])
        start += length
    return np.array(chunks, dtype=np.float64)


def by_rank(values: npt.NDArray[np.float64], q_percent: int) -> npt.NDArray[np.float64]:
    """The smallest value with at least q percent of the rows of `values` [n, d] at or below it."""
    return np.sort(values, axis=0)[-(-q_percent * len(values) // 100) - 1]


def write_dataset(
    folder: Path,
    states: npt.NDArray[np.float32],
    actions: npt.NDArray[np.float32],
    lengths: Sequence[int],
    *,
    names: Sequence[str],
    files: int = 1,
    info: dict[str, Any] | None = None,
) -> Path:
    """A LeRobot v3.0 folder with the columns that norm stats read, its episodes spread over `files` data files."""
    episode = np.repeat(np.arange(len(lengths)), lengths)
    features = {
        key: {"dtype": "float32", "shape": [values.shape[1]], "names": list(names)[: values.shape[1]]}
        for key, values in (("observation.state", states), ("action", actions))
    }
    (folder / "meta").mkdir(parents=True)
    total = {"total_frames": len(states), "total_episodes": len(lengths)}
    about = {"codebase_version": "v3.0", "robot_type": "test_arm", "fps": 50, **total, "features": features}
    (folder / "meta" / "info.json").write_text(json.dumps(about | (info or {})))
    data = folder / "data" / "chunk-000"
    data.mkdir(parents=True)
    for number, episodes in enumerate(np.array_split(np.arange(len(lengths)), files)):
        rows = np.isin(episode, episodes)
        table = pa.table({"observation.state": vectors(states[rows]), "action": vectors(actions[rows]), "episode_index": episode[rows]})
        pq.write_table(table, data / f"file-{number:03d}.parquet")
    return folder


def vectors(values: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """A vector column as LeRobot stores it."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
