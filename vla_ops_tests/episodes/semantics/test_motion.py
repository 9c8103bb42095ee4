from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from vla_ops.episodes.semantics import Seen, Verdict
from vla_ops.episodes.semantics.motion import judge_motion
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import RATE_HZ
from vla_ops_tests.episodes.semantics.motions import (
    Float64,
    answers,
    changed,
    follower,
    grasping,
    gripper,
    held,
    joints,
    reaching,
    recorded,
    robot,
    smooth,
)

EPISODES = 6
SPEC = robot([joints()], [joints()])


def seen(spec: RobotSpec = SPEC) -> Seen:
    commands = [reaching(seed) for seed in range(EPISODES)]
    return recorded(spec, [follower(command, seed) for seed, command in enumerate(commands)], commands)


def with_elbow(change: Callable[[Float64], Float64], vector: str = "state", which: range = range(EPISODES)) -> Seen:
    """Episodes of which one column, [frames], is another."""

    def spoil(series: object) -> object:
        values = getattr(series, vector).copy()
        values[:, 2] = change(values[:, 2])
        return replace(series, **{vector: values})  # pyright: ignore[reportArgumentType]

    return changed(seen(), spoil, which)  # pyright: ignore[reportArgumentType]


def wrong(found: list[Verdict]) -> Verdict:
    (verdict,) = [verdict for verdict in found if verdict.answer == "contradicts"]
    return verdict


def stopped(start: int, stop: int) -> Callable[[Float64], Float64]:
    """Not read from frame `start` to `stop`."""

    def change(values: Float64) -> Float64:
        values = values.copy()
        values[start:stop] = values[start]
        return values

    return change


def test_an_arm_that_moves_agrees() -> None:
    assert set(answers(judge_motion(seen(), SPEC)).values()) == {"agrees"}


def test_a_dead_joint_is_named() -> None:
    verdict = wrong(judge_motion(with_elbow(lambda v: np.full_like(v, 0.25)), SPEC))
    assert verdict.subject == "state elbow"
    assert verdict.found == "never moves: it is 0.25 in every frame"
    assert verdict.todo.endswith("remove it from `names` and its column from `source`.")


def test_a_joint_that_is_dead_in_one_recording_is_named_with_it() -> None:
    verdict = wrong(judge_motion(with_elbow(lambda v: np.full_like(v, v[0]), which=range(4, 5)), SPEC))
    assert verdict.found == "does not move in 1 of 6 episodes (day1/4.mcap/0), and by much in all others"


@pytest.mark.parametrize("stop", [180, 300])
def test_a_joint_that_freezes_while_it_is_told_to_move_is_named_with_episode_and_time(stop: int) -> None:
    verdict = wrong(judge_motion(with_elbow(stopped(100, stop), which=range(2, 3)), SPEC))
    assert verdict.subject == "state elbow"
    assert f"from 4.0 to {(stop - 1) / RATE_HZ:.1f} s of episode day1/2.mcap/0" in verdict.found
    assert "while its command goes through" in verdict.found


def test_a_command_that_freezes_while_the_arm_goes_on_is_named() -> None:
    verdict = wrong(judge_motion(with_elbow(stopped(100, 200), "action"), SPEC))
    assert verdict.subject == "action elbow"
    assert "and 5 more times" in verdict.found


def test_a_freeze_without_commands_is_known_by_the_jump_after_it() -> None:
    spec = robot([joints()])
    states = [follower(reaching(seed), seed) for seed in range(EPISODES)]
    states[1][100:200, 2] = states[1][100, 2]
    verdict = wrong(judge_motion(recorded(spec, states), spec))
    assert "while it jumps by" in verdict.found


def test_a_joint_that_rests_and_one_in_waypoints_are_not_frozen() -> None:
    """In simulation nothing trembles: an arm that waits for the other one does not change at all."""
    spec = robot([joints(["left", "right"])], [joints(["left", "right"])])
    command = np.column_stack([reaching(0)[:, 0], held(reaching(1)[::50, :1], 50)[:, 0]])
    waits = [np.column_stack([c[:, 0], np.where(np.arange(300) < 120, c[120, 1], c[:, 1])]) for c in [command] * EPISODES]
    assert "contradicts" not in answers(judge_motion(recorded(spec, waits, waits), spec)).values()


def test_what_the_robot_does_not_move_itself_may_stand_still() -> None:
    spec = robot([joints(), {"names": ["cube_x"], "unit": "1", "kind": "other"}])
    pushed = np.concatenate([np.zeros(200), np.full(100, 0.3)])
    states = [np.column_stack([reaching(seed), pushed]) for seed in range(EPISODES)]
    assert answers(judge_motion(recorded(spec, states), spec))["state cube_x"] == "agrees"


def test_a_clipped_joint_is_saturated_and_a_gripper_is_not() -> None:
    verdict = wrong(judge_motion(with_elbow(lambda v: np.minimum(v, 1.1)), SPEC))
    assert verdict.found.startswith("is at its highest value, 1.1, in ")
    grips = robot([joints(), gripper()])
    states = [np.column_stack([reaching(seed), np.minimum(grasping(seed), 0.8)]) for seed in range(EPISODES)]
    found = judge_motion(recorded(grips, states), grips)[-1]
    assert (found.answer, found.found) == ("agrees", "switches between 0 and 0.8, as grippers do")


def test_a_joint_that_only_switches_is_named_and_a_flag_is_not() -> None:
    verdict = wrong(judge_motion(with_elbow(lambda v: np.where(v > 1.1, 1.0, -1.0), "action"), SPEC))
    assert verdict.found == "only jumps between -1, 1"
    flags = robot([joints(), {"names": ["intervention"], "unit": "1", "kind": "other"}])
    states = [np.column_stack([reaching(seed), grasping(seed)]) for seed in range(EPISODES)]
    assert set(answers(judge_motion(recorded(flags, states), flags)).values()) == {"agrees"}


def test_a_joint_in_whole_degrees_is_coarse() -> None:
    verdict = wrong(judge_motion(with_elbow(lambda v: np.radians(3) * np.round(v / np.radians(3))), SPEC))
    assert "different values, 0.0524 apart" in verdict.found


def test_a_command_that_rests_at_0_is_not_saturated() -> None:
    spec = robot([joints()], [{"names": ["dx"], "unit": "1", "kind": "other", "means": "delta"}])
    push = [np.maximum(0, np.sin(np.arange(300) / 20))[:, None] for _ in range(EPISODES)]
    made = recorded(spec, [reaching(seed) for seed in range(EPISODES)], push)
    assert answers(judge_motion(made, spec))["action dx"] == "agrees"


def waiting(begin: float, *, goes_beyond: bool = False) -> Seen:
    """The right command moves first, while the left one holds `begin` and then moves up; the left arm sinks below it or does not."""
    spec = robot([joints(["left", "right"])], [joints(["left", "right"])])
    up = smooth(np.repeat(np.random.default_rng(0).uniform(0.5, 1.0, 5), 30)[:, None] - 0.5)[:, 0]
    left = begin + np.concatenate([np.zeros(150), up])
    commands = [np.column_stack([left, reaching(seed)[:, 0]]) for seed in range(EPISODES)]
    states = [follower(command, seed) for seed, command in enumerate(commands)]
    if goes_beyond:
        states = [np.column_stack([s[:, 0] - 0.2 * (np.arange(300) < 150), s[:, 1]]) for s in states]
    return recorded(spec, states, commands)


def test_a_command_that_waits_where_it_begins_is_not_clipped() -> None:
    spec = robot([joints(["left", "right"])], [joints(["left", "right"])])
    assert answers(judge_motion(waiting(0.2), spec))["action left"] == "agrees"
    found = next(v for v in judge_motion(waiting(0.2, goes_beyond=True), spec) if v.subject == "action left")
    assert found.found.startswith("is at its lowest value, 0.2, in ")


def test_a_command_that_runs_into_an_end_on_its_way_is_clipped_without_a_state_to_show_it() -> None:
    spec = robot([joints()])
    states = [np.column_stack([s[:, :1], np.minimum(s[:, 1:2], -0.8), s[:, 2:]]) for s in map(reaching, range(EPISODES))]
    verdict = wrong(judge_motion(recorded(spec, states), spec))
    assert (verdict.subject, "highest value, -0.8" in verdict.found) == ("state shoulder", True)
