from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.episodes.semantics import Seen, Verdict, contradictions
from vla_ops.episodes.semantics.camera_swaps import exchanged
from vla_ops.episodes.semantics.cameras import judge_cameras
from vla_ops.episodes.semantics.seen import Series
from vla_ops.episodes.semantics.wrist_motion import wrist_pair
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import load_robot
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.episodes.semantics.made_up import edited, exchanged_in, with_measured

HIGH, LEFT, RIGHT = "cam_high", "cam_left_wrist", "cam_right_wrist"
PAIRS = [*combinations((HIGH, LEFT, RIGHT), 2)]
ROBOTS = Path(__file__).parents[2] / "robots"

type Aloha = tuple[Seen, RobotSpec]


def of_pair(verdicts: list[Verdict], a: str, b: str) -> Verdict:
    (found,) = [v for v in verdicts if v.subject == f"cameras {a} and {b}"]
    return found


def without_roles(spec: RobotSpec) -> RobotSpec:
    """Nothing then says which camera an arm carries."""
    return spec.model_copy(update={"cameras": {name: camera.model_copy(update={"role": None}) for name, camera in spec.cameras.items()}})


def test_untouched_recordings_agree_with_their_yaml(aloha: Aloha) -> None:
    seen, spec = aloha
    assert [v.answer for v in judge_cameras(seen, spec)] == ["agrees"] * 6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["airbot_ptk", "airbot_old_collector", "umi_bimanual"])
def test_no_untouched_real_recording_contradicts(name: str, recordings_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_TEST_RECORDINGS", str(recordings_dir))
    robot = load_robot(ROBOTS / name)
    outcome = run(robot, tmp_path)
    (recording,) = outcome.states
    assert contradictions(judge_cameras(Seen.of(outcome.store.read_episodes(recording)), robot.spec)) == []


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_swapped_cables_are_found_in_exactly_the_episodes_that_have_them(aloha: Aloha, a: str, b: str) -> None:
    """All of the 21 ways to exchange one or two of six, by pictures alone."""
    seen, _ = aloha
    for which in [*combinations(range(6), 1), *combinations(range(6), 2)]:
        groups = exchanged(exchanged_in(seen, which, a, b).metas, a, b)
        assert np.flatnonzero(groups.sides < 0).tolist() == list(which)


def test_the_verdict_names_episodes_sources_and_the_lines_to_write(aloha: Aloha) -> None:
    seen, spec = aloha
    verdicts = judge_cameras(exchanged_in(seen, [3], LEFT, RIGHT), spec)
    found = of_pair(verdicts, LEFT, RIGHT)
    assert (found.answer, contradictions(verdicts)) == ("contradicts", [found])
    assert "exchanged in 1 of 6 episodes" in found.found
    assert "transfer_cube_003.mcap/0" in found.found
    assert "/cam_left_wrist/image_raw/compressed" in found.claimed
    assert '`episodes: {"transfer_cube_003.mcap/0": {exclude: "cam_left_wrist and cam_right_wrist exchanged"}}`' in found.todo


def test_wrist_cameras_exchanged_in_all_or_half_of_the_episodes_are_told_by_the_arms_that_carry_them(aloha: Aloha) -> None:
    seen, spec = aloha
    found = of_pair(judge_cameras(exchanged_in(seen, range(6), LEFT, RIGHT), spec), LEFT, RIGHT)
    assert "exchanged in 6 of 6 episodes" in found.found
    assert found.todo.startswith("Exchange the `source` of cam_left_wrist and cam_right_wrist")
    found = of_pair(judge_cameras(exchanged_in(seen, [1, 3, 5], LEFT, RIGHT), spec), LEFT, RIGHT)
    assert all(f"transfer_cube_00{k}" in found.found for k in (1, 3, 5))
    assert "which of the two groups" not in found.found


def test_an_arms_side_is_understood_in_any_case(aloha: Aloha) -> None:
    _, spec = aloha
    upper = [part.model_copy(update={"names": [name.title() for name in part.names]}) for part in spec.state]
    assert upper[0].names[0] == "Left_Waist"
    assert wrist_pair(spec.model_copy(update={"state": upper})) == (LEFT, RIGHT)


def test_without_roles_an_exchange_in_half_of_the_episodes_is_found_but_not_which_half_is_right(aloha: Aloha) -> None:
    seen, spec = aloha
    found = of_pair(judge_cameras(exchanged_in(seen, [0, 2, 4], LEFT, RIGHT), without_roles(spec)), LEFT, RIGHT)
    assert found.answer == "contradicts"
    assert "which of the two groups is the right one" in found.found


def test_cameras_exchanged_in_all_episodes_cannot_be_told_by_pictures_alone(aloha: Aloha) -> None:
    seen, spec = aloha
    assert contradictions(judge_cameras(exchanged_in(seen, range(6), LEFT, RIGHT), without_roles(spec))) == []


def test_two_episodes_name_no_majority(aloha: Aloha) -> None:
    seen, spec = aloha
    few = Seen(exchanged_in(seen, [0], HIGH, LEFT).metas[:2], seen.read)
    found = of_pair(judge_cameras(few, spec), HIGH, LEFT)
    assert found.answer == "cannot tell"
    assert "fewer than 3 episodes" in found.found


def relit(strength: float, seed: int) -> Callable[[EpisodeMeta], EpisodeMeta]:
    """Another exposure, and a lamp at one side: a gradient across each picture."""
    rng = np.random.default_rng(seed)

    def edit(meta: EpisodeMeta) -> EpisodeMeta:
        for camera in (HIGH, LEFT, RIGHT):
            picture = np.array(meta.measured[camera]["signature"], float).reshape(12, 16)
            lamp = np.linspace(-1, 1, 16) * rng.uniform(-1, 1) + np.linspace(-1, 1, 12)[:, None] * rng.uniform(-1, 1)
            lit = picture * rng.uniform(1 - strength, 1 + strength) + strength * (60 * lamp + 60 * rng.uniform(-1, 1))
            meta = with_measured(meta, camera, signature=np.clip(np.rint(lit), 0, 255).astype(int).ravel().tolist())
        return meta

    return edit


@pytest.mark.parametrize("seed", range(10))
def test_other_light_in_each_episode_is_no_exchange(aloha: Aloha, seed: int) -> None:
    seen, spec = aloha
    lit = edited(seen, range(6), relit(0.5, seed))
    assert contradictions(judge_cameras(lit, without_roles(spec))) == []
    found = of_pair(judge_cameras(exchanged_in(lit, [2], LEFT, RIGHT), spec), LEFT, RIGHT)
    assert "exchanged in 1 of 6 episodes" in found.found


def mirrored(seen: Seen, which: tuple[int, ...]) -> Seen:
    """In some episodes each arm does what the other one does in the rest, so that each wrist camera shows the other one's view."""

    def state(meta: EpisodeMeta) -> np.ndarray:
        values = seen.read(next(m for m in seen.metas if m.id == meta.id)).state
        return np.concatenate([values[:, 7:], values[:, :7]], axis=1) if meta.id in moved else values

    moved = {seen.metas[k].id for k in which}
    crossed = exchanged_in(seen, which, LEFT, RIGHT)
    states = {meta.id: state(meta) for meta in seen.metas}
    metas = [
        replace(meta, stats={**meta.stats, "observation.state": vector_stats(states[meta.id].astype(np.float32))}) for meta in crossed.metas
    ]
    return Seen(metas, lambda meta: Series(states[meta.id], states[meta.id]))


def test_a_task_that_the_other_arm_does_is_no_exchange(aloha: Aloha) -> None:
    seen, spec = aloha
    found = of_pair(judge_cameras(mirrored(seen, (1, 4)), spec), LEFT, RIGHT)
    assert found.answer == "agrees"


def test_one_arm_at_rest_and_the_other_busy_is_told_from_the_reverse_by_the_motion_alone(aloha: Aloha) -> None:
    """Without roles only the states say that the arms have changed places: such episodes are not compared."""
    seen, spec = aloha
    busy = seen.read(seen.metas[0]).state

    def one_arm(meta: EpisodeMeta, side: slice) -> EpisodeMeta:
        state = np.repeat(busy[:1], len(busy), axis=0)
        state[:, side] = busy[:, side]
        return replace(meta, stats={**meta.stats, "observation.state": vector_stats(state.astype(np.float32))})

    one = edited(seen, [0, 1, 2, 3], lambda meta: one_arm(meta, slice(0, 7)))
    other = edited(exchanged_in(one, [4, 5], LEFT, RIGHT), [4, 5], lambda meta: one_arm(meta, slice(7, 14)))
    assert of_pair(judge_cameras(other, without_roles(spec)), LEFT, RIGHT).answer != "contradicts"


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_stations_with_views_of_their_own_are_no_exchange(seed: int) -> None:
    """Each of four stations has its own two pictures; those of one station say nothing of another's."""
    rng = np.random.default_rng(seed)
    views = rng.uniform(0, 255, (4, 2, 12, 16))
    pictures = [views[k % 4] + rng.normal(0, 12, (2, 12, 16)) for k in range(16)]
    assert not (groups_of(pictures).sides < 0).any()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sets(st.integers(0, 11), max_size=5))
def test_exchanged_pictures_are_found_whatever_they_show(seed: int, which: set[int]) -> None:
    rng = np.random.default_rng(seed)
    views = rng.uniform(0, 255, (2, 12, 16))
    pictures = [(views[::-1] if k in which else views) + rng.normal(0, 12, (2, 12, 16)) for k in range(12)]
    assert set(np.flatnonzero(groups_of(pictures).sides < 0)) == which


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_two_cameras_that_look_alike_cannot_be_told(seed: int) -> None:
    rng = np.random.default_rng(seed)
    view = rng.uniform(0, 255, (12, 16))
    pictures = [view + rng.normal(0, 12, (2, 12, 16)) for _ in range(12)]
    assert not groups_of(pictures).sides.any()


def groups_of(pictures: list[np.ndarray]):
    from vla_ops_tests.episodes.semantics.made_up import episode

    metas = []
    for k, two in enumerate(pictures):
        signatures = np.clip(np.rint(two), 0, 255).astype(int).reshape(2, -1).tolist()
        measured = {camera: {"signature": signature} for camera, signature in zip("ab", signatures, strict=True)}
        metas.append(episode(f"{k}.mcap", np.linspace(0, 1, 30, dtype=np.float64)[:, None], measured=measured))
    return exchanged(metas, "a", "b")


# Black, frozen, the same


def test_a_black_and_a_frozen_camera_are_named_with_their_episodes(aloha: Aloha) -> None:
    seen, spec = aloha
    spoiled = edited(seen, [1], lambda meta: with_measured(meta, HIGH, black_fraction=0.9, signature=[0] * 192))
    spoiled = edited(spoiled, [4], lambda meta: with_measured(meta, RIGHT, frozen_s=5.0))
    black, frozen = contradictions(judge_cameras(spoiled, spec))
    assert (black.subject, frozen.subject) == ("camera cam_high", "camera cam_right_wrist")
    assert black.found == "black for most of 1 of 6 episodes: transfer_cube_001.mcap/0"
    assert frozen.found == "frozen for most of 1 of 6 episodes: transfer_cube_004.mcap/0"
    assert '{exclude: "cam_right_wrist is frozen"}' in frozen.todo


def test_a_simulators_wrist_camera_on_an_arm_at_rest_is_not_frozen(aloha: Aloha) -> None:
    seen, spec = aloha

    def at_rest(meta: EpisodeMeta) -> EpisodeMeta:
        state = seen.read(meta).state.copy()
        state[:, 7:13] = state[0, 7:13]
        meta = with_measured(meta, RIGHT, frozen_s=6.0)
        return replace(meta, stats={**meta.stats, "observation.state": vector_stats(state.astype(np.float32))})

    assert contradictions(judge_cameras(edited(seen, [0], at_rest), spec)) == []


def test_two_cameras_that_show_the_same_picture_are_named(aloha: Aloha) -> None:
    seen, spec = aloha

    def doubled(meta: EpisodeMeta) -> EpisodeMeta:
        left = meta.measured[LEFT]
        # The same camera, read a few milliseconds later.
        shifted = [cell + (k % 5 == 0) for k, cell in enumerate(left["signature"])]
        copied = with_measured(meta, RIGHT, signature=shifted, motion=left["motion"])
        return replace(copied, stats={**meta.stats, f"observation.images.{RIGHT}": meta.stats[f"observation.images.{LEFT}"]})

    (found,) = contradictions(judge_cameras(edited(seen, [2, 5], doubled), spec))
    assert found.subject == "cameras cam_left_wrist and cam_right_wrist"
    assert "show the same picture in 2 of 6 episodes: transfer_cube_002.mcap/0, transfer_cube_005.mcap/0" in found.found


def test_episodes_made_before_there_were_signatures_cannot_be_told(aloha: Aloha) -> None:
    seen, spec = aloha
    old = edited(seen, range(6), lambda meta: replace(meta, measured={}))
    assert {v.answer for v in judge_cameras(old, spec)} == {"cannot tell"}
