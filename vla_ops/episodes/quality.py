"""The quality report of one episode: measured values, and a finding for each that crosses a threshold of the spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.align import runs
from vla_ops.episodes.store import Finding
from vla_ops.errors import QualityError
from vla_ops.recordings.base import Float64, Int64
from vla_ops.robot import Dimension
from vla_ops.spec import QualitySpec, Threshold

type Bool = npt.NDArray[np.bool_]

_MS = 1_000_000
# Kinds that a body cannot change at once. Commands and derivatives of other kinds may step as they please.
_CONTINUOUS = ("joint", "position", "rotation_vector", "rotation_rpy", "rotation_6d")


@dataclass(frozen=True)
class Judged:
    """What was measured of one stream, camera or dimension, and the thresholds it crosses."""

    measured: dict[str, Any]
    findings: list[Finding]


@dataclass
class QualityReport:
    """The report of one episode, filled in as it is made."""

    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, where: str, judged: Judged) -> None:
        """Add what was measured of `where`; a camera and its stream may share a name."""
        self.measured[where] = self.measured.get(where, {}) | judged.measured
        self.findings += judged.findings

    def refuse(self) -> None:
        """Raise QualityError if a finding's level is `quarantine`."""
        fatal = [f for f in self.findings if f.level == "quarantine"]
        if fatal:
            raise QualityError("; ".join(f.message for f in fatal), todo=_todo(fatal[0]))


def _todo(finding: Finding) -> str:
    if finding.check == "nonfinite_values":
        return "Repair the recording or leave it out: one NaN in a dataset makes every loss NaN."
    return f"If this is fine for this robot, write `quality: {{{finding.check}: {{level: warn, limit: {finding.limit:g}}}}}`."


def judge(check: str, where: str, value: float, threshold: Threshold, message: str) -> list[Finding]:
    """One finding if `value` crosses the threshold, none otherwise."""
    crossed = value < threshold.limit if "_min_" in check else value > threshold.limit
    if threshold.level == "ignore" or not crossed:
        return []
    return [Finding(check, threshold.level, where, float(value), threshold.limit, f"{where}: {message}")]


def judge_vector(vector: str, values: Float64, dims: Sequence[Dimension], *, rate_hz: int, spec: QualitySpec) -> dict[str, Judged]:
    """Judge each dimension of state or action `values` [frames, d], by `state j1`, `action gripper`, ..."""
    moves = (values[1:] != values[:-1]).any(axis=1)
    judged = {}
    for column, dim in zip(values.T, dims, strict=True):
        where = f"{vector} {dim.name}"
        bad = ~np.isfinite(column)
        text = f"{bad.sum()} of {len(column)} values are NaN or Inf, the first at frame {int(np.argmax(bad))}"
        findings = judge("nonfinite_values", where, int(bad.sum()), spec.nonfinite_values, text)
        if findings or bad.all():
            judged[where] = Judged({"nonfinite": int(bad.sum())}, findings)
        else:
            judged[where] = _judge_dimension(where, column[~bad], dim, spec)
            if vector == "state" and dim.kind != "gripper":
                judged[where] = _judge_frozen(where, judged[where], _still_s(column, moves, rate_hz), spec)
    return judged


def _judge_dimension(where: str, values: Float64, dim: Dimension, spec: QualitySpec) -> Judged:
    low, high = float(values.min()), float(values.max())
    jump, at = _largest_jump(values)
    findings = _judge_limits(where, values, dim, spec)
    if dim.kind == "gripper":
        findings += _judge_gripper(where, low, high, dim, spec)
    elif dim.kind in _CONTINUOUS and jump:
        text = f"jumps by {jump:.0f} times its usual step at frame {at} ({values[at]:.4g} to {values[at + 1]:.4g} {dim.unit})"
        findings += judge("jump_sigma", where, jump, spec.jump_sigma, text)
    return Judged({"min": low, "max": high, "jump_sigma": round(jump, 2)}, findings)


def _judge_frozen(where: str, judged: Judged, still_s: float, spec: QualitySpec) -> Judged:
    findings = judge("frozen_joint_s", where, still_s, spec.frozen_joint_s, f"does not change for {still_s:.1f} s while others move")
    return Judged(judged.measured | {"still_s": round(still_s, 3)}, judged.findings + findings)


def _still_s(values: Float64, moves: Bool, rate_hz: int) -> float:
    """Longest time in which `values` [frames] do not change, counting only the steps [frames - 1] in which another dimension does."""
    return max((int(moves[start:stop].sum()) for start, stop in runs(values[1:] == values[:-1])), default=0) / rate_hz


def judge_stream(name: str, stamps_ns: Int64, skew_ns: Int64, spec: QualitySpec) -> Judged:
    """Measure how a stream sits on the timeline: `stamps_ns` [n] its own samples, `skew_ns` [frames]."""
    skew_ms = np.abs(skew_ns) / _MS
    p50, p99, worst = (float(np.percentile(skew_ms, q)) for q in (50, 99, 100))
    steps = np.diff(stamps_ns)
    median = float(np.median(steps)) if len(steps) else 0.0
    # From its own usual step, so that a slow stream is not called a dropping one.
    expected = round((int(stamps_ns[-1]) - int(stamps_ns[0])) / median) + 1 if median > 0 else len(stamps_ns)
    dropped = max(0.0, 1 - len(stamps_ns) / expected)
    measured = {
        "samples": len(stamps_ns),
        "rate_hz": round(1e9 / median, 3) if median else None,
        "skew_ms": {"p50": round(p50, 3), "p99": round(p99, 3), "max": round(worst, 3)},
        "largest_step_ms": round(float(steps.max()) / _MS, 3) if len(steps) else None,
        "same_stamps": int((steps == 0).sum()),
        "dropped_fraction": round(dropped, 4),
    }
    text = f"99 % of frames are within {p99:.1f} ms of a sample, the worst {worst:.1f} ms"
    findings = judge("skew_p99_ms", name, p99, spec.skew_p99_ms, text)
    text = f"{dropped:.1%} of the expected samples are missing: {len(stamps_ns)} of {expected}"
    return Judged(measured, findings + judge("dropped_fraction", name, dropped, spec.dropped_fraction, text))


def judge_camera(camera: str, indices: Int64, encoder: Mapping[str, Any], *, rate_hz: int, spec: QualitySpec) -> Judged:
    """Judge a camera from the image index of each frame [frames] and what the encoder measured on the way."""
    duplicated = float((np.diff(indices) == 0).sum()) / len(indices)
    frozen_s = float(encoder["frozen_frames"]) / rate_hz
    black = float(encoder["black_fraction"])
    findings = judge(
        "duplicated_fraction", camera, duplicated, spec.duplicated_fraction, f"{duplicated:.1%} of frames repeat the image before"
    )
    findings += judge("frozen_camera_s", camera, frozen_s, spec.frozen_camera_s, f"shows the same image for {frozen_s:.1f} s")
    findings += judge("black_camera_fraction", camera, black, spec.black_camera_fraction, f"{black:.0%} of the sampled images are black")
    measured = {"duplicated_fraction": round(duplicated, 4), "frozen_s": round(frozen_s, 3), "black_fraction": round(black, 4)}
    return Judged(measured | {name: encoder[name] for name in ("signature", "motion") if name in encoder}, findings)


def _judge_limits(where: str, values: Float64, dim: Dimension, spec: QualitySpec) -> list[Finding]:
    if dim.limits is None:
        return []
    low, high = dim.limits
    outside = int(((values < low) | (values > high)).sum())
    text = f"{outside} values outside its limits [{low:g}, {high:g}] {dim.unit}: it ranges over [{values.min():.4g}, {values.max():.4g}]"
    return judge("outside_limits_values", where, outside, spec.outside_limits_values, text)


def _judge_gripper(where: str, low: float, high: float, dim: Dimension, spec: QualitySpec) -> list[Finding]:
    whole = dim.limits[1] - dim.limits[0] if dim.limits else 1.0
    text = f"the gripper only moves between {low:.4g} and {high:.4g} {dim.unit}"
    return judge("gripper_span_min_ratio", where, (high - low) / whole, spec.gripper_span_min_ratio, text)


def _largest_jump(values: Float64) -> tuple[float, int]:
    """Largest step over the robust spread of all steps, and where it is. 0 for a dimension that hardly moves."""
    steps = np.abs(np.diff(values))
    if not len(steps):
        return 0.0, 0
    # The 90th percentile: at rest most steps are sensor noise, and any motion would be a jump against their median.
    usual = max(float(np.percentile(steps, 90)), 1e-3 * float(np.ptp(values)))
    at = int(np.argmax(steps))
    return (float(steps[at]) / usual if usual > 0 else 0.0), at
