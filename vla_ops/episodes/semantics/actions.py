"""Measure from the numbers alone what each action dimension is: the next state, a command ahead of it, a change of it.

A policy is trained on whatever the action column holds; nothing fails when it holds something else than its name says. So each
named dimension of the action is compared with the state over all episodes: by shifting one against the other (which lag fits
best, and what remains), and with the state's own steps. What the data cannot tell is said so, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.episode_list import exclusion, named
from vla_ops.episodes.semantics.fits import Fits, columns_of, fit
from vla_ops.episodes.semantics.groups import Group, groups_of
from vla_ops.episodes.semantics.odd_recordings import Odd, odd_groups
from vla_ops.episodes.semantics.relations import Measured, Relation
from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.episodes.semantics.verdict import Answer, Verdict
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.spec import NextState, Unit

# Lags up to this long are looked at: slower arms do not follow their commands.
LONGEST_LAG_S = 0.5
# A delta may lead to where the robot is this much later: encoder noise drowns the step of a single frame at 50 Hz.
_LONGEST_STEP_S = 0.2
# Of how much it usually moves: a joint that nearly rests in one recording shows there what noise it has.
_STILL = 0.2
# Fewer frames than this, or a dimension that never moves, tell nothing.
_FEWEST_FRAMES = 30
# What remains after the best shift, over the state's motion in one frame: below it the two are the same numbers.
_SAME = 0.1
# Correlations above this count as a relation, and above the second as a sure one.
_RELATED = 0.9
_SURE = 0.97
# Of two explanations, one leaves this many times less unexplained than the other, and the other is no such fit by itself.
_MUCH_BETTER = 4.0
_SWINGS = 0.99
# Half a swing later a joint is where it would be with the other sign: nearly as strong with its own, it tells no sign.
_AMBIGUOUS = 0.7
# Command over state, both in one unit: joints that are stopped by what they touch, or overshoot, stay within.
_ALIKE = 2.0
# Normalised to 0..1 and to -1..1, the same motion differs by a factor of 2.
_ALIKE_NORMALISED = 3.0
# A delta over the step that it leads to, a velocity over the state's own: a swing that only looks like one is off by more, or in sign.
_STEP_ALIKE = 1.8
# A correlation of only `_RELATED` with this factor is no overshoot either.
_FAR = 5.0
# An action that leads its state by less than this many frames to the wrong side is in time: rounding and jitter of the clocks.
_LATE_FRAMES = 0.5
# Swapped: another state fits this many times better than its own, and leaves less than this part of its spread.
_SWAPPED_BETTER = 5.0
_SWAPPED_LEFT = 0.25

# Units of one quantity, by their size; what is in no group can be compared with its own kind only.
_SIZES: tuple[dict[Unit, float], ...] = ({"rad": 1.0, "deg": np.pi / 180}, {"m": 1.0, "mm": 1e-3})
_NO_UNIT: frozenset[Unit] = frozenset({"ratio", "1"})


def judge_actions(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Hold what each action dimension was measured to be against what the YAML claims, in all recordings and in each of them."""
    if isinstance(spec.action, NextState):
        return []  # Made from the state by conversion: there is nothing to find out.
    groups = groups_of(seen)
    odd = _odd(groups, spec)
    measured = {names: _measure(_others(seen, groups, names), spec) for names in {_names(groups, each) for each in odd}}
    return [_held_against(measured[_names(groups, each)][k], groups, each, spec, k) for k, each in enumerate(odd)]


def _measure(episodes: Sequence[Series], spec: RobotSpec) -> list[Measured]:
    return measure_actions(episodes, state_dims=spec.state_dims, action_dims=spec.action_dims, rate_hz=spec.timeline.rate_hz)


def _odd(groups: Sequence[Group], spec: RobotSpec) -> list[list[Odd]]:
    """For each action what it is in the groups that do not agree with the others about it."""
    dims = spec.action_dims
    if len(groups) < 2:
        return [[] for _ in dims]
    found, moves = [_measure(group.pieces, spec) for group in groups], _moves(groups, spec)
    votes = [[each[k] if moves[g, k] else None for g, each in enumerate(found)] for k in range(len(dims))]
    return [
        odd_groups(votes[k], has_unit=dim.unit not in _NO_UNIT, agrees=lambda measured, dim=dim: not _todo(measured, dim))
        for k, dim in enumerate(dims)
    ]


def _moves(groups: Sequence[Group], spec: RobotSpec) -> npt.NDArray[np.bool_]:
    """True where the state of an action moves as it does in other groups too, [groups, actions]."""
    spread = np.array([np.concatenate([piece.state for piece in group.pieces]).std(axis=0) for group in groups])
    pairs = [partner(k, spec.action_dims, spec.state_dims) for k in range(len(spec.action_dims))]
    usual = _STILL * np.median(spread, axis=0)
    return np.column_stack([np.ones(len(groups), bool) if s is None else spread[:, s] > usual[s] for s in pairs])


def _names(groups: Sequence[Group], odd: Sequence[Odd]) -> tuple[str, ...]:
    return tuple(name for one in odd for g in one.groups for name in groups[g].names)


def _others(seen: Seen, groups: Sequence[Group], names: Collection[str]) -> list[Series]:
    """The sample without these recordings and episodes; if there is nothing left, the other groups."""
    left_out = frozenset(names)
    kept = [series for series in seen.sample if left_out.isdisjoint({series.episode, series.episode.rpartition("/")[0]})]
    return kept or [piece for group in groups if left_out.isdisjoint(group.names) for piece in group.pieces]


def _held_against(measured: Measured, groups: Sequence[Group], odd: Sequence[Odd], spec: RobotSpec, k: int) -> Verdict:
    dim, rate_hz = spec.action_dims[k], spec.timeline.rate_hz
    todo, found = [_todo(measured, dim)], measured.said(rate_hz)
    for one in odd:
        names = _names(groups, [one])
        found += f"; but in {len(names)} of {sum(len(g.names) for g in groups)} looked at ({named(names)}) {one.measured.said(rate_hz)}"
        reason = f"action {dim.name} is {one.measured.relation}"
        todo.append(f"Leave these out in curation.yaml, or make them a robot of their own: {exclusion(names, reason)}.")
    unknown = measured.relation in ("cannot tell", "other", "unpaired")
    answer: Answer = "contradicts" if any(todo) else "cannot tell" if unknown else "agrees"
    return Verdict("actions", f"action {dim.name}", answer, found, f"`means: {dim.means}`, in {dim.unit}", " ".join(filter(None, todo)))


def _todo(measured: Measured, dim: Dimension) -> str:
    """What to write instead, or nothing where the relation is the claimed one."""
    relation = measured.relation
    if relation in ("delta", "velocity"):
        # Without a unit nothing tells a long step from a slow velocity, and neither is delta-encoded once more.
        if relation == dim.means or (dim.unit in _NO_UNIT and dim.means != "absolute"):
            return ""
        return f"Write `means: {relation}`" + (": as it is, the state would be subtracted once more." if dim.means == "absolute" else ".")
    if relation in _ABSOLUTE and dim.means != "absolute":
        return f"It is where to be, not how far to go: remove `means: {dim.means}`."
    return _TODO.get(relation, "").format(m=measured, unit=dim.unit)


_ABSOLUTE = frozenset({"next state", "current state", "command", "late"})
# What can be said of an action and a state that have different names.
_TELLING = _ABSOLUTE | {"delta", "velocity"}
_TODO: dict[Relation, str] = {
    "current state": "No command was recorded: write `action: {{from: next_state}}`.",
    "late": "Check which topic it is, and the clocks (`recordings.clock`, `timeline.clock_offsets`).",
    "scaled": "State and action are in different units, or one of them is not in {unit}: correct `unit` or the source.",
    "mirrored": "State and action of this joint count in opposite directions: correct the driver that writes one of them.",
    "swapped": "The columns of `{m.name}` and `{m.partner}` are exchanged in the action (or in the state): exchange them in `joints`, or "
    "give each an entry with its own `source`, such as X[2] before X[1]; `names` stay in one order in both.",
}


def measure_actions(
    episodes: Sequence[Series], *, state_dims: Sequence[Dimension], action_dims: Sequence[Dimension], rate_hz: float
) -> list[Measured]:
    """Measure every action dimension against the state dimension of its name, of its place, or the one it resembles most."""
    episodes = [e for e in episodes if len(e.state) >= _FEWEST_FRAMES]
    if not episodes or not action_dims:
        return [Measured(dim.name, "cannot tell") for dim in action_dims]
    evidence = _Evidence.of(episodes, state_dims, action_dims, rate_hz)
    found = [evidence.measured(k) for k in range(len(action_dims))]
    for k, other in _swaps(evidence):
        found[k] = Measured(action_dims[k].name, "swapped", action_dims[other].name)
    return found


def partner(k: int, action_dims: Sequence[Dimension], state_dims: Sequence[Dimension]) -> int | None:
    """The state dimension that action `k` is compared with: that of its name, or of its place where both are as wide."""
    names = [dim.name for dim in state_dims]
    if action_dims[k].name in names:
        return names.index(action_dims[k].name)
    return k if len(state_dims) == len(action_dims) else None


def shifted(action: Float64, state: Float64, lead: int) -> tuple[Float64, Float64]:
    """The frames k for which both action k and state k + lead are there."""
    if lead >= 0:
        return action[: len(state) - lead], state[lead:]
    return action[-lead:], state[:lead]


def correlation_at(sample: Sequence[Series], action: int, state: int, lead: int) -> float:
    """Correlation of an action with the state `lead` frames later over all episodes; 0 where one of them does not move."""
    pieces = [shifted(s.action[:, action], s.state[:, state], lead) for s in sample if len(s.state) > abs(lead)]
    if not pieces:
        return 0.0
    a, s = (np.concatenate(values) for values in zip(*pieces, strict=True))
    spread = float(a.std() * s.std())
    return float(np.mean((a - a.mean()) * (s - s.mean())) / spread) if spread else 0.0


def _size(unit: Unit) -> float:
    return next((sizes[unit] for sizes in _SIZES if unit in sizes), 1.0)


def _same_quantity(a: Dimension, b: Dimension) -> bool:
    """True where the two have units that can be turned into each other."""
    return a.unit == b.unit or any({a.unit, b.unit} <= sizes.keys() for sizes in _SIZES)


@dataclass(frozen=True)
class _Evidence:
    """Fits of all actions with all states, and with the states' steps over several frames; `motion` is RMS a frame, [states]."""

    state_dims: Sequence[Dimension]
    action_dims: Sequence[Dimension]
    rate_hz: float
    values: Fits
    steps: dict[int, Fits]
    motion: Float64
    spread: Float64

    @classmethod
    def of(cls, episodes: Sequence[Series], state_dims: Sequence[Dimension], action_dims: Sequence[Dimension], rate_hz: float) -> _Evidence:
        # At most a quarter of the shortest episode, so that enough is left to compare.
        shortest = min(len(e.state) for e in episodes)
        longest = max(1, min(round(LONGEST_LAG_S * rate_hz), shortest // 4))
        scales = (np.array([_size(dim.unit) for dim in dims]) for dims in (state_dims, action_dims))
        action, state = columns_of(episodes, longest, **dict(zip(("state_scale", "action_scale"), scales, strict=True)))
        horizons = [h for h in (1, 2, 4, 8) if h == 1 or (h <= _LONGEST_STEP_S * rate_hz and h <= longest)]
        steps = {h: fit(action, state.steps(h), range(longest + 1)) for h in horizons}
        motion = np.sqrt(np.mean(np.square(state.steps(1).frames), axis=0))
        values = fit(action, state, range(-longest, longest + 1))
        return cls(state_dims, action_dims, rate_hz, values, steps, motion, state.frames.std(axis=0))

    def measured(self, k: int) -> Measured:
        """What action `k` is."""
        pair, dim = partner(k, self.action_dims, self.state_dims), self.action_dims[k]
        if pair is not None and self.state_dims[pair].name == dim.name:
            return _of_pair(self, k, pair)
        if pair is not None and _could_be(self.state_dims[pair], dim):
            # Only a name says that the two are one joint: of another, a sign or a factor says nothing.
            found = _of_pair(self, k, pair)
            return found if found.relation not in ("mirrored", "scaled") else replace(found, relation="other")
        return self._resembling(k)

    def _resembling(self, k: int) -> Measured:
        """The state dimension that an action of another name resembles most; only sure resemblances count."""
        strongest = {s: max(float(np.abs(f.correlation[:, k, s]).max()) for f in self.all_fits) for s in range(len(self.state_dims))}
        best = max(strongest, key=lambda s: strongest[s])
        found = _of_pair(self, k, best)
        if strongest[best] < _SURE or found.relation not in _TELLING:
            return Measured(self.action_dims[k].name, "unpaired")
        return replace(found, partner=self.state_dims[best].name)

    @property
    def all_fits(self) -> list[Fits]:
        """With the states and with their steps."""
        return [self.values, *self.steps.values()]


@dataclass(frozen=True)
class _Best:
    """The strongest correlation of one pair; `lead` may be between frames, `scale` is the action over the state or its step."""

    lead: float
    correlation: float
    scale: float
    # Of a step: the action over the step it fits, however many frames that is over.
    slope: float = 1.0


def _of_pair(evidence: _Evidence, k: int, s: int) -> Measured:
    name, fits, motion = evidence.action_dims[k].name, evidence.values, evidence.motion[s]
    if not fits.correlation[:, k, s].any():
        return Measured(name, "cannot tell")
    exact = int(np.argmin(fits.residual[:, k, s]))
    residual, slope, lead = fits.residual[exact, k, s], fits.slope[exact, k, s], fits.leads[exact]
    if residual < _SAME * motion and abs(slope - 1) < _SAME:
        relation: Relation = "next state" if lead > 0 else "current state" if lead == 0 else "late"
        return Measured(name, relation, None, lead, residual / motion, float(fits.correlation[exact, k, s]), float(slope))
    at = fits.strongest(k, s)
    value = _Best(fits.between(at, k, s), float(fits.correlation[at, k, s]), float(fits.slope[at, k, s]))
    step = max((_best_step(h, f, k, s) for h, f in evidence.steps.items()), key=lambda best: abs(best.correlation))
    if _is_step(evidence, (k, s), value, step):
        return _as_step(name, step, evidence.rate_hz)
    return _as_value(evidence, (k, s), value, float(residual / motion))


def _best_step(frames: int, fits: Fits, k: int, s: int) -> _Best:
    """Against a step over `frames` frames; the scale is to the step of one."""
    at = fits.strongest(k, s)
    slope = float(fits.slope[at, k, s])
    return _Best(fits.leads[at], float(fits.correlation[at, k, s]), slope * frames, slope)


def _is_step(evidence: _Evidence, pair: tuple[int, int], value: _Best, step: _Best) -> bool:
    """True where it is how far to go rather than where to be.

    A swinging joint's velocity is its own position a quarter of a swing later, so both may fit. Then it is the one that fits much
    better, or else the one of the nearer size.
    """
    comparable = _same_quantity(evidence.action_dims[pair[0]], evidence.state_dims[pair[1]])
    has_unit = comparable and evidence.action_dims[pair[0]].unit not in _NO_UNIT
    if has_unit and not any(1 / _STEP_ALIKE < size < _STEP_ALIKE for size in (step.slope, step.scale, step.scale / evidence.rate_hz)):
        return False  # In one unit a step is a step, and a velocity a velocity; anything else only swings along.
    if abs(step.correlation) < _RELATED or abs(value.correlation) < _RELATED:
        return abs(step.correlation) >= _RELATED
    is_alike = comparable and 1 / _ALIKE < abs(value.scale) < _ALIKE
    if 1 - step.correlation**2 < (1 - value.correlation**2) / _MUCH_BETTER and not (is_alike and abs(value.correlation) > _SWINGS):
        return True
    return comparable and abs(np.log(abs(step.scale))) < abs(np.log(abs(value.scale)))


def _as_step(name: str, step: _Best, rate_hz: float) -> Measured:
    is_velocity = abs(np.log(abs(step.scale) / rate_hz)) < abs(np.log(abs(step.scale)))
    relation: Relation = "velocity" if is_velocity else "delta"
    return Measured(name, relation, None, step.lead, None, step.correlation, step.scale / (rate_hz if is_velocity else 1))


def _as_value(evidence: _Evidence, pair: tuple[int, int], value: _Best, error: float) -> Measured:
    dim, state = evidence.action_dims[pair[0]], evidence.state_dims[pair[1]]
    relation = _relation(dim, state, value)
    if relation == "mirrored" and evidence.values.correlation[:, pair[0], pair[1]].max() > _AMBIGUOUS * abs(value.correlation):
        relation = "other"
    lead = value.lead if relation in ("command", "late", "mirrored", "scaled") else None
    return Measured(dim.name, relation, None, lead, error, value.correlation, value.scale)


def _relation(dim: Dimension, state: Dimension, value: _Best) -> Relation:
    factor, correlation = abs(value.scale), abs(value.correlation)
    comparable = _same_quantity(dim, state)
    alike = _ALIKE_NORMALISED if dim.unit in _NO_UNIT else _ALIKE
    is_alike = not comparable or 1 / alike < factor < alike
    is_far = not 1 / _FAR < factor < _FAR
    if correlation < _RELATED:
        return "other"
    if not is_alike and dim.kind == "gripper" and not is_far:
        return "other"  # Fingers that stop at an object go less far than they are told.
    if not is_alike:
        return "scaled" if correlation > (_RELATED if is_far else _SURE) else "other"
    if value.correlation < 0:
        # The sign of a gripper is for its `open_at`, and without a common unit a sign may be meant.
        return "mirrored" if correlation > _SURE and comparable and dim.kind != "gripper" else "other"
    return "command" if value.lead > -_LATE_FRAMES else "late"


def _swaps(evidence: _Evidence) -> Iterator[tuple[int, int]]:
    """Action -> the action whose state it is, for those that change places among each other."""
    own = {k: s for k in range(len(evidence.action_dims)) if (s := partner(k, evidence.action_dims, evidence.state_dims)) is not None}
    left = _left(evidence)
    better: dict[int, int] = {}
    for k, s in own.items():
        rivals = [j for j in own if j != k and _could_be(evidence.action_dims[k], evidence.action_dims[j]) and np.isfinite(left[k, own[j]])]
        best = min(rivals, key=lambda j: left[k, own[j]], default=None)
        if best is not None and left[k, own[best]] < min(_SWAPPED_LEFT, left[k, s] / _SWAPPED_BETTER):
            better[k] = best
    # Each place is taken once: what fits a joint that keeps its own action as well moves as that joint does.
    while better and set(better) != set(better.values()):
        better = {k: j for k, j in better.items() if j in better and k in better.values()}
    yield from better.items() if len(set(better.values())) == len(better) else ()


def _could_be(a: Dimension, b: Dimension) -> bool:
    return a.kind == b.kind and _same_quantity(a, b)


def _left(evidence: _Evidence) -> Float64:
    """What remains of each action minus each state at the best lead ahead, over the state's spread, [actions, states]."""
    ahead = [place for place, lead in enumerate(evidence.values.leads) if lead >= 0]
    least = evidence.values.residual[ahead].min(axis=0)
    return np.divide(least, evidence.spread, out=np.full_like(least, np.inf), where=evidence.spread > 0)
