from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from vla_ops.episodes.semantics import Seen, Verdict, contradictions
from vla_ops.episodes.semantics.actions import judge_actions, measure_actions
from vla_ops.episodes.semantics.relations import Measured
from vla_ops.episodes.semantics.seen import Series
from vla_ops.robot import Dimension, RobotSpec
from vla_ops_tests.episodes.semantics.motions import Make, grasping, gripper, recorded, robot, smooth

RATE_HZ = 25
NAMES = ["waist", "shoulder", "elbow", "wrist"]
DIMS = [Dimension(name, "rad", "joint") for name in NAMES]

type Float64 = npt.NDArray[np.float64]


def moves(seed: int, frames: int = 300) -> Float64:
    """Smooth reaching motion of every joint, float64 [frames, 4]."""
    rng = np.random.default_rng(seed)
    return smooth(np.repeat(rng.uniform(-1, 1, (frames // 30 + 1, len(NAMES))), 30, axis=0)[:frames])


def measured(make_action: Make, *, episodes: int = 4, action: list[Dimension] = DIMS) -> list[Measured]:
    series = [Series(state, make_action(state)) for state in map(moves, range(episodes))]
    return measure_actions(series, state_dims=DIMS, action_dims=action, rate_hz=RATE_HZ)


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
    (found,) = measure_actions(
        [Series(moves(0), moves(1)[:, :1])], state_dims=DIMS, action_dims=[Dimension("base_x", "m", "position")], rate_hz=RATE_HZ
    )
    assert found.relation == "unpaired"
    assert found.said(RATE_HZ) == "no state dimension has its name, and it resembles none"


def judged(make_action: Make, *, unit: str = "rad", names: list[str] = NAMES, **claims: object) -> list[Verdict]:
    """The verdicts on an action made of the state, as the YAML claims it to be."""
    spec = robot([{"names": NAMES, "unit": "rad"}], [{"names": names, "unit": unit, **claims}])
    states = [moves(seed) for seed in range(4)]
    return judge_actions(recorded(spec, states, [make_action(state) for state in states]), spec)


def lines(make_action: Make, **claims: object) -> list[str]:
    return [str(verdict) for verdict in contradictions(judged(make_action, **claims))]  # pyright: ignore[reportArgumentType]


def step(state: Float64) -> Float64:
    return np.diff(state, axis=0, append=state[-1:])


def test_openpi_750_a_second_delta_is_named_with_the_line_to_write() -> None:
    found = lines(step)
    assert len(found) == len(NAMES)
    assert found[0] == (
        "action waist: a step of the state, times 1; the YAML says `means: absolute`, in rad. "
        "Write `means: delta`: as it is, the state would be subtracted once more."
    )
    assert lines(step, means="delta") == []


def test_a_velocity_that_claims_to_be_a_delta_is_named_and_the_other_way_round() -> None:
    assert lines(lambda s: RATE_HZ * step(s), means="delta")[0].endswith("Write `means: velocity`.")
    assert lines(step, means="velocity")[0].endswith("Write `means: delta`.")
    assert lines(lambda s: RATE_HZ * step(s), means="velocity") == []


def test_a_normalised_delta_agrees_with_either_and_not_with_absolute() -> None:
    """LIBERO's actions are steps over the controller's largest step, in -1..1."""

    def normalised(state: Float64) -> Float64:
        return np.clip(step(state) / 0.05, -1, 1)

    assert {v.answer for v in judged(normalised, unit="1", means="delta")} == {"agrees"}
    assert {v.answer for v in judged(normalised, unit="1", means="velocity")} == {"agrees"}
    assert len(lines(normalised, unit="1")) == len(NAMES)


def test_a_delta_is_found_by_the_state_it_resembles_where_their_names_differ() -> None:
    names = ["dx", "dy", "dz", "dr"]
    verdicts = judged(lambda s: step(s) / 0.05, unit="1", means="delta", names=names, kind="other")
    assert [v.answer for v in verdicts] == ["agrees"] * 4
    assert "the state waist" in verdicts[0].found


def test_an_action_of_another_name_that_resembles_nothing_cannot_be_told() -> None:
    rng = np.random.default_rng(0)
    (found, *_) = judged(lambda s: rng.uniform(-1, 1, s.shape), unit="1", names=["a", "b", "c", "d"], kind="other")
    assert (found.answer, found.found) == ("cannot tell", "no state dimension has its name, and it resembles none")


def test_a_command_that_is_as_the_yaml_says_contradicts_nothing_and_one_that_claims_to_be_a_delta_does() -> None:
    assert lines(lambda s: ahead(s, 4)) == []
    assert lines(lambda s: ahead(s, 4), means="delta")[0].endswith("It is where to be, not how far to go: remove `means: delta`.")


def test_units_that_the_yaml_declares_are_no_contradiction() -> None:
    assert lines(lambda s: np.degrees(ahead(s, 4)), unit="deg") == []
    assert len(lines(lambda s: np.degrees(ahead(s, 4)))) == len(NAMES)
    assert len(lines(lambda s: ahead(s, 4), unit="deg")) == len(NAMES)
    # Of a ratio nothing tells how many radians it is.
    assert lines(lambda s: 0.2 * ahead(s, 4), unit="ratio") == []


def test_a_command_in_time_is_not_late_by_the_jitter_of_clocks() -> None:
    def jittered(state: Float64) -> Float64:
        noise = np.random.default_rng(5).normal(0, 0.02, state.shape)
        return 0.9 * state + 0.1 * np.concatenate([state[:1], state[:-1]]) + noise

    assert {v.answer for v in judged(jittered)} == {"agrees"}


def test_a_swinging_joint_is_not_taken_for_its_own_velocity() -> None:
    """Of a sine the velocity is a sine, a quarter of a swing ahead."""

    def swing(seed: int) -> Float64:
        t = np.arange(300) / RATE_HZ
        return 0.4 * np.sin(2 * np.pi * t[:, None] / np.array([1.4, 1.7, 2.0, 2.6]) + seed)

    states = [swing(seed) for seed in range(4)]

    def relations(make: Make) -> set[str]:
        series = [Series(state, make(state)) for state in states]
        return {m.relation for m in measure_actions(series, state_dims=DIMS, action_dims=DIMS, rate_hz=RATE_HZ)}

    assert relations(lambda s: ahead(s, 2)) == {"next state"}
    assert relations(lambda s: 1.02 * ahead(s, 2) + 0.01) == {"command"}
    assert relations(step) == {"delta"}
    assert relations(lambda s: RATE_HZ * step(s)) == {"velocity"}


def test_a_copy_of_the_state_is_answered_with_next_state_and_next_state_itself_is_no_claim() -> None:
    assert "write `action: {from: next_state}`" in lines(lambda s: s.copy())[0]
    spec = robot([{"names": NAMES, "unit": "rad"}])
    assert judge_actions(recorded(spec, [moves(seed) for seed in range(4)]), spec) == []


def test_a_swap_is_answered_with_both_names() -> None:
    found = contradictions(judged(lambda s: ahead(s, 2)[:, [0, 1, 3, 2]]))
    assert [verdict.subject for verdict in found] == ["action elbow", "action wrist"]
    assert "columns of `elbow` and `wrist` are exchanged" in found[0].todo
    assert "columns of `wrist` and `elbow` are exchanged" in found[1].todo


def test_three_joints_in_a_circle_are_swapped() -> None:
    found = measured(lambda s: ahead(s, 2)[:, [1, 2, 0, 3]])
    assert [(m.relation, m.partner) for m in found[:3]] == [("swapped", "shoulder"), ("swapped", "elbow"), ("swapped", "waist")]
    assert found[3].relation == "next state"


def test_the_sign_of_a_gripper_is_left_to_its_own_judge() -> None:
    spec = robot([gripper()], [gripper()])
    states = [smooth(grasping(seed)) for seed in range(4)]
    (verdict,) = judge_actions(recorded(spec, states, [1 - state for state in states]), spec)
    assert verdict.answer == "cannot tell"


# Some recordings against the others


def mixed(spoil: Make, which: range, *, recordings: int = 6, make: Make = lambda state: ahead(state, 4)) -> list[Verdict]:
    """The verdicts where the actions of the recordings in `which` are something else than those of the others."""
    spec = robot([{"names": NAMES, "unit": "rad"}], [{"names": NAMES, "unit": "rad"}])
    states = [moves(seed) for seed in range(recordings)]
    actions = [spoil(make(state)) if k in which else make(state) for k, state in enumerate(states)]
    return judge_actions(recorded(spec, states, actions), spec)


def held_back(frames: int) -> Make:
    return lambda action: np.concatenate([np.repeat(action[:1], frames, axis=0), action[:-frames]])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (step, "a step of the state, times"),
        (lambda action: RATE_HZ * step(action), "the velocity of the state, times"),
        (np.negative, "the state with the other sign"),
        (held_back(4), "the state of the same frame"),
        (held_back(10), "behind the state by 240 ms"),
        (np.degrees, "the state times 57.3"),
        (lambda action: action[:, [1, 0, 3, 2]], "the action of"),
    ],
    ids=["delta", "velocity", "sign", "current state", "late", "degrees", "swapped"],
)
def test_two_of_six_recordings_that_hold_something_else_are_named(spoil: Make, said: str) -> None:
    found = contradictions(mixed(spoil, range(4, 6)))
    assert len(found) == len(NAMES)
    for verdict in found:
        assert "the state 4 frame(s) later" in verdict.found
        assert f"but in 2 of 6 looked at (day1/4.mcap, day1/5.mcap) {said}" in verdict.found
        assert '`episodes: {"day1/4.mcap": {exclude:' in verdict.todo


def test_of_two_halves_the_one_that_the_yaml_does_not_claim_is_named() -> None:
    found = contradictions(mixed(step, range(3)))
    assert len(found) == len(NAMES)
    assert all("in 3 of 6 looked at (day1/0.mcap, day1/1.mcap, day1/2.mcap) a step of the state" in v.found for v in found)


def test_most_recordings_wrong_and_some_right_are_both_said() -> None:
    (verdict, *_) = mixed(step, range(4))
    assert verdict.found.startswith("a step of the state")
    assert "in 2 of 6 looked at (day1/4.mcap, day1/5.mcap) the state 4 frame(s) later" in verdict.found
    assert verdict.todo.startswith("Write `means: delta`")


def test_one_recording_of_hundreds_is_named() -> None:
    found = contradictions(mixed(step, range(120, 121), recordings=180))
    assert "in 1 of 180 looked at (day1/120.mcap)" in found[0].found


def test_recordings_in_which_a_joint_nearly_rests_or_swings_are_not_odd() -> None:
    """Noise of a resting joint may resemble anything, and a swing resembles its own opposite half a period later."""
    spec = robot([{"names": NAMES, "unit": "rad"}], [{"names": NAMES, "unit": "rad"}])
    states, actions = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        t = np.arange(300)[:, None] / RATE_HZ
        swing = 0.5 * np.sin(2 * np.pi * t * rng.uniform(0.3, 1.4, 4) + rng.uniform(0, 6, 4))
        command = [moves(seed), swing, 0.01 * moves(seed)][seed % 3]
        delayed = np.concatenate([np.repeat(command[:1], 3, axis=0), command[:-3]])
        states.append(smooth(delayed, 0.6) + rng.normal(0, 2e-3, command.shape))
        actions.append(command)
    assert contradictions(judge_actions(recorded(spec, states, actions), spec)) == []


CUTS = [(0, 159), (0, 100), (30, 130), (59, 159), (0, 75), (80, 159)]


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("cut", CUTS)
def test_no_piece_of_a_few_real_recordings_contradicts(aloha: tuple[Seen, RobotSpec], count: int, cut: tuple[int, int]) -> None:
    """A forearm that swings along looks like a velocity for a while, and fingers that stop at a cube like another unit."""
    seen, spec = aloha
    for chosen in combinations(range(6), count):
        metas = [replace(seen.metas[k], length=cut[1] - cut[0]) for k in chosen]
        whole = {meta.id: seen.read(meta) for meta in metas}
        pieces = Seen(metas, lambda meta, whole=whole: _piece(whole[meta.id], *cut))
        assert contradictions(judge_actions(pieces, spec)) == []


def _piece(series: Series, start: int, stop: int) -> Series:
    return replace(series, state=series.state[start:stop], action=series.action[start:stop])
