"""Episodes without files, and real ones with something changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.seen import Seen, Series
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot, load_robot

type Float64 = npt.NDArray[np.float64]

ALOHA = Path(__file__).resolve().parents[3] / "robots" / "aloha_sim"
RATE_HZ = 25


def aloha_robot() -> Robot:
    """robots/aloha_sim, with its JPEGs copied instead of encoded: that takes a tenth of the time."""
    robot = load_robot(ALOHA)
    written = robot.spec.model_dump(by_alias=True)
    written["dataset"]["video"] = {"codec": "copy"}
    written["recordings"]["uri"] = robot.recordings_uri
    return replace(robot, spec=RobotSpec.model_validate(written))


def remembering(seen: Seen) -> Seen:
    """The same episodes, each read once."""
    by_id = {meta.id: meta for meta in seen.metas}
    read = cache(lambda key: seen.read(by_id[key]))
    return Seen(seen.metas, lambda meta: read(meta.id))


def episode(recording: str, state: Float64 | None = None, *, task: str = "pick the cube", **fields: Any) -> EpisodeMeta:
    """The meta of an episode whose state and action are `state` [frames, d]."""
    state = np.zeros((20, 1)) if state is None else state
    stats = {"observation.state": vector_stats(state.astype(np.float32)), "action": vector_stats(state.astype(np.float32))}
    names = [f"j{k + 1}" for k in range(state.shape[1])]
    return EpisodeMeta(
        **{
            "recording": recording, "index": 0, "name": "0", "task": task, "length": len(state), "rate_hz": RATE_HZ,
            "state_names": names, "action_names": names, "videos": {}, "stats": stats, "measured": {}, "findings": [],
            "source_version": "v1", "spec_fingerprint": "0" * 16, **fields,
        }
    )  # fmt: skip


def seen_of(states: Mapping[str, Float64]) -> Seen:
    """Episodes of these states by recording."""
    return Seen(
        [episode(name, state) for name, state in states.items()], lambda meta: Series(states[meta.recording], states[meta.recording])
    )


def spec_of(names: Sequence[str], *, gripper: bool = False, **sections: Any) -> RobotSpec:
    """A robot of these joints in radians and, if wanted, a gripper as the last dimension."""
    parts: list[dict[str, Any]] = [{"source": "/arm.position", "names": list(names), "unit": "rad"}]
    if gripper:
        parts.append({"source": "/gripper.position", "names": ["gripper"], "unit": "ratio", "kind": "gripper"})
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "recordings", "pattern": "**/*.mcap", "format": "mcap"},
            "timeline": {"rate_hz": RATE_HZ},
            "state": parts,
            "action": {"from": "next_state"},
            "task": {"from": "recording"},
            "dataset": {"repo_id": "my-lab/arm"},
            **sections,
        }
    )


def exchanged_in(seen: Seen, which: Collection[int], a: str, b: str) -> Seen:
    """The episodes of which those numbered `which` have cameras `a` and `b` exchanged, as with swapped cables."""
    return edited(
        seen, which, lambda meta: replace(meta, **{field: _swapped(getattr(meta, field), a, b) for field in ("measured", "stats")})
    )


def _swapped(by_name: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    other = {a: b, b: a, f"observation.images.{a}": f"observation.images.{b}", f"observation.images.{b}": f"observation.images.{a}"}
    return {other.get(name, name): value for name, value in by_name.items()}


def with_measured(meta: EpisodeMeta, camera: str, **values: Any) -> EpisodeMeta:
    """The episode with other measured values of a camera."""
    return replace(meta, measured={**meta.measured, camera: {**meta.measured[camera], **values}})


def edited(seen: Seen, which: Collection[int], edit: Callable[[EpisodeMeta], EpisodeMeta]) -> Seen:
    """The episodes of which those numbered `which` are edited."""
    return Seen([edit(meta) if k in which else meta for k, meta in enumerate(seen.metas)], seen.read)


def in_folders(seen: Seen, folders: Sequence[str]) -> Seen:
    """The episodes, each in a folder."""
    read = {f"{folder}/{meta.recording}": meta for folder, meta in zip(folders, seen.metas, strict=True)}
    return Seen([replace(meta, recording=name) for name, meta in read.items()], lambda meta: seen.read(read[meta.recording]))
