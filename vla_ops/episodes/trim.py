"""Cut an episode as curation.yaml says: the frames that are kept are those the untrimmed episode has at these times."""

from __future__ import annotations

import numpy as np

from vla_ops.curation import CURATION, Trim, Trims
from vla_ops.episodes.align import Timeline
from vla_ops.errors import AlignmentError
from vla_ops.robot import RobotSpec, fingerprint
from vla_ops.spec import NextState

# How every reason begins that is a trim's fault.
UNFIT_TRIM = "the trim"
# A time that was read off a plot and rounded must not lose its frame: far less than a frame at 1000 Hz.
_ROUNDING_S = 1e-6
_TODO = f"Correct it in {CURATION}."
# Raise when the same trim would now give other bytes.
# 2: rotations have the signs and turns of the untrimmed episode.
_TRIM_VERSION = 2


def made_with(spec: RobotSpec, trims: Trims) -> str:
    """Fingerprint of all that a recording is converted with: the spec's own where nothing is cut."""
    made = spec.conversion_fingerprint
    return fingerprint([made, _TRIM_VERSION, trims.model_dump(mode="json")]) if trims else made


def kept_frames(timeline: Timeline, trim: Trim, spec: RobotSpec) -> slice:
    """The frames from start_s to end_s of the episode that `timeline` would give.

    With `next_state` the frames whose states are the last actions are kept too: the last kept frame's action stays the state after
    it. Raise AlignmentError, with both values, for a trim that is not inside the episode or keeps fewer than min_frames.
    """
    rate_hz = spec.timeline.rate_hz
    steps = spec.action.steps if isinstance(spec.action, NextState) else 0
    frames = timeline.frames - steps
    length_s = frames / rate_hz
    outside = trim.end_s is not None and trim.end_s > length_s + _ROUNDING_S
    if trim.start_s >= length_s or outside:
        expected = f"times within its {length_s:g} s ({frames} frames at {rate_hz} Hz)"
        raise AlignmentError(f"{UNFIT_TRIM} is not inside the episode", found=str(trim), expected=expected, todo=_TODO)
    at_s = np.arange(frames) / rate_hz
    end_s = length_s if trim.end_s is None else trim.end_s
    kept = np.flatnonzero((at_s >= trim.start_s - _ROUNDING_S) & (at_s <= end_s + _ROUNDING_S))
    if len(kept) < spec.timeline.min_frames:
        found, expected = f"{len(kept)} frame(s) from {trim}", f"at least min_frames {spec.timeline.min_frames}"
        raise AlignmentError(f"{UNFIT_TRIM} leaves too little of the episode", found=found, expected=expected, todo=_TODO)
    return slice(int(kept[0]), int(kept[-1]) + 1 + steps)
