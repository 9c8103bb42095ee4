from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ops.episodes.semantics import Seen, Verdict
from vla_ops.episodes.semantics.actions import judge_actions
from vla_ops.episodes.semantics.grippers import judge_grippers
from vla_ops.episodes.semantics.seen import Series
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import RATE_HZ
from vla_ops_tests.episodes.semantics.motions import Float64, changed, fingers, grasping, gripper, recorded, robot

EPISODES = 8
# Fingers of a Panda hand as robosuite has them, m.
OPEN_M = 0.04


def opening(seed: int) -> Float64:
    return fingers(grasping(seed), seed)


def seen(spec: RobotSpec, *, inverted: bool = False, count: int = EPISODES) -> Seen:
    commands = [1 - grasping(seed) if inverted else grasping(seed) for seed in range(count)]
    return recorded(spec, [opening(seed) for seed in range(count)], commands)


def only(verdicts: list[Verdict]) -> Verdict:
    (verdict,) = verdicts
    return verdict


def test_a_command_and_fingers_that_open_together_agree() -> None:
    spec = robot([gripper()], [gripper()])
    verdict = only(judge_grippers(seen(spec), spec))
    assert (verdict.subject, verdict.answer) == ("action gripper", "agrees")
    assert "the same way as those of the state gripper" in verdict.found


def test_an_inverted_command_is_named_with_both_claims_and_the_line_to_write() -> None:
    spec = robot([gripper()], [gripper()])
    verdict = only(judge_grippers(seen(spec, inverted=True), spec))
    assert verdict.answer == "contradicts"
    assert "the other way than those of the state gripper" in verdict.found
    assert verdict.claimed == "`open_at: high`, of the state gripper `open_at: high`"
    assert verdict.todo.startswith("Write `open_at: low` in the entry of `action` that reads `/leader/0`; or, if that one is right, write")


def test_a_command_that_is_open_at_its_low_end_agrees_if_the_yaml_says_so() -> None:
    spec = robot([gripper()], [gripper(open_at="low")])
    assert only(judge_grippers(seen(spec, inverted=True), spec)).answer == "agrees"
    assert only(judge_grippers(seen(spec), spec)).answer == "contradicts"


def test_of_an_opening_in_metres_the_claim_that_it_is_open_at_0_is_the_wrong_one() -> None:
    spec = robot([gripper(unit="m", open_at="low")], [gripper()])
    metres = changed(seen(spec), lambda s: replace(s, state=0.07 * s.state))
    assert only(judge_grippers(metres, spec)).todo == (
        "Write `open_at: high` in the entry of `state` that reads `/follower/0`: an opening is 0 where it is closed."
    )


# LIBERO and robosuite: the command is -1 to open, and the state is two fingers, of which the second counts downwards.


def libero(*, open_at: str, second_open_at: str = "high") -> tuple[Seen, RobotSpec]:
    spec = robot(
        [gripper("finger_a", unit="m"), gripper("finger_b", unit="m", open_at=second_open_at)],
        [gripper("gripper", unit="1", open_at=open_at)],
    )
    states = [OPEN_M * np.column_stack([opening(seed), -opening(seed)]) for seed in range(EPISODES)]
    return recorded(spec, states, [1 - 2 * grasping(seed) for seed in range(EPISODES)]), spec


@pytest.mark.parametrize("second", ["high", "low"])
def test_liberos_two_fingers_are_judged_by_the_one_that_counts_upwards(second: str) -> None:
    verdict = only(judge_grippers(*libero(open_at="low", second_open_at=second)))
    assert (verdict.answer, "finger_a" in verdict.found) == ("agrees", True)
    verdict = only(judge_grippers(*libero(open_at="high", second_open_at=second)))
    assert verdict.answer == "contradicts"
    assert verdict.todo == "Write `open_at: low` in the entry of `action` that reads `/leader/0`."


def test_grippers_of_two_arms_are_paired_by_side() -> None:
    spec = robot([gripper("right_gripper_width"), gripper("left_gripper_width")], [gripper("left_gripper"), gripper("right_gripper")])
    left, right = range(EPISODES), range(100, 100 + EPISODES)
    states = [np.column_stack([opening(r), opening(s)]) for s, r in zip(left, right, strict=True)]
    actions = [np.column_stack([grasping(s), 1 - grasping(r)]) for s, r in zip(left, right, strict=True)]
    found = judge_grippers(recorded(spec, states, actions), spec)
    assert [(v.subject, v.answer) for v in found] == [("action left_gripper", "agrees"), ("action right_gripper", "contradicts")]


# What cannot be told


def test_a_gripper_that_does_not_move_or_moves_by_itself_cannot_be_told() -> None:
    spec = robot([gripper()], [gripper()])
    still = changed(seen(spec), lambda s: replace(s, action=np.ones_like(s.action)))
    assert only(judge_grippers(still, spec)).answer == "cannot tell"
    rng = np.random.default_rng(0)
    unrelated = changed(seen(spec), lambda s: replace(s, action=rng.uniform(size=s.action.shape)))
    assert only(judge_grippers(unrelated, spec)).answer == "cannot tell"


def test_a_gripper_that_opens_and_closes_in_a_fast_rhythm_cannot_be_told() -> None:
    """Half a period is within the lags that are looked at: as well ahead as inverted."""
    spec = robot([gripper()], [gripper()])
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * np.arange(300) / RATE_HZ / 0.6)[:, None]
    assert only(judge_grippers(recorded(spec, [swing] * 3, [np.roll(swing, 3)] * 3), spec)).answer == "cannot tell"


def test_a_delta_encoded_gripper_is_left_to_the_judge_of_actions() -> None:
    spec = robot([gripper()], [gripper()])
    steps = changed(seen(spec), lambda s: replace(s, action=np.diff(s.state, axis=0, append=s.state[-1:])))
    verdict = only(judge_grippers(steps, spec))
    assert (verdict.answer, "actions" in verdict.found) == ("cannot tell", True)
    assert only(judge_actions(steps, spec)).answer == "contradicts"


def test_the_next_state_is_no_command() -> None:
    spec = robot([gripper()])
    assert judge_grippers(recorded(spec, [opening(seed) for seed in range(EPISODES)]), spec) == []


# Some recordings against the others


def test_recordings_whose_command_alone_is_inverted_are_named() -> None:
    spec = robot([gripper()], [gripper()])
    mixed = changed(seen(spec), lambda s: replace(s, action=1 - s.action), [3])
    verdict = only(judge_grippers(mixed, spec))
    assert verdict.answer == "contradicts"
    assert "in 1 recording(s) just the opposite (day1/3.mcap)" in verdict.found
    assert verdict.todo == "Leave these recordings out: their gripper is inverted."


def test_a_third_or_a_half_of_the_recordings_may_be_inverted() -> None:
    spec = robot([gripper()], [gripper()])
    third = only(judge_grippers(changed(seen(spec, count=9), lambda s: replace(s, action=-s.action), [6, 7, 8]), spec))
    assert "in 3 recording(s) just the opposite (day1/6.mcap, day1/7.mcap, day1/8.mcap)" in third.found
    half = only(judge_grippers(changed(seen(spec), lambda s: replace(s, action=1 - s.action), range(4)), spec))
    assert "in 4 recording(s) just the opposite (day1/0.mcap, day1/1.mcap, day1/2.mcap, day1/3.mcap)" in half.found


@pytest.mark.parametrize(("left", "right"), [("gl", "gr"), ("Left_gripper", "RIGHT_gripper"), ("l_finger", "r_finger")])
def test_sides_are_understood_in_any_case_and_as_realman_writes_them(left: str, right: str) -> None:
    spec = robot([gripper("right_width"), gripper("left_width")], [gripper(left), gripper(right)])
    states = [np.column_stack([opening(100 + k), opening(k)]) for k in range(EPISODES)]
    actions = [np.column_stack([grasping(k), 1 - grasping(100 + k)]) for k in range(EPISODES)]
    found = judge_grippers(recorded(spec, states, actions), spec)
    assert [(v.subject, v.answer) for v in found] == [(f"action {left}", "agrees"), (f"action {right}", "contradicts")]


def stations(*, task: str = "pick the cube", inverted: int = 0) -> tuple[Seen, RobotSpec]:
    """Three stations of four recordings each; the last `inverted` of them have command and state the other way round."""
    spec = robot([gripper()], [gripper()])
    names = [f"station{k // 4}/{k}.mcap" for k in range(12)]
    made = recorded(spec, [opening(seed) for seed in range(12)], [grasping(seed) for seed in range(12)], names=names, task=task)
    return changed(made, lambda s: replace(s, state=1.3 - s.state, action=1 - s.action), range(12 - inverted, 12)), spec


def test_a_station_that_begins_closed_where_all_others_begin_open_is_named() -> None:
    assert [v.answer for v in judge_grippers(*stations())] == ["agrees"]
    _, odd = judge_grippers(*stations(inverted=4))
    assert (odd.subject, odd.answer) == ("state gripper", "contradicts")
    assert "begins at its low end in station2 and at its high end in station0, station1" in odd.found


def test_a_station_whose_operator_opens_the_gripper_first_is_not_inverted() -> None:
    seen, spec = stations()

    def closed_first(series: Series) -> Series:
        state, action = series.state.copy(), series.action.copy()
        state[:20], action[:20] = 0.3, 0.0
        return replace(series, state=state, action=action)

    assert [v.answer for v in judge_grippers(changed(seen, closed_first, range(8, 12)), spec)] == ["agrees"]


def test_a_few_recordings_that_begin_closed_are_no_inverted_station() -> None:
    assert [v.answer for v in judge_grippers(*stations(inverted=2))] == ["agrees"]
