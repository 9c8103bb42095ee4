"""Motions as smooth as demonstrations that a person leads: nothing in them jumps, and no two dimensions move alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ops_tests.robots.shipped import Float64, Motion


def sway(limits: Sequence[tuple[float, float]], frames: int, *, seed: int = 0, lag: float = 0.35) -> Motion:
    """Commands that sway within `limits` [(low, high)], in float32 precision; the state follows them at `lag` a frame."""
    rng = np.random.default_rng(seed)
    low, high = np.asarray(limits, dtype=np.float64).T
    # The state has caught up before the first frame.
    k = np.arange(-20, frames)[:, None]
    swing = np.sin(2 * np.pi * k / rng.uniform(35, 60, len(limits)) + rng.uniform(0, 2 * np.pi, len(limits)))
    swing += 0.4 * np.sin(2 * np.pi * k / rng.uniform(14, 22, len(limits)) + rng.uniform(0, 2 * np.pi, len(limits)))
    command = (low + high) / 2 + 0.3 * (high - low) * swing
    state = command.copy()
    for row in range(1, len(state)):
        state[row] = state[row - 1] + lag * (command[row] - state[row - 1])
    return Motion(*(as_float32(values[20:]) for values in (command, state)))


def as_float32(values: Float64) -> Float64:
    """The values as float32 can hold them."""
    return values.astype(np.float32).astype(np.float64)
