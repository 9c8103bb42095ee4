"""Labelled mistakes: real episodes, each spoiled in one way that happens to people, and which verdicts must contradict the YAML then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics import JUDGES, Seen, contradictions
from vla_ops.episodes.semantics.actions import measure_actions, partner
from vla_ops.episodes.semantics.seen import Series
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.robot import RobotSpec
from vla_ops.spec import NextState, TaskFrom
from vla_ops_tests.episodes.semantics.made_up import exchanged_in

type Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spoiled:
    """Episodes with a mistake in them, the YAML they are held against, and what of them is wrong.

    Each of `wrong` is found if one of its subjects is contradicted: a wrong unit is one line of the YAML for several dimensions.
    """

    seen: Seen
    spec: RobotSpec
    wrong: list[list[str]]


@dataclass(frozen=True)
class Corruption:
    """One kind of mistake, which one of `checks` has to find. `spoil` returns None where a robot's recordings cannot have it."""

    name: str
    checks: tuple[str, ...]
    spoil: Callable[[Seen, RobotSpec], Spoiled | None]


@dataclass(frozen=True)
class Recall:
    """How many of the mistakes were found; `missed` names the others."""

    made: int
    missed: list[str]

    @property
    def found(self) -> int:
        """Mistakes that were found."""
        return self.made - len(self.missed)


def recall(corruption: Corruption, seen: Seen, spec: RobotSpec) -> Recall | None:
    """Spoil `seen` and count what is found; None where the recordings cannot have this mistake."""
    spoiled = corruption.spoil(seen, spec)
    if spoiled is None or not spoiled.wrong:
        return None
    verdicts = [verdict for check in corruption.checks for verdict in JUDGES[check](spoiled.seen, spoiled.spec)]
    found = {verdict.subject for verdict in contradictions(verdicts)}
    return Recall(len(spoiled.wrong), [", ".join(subjects) for subjects in spoiled.wrong if not found & set(subjects)])


def with_numbers(seen: Seen, change: Callable[[Series], Series]) -> Seen:
    """`seen` with other numbers, and with the statistics that episode.json would have of them."""
    changed = {meta.id: change(seen.read(meta)) for meta in seen.metas}
    metas = []
    for meta in seen.metas:
        series = changed[meta.id]
        stats = {"observation.state": vector_stats(series.state), "action": vector_stats(series.action)}
        metas.append(replace(meta, length=len(series.state), stats=meta.stats | stats))
    return Seen(metas, lambda meta: changed[meta.id])


def as_recorded(spec: RobotSpec) -> RobotSpec:
    """The YAML of a robot whose action is the next state, as if that action had been recorded."""
    return spec.model_copy(update={"action": spec.state}) if isinstance(spec.action, NextState) else spec


def moving(seen: Seen, spec: RobotSpec) -> list[int]:
    """Places of the action dimensions whose relation to the state can be told while nothing is spoiled."""
    answers = {verdict.subject: verdict.answer for verdict in JUDGES["actions"](seen, spec)}
    return [
        k
        for k, dim in enumerate(spec.action_dims)
        if answers.get(f"action {dim.name}") == "agrees" and dim.means == "absolute" and pair_of(k, spec) is not None
    ]


def pair_of(k: int, spec: RobotSpec) -> int | None:
    """The state dimension that an action belongs to."""
    return partner(k, spec.action_dims, spec.state_dims)


type Change = Callable[[Series], Float64]
type Spoil = Callable[[Seen, RobotSpec], Spoiled | None]


def actions(change: Change, *, in_a_third: bool = False) -> Spoil:
    """A mistake in every absolute action dimension of which the untouched data agree with the YAML.

    `change` gets these and the state dimensions they belong to. `in_a_third`: only in the last third of the recordings.
    """
    return lambda seen, spec: _spoiled_actions(seen, as_recorded(spec), change, moving(seen, as_recorded(spec)), in_a_third=in_a_third)


def actions_late(frames: int, *, in_a_third: bool = False) -> Spoil:
    """Every such command delayed by `frames`, if it leads its state by at least half a frame less: more is what late means."""

    def spoil(seen: Seen, spec: RobotSpec) -> Spoiled | None:
        spec = as_recorded(spec)
        found = measure_actions(seen.sample, state_dims=spec.state_dims, action_dims=spec.action_dims, rate_hz=spec.timeline.rate_hz)
        places = [k for k in moving(seen, spec) if frames - (found[k].lead_frames or 0.0) >= 0.5]
        return _spoiled_actions(seen, spec, lambda s: late(s.action, frames), places, in_a_third=in_a_third)

    return spoil


def _spoiled_actions(seen: Seen, spec: RobotSpec, change: Change, places: list[int], *, in_a_third: bool) -> Spoiled | None:
    pairs = np.array([pair_of(k, spec) for k in places], dtype=np.intp)
    ids = last_third(seen) if in_a_third else {meta.id for meta in seen.metas}
    if not ids:
        return None

    def spoiled(series: Series) -> Series:
        if series.episode not in ids:
            return series
        action = series.action.copy()
        action[:, places] = change(Series(series.state[:, pairs], action[:, places]))
        return replace(series, action=action)

    return Spoiled(with_numbers(seen, spoiled), spec, [[f"action {spec.action_dims[k].name}"] for k in places])


def last_third(seen: Seen) -> set[str]:
    """Ids of the episodes of the last third of the recordings; none where there are fewer than three recordings."""
    recordings = sorted({meta.recording for meta in seen.metas})
    return {meta.id for meta in seen.metas if meta.recording in recordings[len(recordings) - len(recordings) // 3 :]}


def late(values: Float64, frames: int) -> Float64:
    """The same numbers `frames` later; the first one is held until then."""
    return np.concatenate([np.repeat(values[:1], frames, axis=0), values[:-frames]])


def delta(series: Series) -> Float64:
    """How far to go instead of where to be."""
    return np.diff(series.action, axis=0, append=series.action[-1:])


def negated(series: Series) -> Float64:
    """With the other sign."""
    return -series.action


def current(series: Series) -> Float64:
    """No command, but a copy of the state."""
    return series.state.copy()


def swapped(seen: Seen, spec: RobotSpec) -> Spoiled | None:
    """Each pair of neighbouring joints exchanged in the action."""
    spec = as_recorded(spec)
    places = [k for k in moving(seen, spec) if spec.action_dims[k].kind == "joint" or spec.action_dims[k].kind == "position"]
    pairs = [(a, b) for a, b in zip(places[::2], places[1::2], strict=False) if spec.action_dims[a].unit == spec.action_dims[b].unit]
    order = list(range(len(spec.action_dims)))
    for a, b in pairs:
        order[a], order[b] = b, a
    subjects = [[f"action {spec.action_dims[k].name}"] for pair in pairs for k in pair]
    return Spoiled(with_numbers(seen, lambda s: replace(s, action=s.action[:, order])), spec, subjects)


def _moves(seen: Seen, vector: str, k: int) -> bool:
    return max(float(np.ptp(getattr(series, vector)[:, k])) for series in seen.sample) > 0.05


def exchanged_cables(a: int, b: int) -> Callable[[Seen, RobotSpec], Spoiled | None]:
    """Cameras number `a` and `b` exchanged in the last third of the episodes. Drawn pictures (bar codes) are no cameras' pictures."""

    def spoil(seen: Seen, spec: RobotSpec) -> Spoiled | None:
        cameras = sorted(spec.cameras)
        if b >= len(cameras) or len(seen.metas) < 3 or spec.dataset.repo_id != "local/aloha_sim_transfer_cube":
            return None
        last = range(len(seen.metas) - len(seen.metas) // 3, len(seen.metas))
        return Spoiled(exchanged_in(seen, last, cameras[a], cameras[b]), spec, [[f"cameras {cameras[a]} and {cameras[b]}"]])

    return spoil


def exported_twice(seen: Seen, spec: RobotSpec) -> Spoiled | None:
    """Every tenth episode (and the first) is there a second time, as another file: in single precision, without its first 5 %."""
    copied = [meta for meta in seen.metas[:: max(1, len(seen.metas) // 10)] if meta.length >= 60]
    cut = {meta.id: meta.length // 20 for meta in copied}
    copies = [replace(meta, recording=f"copy_of_{meta.recording}", length=meta.length - cut[meta.id]) for meta in copied]
    origin = {copy.id: meta for copy, meta in zip(copies, copied, strict=True)}

    def read(meta: EpisodeMeta) -> Series:
        if meta.id not in origin:
            return seen.read(meta)
        series, skipped = seen.read(origin[meta.id]), cut[origin[meta.id].id]
        state, action = (v[skipped:].astype(np.float32).astype(np.float64) for v in (series.state, series.action))
        return Series(state, action, meta.id)

    both = Seen([*seen.metas, *copies], read)
    return Spoiled(with_numbers(both, lambda series: series), spec, [[f"episode {copy.id}"] for copy in copies])


def as_recordings(seen: Seen, folders: Sequence[str]) -> Seen:
    """The episodes, over and over, as recordings of their own, one in each of `folders`."""
    chosen = [seen.metas[k % len(seen.metas)] for k in range(len(folders))]
    metas = [replace(m, recording=f"{f}/{k}.mcap", index=0) for k, (m, f) in enumerate(zip(chosen, folders, strict=True))]
    origin = {placed.id: meta for placed, meta in zip(metas, chosen, strict=True)}
    return Seen(metas, lambda meta: replace(seen.read(origin[meta.id]), episode=meta.id))


def task_of_another_folder(seen: Seen, spec: RobotSpec) -> Spoiled | None:
    """Recordings in the folders of two tasks, one of which holds a recording of the other."""
    folders = ["put_cup"] * 6 + ["fold_towel"] * 6
    placed = as_recordings(seen, folders)
    texts = {"put_cup": "put the cup on the shelf", "fold_towel": "fold the towel"}
    metas = [replace(meta, task=texts[folder]) for meta, folder in zip(placed.metas, folders, strict=True)]
    metas[0] = replace(metas[0], task=texts["fold_towel"])
    told = spec.model_copy(update={"task": TaskFrom.model_validate({"from": "recording"})})
    return Spoiled(Seen(metas, placed.read), told, [["folder put_cup"]])


def another_robot_in_a_station(seen: Seen, spec: RobotSpec) -> Spoiled | None:
    """Three stations, of which the last one's driver writes degrees where the others write radians."""
    where = [k for k, dim in enumerate(spec.state_dims) if dim.unit == "rad" and _moves(seen, "state", k)]
    placed = as_recordings(seen, [f"station{k // 3 + 1}" for k in range(9)])

    def spoiled(series: Series) -> Series:
        if not series.episode.startswith("station3"):
            return series
        state = series.state.copy()
        state[:, where] = np.degrees(state[:, where])
        return replace(series, state=state)

    return Spoiled(with_numbers(placed, spoiled), spec, [["folder station3"]]) if len(where) > 1 else None


def velocity(seen: Seen, spec: RobotSpec) -> Spoiled | None:
    """How fast the command moves, instead of where to."""
    return actions(lambda s: delta(s) * spec.timeline.rate_hz)(seen, spec)


CORRUPTIONS = [
    Corruption("action delta-encoded", ("actions",), actions(delta)),
    Corruption("action is a velocity", ("actions",), velocity),
    Corruption("action is the current state", ("actions",), actions(current)),
    Corruption("action logged 2 frames late, more than its lead", ("actions",), actions_late(2)),
    Corruption("action logged 5 frames late, more than its lead", ("actions",), actions_late(5)),
    Corruption("action times 57.3 (degrees), state not", ("actions",), actions(lambda s: np.degrees(s.action))),
    Corruption("action times 1000 (millimetres), state not", ("actions",), actions(lambda s: s.action * 1000)),
    Corruption("action with the other sign", ("actions", "grippers"), actions(negated)),
    Corruption("action delta-encoded in a third of the recordings", ("actions",), actions(delta, in_a_third=True)),
    Corruption("action with the other sign in a third of the recordings", ("actions", "grippers"), actions(negated, in_a_third=True)),
    Corruption("action is the current state in a third of the recordings", ("actions",), actions(current, in_a_third=True)),
    Corruption("action logged 5 frames late in a third of the recordings", ("actions",), actions_late(5, in_a_third=True)),
    Corruption("action logged 10 frames late in a third of the recordings", ("actions",), actions_late(10, in_a_third=True)),
    Corruption("two dimensions of the action swapped", ("actions",), swapped),
    Corruption("the left and right wrist cameras exchanged in a third of the episodes", ("cameras",), exchanged_cables(1, 2)),
    Corruption("a wrist camera and the one above exchanged in a third of the episodes", ("cameras",), exchanged_cables(0, 1)),
    Corruption("an episode exported twice", ("near_duplicates",), exported_twice),
    Corruption("a recording in another task's folder", ("tasks",), task_of_another_folder),
    Corruption("another robot's recordings in a station's folder", ("stations",), another_robot_in_a_station),
]
