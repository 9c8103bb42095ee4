"""Vectors, streams and cameras to be judged, good ones and what is wrong with others."""

from __future__ import annotations

import numpy as np

from vla_ops.episodes.quality import Judged, judge_camera, judge_stream, judge_vector
from vla_ops.episodes.store import Finding
from vla_ops.robot import Dimension
from vla_ops.spec import QualitySpec

RATE_HZ = 20

MS = 1_000_000

FRAMES = 400

DEFAULTS = QualitySpec()


J1, J2 = Dimension("j1", "rad", "joint", (-2.0, 2.0)), Dimension("j2", "rad", "joint")

GRIPPER = Dimension("gripper", "ratio", "gripper", (0.0, 1.0))

DIMS = [J1, J2, GRIPPER]

UNLIMITED = [Dimension("j1", "rad", "joint"), J2, GRIPPER]

ALIVE = {"frozen_frames": 1, "black_fraction": 0.0}


def moving() -> np.ndarray:
    """Two joints and a gripper that move smoothly through most of their range, [FRAMES, 3]."""
    t = np.arange(FRAMES) / RATE_HZ
    return np.stack([1.5 * np.sin(t), np.cos(0.7 * t), 0.5 + 0.5 * np.sin(0.5 * t)], axis=1)


def findings_of(values: np.ndarray, *, vector: str = "state", dims: list[Dimension] = DIMS, spec: QualitySpec = DEFAULTS) -> list[Finding]:
    judged = judge_vector(vector, values, dims, rate_hz=RATE_HZ, spec=spec)
    return [finding for one in judged.values() for finding in one.findings]


def measured_of(values: np.ndarray, where: str, dims: list[Dimension] = DIMS) -> dict[str, float]:
    return judge_vector("state", values, dims, rate_hz=RATE_HZ, spec=DEFAULTS)[where].measured


def changed(column: int, rows: slice | int, value: float) -> np.ndarray:
    values = moving()
    values[rows, column] = value
    return values


def stepping(size: float) -> np.ndarray:
    """The first joint is somewhere else from frame 200 on."""
    values = moving()
    values[200:, 0] += size
    return values


def held(until: int) -> np.ndarray:
    """The second joint moves from frame `until` on."""
    return changed(1, slice(0, until), moving()[until, 1])


def regular(count: int = 300, step_ms: float = 33.0) -> np.ndarray:
    return np.round(np.arange(count) * step_ms * MS).astype(np.int64)


def stream(stamps_ns: np.ndarray | None = None, skew_ms: np.ndarray | float = 0.0, spec: QualitySpec = DEFAULTS) -> Judged:
    skew_ns = np.round(np.broadcast_to(np.asarray(skew_ms) * MS, (100,) if np.ndim(skew_ms) == 0 else np.shape(skew_ms)))
    return judge_stream("/camera", regular() if stamps_ns is None else stamps_ns, skew_ns.astype(np.int64), spec)


def camera(indices: np.ndarray | None = None, spec: QualitySpec = DEFAULTS, **encoder: float) -> Judged:
    return judge_camera("high", np.arange(100) if indices is None else indices, ALIVE | encoder, rate_hz=RATE_HZ, spec=spec)
