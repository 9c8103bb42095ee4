"""Rotations for the tests, written and read in every form by SciPy alone, and how far they are apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_ops.spec import Kind, Unit

# Form, unit.
FORMS: list[tuple[Kind, Unit]] = [
    ("quaternion_xyzw", "1"),
    ("quaternion_wxyz", "1"),
    ("rotation_vector", "rad"),
    ("rotation_vector", "deg"),
    ("rotation_rpy", "rad"),
    ("rotation_rpy", "deg"),
    ("rotation_6d", "1"),
]
EACH_FORM = pytest.mark.parametrize(("kind", "unit"), FORMS)
SEEDS = st.integers(0, 2**32 - 1)


def anywhere(count: int, seed: int) -> Rotation:
    """Rotations in every direction alike."""
    return Rotation.from_quat(np.random.default_rng(seed).normal(size=(count, 4)))


def written(rotations: Rotation, kind: Kind, unit: Unit) -> np.ndarray:
    degrees = unit == "deg"
    match kind:
        case "quaternion_xyzw":
            return rotations.as_quat()
        case "quaternion_wxyz":
            return rotations.as_quat(scalar_first=True)
        case "rotation_vector":
            return rotations.as_rotvec(degrees=degrees)
        case "rotation_rpy":
            return rotations.as_euler("xyz", degrees=degrees)
        case _:
            matrices = rotations.as_matrix()
            return np.concatenate([matrices[:, :, 0], matrices[:, :, 1]], axis=1)


def read(values: np.ndarray, kind: Kind, unit: Unit) -> Rotation:
    degrees = unit == "deg"
    match kind:
        case "quaternion_xyzw":
            return Rotation.from_quat(values)
        case "quaternion_wxyz":
            return Rotation.from_quat(values, scalar_first=True)
        case "rotation_vector":
            return Rotation.from_rotvec(values, degrees=degrees)
        case "rotation_rpy":
            return Rotation.from_euler("xyz", values, degrees=degrees)
        case _:
            x, y = values[:, :3], values[:, 3:]
            return Rotation.from_matrix(np.stack([x, y, np.cross(x, y)], axis=2))


def apart(a: Rotation, b: Rotation) -> np.ndarray:
    """Angle between rotations (rad)."""
    return (a.inv() * b).magnitude()


def walk(seed: int, *, start: Rotation | None = None, step: float = 0.1, count: int = 60) -> Rotation:
    """Small steps (at most `step` rad) that stay within 1 rad of the start."""
    random = np.random.default_rng(seed)
    start = start or anywhere(1, seed)[0]
    offsets = np.cumsum(random.uniform(-step, step, (count, 3)) / 2, axis=0)
    offsets *= np.minimum(1, 1 / np.maximum(np.linalg.norm(offsets, axis=1, keepdims=True), 1e-9))
    return start * Rotation.from_rotvec(offsets)
