"""Rotations in numbers that do not jump from one frame to the next.

Every form has several numbers for one rotation (q and -q; a vector and the same axis a turn further; Euler angles a turn
further or with the pitch over the top). Of these the one nearest to the previous frame is taken, beginning with what was recorded.
"""

from __future__ import annotations

import numpy as np

from vla_ops.recordings.base import Float64
from vla_ops.spec import Kind, Unit

_TURN = 2 * np.pi
# Closer than this to a pitch of +-90 degrees, roll and yaw turn about one axis: only their sum or difference is known.
LOCK = 1e-7
# The axis of a smaller rotation (rad) is rounding.
_NO_AXIS = 1e-9


def continuous(values: Float64, first: Float64, *, kind: Kind, unit: Unit) -> Float64:
    """The same rotations [frames, d] in the numbers nearest to those of the frame before; the first ones nearest to `first` [d]."""
    finite = np.isfinite(values).all(axis=1)
    if not finite.any() or kind == "rotation_6d":
        return values
    rows, scale = values[finite], np.pi / 180 if unit == "deg" else 1.0
    previous = first if np.isfinite(first).all() else rows[0]
    result = values.copy()
    if kind.startswith("quaternion"):
        result[finite] = _same_side(rows, previous)
    elif kind == "rotation_vector":
        result[finite] = _nearest_vectors(rows * scale, previous * scale) / scale
    else:
        result[finite] = _nearest_angles(rows * scale, previous * scale) / scale
    return result


def _same_side(quaternions: Float64, previous: Float64) -> Float64:
    """Flip signs so that no two consecutive quaternions have a negative dot product."""
    chain = np.concatenate([previous[None], quaternions])
    flips = np.where(np.sum(chain[1:] * chain[:-1], axis=1) < 0, -1.0, 1.0)
    return quaternions * np.cumprod(flips)[:, None]


def _nearest_vectors(vectors: Float64, previous: Float64) -> Float64:
    """Add whole turns (rad) about each vector's own axis."""
    nearest = vectors.copy()
    for k, vector in enumerate(vectors):
        angle = float(np.linalg.norm(vector))
        along = vector if angle > _NO_AXIS else previous
        axis = along / max(float(np.linalg.norm(along)), _NO_AXIS)
        if turns := round((float(axis @ previous) - angle) / _TURN):
            nearest[k] = vector + turns * _TURN * axis
        previous = nearest[k]
    return nearest


def _nearest_angles(angles: Float64, previous: Float64) -> Float64:
    """Add whole turns (rad) to roll, pitch and yaw, and take the pitch over the top where that is nearer."""
    nearest = angles.copy()
    for k, given in enumerate(angles):
        rpy = _at_lock(given, previous) if abs(np.cos(given[1])) < LOCK else given
        over = np.array([rpy[0] + np.pi, np.pi - rpy[1], rpy[2] + np.pi])
        ways = [way + _TURN * np.round((previous - way) / _TURN) for way in (rpy, over)]
        nearest[k] = min(ways, key=lambda way: float(np.abs(way - previous).sum()))
        previous = nearest[k]
    return nearest


def _at_lock(rpy: Float64, previous: Float64) -> Float64:
    """Share out between roll and yaw, half each, what they together turned since `previous`."""
    side = np.sign(np.sin(rpy[1]))
    turned = (rpy[0] - side * rpy[2]) - (previous[0] - side * previous[2])
    half = (turned - _TURN * np.round(turned / _TURN)) / 2
    return np.array([previous[0] + half, rpy[1], previous[2] - side * half])
