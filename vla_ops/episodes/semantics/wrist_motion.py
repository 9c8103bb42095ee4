"""Which arm carries which wrist camera, from when its picture changes: a camera's view moves when its own arm moves.

This needs no other episode to compare with, so it also tells when two cameras are exchanged in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ops.episodes.joint_names import sides_of
from vla_ops.episodes.semantics.seen import Float64, Seen
from vla_ops.episodes.signature import pieces
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.robot import Dimension, RobotSpec

# Places of the left and of the right arm's dimensions in the state.
type Sides = tuple[list[int], list[int]]

# Own minus other correlations, summed over both cameras (-4 to 4), from which on an episode tells: simulated arms that hand over a
# cube measure 1.1 to 1.9, pictures that have nothing to do with the arms stay within 0.1.
TELLS = 0.8
# An exchanged camera must also follow the other arm: correlation of its picture's changes with that arm's speed.
_FOLLOWS = 0.4
# Fewer pieces of time than this correlate by chance.
_FEWEST_PIECES = 16
# In the order of `Sides`.
ROLES = ("left_wrist", "right_wrist")


def wrist_pair(spec: RobotSpec) -> tuple[str, str] | None:
    """The cameras with the roles of left and right wrist, if there are both and the state's names say which arm is which."""
    by_role = {camera.role: name for name, camera in spec.cameras.items()}
    if not all(role in by_role for role in ROLES) or not all(arm_sides(spec.state_dims)):
        return None
    return by_role[ROLES[0]], by_role[ROLES[1]]


def wrist_scores(seen: Seen, spec: RobotSpec, cameras: tuple[str, str]) -> Float64:
    """For each episode how much its wrist cameras (left, right) follow their own arm rather than the other one, -4 to 4; NaN: no motion."""
    dims = spec.state_dims
    return np.array([_score(meta, seen, dims, cameras) for meta in seen.metas])


def _score(meta: EpisodeMeta, seen: Seen, dims: Sequence[Dimension], cameras: tuple[str, str]) -> float:
    motions = [np.array(meta.measured.get(camera, {}).get("motion", [])) for camera in cameras]
    if min(map(len, motions)) < _FEWEST_PIECES:
        return np.nan
    state = seen.read(meta).state
    speeds = [_speed(state, side, dims) for side in arm_sides(dims)]
    if len({len(series) for series in [*motions, *speeds]}) > 1:
        return np.nan
    own = np.array([_correlation(motion, speed) for motion, speed in zip(motions, speeds, strict=True)])
    other = np.array([_correlation(motion, speed) for motion, speed in zip(motions, reversed(speeds), strict=True)])
    score = float(own.sum() - other.sum())
    return score if max(own.max(), other.max()) >= _FOLLOWS and (score > 0 or other.max() >= _FOLLOWS) else np.nan


def _speed(state: Float64, side: Sequence[int], dims: Sequence[Dimension]) -> Float64:
    """How much an arm moves in each piece of time: the steps of its dimensions, those of each unit over their mean."""
    steps = np.abs(np.diff(state, axis=0))
    total = np.zeros(len(steps))
    for unit in {dims[k].unit for k in side}:
        of_unit = steps[:, [k for k in side if dims[k].unit == unit]].sum(axis=1)
        # Radians and metres have no common measure; an idle arm has none at all.
        total += of_unit / of_unit.mean() if of_unit.any() else 0.0
    return pieces(total)


def _correlation(a: Float64, b: Float64) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def arm_sides(dims: Sequence[Dimension]) -> Sides:
    """Places of the left and of the right arm's dimensions, without grippers, whose fingers move in the picture of a still arm."""
    sides = sides_of([dim.name for dim in dims])
    left, right = ([k for k, dim in enumerate(dims) if sides[k] == side and dim.kind != "gripper"] for side in ("left", "right"))
    return left, right
