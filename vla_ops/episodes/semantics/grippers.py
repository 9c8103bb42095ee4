"""Hold which way grippers open against `open_at`: the command against the state, and recordings against one another.

A command that closes where the state opens is right if the YAML says so (LIBERO's and robomimic's commands open at -1), and
otherwise an inverted gripper, which a policy learns like anything else. What a gripper's command *is* (a delta, a late one) is
judged with the other actions; here it is only which way it goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from vla_ops.episodes.joint_names import sides_of
from vla_ops.episodes.semantics.actions import LONGEST_LAG_S, correlation_at, measure_actions
from vla_ops.episodes.semantics.episode_list import named
from vla_ops.episodes.semantics.parts import Placed, placed_parts
from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.spec import NextState

# Fingers are slow, and stop at what they grasp: 0.76 to 0.99 were seen in good recordings (a scripted ALOHA, hand-led Pandas).
_RELATED = 0.6
# At no other lead may it be nearly as strong with the other sign: a gripper that opens and closes twice a second tells nothing.
_AMBIGUOUS = 0.7
# One finger counts down as the other counts up.
_MIRRORED = -0.9
# One episode tells if it is so many times as long as the longest lag, and the command goes through this part of its range.
_FEWEST_LAGS = 4
_MOVES = 0.3
# Of a gripper's range: nearer to an end than this it is at that end.
_AT_END = 0.2
# A station is judged by no fewer episodes.
_FEWEST = 3


def judge_grippers(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Hold every gripper's command against its state, and its state at the beginning of each station's episodes."""
    commands = [] if isinstance(spec.action, NextState) else [_judge_command(seen, spec, pair) for pair in _pairs(spec)]
    return [*commands, *_judge_stations(seen, spec)]


@dataclass(frozen=True)
class _Pair:
    """A gripper's command and the state dimensions that may be its fingers, by their places."""

    command: int
    fingers: tuple[int, ...]


def _pairs(spec: RobotSpec) -> list[_Pair]:
    state, action = _grippers(spec.state_dims), _grippers(spec.action_dims)
    return [_Pair(k, _fingers(k, spec, state, action)) for k in action]


def _grippers(dims: Sequence[Dimension]) -> list[int]:
    return [k for k, dim in enumerate(dims) if dim.kind == "gripper"]


def _fingers(k: int, spec: RobotSpec, state: Sequence[int], action: Sequence[int]) -> tuple[int, ...]:
    """By name, by side, or because there is no other."""
    name = spec.action_dims[k].name
    if named := [s for s in state if spec.state_dims[s].name == name]:
        return tuple(named)
    sides, side = sides_of([dim.name for dim in spec.state_dims]), sides_of([dim.name for dim in spec.action_dims])[k]
    if side and (beside := [s for s in state if sides[s] == side]):
        return tuple(beside)
    if len(action) == 1:
        return tuple(state)
    return (state[action.index(k)],) if len(state) == len(action) and not side else ()


def _judge_command(seen: Seen, spec: RobotSpec, pair: _Pair) -> Verdict:
    dim = spec.action_dims[pair.command]
    subject = f"action {dim.name}"
    if not pair.fingers:
        return Verdict("grippers", subject, "cannot tell", "no gripper of the state has its name or side", _claims(dim, None))
    finger = _opening(seen.sample, pair.fingers)
    state = spec.state_dims[finger]
    claimed = _claims(dim, state)
    if dim.means != "absolute" or _is_delta(seen.sample, spec, pair.command, finger):
        return Verdict("grippers", subject, "cannot tell", "it is a step, not where to be: see what `actions` says of it", claimed)
    places, rate_hz = (pair.command, finger), spec.timeline.rate_hz
    odd = _odd_recordings(seen.sample, places, rate_hz, claimed=1 if dim.open_at == state.open_at else -1)
    usual = [series for series in seen.sample if _recording(series) not in odd]
    lead, correlation = _correlation(usual, *places, rate_hz)
    if abs(correlation) < _RELATED:
        return Verdict("grippers", subject, "cannot tell", f"it tells too little of the state: correlation {correlation:.2f}", claimed)
    return _held_against(spec, places, lead, correlation, odd=odd)


def _recording(series: Series) -> str:
    return series.episode.rpartition("/")[0]


def _claims(dim: Dimension, state: Dimension | None) -> str:
    of = f", of the state {state.name} `open_at: {state.open_at}`" if state else ""
    return f"`open_at: {dim.open_at}`{of}"


def _opening(sample: Sequence[Series], fingers: Sequence[int]) -> int:
    """The finger that counts upwards where two mirror each other, as robosuite's do; else the first."""
    if len(fingers) != 2:
        return fingers[0]
    a, b = (np.concatenate([series.state[:, k] for series in sample]) for k in fingers)
    is_mirrored = a.std() > 0 and b.std() > 0 and np.corrcoef(a, b)[0, 1] < _MIRRORED
    return fingers[1] if is_mirrored and b.mean() > a.mean() else fingers[0]


def _is_delta(sample: Sequence[Series], spec: RobotSpec, command: int, finger: int) -> bool:
    dims = [spec.state_dims[finger]], [spec.action_dims[command]]
    only = [Series(s.state[:, [finger]], s.action[:, [command]]) for s in sample]
    (found,) = measure_actions(only, state_dims=dims[0], action_dims=dims[1], rate_hz=spec.timeline.rate_hz)
    return found.relation in ("delta", "velocity")


def _correlation(sample: Sequence[Series], command: int, finger: int, rate_hz: float) -> tuple[int, float]:
    """The lead (frames) at which command and state resemble each other most, and how; 0 where they do at two leads in two ways."""
    curve = [correlation_at(sample, command, finger, lead) for lead in range(round(LONGEST_LAG_S * rate_hz) + 1)]
    best = int(np.argmax(np.abs(curve)))
    against = max(0.0, *(-np.sign(curve[best]) * np.asarray(curve)))
    return best, 0.0 if against > _AMBIGUOUS * abs(curve[best]) else curve[best]


def _held_against(spec: RobotSpec, pair: tuple[int, int], lead: int, correlation: float, *, odd: Sequence[str]) -> Verdict:
    dim, state = spec.action_dims[pair[0]], spec.state_dims[pair[1]]
    way = "the same way as" if correlation > 0 else "the other way than"
    after_ms = lead * 1000 / spec.timeline.rate_hz
    found = f"its values go {way} those of the state {state.name}, {after_ms:.0f} ms ahead (correlation {correlation:.2f})"
    subject, claimed = f"action {dim.name}", _claims(dim, state)
    todo = "" if (correlation > 0) == (dim.open_at == state.open_at) else _todo(spec, pair)
    if odd:
        found = f"{found}, and in {len(odd)} recording(s) just the opposite ({named(odd)})"
        todo = f"{todo} Leave these recordings out: their gripper is inverted.".strip()
    return Verdict("grippers", subject, "contradicts" if todo else "agrees", found, claimed, todo)


def _odd_recordings(sample: Sequence[Series], pair: tuple[int, int], rate_hz: float, *, claimed: int) -> list[str]:
    """Recordings in which command and state go together the other way than in most others, or than is claimed where it is half of them."""
    command, finger = pair
    enough = _MOVES * max(float(np.ptp(series.action[:, command])) for series in sample)
    ways: dict[str, list[float]] = defaultdict(list)
    for series in sample:
        if len(series.state) > _FEWEST_LAGS * LONGEST_LAG_S * rate_hz and np.ptp(series.action[:, command]) > enough:
            ways[_recording(series)].append(_correlation([series], command, finger, rate_hz)[1])
    signs = {recording: {np.sign(way) for way in each if abs(way) > _RELATED} for recording, each in ways.items()}
    told = {recording: each.pop() for recording, each in signs.items() if len(each) == 1}
    usual = np.sign(sum(told.values())) or claimed
    return [recording for recording, sign in told.items() if sign == -usual]


def _todo(spec: RobotSpec, pair: tuple[int, int]) -> str:
    """The line to write: of the two claims, that of a state in metres is the sure one, as an opening is 0 where it is closed."""
    entries = {p.vector: p for p in placed_parts(spec) for k in [pair[p.vector == "state"]] if p.columns.start <= k < p.columns.stop}
    action, state = entries["action"], entries["state"]
    if state.dims[0].unit in ("m", "mm") and state.part.open_at == "low":
        return f"{_other(state)}: an opening is 0 where it is closed."
    sure = state.dims[0].unit in ("m", "mm")
    return f"{_other(action)}" + ("." if sure else f"; or, if that one is right, {_other(state)[:1].lower()}{_other(state)[1:]}.")


def _other(placed: Placed) -> str:
    return placed.line(f"open_at: {'low' if placed.part.open_at == 'high' else 'high'}")


# Stations


def _judge_stations(seen: Seen, spec: RobotSpec) -> Iterator[Verdict]:
    """One station's gripper is inverted where it begins and ends at the opposite ends of its range than those of all others do.

    Beginning alone would not tell: an operator may be used to opening the gripper first. In the end it is then as everyone's.
    """
    stations = _stations(seen)
    if len(stations) < 2:
        return
    low, high = _ends(seen)
    for k in _grippers(spec.state_dims):
        if high[k] > low[k]:
            opening = {name: np.array([s.state[[0, -1], k] for s in each]) for name, each in stations.items()}
            yield from _odd_station(spec.state_dims[k], {name: (o - low[k]) / (high[k] - low[k]) for name, o in opening.items()})


def _stations(seen: Seen) -> dict[str, list[Series]]:
    """Folders of recordings, if all are of one task: another task may begin with the gripper closed."""
    if len({meta.task for meta in seen.metas}) != 1:
        return {}
    found: dict[str, list[Series]] = defaultdict(list)
    for series in seen.sample:
        found[str(PurePosixPath(series.episode).parent.parent)].append(series)
    return {name: each for name, each in found.items() if len(each) >= _FEWEST}


def _ends(seen: Seen) -> tuple[Float64, Float64]:
    """The lowest and highest state of all episodes, each [d]."""
    stats = [meta.stats["observation.state"] for meta in seen.metas]
    return np.min([s["min"] for s in stats], axis=0), np.max([s["max"] for s in stats], axis=0)


def _odd_station(dim: Dimension, opening: dict[str, Float64]) -> Iterator[Verdict]:
    """`opening` is the first and the last of each episode, 0 to 1, [episodes, 2] by station."""
    ends = {name: tuple(_end(column) for column in each.T) for name, each in opening.items()}
    for odd, (begin, end) in ends.items():
        others = [name for name in ends if name != odd]
        if begin and end and len(others) > 1 and all(ends[name] == (-begin, -end) for name in others):
            at, over = ("low", "high") if begin < 0 else ("high", "low")
            found = f"begins at its {at} end in {odd} and at its {over} end in {named(others)}, and ends the other way round too"
            todo = "Look at that station's driver: leave its recordings out, or make it a robot of its own with the other `open_at`."
            yield Verdict("grippers", f"state {dim.name}", "contradicts", found, f"`open_at: {dim.open_at}` for all", todo)


def _end(values: Float64) -> int:
    """1 where all are at the high end, -1 at the low one, else 0."""
    return 1 if values.min() > 1 - _AT_END else -1 if values.max() < _AT_END else 0
