"""Measured semantics: what the numbers and pictures of a dataset's episodes are, held against what the robot's YAML says they are.

A policy is trained on whatever is in a column; nothing fails when it is something else than its name says. Each judge answers for
each dimension, camera or episode; `judge` runs all that the YAML does not ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vla_ops.episodes.semantics.actions import judge_actions
from vla_ops.episodes.semantics.cameras import judge_cameras
from vla_ops.episodes.semantics.grippers import judge_grippers
from vla_ops.episodes.semantics.idle import judge_idle
from vla_ops.episodes.semantics.motion import judge_motion
from vla_ops.episodes.semantics.near_duplicates import judge_near_duplicates
from vla_ops.episodes.semantics.quaternions import judge_rotations
from vla_ops.episodes.semantics.seen import Seen
from vla_ops.episodes.semantics.stations import judge_stations
from vla_ops.episodes.semantics.tasks import judge_tasks
from vla_ops.episodes.semantics.two_codes import judge_two_codes
from vla_ops.episodes.semantics.units import judge_units
from vla_ops.episodes.semantics.verdict import Verdict, contradictions
from vla_ops.robot import RobotSpec

__all__ = ["JUDGES", "Judge", "Seen", "Verdict", "contradictions", "judge"]

type Judge = Callable[[Seen, RobotSpec], list[Verdict]]

# Field of ChecksSpec -> who answers for it.
JUDGES: Mapping[str, Judge] = {
    "actions": judge_actions,
    "units": judge_units,
    "grippers": judge_grippers,
    "motion": lambda seen, spec: [*judge_motion(seen, spec), *judge_two_codes(seen, spec)],
    "idle": judge_idle,
    "cameras": judge_cameras,
    "near_duplicates": judge_near_duplicates,
    "tasks": judge_tasks,
    "stations": judge_stations,
    "rotations": judge_rotations,
}


def judge(seen: Seen, spec: RobotSpec) -> dict[str, list[Verdict]]:
    """The verdicts of every check that the YAML does not ignore, by check."""
    return {check: verdicts(seen, spec) for check, verdicts in JUDGES.items() if getattr(spec.checks, check) != "ignore"}
