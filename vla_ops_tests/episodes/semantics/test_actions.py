from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from vla_ops.episodes.semantics import Measured, Series, contradictions, measure_actions
from vla_ops.robot import Dimension, RobotSpec

RATE_HZ = 25
NAMES = ["waist", "shoulder", "elbow", "wrist"]
DIMS = [Dimension(name, "rad", "joint") for name in NAMES]

type Float64 = npt.NDArray[np.float64]


def moves(seed: int, frames: int = 300) -> Float64:
    """Smooth reaching motion of every joint: random targets, low-passed; float64 [frames, 4]."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(rng.uniform(-1, 1, (frames // 30 + 2, len(NAMES))), 30, axis=0)[: frames + 30]
    smooth = np.zeros_like(targets)
    for k in range(1, len(targets)):
        smooth[k] = smooth[k - 1] + 0.12 * (targets[k] - smooth[k - 1])
    return smooth[:frames]


def measured(make_action: object, *, episodes: int = 4) -> list[Measured]:
    series = []
    for seed in range(episodes):
        state = moves(seed)
        series.append(Series(state, make_action(state)))  # pyright: ignore[reportCallIssue]
    return measure_actions(series, state_dims=DIMS, action_dims=DIMS, rate_hz=RATE_HZ)


def ahead(state: Float64, frames: int) -> Float64:
    return np.concatenate([state[frames:], np.repeat(state[-1:], frames, axis=0)])


@pytest.mark.parametrize("steps", [1, 3])
def test_the_next_state_is_found_with_its_steps(steps: int) -> None:
    for found in measured(lambda state: ahead(state, steps)):
        assert (found.relation, found.lead_frames) == ("next state", steps)


def test_a_copy_of_the_state_is_the_current_state() -> None:
    assert {found.relation for found in measured(lambda state: state.copy())} == {"current state"}


def test_a_command_that_the_arm_follows_is_found_with_its_lead() -> None:
    """The state is the command delayed by four frames, softened, with noise of the encoders."""

    def command(state: Float64) -> Float64:
        noise = np.random.default_rng(7).normal(0, 0.01, state.shape)
        return 1.03 * ahead(state, 4) + noise

    for found in measured(command):
        assert found.relation == "command"
        assert found.lead_frames == pytest.approx(4, abs=0.6)


def test_an_action_that_was_logged_late_is_named() -> None:
    for found in measured(lambda state: np.concatenate([np.repeat(state[:1], 2, axis=0), state[:-2]])):
        assert (found.relation, found.lead_frames) == ("late", -2)


def test_a_delta_and_a_velocity_are_told_apart_by_the_rate() -> None:
    steps = measured(lambda state: np.diff(state, axis=0, append=state[-1:]))
    assert {found.relation for found in steps} == {"delta"}
    speeds = measured(lambda state: np.diff(state, axis=0, append=state[-1:]) * RATE_HZ)
    assert {found.relation for found in speeds} == {"velocity"}
    assert all(found.scale == pytest.approx(1, abs=0.05) for found in [*steps, *speeds])


def test_a_mirrored_joint_degrees_for_radians_and_a_swap_are_named() -> None:
    def wrong(state: Float64) -> Float64:
        action = ahead(state, 1)
        action[:, 0] = -action[:, 0]
        action[:, 1] = np.degrees(action[:, 1])
        action[:, [2, 3]] = action[:, [3, 2]]
        return action

    waist, shoulder, elbow, wrist = measured(wrong)
    assert waist.relation == "mirrored"
    assert shoulder.relation == "scaled"
    assert shoulder.scale == pytest.approx(57.3, abs=0.5)
    assert (elbow.relation, elbow.partner, wrist.relation, wrist.partner) == ("swapped", "wrist", "swapped", "elbow")


def test_what_does_not_move_and_what_is_unrelated_is_not_guessed() -> None:
    def odd(state: Float64) -> Float64:
        action = ahead(state, 1)
        action[:, 0] = 0.5
        action[:, 1] = np.random.default_rng(3).normal(size=len(state))
        return action

    waist, shoulder, elbow, _ = measured(odd)
    assert waist.relation == "cannot tell"
    assert shoulder.relation == "other"
    assert elbow.relation == "next state"


def test_an_action_without_a_state_of_its_name_or_place_cannot_be_told() -> None:
    state = moves(0)
    (found,) = measure_actions(
        [Series(state, state[:, :1])], state_dims=DIMS, action_dims=[Dimension("base_x", "m", "position")], rate_hz=RATE_HZ
    )
    assert found.relation == "cannot tell"
    assert found.said(RATE_HZ).startswith("cannot tell")


def spec_of(action: object, **sections: object) -> RobotSpec:
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "unused", "pattern": "*", "format": "mcap"},
            "timeline": {"rate_hz": RATE_HZ},
            "state": [{"source": "/follower.position", "names": NAMES, "unit": "rad"}],
            "action": action,
            "task": {"text": "test"},
            "dataset": {"repo_id": "test/test"},
            **sections,
        }
    )


LEADER = [{"source": "/leader.position", "names": NAMES, "unit": "rad"}]


def test_openpi_750_a_second_delta_is_named_with_the_line_to_write() -> None:
    found = measured(lambda state: np.diff(state, axis=0, append=state[-1:]))
    lines = contradictions(found, spec_of(LEADER))
    assert len(lines) == len(NAMES)
    assert lines[0].startswith("action waist is a step of the state")
    assert lines[0].endswith("write `norm_stats: {action_space: absolute}`.")
    assert contradictions(found, spec_of(LEADER, norm_stats={"action_space": "absolute"})) == []


def test_a_command_that_is_as_the_yaml_says_contradicts_nothing() -> None:
    assert contradictions(measured(lambda state: ahead(state, 4)), spec_of(LEADER)) == []


def test_a_copy_of_the_state_is_answered_with_next_state_and_next_state_itself_is_no_claim() -> None:
    found = measured(lambda state: state.copy())
    assert "write `action: {from: next_state}`" in contradictions(found, spec_of(LEADER))[0]
    assert contradictions(found, spec_of({"from": "next_state"})) == []


def test_a_swap_is_answered_with_both_names() -> None:
    def swapped(state: Float64) -> Float64:
        return ahead(state, 2)[:, [0, 1, 3, 2]]

    lines = contradictions(measured(swapped), spec_of(LEADER))
    assert [line.split(". ")[1] for line in lines] == [
        "Exchange `elbow` and `wrist` in `names` of the action (or of the state).",
        "Exchange `wrist` and `elbow` in `names` of the action (or of the state).",
    ]
