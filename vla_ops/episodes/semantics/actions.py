"""Measure from the numbers alone what each action dimension is: the next state, a command ahead of it, a change of it.

A policy is trained on whatever the action column holds; nothing fails when it holds something else than its name says. So each
named dimension of the action is compared with the state over all episodes: by shifting one against the other (which lag fits
best, and what remains), and with the state's own steps. What the data cannot tell is said so, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.episodes.semantics.verdict import Answer, Verdict
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.spec import NextState

type Relation = Literal[
    "next state", "current state", "command", "late", "delta", "velocity", "scaled", "mirrored", "swapped", "other", "cannot tell"
]

# Lags up to this long are looked at: slower arms do not follow their commands.
_LONGEST_LAG_S = 0.5
# Fewer frames than this, or a dimension that never moves, tell nothing.
_FEWEST_FRAMES = 30
# What remains after the best shift, over the state's motion in one frame: below it the two are the same numbers.
_SAME = 0.1
# Correlations above this count as a relation.
_RELATED = 0.9
_SURE = 0.97


@dataclass(frozen=True)
class Measured:
    """What one action dimension was found to be.

    `lead_frames` is how far the action is ahead of the state (negative: behind); `error` what remains after the best shift, over the
    state's motion in one frame; `scale` the action over what it was compared with; `partner` the state dimension it fits best.
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
        return _SAID[self.relation].format(m=self, ahead_ms=ahead_ms, error=self.error or 0.0, scale=self.scale or 0.0)


_SAID: dict[Relation, str] = {
    "next state": "the state {m.lead_frames:.0f} frame(s) later, error {error:.2g} of a frame's motion",
    "current state": "the state of the same frame, error {error:.2g} of a frame's motion",
    "command": "a command that leads the state by {ahead_ms:.0f} ms",
    "late": "behind the state by {ahead_ms:.0f} ms",
    "delta": "a step of the state, times {scale:.3g}",
    "velocity": "the state's velocity, times {scale:.3g}",
    "scaled": "the state times {scale:.4g}",
    "mirrored": "the state with the other sign",
    "swapped": "the action of {m.partner}",
    "other": "none of the relations known here",
    "cannot tell": "cannot tell: it or the state hardly moves, or there is too little of it",
}


def judge_actions(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Hold what each action dimension was measured to be against what the YAML claims."""
    if isinstance(spec.action, NextState):
        return []  # Made from the state by conversion: there is nothing to find out.
    found = measure_actions(seen.sample, state_dims=spec.state_dims, action_dims=spec.action_dims, rate_hz=spec.timeline.rate_hz)
    return [_held_against(measured, dim, spec.timeline.rate_hz) for measured, dim in zip(found, spec.action_dims, strict=True)]


def _held_against(measured: Measured, dim: Dimension, rate_hz: float) -> Verdict:
    todo = _todo(measured, dim)
    unknown = measured.relation in ("cannot tell", "other")
    answer: Answer = "contradicts" if todo else "cannot tell" if unknown else "agrees"
    return Verdict("actions", f"action {dim.name}", answer, measured.said(rate_hz), f"`means: {dim.means}`, in {dim.unit}", todo)


def _todo(measured: Measured, dim: Dimension) -> str:
    """What to write instead, or nothing where the relation is the claimed one."""
    relation = measured.relation
    if relation in ("delta", "velocity"):
        return (
            "" if relation == dim.means else f"Write `means: {relation}`: as it is, the state would be subtracted once more (openpi #750)."
        )
    if relation in _ABSOLUTE and dim.means != "absolute":
        return f"It is where to be, not how far to go: remove `means: {dim.means}`."
    return _TODO.get(relation, "").format(m=measured, unit=dim.unit)


_ABSOLUTE = frozenset({"next state", "current state", "command", "late"})
_TODO: dict[Relation, str] = {
    "current state": "No command was recorded: write `action: {{from: next_state}}`.",
    "late": "Check which topic it is, and the clocks (`recordings.clock`, `timeline.clock_offsets`).",
    "scaled": "State and action are in different units, or one of them is not in {unit}: correct `unit` or the source.",
    "mirrored": "State and action of this joint count in opposite directions: correct the driver that writes one of them.",
    "swapped": "Exchange `{m.name}` and `{m.partner}` in `names` of the action (or of the state).",
}


def measure_actions(
    episodes: Sequence[Series], *, state_dims: Sequence[Dimension], action_dims: Sequence[Dimension], rate_hz: float
) -> list[Measured]:
    """Measure every action dimension against the state dimension of its name or, where there is none, of its place."""
    episodes = [e for e in episodes if len(e.state) >= _FEWEST_FRAMES]
    longest = _longest_lead(episodes, rate_hz)
    pairs = [_partner(k, action_dims, state_dims) for k in range(len(action_dims))]
    found = [_measure(episodes, k, pairs[k], dim.name, rate_hz=rate_hz) for k, dim in enumerate(action_dims)]
    return _with_swaps(found, episodes, pairs, longest, [dim.unit for dim in action_dims])


def _longest_lead(episodes: Sequence[Series], rate_hz: float) -> int:
    """In frames; at most a quarter of the shortest episode, so that enough is left to compare."""
    shortest = min((len(e.state) for e in episodes), default=0)
    return max(1, min(round(_LONGEST_LAG_S * rate_hz), shortest // 4))


def _partner(k: int, action_dims: Sequence[Dimension], state_dims: Sequence[Dimension]) -> int | None:
    names = [dim.name for dim in state_dims]
    if action_dims[k].name in names:
        return names.index(action_dims[k].name)
    return k if len(state_dims) == len(action_dims) else None


@dataclass(frozen=True)
class _Fit:
    """How well `action[k]` is `scale * state[k + lead]` (+ a constant)."""

    lead: int
    correlation: float
    scale: float
    # RMS of action minus state, unscaled.
    residual: float


def _measure(episodes: Sequence[Series], k: int, pair: int | None, name: str, *, rate_hz: float) -> Measured:
    if pair is None or not episodes:
        return Measured(name, "cannot tell")
    pieces = [(e.action[:, k], e.state[:, pair]) for e in episodes]
    motion = _rms(np.concatenate([np.diff(s) for _, s in pieces]))
    if not motion or not _rms(np.concatenate([np.diff(a) for a, _ in pieces])):
        return Measured(name, "cannot tell")
    longest = _longest_lead(episodes, rate_hz)
    fits = [_fit(pieces, lead) for lead in range(-longest, longest + 1)]
    exact = min(fits, key=lambda fit: fit.residual)
    if exact.residual < _SAME * motion and abs(exact.scale - 1) < _SAME:
        relation: Relation = "next state" if exact.lead > 0 else "current state" if exact.lead == 0 else "late"
        return Measured(name, relation, None, exact.lead, exact.residual / motion, exact.correlation, exact.scale)
    steps = [_fit([(a[:-1], np.diff(s)) for a, s in pieces], lead) for lead in range(longest + 1)]
    return _inexact(name, fits, max(steps, key=lambda fit: abs(fit.correlation)), motion, rate_hz)


def _inexact(name: str, fits: Sequence[_Fit], step: _Fit, motion: float, rate_hz: float) -> Measured:
    best = max(fits, key=lambda fit: abs(fit.correlation))
    error, found = best.residual / motion, best.correlation
    if abs(step.correlation) > max(_RELATED, abs(best.correlation)):
        is_velocity = abs(np.log(abs(step.scale) / rate_hz)) < abs(np.log(abs(step.scale)))
        relation: Relation = "velocity" if is_velocity else "delta"
        return Measured(name, relation, None, step.lead, None, step.correlation, step.scale / (rate_hz if is_velocity else 1))
    if best.correlation < -_SURE and 0.5 < -best.scale < 2:
        return Measured(name, "mirrored", None, best.lead, error, found, best.scale)
    if best.correlation > _SURE and not 0.5 < best.scale < 2:
        return Measured(name, "scaled", None, best.lead, error, found, best.scale)
    if best.correlation < _RELATED or not 0.5 < best.scale < 2:
        return Measured(name, "other", None, None, error, found, best.scale)
    lead = _between(fits, best)
    return Measured(name, "command" if lead >= 0 else "late", None, lead, error, found, best.scale)


def _between(fits: Sequence[_Fit], best: _Fit) -> float:
    """The lead of the best correlation between frames, from the parabola through it and its neighbours."""
    place = fits.index(best)
    if not 0 < place < len(fits) - 1:
        return float(best.lead)
    before, at, after = (fits[p].correlation for p in (place - 1, place, place + 1))
    bend = before - 2 * at + after
    return best.lead + (0.5 * (before - after) / bend if bend else 0.0)


def _fit(pieces: Sequence[tuple[Float64, Float64]], lead: int) -> _Fit:
    shifted = [_shifted(action, state, lead) for action, state in pieces]
    action, state = np.concatenate([a for a, _ in shifted]), np.concatenate([s for _, s in shifted])
    centred_a, centred_s = action - action.mean(), state - state.mean()
    power = float(centred_s @ centred_s)
    product, norm = float(centred_a @ centred_s), float(np.sqrt((centred_a @ centred_a) * power))
    return _Fit(lead, product / norm if norm else 0.0, product / power if power else 0.0, _rms(action - state))


def _shifted(action: Float64, state: Float64, lead: int) -> tuple[Float64, Float64]:
    """The frames k for which both action k and state k + lead are there."""
    if lead >= 0:
        return action[: len(state) - lead], state[lead:]
    return action[-lead:], state[:lead]


def _rms(values: Float64) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def _with_swaps(
    found: list[Measured], episodes: Sequence[Series], pairs: Sequence[int | None], longest: int, units: Sequence[str]
) -> list[Measured]:
    """Mark two actions of which each fits the other's state far better than its own."""
    names = [measured.name for measured in found]
    swapped = list(found)
    for i in range(len(found)):
        for j in range(i + 1, len(found)):
            if units[i] == units[j] and _is_swapped(episodes, (i, j), pairs, longest):
                swapped[i], swapped[j] = Measured(names[i], "swapped", names[j]), Measured(names[j], "swapped", names[i])
    return swapped


def _is_swapped(episodes: Sequence[Series], which: tuple[int, int], pairs: Sequence[int | None], longest: int) -> bool:
    i, j = which
    a, b = pairs[i], pairs[j]
    if a is None or b is None or not episodes:
        return False
    own = _misfit(episodes, i, a, longest) + _misfit(episodes, j, b, longest)
    other = _misfit(episodes, i, b, longest) + _misfit(episodes, j, a, longest)
    return other < 0.2 * own and other < 0.5


def _misfit(episodes: Sequence[Series], action: int, state: int, longest: int) -> float:
    """RMS of action minus state at the best lead, over the state's spread; infinite where the state does not move."""
    pieces = [(e.action[:, action], e.state[:, state]) for e in episodes]
    spread = float(np.std(np.concatenate([s for _, s in pieces])))
    leads = range(0, longest + 1, max(1, longest // 5))
    return min(_fit(pieces, lead).residual for lead in leads) / spread if spread else np.inf
