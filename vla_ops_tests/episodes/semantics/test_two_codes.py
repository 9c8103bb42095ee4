from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from vla_ops.episodes.rotations import convert
from vla_ops.episodes.semantics import Seen, contradictions
from vla_ops.episodes.semantics.seen import Series
from vla_ops.episodes.semantics.two_codes import judge_two_codes
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import episode

type Float64 = npt.NDArray[np.float64]


def pose_spec(kind: str, width: int, **part: object) -> RobotSpec:
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "recordings", "pattern": "*.mcap", "format": "mcap"},
            "timeline": {"rate_hz": 25},
            "state": [{"source": "/pose.rotation", "names": [f"r{k}" for k in range(width)], "unit": "rad", "kind": kind, **part}],
            "action": {"from": "next_state"},
            "task": {"text": "test"},
            "dataset": {"repo_id": "test/test"},
        }
    )


def tool_down(seed: int, tilt: float) -> Rotation:
    """A tool that points down, tilted a little, at a heading of about 10 degrees: [frames]."""
    rng = np.random.default_rng(seed)
    wobble = np.cumsum(rng.normal(0, 0.003, (80, 3)), axis=0) + np.array([tilt, 0, 0.17])
    return Rotation.from_euler("xyz", wobble) * Rotation.from_euler("x", np.pi)


def seen_of(states: list[Float64]) -> Seen:
    metas = [episode(f"{k}.mcap", state) for k, state in enumerate(states)]
    by_id = {meta.id: Series(state, state, meta.id) for meta, state in zip(metas, states, strict=True)}
    return Seen(metas, lambda meta: by_id[meta.id])


TILTS = [-0.06, 0.06, -0.05, 0.07]


def test_a_tool_that_points_down_as_a_recorded_rotation_vector_is_said_to_have_two_codes() -> None:
    states = [tool_down(seed, tilt).as_rotvec() for seed, tilt in enumerate(TILTS)]
    assert {np.sign(state[0, 0]) for state in states} == {-1.0, 1.0}
    (found,) = contradictions(judge_two_codes(seen_of(states), pose_spec("rotation_vector", 3)))
    assert found.subject == "state r0, r1, r2"
    assert "rotation_6d" in found.todo
    assert "0.mcap/0" in found.found or "1.mcap/0" in found.found


def test_written_as_a_rotation_vector_all_episodes_are_on_one_side() -> None:
    states = [
        convert(tool_down(seed, tilt).as_quat(), kind="quaternion_xyzw", unit="1", written_as="rotation_vector", unit_written="rad")
        for seed, tilt in enumerate(TILTS)
    ]
    assert {np.sign(state[0, 0]) for state in states} == {1.0}
    spec = pose_spec("quaternion_xyzw", 3, written_as="rotation_vector")
    assert judge_two_codes(seen_of(states), spec) == []


@pytest.mark.parametrize("kind", ["rotation_vector", "rotation_rpy"])
def test_orientations_that_differ_are_no_two_codes(kind: str) -> None:
    turned = [
        Rotation.from_euler("z", angle) * Rotation.from_euler("x", np.linspace(0, 0.5, 60)[:, None]) for angle in (-1.5, -0.5, 0.5, 1.5)
    ]
    states = [r.as_rotvec() if kind == "rotation_vector" else r.as_euler("xyz") for r in turned]
    assert judge_two_codes(seen_of(states), pose_spec(kind, 3)) == []


def test_a_roll_on_both_sides_of_half_a_turn_has_two_codes() -> None:
    states = [np.tile([sign * 3.1, 0.1, 0.2], (40, 1)) + np.linspace(0, 0.01, 40)[:, None] * sign for sign in (1, -1, 1)]
    (found,) = contradictions(judge_two_codes(seen_of(states), pose_spec("rotation_rpy", 3)))
    assert found.check == "motion"
