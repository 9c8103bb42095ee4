from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.episodes.semantics import Seen, Verdict, contradictions
from vla_ops.episodes.semantics.seen import Series
from vla_ops.episodes.semantics.stations import judge_stations
from vla_ops.episodes.store import VideoInfo
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.made_up import edited, episode, in_folders, seen_of, spec_of
from vla_ops_tests.episodes.semantics.test_near_duplicates import motion

SPEC = spec_of(["j1", "j2", "j3"], gripper=True)
FOLDERS = [f"station{k % 3 + 1}" for k in range(9)]

type Float64 = npt.NDArray[np.float64]


def states() -> list[Float64]:
    """Nine demonstrations of three joints and a gripper that opens and closes."""
    made = []
    for seed in range(9):
        state = motion(seed)
        state[:, :3] += [0, 1.5, -1]
        state[:, 3] = 0.5 + 0.48 * np.tanh(4 * np.sin(np.arange(200) / 20 + seed))
        made.append(state)
    return made


def judged(spoil: Callable[[Float64], Float64 | None], station: str = "station2", *, spec: RobotSpec = SPEC) -> list[Verdict]:
    """The verdicts on three stations' recordings of which one station's are spoiled."""
    found = {}
    for k, state in enumerate(states()):
        changed = spoil(state.copy()) if FOLDERS[k] == station else state
        found[f"{FOLDERS[k]}/{k}.mcap"] = state if changed is None else changed
    return judge_stations(seen_of(found), spec)


def degrees(state: Float64) -> Float64:
    return np.concatenate([np.degrees(state[:, :3]), state[:, 3:]], axis=1)


def of_joint(k: int, function: Callable[[Float64], Float64]) -> Callable[[Float64], Float64]:
    def spoil(state: Float64) -> Float64:
        state[:, k] = function(state[:, k])
        return state

    return spoil


def test_stations_with_the_same_robot_agree() -> None:
    assert [v.answer for v in judged(lambda state: state)] == ["agrees"] * 3


def test_real_recordings_in_any_three_folders_agree(aloha: tuple[Seen, RobotSpec]) -> None:
    seen, spec = aloha
    for folders in (["a", "a", "b", "b", "c", "c"], ["a", "b", "c", "a", "b", "c"], ["c", "b", "a", "a", "b", "c"]):
        assert [v.answer for v in judge_stations(in_folders(seen, folders), spec)] == ["agrees"] * 3


def test_a_station_whose_grippers_are_in_metres_is_named_with_both_ranges() -> None:
    (found,) = contradictions(judged(of_joint(3, lambda gripper: 0.07 * gripper)))
    assert found.subject == "folder station2"
    low, high = (function([function(state[:, 3]) for state in states()]) for function in (np.min, np.max))
    assert (
        found.found
        == f"gripper moves through {0.07 * low:.4g} .. {0.07 * high:.4g} ratio, in all other folders through {low:.4g} .. {high:.4g}"
    )
    assert "robots/" in found.todo


def test_a_station_in_degrees_is_named_and_so_is_the_one_in_radians_among_others() -> None:
    (found,) = contradictions(judged(degrees))
    assert "j1 moves through" in found.found
    (found,) = contradictions(judged(lambda state: state / 57))
    assert found.subject == "folder station2"


def test_a_robot_that_is_elsewhere_in_two_joints_is_named() -> None:
    def mirrored(state: Float64) -> Float64:
        state[:, 1:3] = -3 * np.sign(state[:, 1:3].mean(axis=0)) + 0.2 * state[:, 1:3]
        return state

    (found,) = contradictions(judged(mirrored))
    assert "j2 moves through" in found.found
    assert "j3 moves through" in found.found


def test_a_base_that_is_turned_cannot_be_told_from_a_mounting() -> None:
    found = next(v for v in judged(of_joint(0, lambda base: base + 6)) if v.subject == "folder station2")
    assert found.answer == "cannot tell"
    assert "j1 moves through" in found.found
    assert "mounted" in found.found


def test_an_arm_that_is_parked_elsewhere_for_another_task_is_the_same_robot() -> None:
    def parked(state: Float64) -> Float64:
        state[:, 0:3] = np.random.default_rng(0).normal(9, 1e-3, (len(state), 3))
        return state

    assert contradictions(judged(parked)) == []


def test_a_task_that_needs_no_gripper_is_the_same_robot() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, 200)
    assert contradictions(judged(of_joint(3, lambda _: 0.9 + noise))) == []
    assert contradictions(judged(of_joint(3, np.zeros_like))) == []


def test_a_smaller_workspace_is_the_same_robot() -> None:
    assert contradictions(judged(lambda state: np.concatenate([state[:, :3] * 0.4 + 0.3, state[:, 3:]], axis=1))) == []


def test_another_image_size_is_named() -> None:
    seen = seen_of({f"{FOLDERS[k]}/{k}.mcap": state for k, state in enumerate(states())})
    sized = edited(seen, range(9), lambda meta: replace(meta, videos={"cam": VideoInfo(480, 640, "h264", "yuv420p", 200)}))
    small = edited(sized, [0, 3, 6], lambda meta: replace(meta, videos={"cam": VideoInfo(120, 160, "h264", "yuv420p", 200)}))
    assert contradictions(judge_stations(sized, SPEC)) == []
    (found,) = contradictions(judge_stations(small, SPEC))
    assert (found.subject, found.found) == ("folder station1", "cam is 160 x 120, in all other folders 640 x 480")


def test_dates_of_a_station_are_not_named_again() -> None:
    found = {}
    for k, state in enumerate(states()):
        spoiled = degrees(state) if FOLDERS[k] == "station2" else state
        found |= {f"{FOLDERS[k]}/{day}/{k}.mcap": spoiled for day in ("mon", "tue")}
    assert [v.subject for v in contradictions(judge_stations(seen_of(found), SPEC))] == ["folder station2"]


@pytest.mark.parametrize("folders", [["a"] * 9, ["a", "b"] * 4 + ["a"], list("abcdefghi")])
def test_too_few_folders_or_recordings_in_them_cannot_be_told(folders: list[str]) -> None:
    seen = seen_of({f"{folder}/{k}.mcap": state for k, (folder, state) in enumerate(zip(folders, states(), strict=True))})
    assert [v.answer for v in judge_stations(seen, SPEC)] == ["cannot tell"]


def test_recordings_at_the_root_and_none_at_all_cannot_be_told() -> None:
    assert [v.answer for v in judge_stations(seen_of({f"{k}": s for k, s in enumerate(states())}), SPEC)] == ["cannot tell"]
    assert [v.answer for v in judge_stations(Seen([], lambda _: Series(np.zeros((0, 4)), np.zeros((0, 4)))), SPEC)] == ["cannot tell"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from("abcd"), min_size=12, max_size=12), st.integers(0, 1000))
def test_demonstrations_of_one_robot_never_contradict_however_they_are_sorted(folders: list[str], seed: int) -> None:
    metas = [episode(f"{folder}/{k}.mcap", motion(12 * seed + k)) for k, folder in enumerate(folders)]
    spec = spec_of(["j1", "j2", "j3", "j4"])
    assert contradictions(judge_stations(Seen(metas, lambda _: Series(np.zeros((0, 4)), np.zeros((0, 4)))), spec)) == []
