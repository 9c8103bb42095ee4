"""Episodes that begin or end with the robot at rest, each with the line for curation.yaml that cuts the rest off.

A policy that is trained on seconds of rest learns to rest: it waits at the start, as its demonstrator did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ops.episodes.semantics.parts import Ranges
from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.robot import RobotSpec
from vla_ops.spec import NextState

# What YAML reads as one word.
_PLAIN = re.compile(r"^[A-Za-z0-9_./-]+$")
# At rest: nothing is further from where it was than this part of its range over all episodes...
_STILL = 0.02
# ...or than this many times the trembling from frame to frame, where that is all that a dimension does.
_TREMBLES = 6.0
# A shorter rest is a breath.
_LONGEST_S = 1.0
# What is left of a rest, so that the cut is not into the motion.
_KEPT_S = 0.2


def judge_idle(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """One verdict for each episode that rests too long at an end, and one for all others. Reads every episode, one at a time."""
    if not seen.metas:
        return []
    reach, as_recorded = _reach(seen, spec), spec.conversion_fingerprint
    found: list[Verdict] = []
    longest = 0.0
    for meta in seen.metas:
        rest = _rest(seen.read(meta), reach, spec)
        if rest.is_long:
            found.append(rest.verdict(meta.id, is_cut=meta.spec_fingerprint != as_recorded))
        else:
            longest = max(longest, rest.head_s, rest.tail_s)
    return [*found, *_others(len(seen.metas), len(found), longest)]


def _others(episodes: int, idle: int, longest_s: float) -> Iterator[Verdict]:
    if idle < episodes:
        found = f"{episodes - idle} of {episodes} begin and end in motion; the longest rest among them is {longest_s:.1f} s"
        yield Verdict("idle", "episodes", "agrees", found)


def _reach(seen: Seen, spec: RobotSpec) -> Float64:
    """How far each state and action may be from where it was and still be at rest, [d]."""
    vectors = ("state",) if isinstance(spec.action, NextState) else ("state", "action")
    span = np.concatenate([Ranges.of(seen, vector).span for vector in vectors])
    return np.maximum(_STILL * span, _TREMBLES * _trembling(seen.sample, vectors))


def _trembling(sample: Sequence[Series], vectors: Sequence[str]) -> Float64:
    """Standard deviation of what is noise and no motion, robustly; 0 for what moves smoothly or is mostly constant, [d]."""
    values = [_both(series, vectors) for series in sample if len(series.state) > 2]
    if not values:
        return np.zeros(1)
    first, second = (np.median(np.abs(np.concatenate([np.diff(v, n=n, axis=0) for v in values])), axis=0) for n in (1, 2))
    # Of noise the second differences are the larger ones, by sqrt(3); 1.4826 MAD is a standard deviation, and theirs sqrt(6) of the noise.
    return np.where(second > first, 1.4826 * second / np.sqrt(6), 0.0)


def _both(series: Series, vectors: Sequence[str]) -> Float64:
    return np.concatenate([getattr(series, vector) for vector in vectors], axis=1)


@dataclass(frozen=True)
class _Rest:
    """How long an episode of `length_s` rests before anything moves, and after everything has stopped."""

    head_s: float
    tail_s: float
    length_s: float

    @property
    def is_long(self) -> bool:
        return max(self.head_s, self.tail_s) > _LONGEST_S

    def verdict(self, episode: str, *, is_cut: bool) -> Verdict:
        """What curation.yaml would have to say; it counts from the beginning of the episode before it was cut."""
        subject, length, key = f"episode {episode}", f"{self.length_s:.1f} s", episode if _PLAIN.match(episode) else json.dumps(episode)
        if self.head_s >= self.length_s:
            line, found = '{exclude: "the robot never moves"}', f"at rest for all of its {length}"
        else:
            ends = [(self.head_s, "first"), (self.tail_s, "last")]
            rests = " and the ".join(f"{name} {seconds:.1f} s" for seconds, name in ends if seconds > _LONGEST_S)
            line, found = f"{{trim: {{{self._trim}}}}}", f"at rest in the {rests} of {length}"
        after = ", with the `start_s` of the trim that it has now added to both" if is_cut and "trim" in line else ""
        return Verdict("idle", subject, "contradicts", found, todo=f"Write `episodes: {{{key}: {line}}}` in curation.yaml{after}.")

    @property
    def _trim(self) -> str:
        start = f"start_s: {self.head_s - _KEPT_S:.2f}" if self.head_s > _LONGEST_S else ""
        end = f"end_s: {self.length_s - self.tail_s + _KEPT_S:.2f}" if self.tail_s > _LONGEST_S else ""
        return ", ".join(filter(None, (start, end)))


def _rest(series: Series, reach: Float64, spec: RobotSpec) -> _Rest:
    vectors = ("state",) if isinstance(spec.action, NextState) else ("state", "action")
    values, rate_hz = _both(series, vectors), spec.timeline.rate_hz
    return _Rest(_still(values, reach) / rate_hz, _still(values[::-1], reach) / rate_hz, len(values) / rate_hz)


def _still(values: Float64, reach: Float64) -> int:
    """Frames before the first in which anything is further from the first frame than it may be."""
    moved = (np.abs(values - values[0]) > reach).any(axis=1)
    return int(np.argmax(moved)) if moved.any() else len(values)
