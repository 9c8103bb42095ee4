"""Recordings in which an action is something else than in most others: one station's driver, or one day's.

All recordings together hide them: what two of six hold otherwise leaves the relation of the other four the strongest one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ops.episodes.semantics.relations import Measured

# A relation of one recording alone counts from this correlation on.
_CLEAR = 0.95
# Frames between the leads, where both are about the place to be at: clocks and load differ by less from day to day.
_APART_FRAMES = 1.0
# The remaining error is so many times smaller, or the scale so many times another.
_SMALLER = 4.0
_SCALED = 5.0
_UNKNOWN = frozenset({"cannot tell", "other", "unpaired"})
_PLACES = frozenset({"next state", "command", "current state", "late"})


@dataclass(frozen=True)
class Odd:
    """What an action was found to be in the groups (by their places) in which it is not what it is in the others."""

    measured: Measured
    groups: Sequence[int]


def odd_groups(votes: Sequence[Measured | None], *, has_unit: bool, agrees: Callable[[Measured], bool]) -> list[Odd]:
    """Groups whose measure of one action contradicts that of the others; `votes` is None where it hardly moves.

    The others are at least half of those in which it moves; where there are two halves, those that `agrees` with the YAML.
    """
    told = {k: vote for k, vote in enumerate(votes) if vote is not None and vote.relation not in _UNKNOWN}
    kinds = {k: _kind(vote, has_unit=has_unit) for k, vote in told.items()}
    counts = Counter(kinds.values())
    if len(counts) < 2:
        return []
    most = max(counts, key=lambda kind: (counts[kind], any(agrees(told[k]) for k in told if kinds[k] == kind)))
    if 2 * counts[most] < sum(vote is not None for vote in votes):
        return []
    usual = _Usual.of([told[k] for k in told if kinds[k] == most])
    odd: dict[str, list[int]] = {}
    for k, kind in kinds.items():
        if kind != most and _is_clear(told[k], usual):
            odd.setdefault(kind, []).append(k)
    return [Odd(told[places[0]], places) for places in odd.values()]


@dataclass(frozen=True)
class _Usual:
    """What most groups hold: the relation of the first, every lead in order, and the medians of scale and error."""

    relation: str
    leads: Sequence[float]
    scale: float
    error: float

    @classmethod
    def of(cls, votes: Sequence[Measured]) -> _Usual:
        """Of at least one vote."""
        scale = float(np.median([abs(one.scale or np.inf) for one in votes]))
        error = float(np.median([one.error or 0.0 for one in votes]))
        return cls(votes[0].relation, sorted(one.lead_frames or 0.0 for one in votes), scale, error)

    def nearest(self, lead: float) -> float:
        """How far the nearest lead is."""
        place = bisect_left(self.leads, lead)
        return min(abs(lead - other) for other in self.leads[max(0, place - 1) : place + 1])


def _kind(measured: Measured, *, has_unit: bool) -> str:
    """Relations that one recording may show for the other are of one kind; without a unit a long step is a slow velocity."""
    if measured.relation in ("next state", "command"):
        return "ahead"
    return "step" if measured.relation in ("delta", "velocity") and not has_unit else measured.relation


def _is_clear(odd: Measured, usual: _Usual) -> bool:
    """True where it cannot be what the others are, measured a little differently."""
    relations = {odd.relation, usual.relation}
    if relations <= _PLACES:
        return _apart(odd, usual) or ("current state" in relations and _exact(odd, usual))
    if "scaled" in relations and relations - {"scaled"} <= _PLACES:
        ratio = abs(odd.scale or 0.0) / usual.scale
        return not 1 / _SCALED < ratio < _SCALED
    return odd.correlation is None or abs(odd.correlation) > _CLEAR


def _apart(odd: Measured, usual: _Usual) -> bool:
    return usual.nearest(odd.lead_frames or 0.0) > _APART_FRAMES


def _exact(odd: Measured, usual: _Usual) -> bool:
    """One of the two is a copy of the state and the other only close to it."""
    errors = [odd.error or 0.0, usual.error]
    return max(errors) > _SMALLER * min(errors)
