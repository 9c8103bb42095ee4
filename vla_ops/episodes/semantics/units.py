"""Hold the numbers against their units: radians or degrees, metres or millimetres, a gripper's opening or its ratio.

All dimensions of a part have one unit, so a part is judged as a whole: one joint within 3 degrees is nothing, seven of them are
an arm in radians. A part that is right in most episodes and not in others says in which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.episode_list import named
from vla_ops.episodes.semantics.gripper_units import gripper_opinion
from vla_ops.episodes.semantics.parts import Placed, Ranges, fastest, placed_parts
from vla_ops.episodes.semantics.seen import Float64, Seen
from vla_ops.episodes.semantics.unit_opinions import FURTHEST_RAD, Opinion, agrees, unknown, wrong
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.robot import RobotSpec
from vla_ops.spec import Unit

# Limits beyond this (rad) are themselves in degrees and tell nothing of radians.
_LIMITS_RAD = 30.0
# Joints of arms do at most 2 to 6 rad/s; what is faster is in degrees.
_FASTEST_RAD_S = 15.0
# One turn: an arm in degrees of which no joint is ever this far from 0 does nothing.
_NEAR_DEG = 2 * np.pi
# An arm in radians that does something moves a joint by this much (17 degrees).
_MOVES_RAD = 0.3
# So few joints may well all stay near 0.
_FEWEST_JOINTS = 3
# A tool that points down is half a turn from the frame of its base: values near this, in degrees, would be a coincidence.
_HALF_TURN_RAD = 2.8
_TURNS_RAD = 1.0
# No arm reaches further than 3 m, nor goes as fast as 10 m/s; a base in the frame of a map may be further away, but no faster.
_REACH_M = 3.0
_FURTHEST_M = 10.0
_FASTEST_M_S = 10.0
# Less motion than this does not show that something is in metres.
_MOVES_M = 0.02
# A step of one frame.
_LONGEST_STEP = {"rad": np.pi, "m": 1.0}
# Readings of joints' own velocities: encoders are noisy, and grippers quick.
_FASTEST = {"rad/s": (30.0, "degrees a second"), "m/s": (10.0, "millimetres a second")}


@dataclass(frozen=True)
class _Case:
    """A part with all that its rule may look at."""

    seen: Seen
    placed: Placed
    ranges: Ranges
    rate_hz: float

    @property
    def fastest(self) -> Float64:
        """Each dimension's speed when it is fast, a second."""
        return fastest(self.seen, self.placed, self.rate_hz)

    @property
    def first(self) -> Float64:
        """The largest absolute value that each dimension begins an episode with."""
        return np.abs(np.array([self.placed.of(series)[0] for series in self.seen.sample])).max(axis=0)


def judge_units(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Hold the unit of every recorded dimension against its values over all episodes."""
    if not seen.metas:
        return []
    ranges = {vector: Ranges.of(seen, vector) for vector in ("state", "action")}
    cases = [_Case(seen, p, ranges[p.vector].at(p.columns), spec.timeline.rate_hz) for p in placed_parts(spec)]
    return [verdict for case in cases for verdict in _verdicts(case, _opinion(case))]


def _verdicts(case: _Case, opinion: Opinion) -> Iterator[Verdict]:
    placed, ids = case.placed, [meta.id for meta in case.seen.metas]
    for k, subject in enumerate(placed.subjects):
        claimed = f"`unit: {placed.part.unit}`"
        if not opinion.about[k] or opinion.answer != "contradicts":
            answer = "cannot tell" if opinion.answer == "contradicts" else opinion.answer
            why = "" if opinion.answer == "contradicts" else f"; {opinion.why}" if opinion.why else ""
            yield Verdict("units", subject, answer, case.ranges.said(k) + why, claimed)
            continue
        bad = [one for one, is_bad in zip(ids, opinion.episodes, strict=True) if is_bad]
        of_some = f" in {len(bad)} of {len(ids)} episodes ({named(bad)})" if len(bad) < len(ids) else ""
        todo = f"{placed.line(opinion.todo)}." if opinion.writes else opinion.todo
        if of_some:
            todo = f"Leave these recordings out, or make them a robot of their own: there, {todo[:1].lower()}{todo[1:]}"
        yield Verdict("units", subject, "contradicts", f"{case.ranges.said(k)}; {opinion.why}{of_some}", claimed, todo)


def _opinion(case: _Case) -> Opinion:
    part, unit = case.placed.part, case.placed.dims[0].unit
    if part.kind == "gripper":
        return gripper_opinion(case.ranges, case.placed.dims) if part.means == "absolute" else unknown(case.ranges, "steps of a gripper")
    if part.written_as is not None:
        return _spin(case)
    rules = _RULES if part.means == "absolute" else _STEPS
    return rules.get(unit, _no_rule)(case)


def _no_rule(case: _Case) -> Opinion:
    return unknown(case.ranges, "nothing tells the unit of such values")


def _radians(case: _Case) -> Opinion:
    ranges = case.ranges
    far = ranges.size > _furthest(case.placed)
    if not far.any():
        return agrees(ranges) if ranges.span.max() > _MOVES_RAD else unknown(ranges, "it hardly moves")
    why = f"an angle in radians stays within {FURTHEST_RAD:g}"
    if case.placed.part.kind.startswith("rotation"):
        # Drivers give angles within one turn, so further ones were not there at the beginning.
        is_wrong = bool((case.first > _NEAR_DEG).any())
        return wrong(ranges, far.any(axis=1), why, "unit: deg") if is_wrong else unknown(ranges, "it may have turned so far")
    whole = far.mean(axis=1) >= 0.5
    if far.any(axis=0).mean() >= 0.5:
        return wrong(ranges, whole if whole.any() else far.any(axis=1), why, "unit: deg")
    quick = far.any(axis=0) & (case.fastest > _FASTEST_RAD_S)
    if not quick.any():
        return unknown(ranges, "it may be a joint that turns on and on")
    return wrong(ranges, far[:, quick].any(axis=1), f"{why}, and no joint does {case.fastest.max():.3g} rad/s", "unit: deg", about=quick)


def _furthest(placed: Placed) -> Float64:
    """How far each dimension may be from 0, rad: by its limits where they are of radians."""
    sizes = [max(map(abs, dim.limits)) if dim.limits else np.inf for dim in placed.dims]
    return np.array([max(2 * size, _NEAR_DEG) if size < _LIMITS_RAD else FURTHEST_RAD for size in sizes])


def _degrees(case: _Case) -> Opinion:
    ranges = case.ranges
    if ranges.size.max() > _NEAR_DEG:
        return agrees(ranges) if ranges.size.max() > FURTHEST_RAD else unknown(ranges, "radians and degrees go so far")
    moves = ranges.span > _MOVES_RAD
    if case.placed.part.kind.startswith("rotation"):
        is_wrong = ranges.size.max() > _HALF_TURN_RAD and ranges.span.max() > _TURNS_RAD
    else:
        is_wrong = len(moves) >= _FEWEST_JOINTS and moves.sum() >= 2
    why = f"nothing in it is ever further than {ranges.size.max():.3g} degrees from 0, though it moves"
    return wrong(ranges, np.ones(len(ranges.low), bool), why, "unit: rad") if is_wrong else unknown(ranges, "it may stay so near to 0")


def _metres(case: _Case) -> Opinion:
    ranges = case.ranges
    far = ranges.size.max(axis=1) > _FURTHEST_M
    if not far.any():
        return agrees(ranges) if ranges.span.max() > _MOVES_M else unknown(ranges, "it hardly moves")
    speed = case.fastest.max()
    if speed < _FASTEST_M_S:
        return unknown(ranges, "it may be a place on a map")
    return wrong(ranges, far, f"no arm is {ranges.size.max():.4g} m away or does {speed:.3g} m/s", "unit: mm")


def _millimetres(case: _Case) -> Opinion:
    ranges = case.ranges
    if ranges.size.max() > _REACH_M:
        return agrees(ranges)
    if ranges.span.max() < _MOVES_M:
        return unknown(ranges, "it hardly moves")
    why = f"nothing in it is ever further than {ranges.size.max():.3g} mm from 0, though it moves"
    return wrong(ranges, np.ones(len(ranges.low), bool), why, "unit: m")


def _steps(case: _Case) -> Opinion:
    unit = case.placed.dims[0].unit
    far = (case.ranges.size > _LONGEST_STEP[unit]).any(axis=1)
    other = {"rad": "deg", "m": "mm"}[unit]
    why = f"no robot goes {case.ranges.size.max():.3g} {unit} from one frame to the next"
    return wrong(case.ranges, far, why, f"unit: {other}") if far.any() else unknown(case.ranges, "a step may be of any length")


def _velocities(case: _Case) -> Opinion:
    ranges, (fast, other) = case.ranges, _FASTEST[case.placed.dims[0].unit]
    far = (ranges.size > fast).any(axis=1)
    if not far.any():
        return agrees(ranges) if ranges.span.max() > 0.05 else unknown(ranges, "it hardly moves")
    why = f"no robot does {ranges.size.max():.3g} {case.placed.dims[0].unit}"
    return wrong(ranges, far, why, f"It is in {other}, for which there is no unit: have it recorded in SI units.", writes=False)


def _spin(case: _Case) -> Opinion:
    """Rotations recorded in another form: what is left of degrees taken for radians is that they spin."""
    from vla_ops.episodes.rotations import quaternions

    part, dims = case.placed.part, case.placed.dims
    if part.unit != "rad":
        return unknown(case.ranges, "in this form it has lost its unit")
    turned = [_angles(quaternions(case.placed.of(series), dims[0].kind, dims[0].unit)) for series in case.seen.sample]
    speed = float(np.quantile(np.concatenate(turned), 0.9)) * case.rate_hz
    if speed < _FASTEST_RAD_S:
        return agrees(case.ranges)
    why = f"as it was recorded it turns by {speed:.3g} rad/s"
    return wrong(case.ranges, np.ones(len(case.ranges.low), bool), why, "unit: deg")


def _angles(quaternions: Float64) -> Float64:
    """By how much each differs from the one before, rad [n - 1]."""
    cosines: npt.NDArray[np.float64] = np.abs(np.sum(quaternions[1:] * quaternions[:-1], axis=1))
    return 2 * np.arccos(np.clip(cosines, 0.0, 1.0))


_RULES: Mapping[Unit, Callable[[_Case], Opinion]] = {
    "rad": _radians,
    "deg": _degrees,
    "m": _metres,
    "mm": _millimetres,
    "rad/s": _velocities,
    "m/s": _velocities,
}
_STEPS: Mapping[Unit, Callable[[_Case], Opinion]] = {"rad": _steps, "m": _steps, "rad/s": _velocities, "m/s": _velocities}
