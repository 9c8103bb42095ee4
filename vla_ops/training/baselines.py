"""How far predicted actions are from the recorded ones, in robot units by named dimension, and what two policies that learn nothing reach.

`hold` repeats the last action before the frame; `mean` always gives the mean action of the training episodes. An error is also told in
units of what `mean` reaches, averaged over the dimensions: 1 is no better than that, 0 is perfect, and no unit outweighs another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.embodiment import Embodiment
from vla_ops.robot import Dimension, rotation_groups
from vla_ops.training.data import Frames

type Float64 = npt.NDArray[np.float64]
type Int64 = npt.NDArray[np.int64]
type Bools = npt.NDArray[np.bool_]

COLUMNS = ("dimension", "unit", "error", "hold", "mean", "of hold")
# In any unit used here a mean deviation below this is no motion.
_STILL = 1e-9
_FULL_TURN = {"rad": 2 * math.pi, "deg": 360.0}


def hold_actions(frames: Frames, rows: Int64, spec: Embodiment) -> Float64:
    """Return [B, a]: the action of the frame before each row.

    An episode's first frame has none: there it is the state where the dimension is the same quantity at the same place, else the mean
    action; for steps and velocities it is zero.
    """
    first = rows == frames.starts[frames.place_of(rows)]
    held = frames.actions[np.maximum(rows - 1, 0)].astype(np.float64)
    if first.any():
        held[first] = _before_any_action(frames, rows[first], spec)
    return held


def mean_action(frames: Frames) -> Float64:
    """Return [a]: the mean action of the training episodes; in a mixture of those of the sources that have the dimension."""
    rows = frames.training_rows()
    actions = frames.actions[rows].astype(np.float64)
    has = None if frames.action_mask is None else frames.action_mask[rows]
    return actions.mean(axis=0) if has is None else np.where(has, actions, 0).sum(axis=0) / np.maximum(has.sum(axis=0), 1)


def absolute_errors(predicted: Float64, recorded: npt.NDArray[Any], dims: Sequence[Dimension]) -> Float64:
    """Return |predicted - recorded| [..., a]; angles of roll, pitch and yaw the short way round, quaternions up to their sign."""
    recorded = np.asarray(recorded, np.float64)
    difference = predicted - recorded
    for group in rotation_groups(dims):
        part = slice(group.start, group.stop)
        if group.kind == "rotation_rpy":
            turn = _FULL_TURN[group.unit]
            difference[..., part] = (difference[..., part] + turn / 2) % turn - turn / 2
        if group.kind.startswith("quaternion"):
            sign = np.sign(np.sum(predicted[..., part] * recorded[..., part], axis=-1, keepdims=True))
            difference[..., part] = predicted[..., part] - np.where(sign < 0, -1.0, 1.0) * recorded[..., part]
    return np.abs(difference)


@dataclass(frozen=True, eq=False)
class Errors:
    """Mean absolute errors by dimension, each [a] in robot units, over the same steps of the same chunks."""

    dims: tuple[Dimension, ...]
    policy: Float64
    hold: Float64
    mean: Float64

    def scaled(self, errors: Float64) -> float:
        """Return the mean over the dimensions that move of the errors in units of `mean`'s; NaN where none moves."""
        moving = self.mean > _STILL
        return float(np.mean(errors[moving] / self.mean[moving])) if moving.any() else math.nan

    def metrics(self) -> dict[str, float]:
        """Return action_error and hold_error in units of the mean action's error, and mae/<dimension> in robot units."""
        by_name = {f"mae/{dim.name}": float(error) for dim, error in zip(self.dims, self.policy, strict=True)}
        return {"action_error": self.scaled(self.policy), "hold_error": self.scaled(self.hold)} | by_name

    def rows(self) -> list[dict[str, Any]]:
        """Return one row of COLUMNS a dimension."""
        return [
            {
                "dimension": dim.name,
                "unit": dim.unit,
                "error": float(f"{self.policy[k]:.4g}"),
                "hold": float(f"{self.hold[k]:.4g}"),
                "mean": float(f"{self.mean[k]:.4g}"),
                "of hold": f"{self.policy[k] / self.hold[k]:.2f}" if self.hold[k] > _STILL else "-",
            }
            for k, dim in enumerate(self.dims)
        ]

    def render(self) -> str:
        """Return the rows as an aligned text table."""
        cells = [list(COLUMNS), *([str(row[column]) for column in COLUMNS] for row in self.rows())]
        widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def _before_any_action(frames: Frames, rows: Int64, spec: Embodiment) -> Float64:
    held = np.tile(mean_action(frames), (len(rows), 1))
    state = spec.state_dims
    for k, dim in enumerate(spec.action_dims):
        if dim.means != "absolute":
            held[:, k] = 0.0
        elif k < len(state) and (state[k].name, state[k].unit) == (dim.name, dim.unit):
            held[:, k] = frames.states[rows, k]
    return held
