"""Motions that resemble those of real arms, and episodes made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from vla_ops.episodes.semantics import Seen, Verdict
from vla_ops.episodes.semantics.seen import Series
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import RATE_HZ, episode

type Float64 = npt.NDArray[np.float64]
type Make = Callable[[Float64], Float64]

ARM = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate"]
# Where an arm stands when it does nothing, and how far it goes from there, rad.
HOME = np.array([0.0, -0.9, 1.1, 0.0, 0.6, 0.0])
REACH = np.array([0.8, 0.6, 0.5, 0.3, 0.9, 1.2])


def smooth(targets: Float64, share: float = 0.12) -> Float64:
    """Follow `targets` [frames, d] by a share of what is left, twice: no jumps in position or velocity."""
    for _ in range(2):
        rest = (1 - share) * targets[:1]
        targets, _ = lfilter([share], [1, share - 1], targets, axis=0, zi=rest)
    return targets


def held(values: Float64, frames: int) -> Float64:
    """Each of `values` [n, d] for `frames` frames."""
    return np.repeat(values, frames, axis=0)


def reaching(seed: int, frames: int = 300, *, home: Float64 = HOME, reach: Float64 = REACH) -> Float64:
    """An arm that goes from home to one place after another, [frames, d]."""
    rng = np.random.default_rng(seed)
    places = home + reach * rng.uniform(-1, 1, (frames // 30 + 1, len(home)))
    places[0] = home
    return smooth(held(places, 30)[:frames])


def grasping(seed: int, frames: int = 300) -> Float64:
    """A gripper's command that begins open (1), closes (0) on something and opens again, [frames, 1]."""
    rng = np.random.default_rng(seed + 1000)
    first, second = int(frames * rng.uniform(0.2, 0.4)), int(frames * rng.uniform(0.6, 0.8))
    return np.where((np.arange(frames) >= first) & (np.arange(frames) < second), 0.0, 1.0)[:, None]


def delayed(values: Float64, frames: int) -> Float64:
    """The same some frames later; the first one is held."""
    return np.concatenate([np.repeat(values[:1], frames, axis=0), values[: len(values) - frames]])


def noise(values: Float64, seed: int, size: float = 1e-3) -> Float64:
    """With the trembling of encoders."""
    return values + size * np.random.default_rng(seed).normal(size=values.shape)


def follower(command: Float64, seed: int) -> Float64:
    """An arm that does what it is told 3 frames later."""
    return noise(delayed(smooth(command, 0.5), 3), seed)


def fingers(command: Float64, seed: int, *, stop: float = 0.3) -> Float64:
    """Fingers that take half a second, and stop at what they grasp."""
    return noise(np.maximum(smooth(delayed(command, 2), 0.3), stop), seed)


def robot(state: Sequence[Mapping[str, Any]], action: Sequence[Mapping[str, Any]] | None = None, **sections: Any) -> RobotSpec:
    """A robot of these entries; without `action` it is the next state. Sources are made up where there are none."""
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "recordings", "pattern": "**/*.mcap", "format": "mcap"},
            "timeline": {"rate_hz": RATE_HZ},
            "state": _entries("follower", state),
            "action": {"from": "next_state"} if action is None else _entries("leader", action),
            "task": {"from": "recording"},
            "dataset": {"repo_id": "my-lab/arm"},
            "norm_stats": {"action_space": "absolute"},
            **sections,
        }
    )


def _entries(side: str, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"source": f"/{side}/{k}", **entry} for k, entry in enumerate(entries)]


def joints(names: Sequence[str] = ARM, **claims: Any) -> dict[str, Any]:
    """An entry of joints in radians."""
    return {"names": list(names), "unit": "rad", **claims}


def gripper(name: str = "gripper", **claims: Any) -> dict[str, Any]:
    """An entry of one gripper, as a ratio."""
    return {"names": [name], "unit": "ratio", "kind": "gripper", **claims}


def recorded(
    spec: RobotSpec,
    states: Sequence[Float64],
    actions: Sequence[Float64] | None = None,
    *,
    names: Sequence[str] | None = None,
    **fields: Any,
) -> Seen:
    """Episodes of these states and actions (default: the next state), each a recording of its own."""
    names = names or [f"day1/{k}.mcap" for k in range(len(states))]
    actions = actions or [np.concatenate([state[1:], state[-1:]]) for state in states]
    fields.setdefault("spec_fingerprint", spec.conversion_fingerprint)
    metas = [episode(name, state, **fields) for name, state in zip(names, states, strict=True)]
    series = {m.id: Series(s, a, m.id) for m, s, a in zip(metas, states, actions, strict=True)}
    return Seen([_with_stats(meta, series[meta.id]) for meta in metas], lambda meta: series[meta.id])


def changed(seen: Seen, change: Callable[[Series], Series], which: Sequence[int] | None = None) -> Seen:
    """The episodes with other numbers, all or those numbered `which`."""
    series = {m.id: change(seen.read(m)) if which is None or k in which else seen.read(m) for k, m in enumerate(seen.metas)}
    return Seen([_with_stats(meta, series[meta.id]) for meta in seen.metas], lambda meta: series[meta.id])


def _with_stats(meta: Any, series: Series) -> Any:
    stats = {"observation.state": vector_stats(series.state), "action": vector_stats(series.action)}
    return replace(meta, length=len(series.state), stats=meta.stats | stats)


def answers(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Subject -> answer."""
    return {verdict.subject: verdict.answer for verdict in verdicts}
