"""One answer of a judge: what the data say of one dimension, camera or episode, held against what the YAML says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

type Answer = Literal["agrees", "contradicts", "cannot tell"]


@dataclass(frozen=True)
class Verdict:
    """`check` is the field of `ChecksSpec` it belongs to; `subject` names what it is about: `action left_elbow`, `camera cam_high`.

    `found` and `claimed` are what the data and what the YAML say; `todo` is the line to write, or what to do, where they disagree.
    Where the data do not tell, the answer is `cannot tell`, and never a guess.
    """

    check: str
    subject: str
    answer: Answer
    found: str
    claimed: str = ""
    todo: str = ""

    def __str__(self) -> str:
        claim = f"; the YAML says {self.claimed}" if self.claimed else ""
        return f"{self.subject}: {self.found}{claim}.{f' {self.todo}' if self.todo else ''}"


def contradictions(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Those that contradict the YAML."""
    return [verdict for verdict in verdicts if verdict.answer == "contradicts"]
