"""Measured semantics: what the numbers and pictures of a dataset's episodes are, held against what the robot's YAML says they are.

A policy is trained on whatever is in a column; nothing fails when it is something else than its name says. Each judge answers for
each dimension, camera or episode; `judge` runs all that the YAML does not ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vla_ops.episodes.semantics.actions import judge_actions
from vla_ops.episodes.semantics.seen import Seen
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.robot import RobotSpec

__all__ = ["JUDGES", "Judge", "Seen", "Verdict", "contradictions", "judge"]

type Judge = Callable[[Seen, RobotSpec], list[Verdict]]

# Field of ChecksSpec -> who answers for it.
JUDGES: Mapping[str, Judge] = {
    "actions": judge_actions,
}


def judge(seen: Seen, spec: RobotSpec) -> dict[str, list[Verdict]]:
    """The verdicts of every check that the YAML does not ignore, by check."""
    return {check: verdicts(seen, spec) for check, verdicts in JUDGES.items() if getattr(spec.checks, check) != "ignore"}


def contradictions(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that contradict the YAML."""
    return [verdict for verdict in verdicts if verdict.answer == "contradicts"]
