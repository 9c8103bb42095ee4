from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.episodes.semantics import Seen, Verdict, contradictions
from vla_ops.episodes.semantics.near_duplicates import Trajectory, _candidates, difference, judge_near_duplicates
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import seen_of, spec_of

SPEC = spec_of(["j1", "j2", "j3", "j4"])

type Float64 = npt.NDArray[np.float64]


def motion(seed: int, frames: int = 200, dims: int = 4) -> Float64:
    """Reaching from place to place: random targets, low-passed; float64 [frames, dims]."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(rng.uniform(-1, 1, (frames // 25 + 1, dims)), 25, axis=0)[:frames]
    smooth = np.zeros_like(targets)
    for k in range(1, frames):
        smooth[k] = smooth[k - 1] + 0.15 * (targets[k] - smooth[k - 1])
    return smooth


def judged(states: dict[str, Float64]) -> list[Verdict]:
    return judge_near_duplicates(seen_of(states), SPEC)


def scripted(aloha: tuple[Seen, RobotSpec]) -> dict[str, Float64]:
    return {meta.recording: aloha[0].read(meta).state for meta in aloha[0].metas}


def noisy(state: Float64) -> Float64:
    return state + np.random.default_rng(0).normal(0, 0.003, state.shape) * np.ptp(state, axis=0)


COPIES: dict[str, Callable[[Float64], Float64]] = {
    "the same numbers in another file": lambda state: state,
    "float16": lambda state: state.astype(np.float16).astype(np.float64),
    "read by noisy encoders": noisy,
    "resampled half a frame later": lambda state: (state[1:] + state[:-1]) / 2,
    "trimmed at both ends": lambda state: state[int(0.1 * len(state)) : int(0.9 * len(state))],
    "without its first fifth": lambda state: state[len(state) // 5 :],
}


def test_six_runs_of_one_script_are_no_copies(aloha: tuple[Seen, RobotSpec]) -> None:
    (verdict,) = judge_near_duplicates(*aloha)
    assert verdict.answer == "agrees"
    assert "transfer_cube_002.mcap/0 and transfer_cube_005.mcap/0, differ by 39%" in verdict.found


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_any_scripted_run_is_found(aloha: tuple[Seen, RobotSpec], copy: str) -> None:
    states = scripted(aloha)
    for recording, state in states.items():
        (found,) = contradictions(judged({**states, "new.mcap": COPIES[copy](state)}))
        assert found.subject == "episode new.mcap/0"
        assert f"nearly the same as {recording}/0" in found.found


def test_the_verdict_says_how_close_where_and_what_to_write(aloha: tuple[Seen, RobotSpec]) -> None:
    states = scripted(aloha)
    (found,) = contradictions(judged({**states, "new.mcap": states["transfer_cube_001.mcap"][15:]}))
    assert "transfer_cube_001.mcap/0, beginning 15 frames into it" in found.found
    assert "differs by 0.00%" in found.found
    assert '`episodes: {"new.mcap/0": {exclude: "same as transfer_cube_001.mcap/0"}}`' in found.todo


def test_of_two_copies_the_longer_is_kept_and_of_three_one() -> None:
    whole, other = motion(0), motion(1)
    found = contradictions(judged({"a": whole[20:180], "b": whole, "c": other, "d": whole.copy()}))
    assert [v.subject for v in found] == ["episode a/0", "episode d/0"]
    assert all("same as b/0" in v.todo for v in found)


def test_arms_at_rest_are_all_alike_and_nothing_is_said_of_them() -> None:
    rng = np.random.default_rng(0)
    states = {"moves": motion(0)} | {f"rests{k}": np.full((200, 4), 0.3) + rng.normal(0, 1e-4, (200, 4)) for k in range(4)}
    assert [v.answer for v in judged(states)] == ["cannot tell"]


def test_one_episode_and_episodes_of_a_few_frames_cannot_be_told() -> None:
    assert [v.answer for v in judged({"a": motion(0)})] == ["cannot tell"]
    assert [v.answer for v in judged({"a": motion(0)[:10], "b": motion(0)[:10]})] == ["cannot tell"]


def test_a_dead_dimension_does_not_matter() -> None:
    dead = np.concatenate([motion(0), np.zeros((200, 1))], axis=1)
    other = np.concatenate([motion(1), np.zeros((200, 1))], axis=1)
    assert len(contradictions(judged({"a": dead, "b": other, "c": dead[5:]}))) == 1


def test_a_motion_that_begins_as_another_and_then_goes_elsewhere_is_no_copy() -> None:
    first, second = motion(0), motion(1)
    first[:120] = second[:120]
    assert contradictions(judged({"a": first, "b": second})) == []


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(60, 200), st.integers(0, 40))
def test_the_difference_is_that_of_trying_every_shift(seed: int, frames: int, late: int) -> None:
    rng = np.random.default_rng(seed)
    first = motion(seed, 200)
    second = first[late : late + frames] + rng.normal(0, 0.05, (len(first[late : late + frames]), 4))
    found, shift = difference(Trajectory.of(first), Trajectory.of(second))
    tried = {}
    needed = int(np.ceil(0.8 * min(len(first), len(second))))
    for s in range(needed - len(second), len(first) - needed + 1):
        start, stop = max(s, 0), min(len(first), len(second) + s)
        tried[s] = np.sqrt(np.mean((first[start:stop] - second[start - s : stop - s]) ** 2))
    best = min(tried, key=tried.__getitem__)
    spread = np.sqrt((first.var(axis=0).mean() + second.var(axis=0).mean()) / 2)
    assert shift == best
    assert found <= tried[best] / spread + 1e-9
    assert found == pytest.approx(tried[best] / spread, abs=0.02)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_motions_of_their_own_are_never_called_copies(seed: int) -> None:
    states = {f"{k}": motion(100 * seed + k, 120 + 7 * k) for k in range(8)}
    assert contradictions(judged(states)) == []


def test_three_hundred_episodes_are_compared_within_seconds() -> None:
    states = {f"{k:03d}": motion(k, 300, 14) for k in range(300)}
    seen = seen_of({**states, "copy": states["007"][30:]})
    started = time.process_time()
    (found,) = contradictions(judge_near_duplicates(seen, SPEC))
    assert time.process_time() - started < 5
    assert "same as 007/0" in found.todo


def test_among_very_many_episodes_every_copy_is_compared_with_its_original() -> None:
    draw = np.random.default_rng(0)
    features = draw.uniform(size=(6000, 35))
    copies = draw.choice(3000, 200, replace=False)
    features[3000:3200] = features[copies] + draw.normal(scale=0.005, size=(200, 35))
    pairs = _candidates(features)
    assert {(int(k), 3000 + n) for n, k in enumerate(copies)} <= set(pairs)
    assert len(pairs) <= 8 * len(features)


def test_episodes_that_all_look_alike_are_compared_with_a_few_each() -> None:
    pairs = _candidates(np.ones((6000, 35)))
    assert 0 < len(pairs) <= 8 * 6000
    assert all(first < second for first, second in pairs)
