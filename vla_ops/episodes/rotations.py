"""Rotations in the forms recordings keep them in: interpolated as rotations, and written so that they do not jump.

Every form has several numbers for one rotation (q and -q; a vector and the same axis a turn further; Euler angles a turn
further or with the pitch over the top). Of these the one nearest to the previous frame is taken, beginning with what was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.errors import RecordingError
from vla_ops.recordings.base import Float64
from vla_ops.spec import Kind, Unit

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

_TURN = 2 * np.pi
# How far the length of a quaternion, or of a column of a matrix, may be from 1: half precision is off by less than a tenth of it.
_TOLERANCE = 1e-2
# Closer than this to a pitch of +-90 degrees, roll and yaw turn about one axis: only their sum or difference is known.
_LOCK = 1e-7
# The axis of a smaller rotation (rad) is rounding.
_NO_AXIS = 1e-9


def check_rotations(values: Float64, kind: Kind, names: Sequence[str], stream: str) -> None:
    """Raise RecordingError naming the first sample of `values` [n, d] that is no rotation. NaN and Inf are left to the quality report."""
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    if kind.startswith("quaternion"):
        off, lengths = np.zeros(len(rows)), np.linalg.norm(values[rows], axis=1)[:, None]
    elif kind == "rotation_6d":
        columns = values[rows].reshape(-1, 2, 3)
        off, lengths = np.sum(columns[:, 0] * columns[:, 1], axis=1), np.linalg.norm(columns, axis=2)
    else:
        return
    bad = (np.abs(off) > _TOLERANCE) | (np.abs(lengths - 1) > _TOLERANCE).any(axis=1)
    if not bad.any():
        return
    at = int(np.argmax(bad))
    cosine = f" with dot product {off[at]:.4g}" if kind == "rotation_6d" else ""
    raise RecordingError(
        f"{int(bad.sum())} of {len(values)} samples are no {kind}",
        stream=stream,
        dimension=", ".join(names),
        sample=int(rows[at]),
        found=f"norm {' and '.join(f'{length:.4g}' for length in lengths[at])}{cosine}",
        expected="norm 1, and two columns at right angles" if kind == "rotation_6d" else "norm 1",
        todo="Are these columns in this order? If they are, the sensor had no pose yet or lost it: leave the recording out.",
    )


def slerp(before: Float64, after: Float64, fraction: Float64, *, kind: Kind, unit: Unit) -> Float64:
    """Rotations [frames, d] at `fraction` [frames, 1] of the shortest way from `before` to `after`; NaN where one of them is not finite."""
    from scipy.spatial.transform import Rotation

    # On a sample the next one has no say.
    after = np.where(fraction > 0, after, before)
    finite = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    between = np.full_like(before, np.nan)
    start, stop = (_read(rows[finite], kind, unit) for rows in (before, after))
    way = (start.inv() * stop).as_rotvec()
    between[finite] = _write(start * Rotation.from_rotvec(fraction[finite] * way), kind, unit)
    return between


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


def _read(values: Float64, kind: Kind, unit: Unit) -> Rotation:
    from scipy.spatial.transform import Rotation

    match kind:
        case "quaternion_xyzw":
            return Rotation.from_quat(values)
        case "quaternion_wxyz":
            return Rotation.from_quat(values[:, [1, 2, 3, 0]])
        case "rotation_vector":
            return Rotation.from_rotvec(values, degrees=unit == "deg")
        case "rotation_rpy":
            return Rotation.from_euler("xyz", values, degrees=unit == "deg")
        case "rotation_6d":
            return Rotation.from_matrix(_matrices(values))
        case _:
            raise ValueError(f"{kind} is no rotation")


def _write(rotations: Rotation, kind: Kind, unit: Unit) -> Float64:
    match kind:
        case "quaternion_xyzw":
            return rotations.as_quat()
        case "quaternion_wxyz":
            return rotations.as_quat()[:, [3, 0, 1, 2]]
        case "rotation_vector":
            return rotations.as_rotvec(degrees=unit == "deg")
        case "rotation_rpy":
            angles = _angles(rotations.as_matrix())
            return np.degrees(angles) if unit == "deg" else angles
        case _:
            return rotations.as_matrix()[:, :, :2].transpose(0, 2, 1).reshape(-1, 6)


def _matrices(columns: Float64) -> Float64:
    """Matrices [n, 3, 3] from their first two columns [n, 6], brought to right angles."""
    x, y = columns[:, :3], columns[:, 3:]
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = y - np.sum(x * y, axis=1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=2)


def _angles(matrices: Float64) -> Float64:
    """Roll, pitch, yaw [n, 3] of yaw about z after pitch about y after roll about x. SciPy's would warn where the yaw is 0 by choice."""
    m = matrices
    level = np.hypot(m[:, 0, 0], m[:, 1, 0])
    pitch = np.arctan2(-m[:, 2, 0], level)
    locked = level < _LOCK
    roll = np.where(locked, np.arctan2(np.sign(pitch) * m[:, 0, 1], m[:, 1, 1]), np.arctan2(m[:, 2, 1], m[:, 2, 2]))
    yaw = np.where(locked, 0.0, np.arctan2(m[:, 1, 0], m[:, 0, 0]))
    return np.stack([roll, pitch, yaw], axis=1)


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
        rpy = _at_lock(given, previous) if abs(np.cos(given[1])) < _LOCK else given
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
