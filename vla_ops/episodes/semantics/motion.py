"""Dimensions that never move, stop moving while the robot goes on, pile up at an end of their range, or only jump between values.

None of it is a contradiction of the YAML as a wrong unit is, but a dead dimension divides by a spread of 0 in the norm stats, a
frozen one teaches that the arm does not move when told to, and a saturated one was commanded further than it could go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.actions import partner
from vla_ops.episodes.semantics.episode_list import named
from vla_ops.episodes.semantics.parts import Ranges, Vector
from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.episodes.semantics.verdict import Answer, Verdict
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.spec import NextState, Unit

# Of a dimension's own size, rounding of float32.
_ROUNDING = 1e-6
# A joint that does not change at all for this long was not read: encoders tremble, and slow motion takes no longer than a second.
_FROZEN_S = 1.0
# Of its range: what its command, or the robot's other half, did meanwhile; and how far it is from where it stood once it moves again.
_MOVED = 0.1
_JUMPED = 0.05
# Times the largest step it makes otherwise.
_JUMP_STEPS = 1.5
# Of the steps outside of a freeze: a dimension that often repeats itself is rounded, or rests.
_REPEATS = 0.2
# With fewer steps than this between two stops it only jumps from one place to the next.
_STEPS_A_STOP = 10
# Of all frames in which the robot moves: more at exactly one end of its range are a stop that was run into.
_SATURATED = 0.2
# Of its range: its command goes so far beyond the end at which it is, in so many of these frames.
_BEYOND = 0.05
_OFTEN_BEYOND = 0.25
# Values that a dimension takes in so many frames: so few are a switch, and a few more are coarse rounding.
_SWITCH = 3
_COARSE = 32
_GRID = 0.02
_MANY_FRAMES = 500
_TURNS: dict[Unit, float] = {"rad": 2 * np.pi, "deg": 360.0}
type Mask = npt.NDArray[np.bool_]

_PHYSICAL = ("joint", "position", "velocity")


@dataclass(frozen=True)
class _Case:
    """One dimension: its values in every episode looked at, [frames] each, with those of the same thing in the other vector."""

    vector: Vector
    dim: Dimension
    values: Sequence[Float64]
    # The command of a state, or the state of a command.
    other: Sequence[Float64] | None
    # How much anything moves from each frame to the next, over its own range.
    robot_moves: Sequence[Float64]
    episodes: Sequence[str]
    span: float
    rate_hz: float

    def verdict(self, answer: Answer, found: str, todo: str = "") -> Verdict:
        return Verdict("motion", f"{self.vector} {self.dim.name}", answer, found, todo=todo)


def judge_motion(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """What every dimension's motion looks like, over all episodes for whether it moves and in the sample for how."""
    if not seen.metas:
        return []
    vectors: list[Vector] = ["state"] if isinstance(spec.action, NextState) else ["state", "action"]
    return [verdict for vector in vectors for verdict in _judge_vector(seen, spec, vector)]


def _judge_vector(seen: Seen, spec: RobotSpec, vector: Vector) -> Iterator[Verdict]:
    dims = spec.state_dims if vector == "state" else spec.action_dims
    ranges = Ranges.of(seen, vector)
    moves = [_moving(series) for series in seen.sample]
    for k, dim in enumerate(dims):
        if (dead := _dead(seen, ranges, k, f"{vector} {dim.name}")) is not None:
            yield dead
            continue
        values = [getattr(series, vector)[:, k] for series in seen.sample]
        other, ids = _others(seen.sample, spec, vector, k), [series.episode for series in seen.sample]
        yield _alive(_Case(vector, dim, values, other, moves, ids, float(ranges.whole[k]), spec.timeline.rate_hz))


def _others(sample: Sequence[Series], spec: RobotSpec, vector: Vector, k: int) -> list[Float64] | None:
    """The state of a command, or the command of a state, where the two are in the same unit."""
    if isinstance(spec.action, NextState):
        return None
    pairs = {a: partner(a, spec.action_dims, spec.state_dims) for a, dim in enumerate(spec.action_dims) if dim.means == "absolute"}
    a, s = next(((a, s) for a, s in pairs.items() if s is not None and (a if vector == "action" else s) == k), (None, None))
    if a is None or s is None or not _alike(spec.action_dims[a], spec.state_dims[s]):
        return None
    return [series.state[:, s] if vector == "action" else series.action[:, a] for series in sample]


def _alike(a: Dimension, b: Dimension) -> bool:
    return (a.kind, a.unit) == (b.kind, b.unit)


def _moving(series: Series) -> Float64:
    """Largest step of any state or action from each frame to the next, over its own range in the episode, [frames - 1]."""
    both = np.concatenate([series.state, series.action], axis=1)
    span = np.ptp(both, axis=0)
    return np.max(np.abs(np.diff(both, axis=0)) / np.where(span > 0, span, np.inf), axis=1)


def _dead(seen: Seen, ranges: Ranges, k: int, subject: str) -> Verdict | None:
    """Of a dimension that moves in no episode, or stands still in some and moves through much in all others."""
    span, size = ranges.most[:, k] - ranges.least[:, k], np.abs(ranges.most[:, k]).max()
    still = span <= _ROUNDING * size
    if still.all():
        same = ranges.whole[k] <= _ROUNDING * size
        found = f"never moves: it is {ranges.most[0, k]:.4g} in every frame" if same else "never moves in an episode"
        return Verdict(
            "motion",
            subject,
            "contradicts",
            found,
            todo="Look at its topic and driver; if it has none, remove it from `names` and its column from `source`.",
        )
    if still.any() and still.mean() < 0.5 and span[~still].min() > _MOVED * ranges.whole[k]:
        bad = [meta.id for meta, is_still in zip(seen.metas, still, strict=True) if is_still]
        found = f"does not move in {len(bad)} of {len(still)} episodes ({named(bad)}), and by much in all others"
        return Verdict("motion", subject, "contradicts", found, todo="Look at these recordings; a dead sensor's are to be left out.")
    return None


def _alive(case: _Case) -> Verdict:
    together = np.concatenate(case.values)
    levels = np.unique(together)
    if case.dim.kind == "gripper" or case.dim.kind.startswith("quaternion"):
        what = f"switches between {levels[0]:.4g} and {levels[-1]:.4g}, as grippers do" if len(levels) == 2 else "moves"
        return case.verdict("agrees", what)
    is_physical = case.dim.kind in _PHYSICAL and case.dim.means == "absolute"
    if len(levels) <= _SWITCH and len(together) > _SWITCH:
        said = ", ".join(f"{level:.4g}" for level in levels)
        return case.verdict("contradicts" if is_physical else "agrees", f"only jumps between {said}", _SWITCHES if is_physical else "")
    if (wrong := _saturated(case, together) or _frozen(case, levels)) is not None:
        return wrong
    if is_physical and len(together) > _MANY_FRAMES and _is_coarse(levels):
        found = f"takes only {len(levels)} different values, {np.diff(levels).min():.3g} apart"
        return case.verdict("contradicts", found, "Look where it is rounded: the recorder, or a driver that counts in whole units.")
    return case.verdict("agrees", "moves")


def _is_coarse(levels: Float64) -> bool:
    """Few values, all a whole number of steps apart."""
    steps = np.diff(levels) / np.diff(levels).min()
    return len(levels) <= _COARSE and bool(np.all(np.abs(steps - np.round(steps)) < _GRID))


_SWITCHES = "Look at its topic: it may be a mode or a flag, which is `kind: other`."


def _saturated(case: _Case, together: Float64) -> Verdict | None:
    """Stopped at exactly one end in many frames in which the robot moves. A command of 0 is a rest and no end."""
    moves = np.concatenate([np.append(each > _ROUNDING, True) for each in case.robot_moves])
    rests = 0.0 if case.dim.means != "absolute" or case.dim.kind == "other" else None
    for end, name in ((together.min(), "lowest"), (together.max(), "highest")):
        share = float(np.mean(_stopped(case, end)[moves])) if moves.any() else 0.0
        if share > _SATURATED and end != rests:
            found = f"is at its {name} value, {end:.4g}, in {100 * share:.0f} % of the frames in which the robot moves"
            return case.verdict("contradicts", found, "It is clipped there: look at the limits of its driver or controller.")
    return None


def _stopped(case: _Case, end: float) -> Mask:
    """The frames [all episodes'] at `end` in which the dimension was stopped there, rather than that it waits where it began.

    It was where it ran into the end, or where its command (or state) is beyond the end meanwhile. An episode that begins at the end
    may rest there, and come back to rest.
    """
    found = [values == end for values in case.values]
    others = case.other or [np.full_like(values, end) for values in case.values]
    # Of a lowest value, what is beyond it is lower.
    way = 1 if end == max(values.max() for values in case.values) else -1
    for values, at_end, other in zip(case.values, found, others, strict=True):
        beyond = np.mean(way * (other - end) > _BEYOND * case.span, where=at_end) if at_end.any() else 0.0
        if values[0] == end and beyond < _OFTEN_BEYOND:
            away = np.flatnonzero(~at_end)
            first, last = (away[0], away[-1]) if len(away) else (len(values), 0)
            at_end[:first] = at_end[last:] = False
    return np.concatenate(found)


@dataclass(frozen=True)
class _Stop:
    """A time in which a dimension does not change at all: frames `start` to `stop`, and what shows that it should have."""

    episode: str
    start: int
    stop: int
    why: str


def _frozen(case: _Case, levels: Float64) -> Verdict | None:
    longest = round(_FROZEN_S * case.rate_hz)
    stops = [(e, start, stop) for e, values in enumerate(case.values) for start, stop in _runs(values) if stop - start > longest]
    for end in levels[[0, -1]]:
        # Run into more than once: a stop of the arm or a limit of its controller.
        at_end = [one for one in stops if case.values[one[0]][one[1]] == end]
        stops = [one for one in stops if one not in at_end] if len(at_end) > 1 else stops
    # Things that the robot does not move itself do stand still.
    if not stops or case.dim.kind == "other":
        return None
    steps = np.concatenate([np.abs(np.diff(values)) for values in case.values])
    held = sum(stop - start for _, start, stop in stops)
    repeats = (np.sum(steps == 0) - held) / max(1, len(steps) - held)
    quick = _quickest(case, stops)
    shown = [_Stop(case.episodes[e], start, stop, why) for e, start, stop in stops if (why := _why(case, e, (start, stop), quick))]
    if not shown:
        return None
    seconds = sum(stop.stop - stop.start for stop in shown) / case.rate_hz
    first = shown[0]
    where = f"from {first.start / case.rate_hz:.1f} to {first.stop / case.rate_hz:.1f} s of episode {first.episode}"
    more = f", and {len(shown) - 1} more times" if len(shown) > 1 else ""
    found = f"does not change at all {where}{more}, {seconds:.1f} s in all, while {first.why}"
    in_steps = np.count_nonzero(steps) < _STEPS_A_STOP * len(stops)
    if in_steps or (repeats > _REPEATS and "jumps" not in first.why):
        return case.verdict("cannot tell", f"{found}; but it is {'a row of waypoints' if in_steps else 'rounded, and may have rested'}")
    return case.verdict("contradicts", found, "It was not read then: look at its driver, and leave these episodes out or trim them.")


def _quickest(case: _Case, stops: Sequence[tuple[int, int, int]]) -> float:
    """The largest step there is, but for those that end a stop."""
    ends = [{stop for e, _, stop in stops if e == episode} for episode in range(len(case.values))]
    steps = [np.delete(np.abs(np.diff(v)), [stop for stop in each if stop < len(v) - 1]) for v, each in zip(case.values, ends, strict=True)]
    return float(max((each.max() for each in steps if len(each)), default=0.0))


def _runs(values: Float64) -> list[tuple[int, int]]:
    """First and last frame of every time in which a value repeats."""
    same = np.concatenate([[False], np.diff(values) == 0, [False]]).astype(np.int8)
    edges = np.diff(same)
    return list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True))


def _why(case: _Case, episode: int, run: tuple[int, int], quick: float) -> str:
    """What shows that it should have moved, or nothing."""
    values, (start, stop) = case.values[episode], run
    if case.other is not None:
        name = "state" if case.vector == "action" else "command"
        # A state goes on for a while after its command has stopped, and starts a while after it.
        lag = round(0.5 * case.rate_hz)
        during = case.other[episode][start + lag if case.vector == "action" else start : max(start + 1, stop - lag)]
        moved = float(np.ptp(during)) if len(during) > 1 else 0.0
        whole = float(np.ptp(np.concatenate(case.other)))
        if whole and moved > _MOVED * whole:
            return f"its {name} goes through {100 * moved / whole:.0f} % of its range"
    after = float(abs(values[stop + 1] - values[stop])) if stop + 1 < len(values) else 0.0
    if (turn := _TURNS.get(case.dim.unit)) is not None:
        after = abs(after - turn * round(after / turn))
    if after > max(_JUMPED * case.span, _JUMP_STEPS * quick):
        return f"it jumps by {after:.3g} as it goes on"
    return ""
