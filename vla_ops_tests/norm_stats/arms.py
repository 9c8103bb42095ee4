"""An arm whose state is a pose: position, a rotation in any form, gripper; and the plain SciPy that says what its chunks are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from vla_ops.robot import RobotSpec
from vla_ops.spec import ROTATION_WIDTHS, Kind, Unit
from vla_ops_tests.episodes.rotating import read, written

type Float32 = npt.NDArray[np.float32]


def parts(kind: Kind, unit: Unit, *, stream: str, side: str = "") -> list[dict[str, Any]]:
    """The parts of one arm's vector."""
    width = ROTATION_WIDTHS[kind]
    return [
        {"source": f"{stream}[0:3]", "names": [f"{side}{axis}" for axis in "xyz"], "unit": "m", "kind": "position"},
        {"source": f"{stream}[3:{3 + width}]", "names": [f"{side}r{k}" for k in range(width)], "unit": unit, "kind": kind},
        {"source": f"{stream}[{3 + width}:{4 + width}]", "names": [f"{side}gripper"], "unit": "ratio", "kind": "gripper"},
    ]


def pose_spec(state: Sequence[dict[str, Any]], action: Sequence[dict[str, Any]] | None = None, **norm_stats: Any) -> RobotSpec:
    """A robot with these parts; without an action, the next state is the action."""
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "unused", "pattern": "*", "format": "mcap"},
            "timeline": {"rate_hz": 50},
            "state": list(state),
            "action": {"from": "next_state"} if action is None else list(action),
            "task": {"text": "test"},
            "dataset": {"repo_id": "test/test"},
            "norm_stats": {"action_horizon": 5, **norm_stats},
        }
    )


def poses(frames: int, kind: Kind, unit: Unit, *, seed: int = 0) -> Float32:
    """A random walk of one arm [frames, 3 + d + 1], turned by up to half a turn and more."""
    random = np.random.default_rng(seed)
    position = np.cumsum(random.normal(scale=0.01, size=(frames, 3)), axis=0)
    # Drawn alike for all, so that the state and the action of two seeds are near each other.
    start = Rotation.from_rotvec([3.0, 0.2, -0.3])
    turned = start * Rotation.from_rotvec(np.cumsum(random.normal(scale=0.05, size=(frames, 3)), axis=0))
    gripper = random.random((frames, 1))
    return np.concatenate([position, written(turned, kind, unit), gripper], axis=1).astype(np.float32)


def composed_chunks(states: Float32, actions: Float32, lengths: Sequence[int], *, horizon: int, kind: Kind, unit: Unit) -> Rotation:
    """The deltas of the rotations that `poses` has at [3:3 + d], of every row of every chunk in order."""
    place = slice(3, 3 + ROTATION_WIDTHS[kind])
    ends = np.repeat(np.cumsum(lengths) - 1, lengths)
    steps = np.minimum(np.arange(len(states))[:, None] + np.arange(horizon), ends[:, None])
    state = read(states[:, place].astype(np.float64), kind, unit)
    action = read(actions[:, place].astype(np.float64), kind, unit)
    return action[steps.ravel()] * state[np.repeat(np.arange(len(states)), horizon)].inv()
