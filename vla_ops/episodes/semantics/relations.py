"""What an action can be to the state it belongs to, and how that is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

type Relation = Literal[
    "next state", "current state", "command", "late", "delta", "velocity",
    "scaled", "mirrored", "swapped", "other", "unpaired", "cannot tell",
]  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What one action dimension was found to be.

    `lead_frames` is how far the action is ahead of the state (negative: behind); `error` what remains after the best shift, over the
    state's motion in one frame; `scale` the action over what it was compared with, both in one unit where they have one; `partner` the
    state dimension it fits where that is not the one of its own name.
    """

    name: str
    relation: Relation
    partner: str | None = None
    lead_frames: float | None = None
    error: float | None = None
    correlation: float | None = None
    scale: float | None = None

    def said(self, rate_hz: float) -> str:
        """One line for a person."""
        ahead_ms = abs(self.lead_frames or 0) * 1000 / rate_hz
        of = f" {self.partner}" if self.partner else ""
        return _SAID[self.relation].format(m=self, of=of, ahead_ms=ahead_ms, error=self.error or 0.0, scale=self.scale or 0.0)


_SAID: dict[Relation, str] = {
    "next state": "the state{of} {m.lead_frames:.0f} frame(s) later, error {error:.2g} of a frame's motion",
    "current state": "the state{of} of the same frame, error {error:.2g} of a frame's motion",
    "command": "a command that leads the state{of} by {ahead_ms:.0f} ms",
    "late": "behind the state{of} by {ahead_ms:.0f} ms",
    "delta": "a step of the state{of}, times {scale:.3g}",
    "velocity": "the velocity of the state{of}, times {scale:.3g}",
    "scaled": "the state{of} times {scale:.4g}",
    "mirrored": "the state{of} with the other sign",
    "swapped": "the action of {m.partner}",
    "other": "none of the relations known here",
    "unpaired": "no state dimension has its name, and it resembles none",
    "cannot tell": "cannot tell: it or the state hardly moves, or there is too little of it",
}
