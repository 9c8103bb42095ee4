"""Labelled mistakes in units, grippers and motion, made in real episodes: see `corruptions`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics import JUDGES, Seen
from vla_ops.episodes.semantics.seen import Series
from vla_ops.robot import Dimension, RobotSpec
from vla_ops.spec import NextState, VectorPart
from vla_ops_tests.episodes.semantics.corruptions import Corruption, Spoiled, last_third, with_numbers

type Float64 = npt.NDArray[np.float64]
type Picks = Callable[[Dimension], bool]

# As far as a Robotiq 2F-85 opens, m.
OPENING_M = 0.085
REST_S = 2.0
FREEZE_S = 1.5


def picked(seen: Seen, spec: RobotSpec, check: str, picks: Picks) -> dict[str, list[int]]:
    """Places of the state and action dimensions of a kind of which the untouched data agree with the YAML."""
    answers = {verdict.subject: verdict.answer for verdict in JUDGES[check](seen, spec)}
    vectors = {"state": spec.state_dims} | ({} if isinstance(spec.action, NextState) else {"action": spec.action_dims})
    return {
        vector: [k for k, dim in enumerate(dims) if picks(dim) and answers.get(f"{vector} {dim.name}") == "agrees"]
        for vector, dims in vectors.items()
    }


def subjects(spec: RobotSpec, places: dict[str, list[int]]) -> list[list[str]]:
    """Each of these dimensions as a mistake of its own."""
    dims = {"state": spec.state_dims, "action": spec.action_dims}
    return [[f"{vector} {dims[vector][k].name}"] for vector, each in places.items() for k in each]


def numbers(
    check: str,
    picks: Picks,
    change: Callable[[Float64], Float64],
    *,
    every: int = 1,
    which: Collection[int] | None = None,
    only: str | None = None,
    limited: bool = True,
) -> Any:
    """A mistake in the columns [frames, n] of a kind: all of them or every second, in all episodes or those numbered `which`.

    `only`: in the state or in the action alone. Not `limited`: the YAML gives no limits.
    """

    def spoil(seen: Seen, spec: RobotSpec) -> Spoiled | None:
        places = {vector: each[::every] for vector, each in picked(seen, spec, check, picks).items() if only in (None, vector)}
        ids = {meta.id for k, meta in enumerate(seen.metas) if which is None or k in which}
        if not any(places.values()) or (which is not None and len(seen.metas) < 3):
            return None

        def spoiled(series: Series) -> Series:
            if series.episode not in ids:
                return series
            state, action = series.state.copy(), series.action.copy()
            for vector, values in (("state", state), ("action", action)):
                if each := places.get(vector):
                    values[:, each] = change(values[:, each])
            return replace(series, state=state, action=action)

        return Spoiled(with_numbers(seen, spoiled), spec if limited else without_limits(spec), subjects(spec, places))

    return spoil


def without_limits(spec: RobotSpec) -> RobotSpec:
    """The YAML of someone who did not write any."""
    parts = {"state": spec.state} | ({} if isinstance(spec.action, NextState) else {"action": spec.action})
    return spec.model_copy(update={v: [part.model_copy(update={"limits": None}) for part in each] for v, each in parts.items()})


def claims(picks: Callable[[VectorPart], bool], unit: str, scale: float = 1.0) -> Any:
    """Another unit in the YAML for the parts of a kind, of which the numbers are times `scale`."""

    def spoil(seen: Seen, spec: RobotSpec) -> Spoiled | None:
        parts = {"state": spec.state} | ({} if isinstance(spec.action, NextState) else {"action": spec.action})
        places = picked(seen, spec, "units", lambda dim: any(picks(p) and dim.name in p.names for p in [*spec.state, *spec.action_parts]))
        if not any(places.values()):
            return None
        update = {
            vector: [p.model_copy(update={"unit": unit, "limits": None}) if picks(p) else p for p in each] for vector, each in parts.items()
        }
        claimed = spec.model_copy(update=update)

        def scaled(series: Series) -> Series:
            state, action = series.state.copy(), series.action.copy()
            state[:, places["state"]] *= scale
            action[:, places.get("action", [])] *= scale
            return replace(series, state=state, action=action)

        return Spoiled(with_numbers(seen, scaled), claimed, subjects(spec, places))

    return spoil


def commands(change: Callable[[Float64], Float64], *, in_a_third: bool = False) -> Any:
    """A mistake in each gripper's command, [frames], in all recordings or in the last third of them."""

    def spoil(seen: Seen, spec: RobotSpec) -> Spoiled | None:
        places = picked(seen, spec, "grippers", lambda dim: dim.kind == "gripper").get("action", [])
        ids = last_third(seen) if in_a_third else {meta.id for meta in seen.metas}

        def spoiled(series: Series) -> Series:
            if series.episode not in ids:
                return series
            action = series.action.copy()
            for k in places:
                action[:, k] = change(action[:, k])
            return replace(series, action=action)

        return Spoiled(with_numbers(seen, spoiled), spec, subjects(spec, {"action": places})) if places and ids else None

    return spoil


def resting(seen: Seen, spec: RobotSpec) -> Spoiled:
    """Every second episode begins and ends with two seconds of rest, in which the encoders tremble."""
    frames, rng = round(REST_S * spec.timeline.rate_hz), np.random.default_rng(0)
    spread = {v: np.ptp(np.concatenate([getattr(s, v) for s in seen.sample]), axis=0) for v in ("state", "action")}
    metas = seen.metas[::2]
    chosen = {meta.id for meta in metas}

    def padded(values: Float64, vector: str) -> Float64:
        ends = (
            np.repeat(row[None], frames, axis=0) + 1e-3 * spread[vector] * rng.normal(size=(frames, len(row))) for row in values[[0, -1]]
        )
        before, after = ends
        return np.concatenate([before, values, after])

    def spoiled(series: Series) -> Series:
        if series.episode not in chosen:
            return series
        return replace(series, state=padded(series.state, "state"), action=padded(series.action, "action"))

    return Spoiled(with_numbers(seen, spoiled), spec, [[f"episode {meta.id}"] for meta in metas])


def frozen(only: str | None = None) -> Any:
    """Every second joint was not read for a second and a half, from a quarter of each episode on."""

    def spoil(seen: Seen, spec: RobotSpec) -> Spoiled | None:
        frames = round(FREEZE_S * spec.timeline.rate_hz)

        def held(values: Float64) -> Float64:
            values, start = values.copy(), len(values) // 4
            values[start : start + frames] = values[start]
            return values

        if max(meta.length for meta in seen.metas) < 2 * frames:
            return None
        return numbers("motion", moves, held, every=2, only=only)(seen, spec)

    return spoil


def saturated(seen: Seen, spec: RobotSpec) -> Spoiled | None:
    """Every second joint ends at what it stays below in 60 % of the frames, or above: at the end at which episodes do not begin."""
    places = {vector: each[::2] for vector, each in picked(seen, spec, "motion", moves).items()}
    ends = {v: _ends([getattr(series, v) for series in seen.sample]) for v in places}

    def spoiled(series: Series) -> Series:
        clipped = {}
        for vector, each in places.items():
            values, (low, high) = getattr(series, vector).copy(), ends[vector]
            values[:, each] = np.clip(values[:, each], low[each], high[each])
            clipped[vector] = values
        return replace(series, **clipped)

    return Spoiled(with_numbers(seen, spoiled), spec, subjects(spec, places)) if any(places.values()) else None


def _ends(episodes: Sequence[Float64]) -> tuple[Float64, Float64]:
    """The 40th percentile and nothing above, or nothing below and the 60th: what begins beyond the second is clipped at the first."""
    low, high = np.quantile(np.concatenate(episodes), (0.4, 0.6), axis=0)
    is_above = np.median([values[0] for values in episodes], axis=0) >= high
    return np.where(is_above, low, -np.inf), np.where(is_above, np.inf, high)


def is_angle(dim: Dimension) -> bool:
    return dim.unit == "rad" and dim.kind != "gripper"


def is_length(dim: Dimension) -> bool:
    return dim.unit == "m" and dim.kind == "position"


def is_gripper(unit: str) -> Picks:
    return lambda dim: dim.kind == "gripper" and dim.unit == unit and (dim.limits is None or dim.limits[0] >= -0.01)


def moves(dim: Dimension) -> bool:
    return dim.kind in ("joint", "position") and dim.unit != "px"


CORRUPTIONS = [
    Corruption("degrees, said to be radians", ("units",), numbers("units", is_angle, np.degrees)),
    Corruption("radians, said to be degrees", ("units",), claims(lambda p: p.unit == "rad" and p.kind != "gripper", "deg")),
    Corruption("degrees in one recording of many", ("units",), numbers("units", is_angle, np.degrees, which=[1])),
    Corruption("millimetres, said to be metres", ("units",), numbers("units", is_length, lambda v: 1000 * v)),
    Corruption("metres, said to be millimetres", ("units",), claims(lambda p: p.unit == "m" and p.kind == "position", "mm")),
    Corruption(
        "gripper in metres, said to be a ratio, without limits",
        ("units",),
        numbers("units", is_gripper("ratio"), lambda v: OPENING_M * v, limited=False),
    ),
    Corruption("gripper in counts of 255, said to be a ratio", ("units",), numbers("units", is_gripper("ratio"), lambda v: 255 * v)),
    Corruption("gripper in millimetres, said to be in metres", ("units",), numbers("units", is_gripper("m"), lambda v: 1000 * v)),
    Corruption("gripper as a ratio, said to be in metres", ("units",), numbers("units", is_gripper("m"), lambda v: v / v.max())),
    Corruption("gripper's command inverted", ("grippers",), commands(lambda v: v.min() + v.max() - v)),
    Corruption(
        "gripper's command inverted in a third of the recordings",
        ("grippers",),
        commands(lambda v: v.min() + v.max() - v, in_a_third=True),
    ),
    Corruption("joint dead", ("motion",), numbers("motion", moves, lambda v: np.full_like(v, 0.5), every=2)),
    Corruption("state frozen for 1.5 s in each episode", ("motion",), frozen("state")),
    Corruption("command frozen for 1.5 s in each episode", ("motion",), frozen("action")),
    Corruption("state and command frozen for 1.5 s in each episode", ("motion",), frozen()),
    Corruption("joint clipped at its 60th or 40th percentile, not where it begins", ("motion",), saturated),
    Corruption("two seconds of rest at both ends", ("idle",), resting),
]
