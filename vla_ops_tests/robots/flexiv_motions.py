"""Motions and recordings of Rizon arms: joints with a gripper, and poses whose rotations are kept in several forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from vla_ops_tests.robots.hdf5_collectors import clock, write_flexiv
from vla_ops_tests.robots.shipped import Float64, Shipped, reach

RIZON = [(-2.7, 2.7), (-2.2, 2.2), (-2.9, 2.9), (-1.8, 2.6), (-2.9, 2.9), (-1.3, 4.5), (-2.9, 2.9), (0.0, 0.08)]
PLACE = [(0.3, 0.7), (-0.3, 0.3), (0.1, 0.5)]
GRIPPER = [(0.0, 0.08)]

ROWS = 120
ONE_ARM_CAMERAS = ("cam_high", "cam_left_wrist")
ONE_ARM_TASKS = ["insert the peg", "wipe the table"]
STAMPS = clock(ROWS, 50, seed=0)
# All streams of a recording have begun when the last of two cameras has: the first frame is the first that shows all of them.
START_S = max(clock(ROWS, 50, late_s=0.003 * k, seed=k)[0] for k in range(3))


def joints(rows: int, seed: int) -> Float64:
    """7 joints and a gripper [rows, 8]."""
    return reach(RIZON, rows, seed=seed).state


@dataclass(frozen=True)
class Poses:
    """Poses of one arm: xyz [rows, 3], its rotations, the gripper's opening [rows, 1]."""

    xyz: Float64
    rotations: Rotation
    gripper: Float64

    @property
    def stored(self) -> Float64:
        """x, y, z, qw, qx, qy, qz, gripper [rows, 8], with signs that flip now and then."""
        wxyz = self.rotations.as_quat()[:, [3, 0, 1, 2]]
        signs = np.where(np.arange(len(wxyz)) // 7 % 2, -1.0, 1.0)[:, None]
        return np.concatenate([self.xyz, wxyz * signs, self.gripper], axis=1)


def poses(rows: int, seed: int, *, tilt: float = 0.4, heading: float = 0.0) -> Poses:
    """One arm with its tool down, reaching, turning about `heading`, and tilting by up to `tilt` rad about either axis.

    Tools that point down are half a turn from upright ones: there the signs of quaternions and rotation vectors flip.
    """
    moved = reach([*PLACE, (-tilt, tilt), (-tilt, tilt), (-1.2, 1.2), *GRIPPER], rows, seed=seed).state
    down = Rotation.from_rotvec([0, 0, heading]) * Rotation.from_rotvec([np.pi, 0, 0])
    return Poses(moved[:, :3], Rotation.from_rotvec(moved[:, 3:6]) * down, moved[:, 6:])


def turned(rotations: Rotation, stamps_s: Float64, start_s: float, frames: int, rate_hz: float) -> Rotation:
    """Rotations taken at `stamps_s`, between samples on the shortest way, at `frames` times from `start_s` on."""
    times = np.minimum(start_s + np.arange(frames) / rate_hz, stamps_s[-1])
    return Slerp(stamps_s - start_s, rotations)(times - start_s)


def angles_between(vectors: Sequence[Float64], rotations: Rotation) -> Float64:
    """Angle (rad) between rotation vectors, given by column, and rotations, row by row."""
    return (Rotation.from_rotvec(np.stack(list(vectors), axis=1)) * rotations.inv()).magnitude()


def largest_step(vectors: Sequence[Float64]) -> float:
    """The largest change of any number of rotation vectors, given by column, from one row to the next."""
    return float(max(np.abs(np.diff(column)).max() for column in vectors))


def record_one_arm(robot: Shipped) -> None:
    """Two recordings of one arm, one of them with gzip."""
    for k, text in enumerate(ONE_ARM_TASKS):
        file = robot.recordings / f"episode_20251009_10150{k}_{text.replace(' ', '_')}.hdf5"
        write_flexiv(file, joints(ROWS, k), poses(ROWS, k).stored, cameras=ONE_ARM_CAMERAS, task=text, compression="gzip" if k else None)
