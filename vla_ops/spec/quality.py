"""The sections on what is judged: thresholds of an episode's quality, and the checks of a dataset."""

from __future__ import annotations

from typing import Literal

from vla_ops.spec.base import Level, Strict


class Threshold(Strict):
    """One quality check: what crossing `limit` does to the episode."""

    level: Level
    """`ignore`, `note` (in the report), `warn` (the asset check warns) or `quarantine` (the episode is not in the dataset)."""
    limit: float
    """In the unit that the check's name ends with."""


class QualitySpec(Strict):
    """Thresholds of the quality report. A value *above* the limit (below, for `_min_`) triggers the level."""

    nonfinite_values: Threshold = Threshold(level="quarantine", limit=0)
    """NaN or Inf in state or action, count per dimension."""
    outside_limits_values: Threshold = Threshold(level="warn", limit=0)
    """Values outside a dimension's `limits`, count per dimension."""
    jump_sigma: Threshold = Threshold(level="warn", limit=20)
    """Largest step between two frames of a dimension over the robust spread of its steps, for joints and positions."""
    frozen_joint_s: Threshold = Threshold(level="note", limit=10)
    """Longest time in which a state dimension does not change at all while another one moves."""
    frozen_camera_s: Threshold = Threshold(level="warn", limit=1)
    """Longest time in which a camera shows exactly the same image."""
    black_camera_fraction: Threshold = Threshold(level="quarantine", limit=0.5)
    """Fraction of a camera's sampled images that are black (mean below 4/255)."""
    dropped_fraction: Threshold = Threshold(level="warn", limit=0.1)
    """Fraction of a camera's expected images that never arrived (from its own median rate)."""
    duplicated_fraction: Threshold = Threshold(level="note", limit=0.5)
    """Fraction of frames that repeat the previous frame's image because the camera is slower than the timeline."""
    skew_p99_ms: Threshold = Threshold(level="note", limit=25)
    """99th percentile of |sample time - frame time| of a stream."""
    gripper_span_min_ratio: Threshold = Threshold(level="note", limit=0.02)
    """Range a gripper moves through over its `limits` (or over 1): below it, it never really opens or closes."""


type CheckLevel = Literal["ignore", "warn", "block"]


class ChecksSpec(Strict):
    """What is measured of a whole dataset and held against this YAML: `block` stops all that is made from it, `warn` only says so."""

    actions: CheckLevel = "block"
    """What each action dimension is: absolute, a delta or a velocity; ahead of the state or behind; scaled, swapped or mirrored."""
    units: CheckLevel = "block"
    """Radians or degrees, metres or millimetres, a gripper's ratio or metres."""
    grippers: CheckLevel = "block"
    """Whether a gripper's command and its state open in the same direction, as `open_at` has it."""
    rotations: CheckLevel = "block"
    """Whether a quaternion's w stands where `kind` says."""
    motion: CheckLevel = "warn"
    """Dimensions that are dead, freeze, saturate, only jump between two values, or write one orientation in two ways."""
    idle: CheckLevel = "warn"
    """Episodes that begin or end with the robot at rest."""
    cameras: CheckLevel = "block"
    """Cameras that were exchanged in some episodes, or show the same picture."""
    near_duplicates: CheckLevel = "warn"
    """Episodes that are nearly the same as another one: they count twice in training."""
    tasks: CheckLevel = "warn"
    """Task texts that are empty, junk, or of another folder."""
    stations: CheckLevel = "warn"
    """Folders whose recordings move through other ranges than all the others: perhaps another robot's."""
