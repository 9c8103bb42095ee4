"""How well every action column is a state column, or a step of one, at every lead: all pairs at once.

With 14 actions, 14 states and 26 leads there are 5,000 pairs to compare: as products of matrices they take a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ops.episodes.semantics.seen import Float64, Series

# Less than this of a column's own size is rounding, not motion.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Columns:
    """Episodes one below the other, float64 [rows, d], with rows of zeros between them; `there` [rows] is 1 where a row is a frame."""

    values: Float64
    there: Float64

    @classmethod
    def of(cls, pieces: Sequence[Float64], gap: int) -> Columns:
        """Put `pieces` [frames, d] below one another with `gap` rows between them."""
        width = pieces[0].shape[1]
        values = np.concatenate([row for piece in pieces for row in (piece, np.zeros((gap, width)))])
        there = np.concatenate([row for piece in pieces for row in (np.ones(len(piece)), np.zeros(gap))])
        return cls(values, there)

    def steps(self, frames: int) -> Columns:
        """How far each column goes from a frame to the one `frames` later."""
        there = np.zeros_like(self.there)
        there[:-frames] = self.there[:-frames] * self.there[frames:]
        values = np.zeros_like(self.values)
        values[:-frames] = self.values[frames:] - self.values[:-frames]
        return Columns(values * there[:, None], there)

    @property
    def frames(self) -> Float64:
        """The rows that are frames, [n, d]."""
        return self.values[self.there > 0]


@dataclass(frozen=True)
class Fits:
    """Action k against `slope` times state k + lead (+ a constant): each float64 [leads, actions, states].

    `residual` is the RMS of the action minus the state, neither scaled nor shifted.
    """

    leads: Sequence[int]
    correlation: Float64
    slope: Float64
    residual: Float64

    def strongest(self, action: int, state: int) -> int:
        """The place of the lead at which the two resemble each other most, in whatever direction."""
        return int(np.argmax(np.abs(self.correlation[:, action, state])))

    def between(self, place: int, action: int, state: int) -> float:
        """The lead of a largest correlation between frames, from the parabola through it and its neighbours."""
        if not 0 < place < len(self.leads) - 1:
            return float(self.leads[place])
        before, at, after = np.abs(self.correlation[place - 1 : place + 2, action, state])
        bend = before - 2 * at + after
        return self.leads[place] + (float(0.5 * (before - after) / bend) if bend else 0.0)


def fit(action: Columns, state: Columns, leads: Sequence[int]) -> Fits:
    """Fit every column of `action` with every one of `state` at every lead; a negative lead is an action that is behind."""
    (a, centre_a), (s, centre_s) = _centred(action), _centred(state)
    found = [_at(_cut(a, action.there, lead), _cut(s, state.there, -lead), centre_a[:, None] - centre_s) for lead in leads]
    return Fits(leads, *(np.stack(each) for each in zip(*found, strict=True)))


def _centred(columns: Columns) -> tuple[Float64, Float64]:
    """The values about their means [d], and these; exact zeros where a column does not move."""
    frames = columns.frames
    centre = frames.mean(axis=0)
    moves = np.ptp(frames, axis=0) > _ROUNDING * np.abs(frames).max(axis=0)
    return (columns.values - centre) * columns.there[:, None] * moves, centre


def _cut(values: Float64, there: Float64, lead: int) -> tuple[Float64, Float64]:
    """The rows that have a row `lead` later."""
    rows = slice(None, len(values) - lead) if lead >= 0 else slice(-lead, None)
    return values[rows], there[rows]


def _at(action: tuple[Float64, Float64], state: tuple[Float64, Float64], apart: Float64) -> tuple[Float64, Float64, Float64]:
    (a, a_there), (s, s_there) = action, state
    count = max(float(a_there @ s_there), 1.0)
    mean_a, mean_s = (a.T @ s_there / count)[:, None], a_there @ s / count
    square_a, square_s, product = ((a * a).T @ s_there / count)[:, None], a_there @ (s * s) / count, a.T @ s / count
    power_a, power_s = np.maximum(square_a - mean_a**2, 0.0), np.maximum(square_s - mean_s**2, 0.0)
    both = product - mean_a * mean_s
    norm = np.sqrt(power_a * power_s)
    slope = np.divide(both, power_s, out=np.zeros_like(both), where=norm > 0)
    correlation = np.divide(both, norm, out=np.zeros_like(both), where=norm > 0)
    square = square_a - 2 * product + square_s + 2 * apart * (mean_a - mean_s) + apart**2
    return np.clip(correlation, -1.0, 1.0), slope, np.sqrt(np.maximum(square, 0.0))


def columns_of(episodes: Sequence[Series], gap: int, *, state_scale: Float64, action_scale: Float64) -> tuple[Columns, Columns]:
    """Action and state of all episodes, each column times its scale."""
    return Columns.of([e.action * action_scale for e in episodes], gap), Columns.of([e.state * state_scale for e in episodes], gap)
