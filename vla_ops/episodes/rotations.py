"""Rotations in the forms recordings keep them in: interpolated, converted, and what leads from one to another.

Of the several numbers that a form has for one rotation, `vla_ops.episodes.rotation_continuity` takes those that do not jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.episodes.rotation_continuity import LOCK, continuous
from vla_ops.errors import RecordingError
from vla_ops.recordings.base import Float64
from vla_ops.spec import ROTATION_WIDTHS, Kind, Unit

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

# How far the length of a quaternion, or of a column of a matrix, may be from 1: half precision is off by less than a tenth of it.
_TOLERANCE = 1e-2
# Of half a rotation; squares of smaller numbers are no longer exact.
_NO_SINE = 1e-150


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


def convert(values: Float64, *, kind: Kind, unit: Unit, written_as: Kind, unit_written: Unit) -> Float64:
    """The same rotations [frames, d] in another form [frames, d'], without jumps from frame to frame; NaN rows stay NaN.

    Quaternions begin with w >= 0 and long rotation vectors on one side of half a turn, also where the form stays the same.
    """
    finite = np.isfinite(values).all(axis=1)
    written = np.full((len(values), ROTATION_WIDTHS[written_as]), np.nan)
    is_same = (kind, unit) == (written_as, unit_written)
    written[finite] = values[finite] if is_same else _write(_read(values[finite], kind, unit), written_as, unit_written)
    # All trajectories begin in the same numbers: a quaternion and its negative are one rotation.
    if written_as.startswith("quaternion"):
        written[finite] = _upper_half(written[finite], 3 if written_as == "quaternion_xyzw" else 0)
    if written_as == "rotation_vector" and finite.any():
        first = int(np.argmax(finite))
        written[first] = _one_sided(written[first], unit_written)
    return continuous(written, np.full(written.shape[1], np.nan), kind=written_as, unit=unit_written)


def _one_sided(vector: Float64, unit: Unit) -> Float64:
    """A rotation vector [3] of more than a quarter turn, or the other one of the same rotation, by the sign of its longest component.

    Near half a turn, as of a tool that points down, either may come out, and the episodes of one task would be on two sides.
    """
    turn = 360.0 if unit == "deg" else 2 * np.pi
    angle = float(np.linalg.norm(vector))
    if angle <= turn / 4 or vector[np.argmax(np.abs(vector))] > 0:
        return vector
    return vector - turn * vector / angle


def compose_delta(action: Float64, state: Float64, kind: Kind, unit: Unit) -> Float64:
    """The rotation that leads from `state` to `action`, both [..., d] (broadcast), in their own form and unit.

    R_delta = R_action * R_state^-1, so that R_action = R_delta * R_state: it turns about the axes of the frame that the poses are
    in (a robot's base), as the difference of two positions is along them. robosuite's operational space controller takes deltas of
    this kind (goal = delta * current). Quaternions have w >= 0, rotation vectors a length of at most pi.
    """
    return delta_between(quaternions(action, kind, unit), quaternions(state, kind, unit), kind, unit)


def apply_delta(delta: Float64, state: Float64, kind: Kind, unit: Unit) -> Float64:
    """The inverse of compose_delta: R_delta * R_state, both [..., d] (broadcast). A prediction need not be of length 1 or at right angles.

    Quaternions have w >= 0 and rotation vectors a length of at most pi, whatever numbers the state was in.
    """
    return _least(_product(quaternions(delta, kind, unit), quaternions(state, kind, unit)), kind, unit)


def quaternions(values: Float64, kind: Kind, unit: Unit) -> Float64:
    """Rotations [..., d] as unit quaternions [..., 4], w last; NaN where a number is not finite."""
    rows = np.asarray(values, np.float64).reshape(-1, np.shape(values)[-1])
    finite = np.isfinite(rows).all(axis=1)
    result = np.full((len(rows), 4), np.nan)
    result[finite] = _read(rows[finite], kind, unit).as_quat()
    return result.reshape(*np.shape(values)[:-1], 4)


def delta_between(action: Float64, state: Float64, kind: Kind, unit: Unit) -> Float64:
    """What compose_delta returns, of unit `quaternions` [..., 4]. Fastest where each of the four components lies in one piece."""
    return _least(_product(action, state * np.array([-1.0, -1.0, -1.0, 1.0])), kind, unit)


def _product(left: Float64, right: Float64) -> Float64:
    # SciPy's product and rotation vectors take 40 times as long: a minute for the chunks of a large dataset.
    ax, ay, az, aw = np.moveaxis(left, -1, 0)
    bx, by, bz, bw = np.moveaxis(right, -1, 0)
    # In this order the vector part of a rotation times its own inverse is exactly 0.
    x = (aw * bx + ax * bw) + (ay * bz - az * by)
    y = (aw * by + ay * bw) + (az * bx - ax * bz)
    z = (aw * bz + az * bw) + (ax * by - ay * bx)
    w = (aw * bw - ax * bx) - (ay * by + az * bz)
    return np.moveaxis(np.stack([x, y, z, w]), 0, -1)


def _least(rotations: Float64, kind: Kind, unit: Unit) -> Float64:
    """Unit quaternions [..., 4] in the smallest numbers that a form has for them."""
    upper = _upper_half(rotations, 3)
    match kind:
        case "quaternion_xyzw":
            return upper
        case "quaternion_wxyz":
            return np.roll(upper, 1, axis=-1)
        case "rotation_vector":
            return _vectors(upper) * (180 / np.pi if unit == "deg" else 1.0)
        case _:
            return _through_matrices(upper, kind, unit)


def _upper_half(rows: Float64, w: int) -> Float64:
    """Quaternions [..., 4] or their negatives, so that column `w` is not negative."""
    return np.where(rows[..., w : w + 1] < 0, -rows, rows)


def _vectors(upper: Float64) -> Float64:
    """Rotation vectors [..., 3] (rad, at most pi long) of unit quaternions [..., 4] with w >= 0."""
    x, y, z, w = np.moveaxis(upper, -1, 0)
    sine = np.sqrt(x * x + y * y + z * z)
    # The limit of angle / sin(angle / 2) at 0 is 2.
    scale = np.divide(2 * np.arctan2(sine, w), sine, out=np.full_like(sine, 2.0), where=sine > _NO_SINE)
    return np.moveaxis(np.stack([x * scale, y * scale, z * scale]), 0, -1)


def _through_matrices(upper: Float64, kind: Kind, unit: Unit) -> Float64:
    from scipy.spatial.transform import Rotation

    rows = upper.reshape(-1, 4)
    finite = np.isfinite(rows).all(axis=1)
    result = np.full((len(rows), ROTATION_WIDTHS[kind]), np.nan)
    result[finite] = _write(Rotation.from_quat(rows[finite]), kind, unit)
    return result.reshape(*upper.shape[:-1], -1)


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
    locked = level < LOCK
    roll = np.where(locked, np.arctan2(np.sign(pitch) * m[:, 0, 1], m[:, 1, 1]), np.arctan2(m[:, 2, 1], m[:, 2, 2]))
    yaw = np.where(locked, 0.0, np.arctan2(m[:, 1, 0], m[:, 0, 0]))
    return np.stack([roll, pitch, yaw], axis=1)
