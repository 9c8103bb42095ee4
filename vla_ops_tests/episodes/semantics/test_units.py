from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vla_ops.episodes.rotations import convert
from vla_ops.episodes.semantics import Seen, Verdict, contradictions
from vla_ops.episodes.semantics.units import judge_units
from vla_ops_tests.episodes.semantics.made_up import RATE_HZ
from vla_ops_tests.episodes.semantics.motions import (
    ARM,
    Float64,
    answers,
    changed,
    grasping,
    gripper,
    joints,
    noise,
    reaching,
    recorded,
    robot,
    smooth,
)

EPISODES = 6


def of_joints(scale: float = 1.0, *, reach: float = 1.0, **claims: Any) -> list[Verdict]:
    spec = robot([joints(**claims)])
    return judge_units(recorded(spec, [scale * reach * reaching(seed) for seed in range(EPISODES)]), spec)


def of_gripper(unit: str, low: float, high: float, **claims: Any) -> Verdict:
    spec = robot([gripper(unit=unit, **claims)])
    states = [noise(low + (high - low) * smooth(grasping(seed), 0.3), seed, 1e-4 * (high - low)) for seed in range(EPISODES)]
    (verdict,) = judge_units(recorded(spec, states), spec)
    return verdict


def of_position(scale: float, unit: str) -> list[Verdict]:
    spec = robot([{"names": ["x", "y", "z"], "unit": unit, "kind": "position"}])
    home, reach = np.array([0.4, 0.0, 0.3]), np.array([0.15, 0.3, 0.15])
    return judge_units(recorded(spec, [scale * reaching(seed, home=home, reach=reach) for seed in range(EPISODES)]), spec)


def said(verdicts: Sequence[Verdict]) -> set[str]:
    return {verdict.answer for verdict in verdicts}


# Angles


def test_an_arm_in_radians_and_one_in_degrees_are_what_they_claim() -> None:
    assert said(of_joints()) == {"agrees"}
    assert said(of_joints(180 / np.pi, unit="deg")) == {"agrees"}


def test_degrees_in_a_radians_field_are_named_with_both_values_and_the_line_to_write() -> None:
    verdicts = of_joints(180 / np.pi)
    assert said(verdicts) == {"contradicts"}
    line = str(verdicts[1])
    assert line.startswith("state shoulder: goes from -")
    assert "stays within 13" in line
    assert line.endswith("the YAML says `unit: rad`. Write `unit: deg` in the entry of `state` that reads `/follower/0`.")


def test_radians_in_a_degrees_field_are_named() -> None:
    verdicts = of_joints(unit="deg")
    assert said(verdicts) == {"contradicts"}
    assert "Write `unit: rad`" in verdicts[0].todo


def test_an_arm_that_hardly_moves_is_neither() -> None:
    assert said(of_joints(reach=0.02)) == {"cannot tell"}
    assert said(of_joints(reach=0.02, unit="deg")) == {"cannot tell"}


def test_a_wrist_that_turns_twice_is_no_degree() -> None:
    spec = robot([joints()])
    states = [reaching(seed, reach=np.array([0.8, 0.6, 0.5, 0.3, 0.9, 10.0])) for seed in range(EPISODES)]
    assert np.abs(states[0]).max() > 6
    assert said(judge_units(recorded(spec, states), spec)) == {"agrees"}


def test_a_wheel_among_joints_cannot_be_told_and_one_joint_in_degrees_can() -> None:
    spec = robot([joints()])
    states = [reaching(seed) for seed in range(EPISODES)]
    turns = np.cumsum(np.full(300, 0.13))
    wheel = [np.column_stack([s[:, :5], turns]) for s in states]
    assert said(judge_units(recorded(spec, wheel), spec)) == {"cannot tell"}
    degrees = [np.column_stack([s[:, :5], np.degrees(s[:, 5])]) for s in states]
    found = answers(judge_units(recorded(spec, degrees), spec))
    assert found == {f"state {name}": "contradicts" if name == "wrist_rotate" else "cannot tell" for name in ARM}


def test_limits_of_radians_tell_degrees_earlier() -> None:
    """Within 11 degrees: an angle in radians, but not one of joints that end at 1.5."""
    assert said(of_joints(180 / np.pi, reach=0.1)) == {"agrees"}
    assert said(of_joints(180 / np.pi, reach=0.1, limits=[-1.5, 1.5])) == {"contradicts"}


def test_recordings_of_which_only_some_are_in_degrees_are_named() -> None:
    spec = robot([joints()])
    seen = recorded(spec, [reaching(seed) for seed in range(EPISODES)])
    mixed = changed(seen, lambda s: replace(s, state=np.degrees(s.state)), [2, 4])
    verdict = judge_units(mixed, spec)[1]
    assert "in 2 of 6 episodes (day1/2.mcap/0, day1/4.mcap/0)" in verdict.found
    assert verdict.todo.startswith("Leave these recordings out, or make them a robot of their own: there, write `unit: deg`")


def test_a_single_wrong_sample_is_not_a_wrong_unit() -> None:
    spec = robot([joints()])
    states = [reaching(seed) for seed in range(EPISODES)]
    states[0][100] = 400.0
    assert said(judge_units(recorded(spec, states), spec)) == {"agrees"}


# Rotations


def poses(seed: int) -> Rotation:
    """A tool that points down, tilts by some degrees and turns."""
    tilt, turn = (
        reaching(seed, home=np.zeros(2), reach=np.array([0.15, 0.15])),
        reaching(seed + 50, home=np.zeros(1), reach=np.array([1.0])),
    )
    return Rotation.from_euler("xyz", np.column_stack([np.pi + tilt[:, 0], tilt[:, 1], turn[:, 0]]))


def of_rotations(kind: str, values: Sequence[Float64], unit: str) -> list[Verdict]:
    spec = robot([{"names": ["rx", "ry", "rz"], "unit": unit, "kind": kind}])
    return judge_units(recorded(spec, values), spec)


@pytest.mark.parametrize("kind", ["rotation_vector", "rotation_rpy"])
def test_rotations_in_the_other_unit_are_named(kind: str) -> None:
    all_poses = [poses(seed) for seed in range(EPISODES)]
    values = [np.unwrap(p.as_rotvec() if kind == "rotation_vector" else p.as_euler("xyz"), axis=0) for p in all_poses]
    assert said(of_rotations(kind, values, "rad")) == {"agrees"}
    assert said(of_rotations(kind, [np.degrees(v) for v in values], "deg")) == {"agrees"}
    assert said(of_rotations(kind, [np.degrees(v) for v in values], "rad")) == {"contradicts"}
    assert said(of_rotations(kind, values, "deg")) == {"contradicts"}


def test_degrees_that_were_written_in_another_form_spin() -> None:
    part = {"names": ["a", "b", "c", "d", "e", "f"], "unit": "rad", "kind": "rotation_rpy", "written_as": "rotation_6d"}
    spec = robot([part])
    angles = [poses(seed).as_euler("xyz") for seed in range(EPISODES)]

    def written(values: Float64) -> Float64:
        return convert(values, kind="rotation_rpy", unit="rad", written_as="rotation_6d", unit_written="1")

    assert said(judge_units(recorded(spec, [written(a) for a in angles]), spec)) == {"agrees"}
    assert said(judge_units(recorded(spec, [written(np.degrees(a)) for a in angles]), spec)) == {"contradicts"}


# Lengths


def test_metres_and_millimetres() -> None:
    assert said(of_position(1, "m")) == {"agrees"}
    assert said(of_position(1000, "mm")) == {"agrees"}
    wrong = of_position(1000, "m")
    assert said(wrong) == {"contradicts"}
    assert "Write `unit: mm`" in wrong[0].todo
    assert said(of_position(1, "mm")) == {"contradicts"}


def test_a_base_far_out_on_a_map_is_not_in_millimetres() -> None:
    spec = robot([{"names": ["x", "y", "heading"], "unit": "m", "kind": "position"}])
    states = [50 + reaching(seed, home=np.zeros(3), reach=np.array([2.0, 2.0, 1.0])) for seed in range(EPISODES)]
    assert said(judge_units(recorded(spec, states), spec)) == {"cannot tell"}


# Grippers


@pytest.mark.parametrize(
    ("unit", "low", "high", "claims"),
    [
        ("ratio", 0, 1, {}), ("ratio", -1, 1, {}), ("ratio", 0, 255, {"limits": [0, 255]}), ("ratio", 0.05, 0.8, {"limits": [0, 1]}),
        ("m", 0, 0.072, {}), ("m", -0.04, 0, {}), ("mm", 0, 85, {}), ("rad", -0.6, 1.5, {}), ("deg", 0, 60, {}),
    ],
)  # fmt: skip
def test_grippers_of_all_kinds_agree(unit: str, low: float, high: float, claims: dict[str, Any]) -> None:
    assert of_gripper(unit, low, high, **claims).answer == "agrees"


@pytest.mark.parametrize(
    ("unit", "low", "high", "todo"),
    [
        ("ratio", 0, 0.072, "unit: m"), ("ratio", -0.04, 0, "unit: m"), ("ratio", 0, 85, "unit: mm"), ("ratio", 0, 255, "limits: [0, 255]"),
        ("ratio", 0, 980, "limits: [0, 1000]"), ("m", 0, 1, "unit: ratio"), ("m", -1, 1, "unit: ratio"), ("m", 0, 85, "unit: mm"),
        ("m", 0, 255, "unit: ratio, limits: [0, 255]"), ("mm", 0, 0.072, "unit: m"), ("mm", 0, 1, "unit: ratio"),
        ("rad", 0, 60, "unit: deg"), ("deg", 0, 0.8, "unit: rad"),
    ],
)  # fmt: skip
def test_grippers_in_another_unit_are_named(unit: str, low: float, high: float, todo: str) -> None:
    verdict = of_gripper(unit, low, high)
    assert verdict.answer == "contradicts"
    assert f"Write `{todo}`" in verdict.todo


def test_a_narrow_ratio_whose_limits_are_given_may_be_one_that_hardly_opens() -> None:
    """For thin things a gripper opens by a tenth: 0 to 0.1 is possible as a ratio and in metres."""
    verdict = of_gripper("ratio", 0, 0.1, limits=[0, 1])
    assert (verdict.answer, "it uses little of its limits" in verdict.found) == ("cannot tell", True)
    assert of_gripper("ratio", 0, 0.1).answer == "contradicts"


def test_a_narrow_ratio_that_never_opens_to_the_same_stop_cannot_be_told() -> None:
    spec = robot([gripper()])
    widths = [0.05, 0.06, 0.05, 0.055, 0.07, 0.1]
    states = [noise(width * smooth(grasping(seed), 0.3), seed, 1e-5) for seed, width in enumerate(widths)]
    (verdict,) = judge_units(recorded(spec, states), spec)
    assert verdict.answer == "cannot tell"


def test_a_gripper_that_stays_closed_cannot_be_told() -> None:
    assert of_gripper("ratio", 0, 0.005).answer == "cannot tell"


def test_a_ratio_with_limits_of_centimetres_is_in_metres() -> None:
    assert of_gripper("ratio", 0, 0.07, limits=[0, 0.072]).answer == "contradicts"


# Velocities, steps, and what has no unit


def test_velocities_in_degrees_a_second_are_named() -> None:
    def of(scale: float) -> set[str]:
        spec = robot([{**joints(), "unit": "rad/s", "kind": "velocity"}])
        states = [scale * np.diff(reaching(seed), axis=0) * RATE_HZ for seed in range(EPISODES)]
        return said(judge_units(recorded(spec, states), spec))

    assert of(1) == {"agrees"}
    assert of(180 / np.pi) == {"contradicts"}


def test_a_step_of_half_a_turn_a_frame_is_in_degrees_and_normalised_actions_claim_nothing() -> None:
    spec = robot([joints()], [{**joints(), "means": "delta"}])
    states = [reaching(seed) for seed in range(EPISODES)]

    def of(scale: float) -> Seen:
        return recorded(spec, states, [scale * np.diff(s, axis=0, append=s[-1:]) for s in states])

    assert said([v for v in judge_units(of(1), spec) if v.subject.startswith("action")]) == {"cannot tell"}
    assert said([v for v in judge_units(of(180 / np.pi), spec) if v.subject.startswith("action")]) == {"contradicts"}
    normalised = robot([joints()], [{"names": ["dx", "dy"], "unit": "1", "kind": "other", "means": "delta"}])
    seen = recorded(normalised, states, [np.random.default_rng(0).uniform(-1, 1, (300, 2)) for _ in states])
    assert said(judge_units(seen, normalised)[len(ARM) :]) == {"cannot tell"}


def test_nothing_is_said_without_episodes() -> None:
    spec = robot([joints()])
    assert contradictions(judge_units(Seen([], lambda meta: pytest.fail("read")), spec)) == []
