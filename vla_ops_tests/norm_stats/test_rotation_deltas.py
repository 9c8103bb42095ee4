"""The delta of a rotation in the chunk: composed with the state's, exactly and in every form; and the file says which it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.errors import DatasetError, SchemaMismatchError, StatsMismatchError
from vla_ops.norm_stats import check_fits, compute_norm_stats, read_norm_stats, write_norm_stats
from vla_ops.norm_stats.chunks import Effort, VectorStats, chunk_norm_stats
from vla_ops.norm_stats.table import render, stats_rows
from vla_ops.robot import RobotSpec, RotationGroup
from vla_ops.spec import ROTATION_WIDTHS, Kind, Unit
from vla_ops_tests.episodes.rotating import EACH_FORM, written
from vla_ops_tests.norm_stats.arms import composed_chunks, parts, pose_spec, poses
from vla_ops_tests.norm_stats.data import all_chunks, by_rank, make_spec, write_dataset

LENGTHS = [40, 1, 60, 99]
FRAMES = sum(LENGTHS)
USUAL = Effort()
quick = settings(max_examples=10, deadline=None)


def stats_of(spec: RobotSpec, states: np.ndarray, actions: np.ndarray, *, effort: Effort = USUAL) -> VectorStats:
    horizon, mask = spec.norm_stats.action_horizon, spec.delta_mask
    groups = spec.delta_rotations
    return chunk_norm_stats(states, actions, LENGTHS, horizon=horizon, delta_mask=mask, delta_rotations=groups, effort=effort).actions


def expected_rows(states: np.ndarray, actions: np.ndarray, kind: Kind, unit: Unit, *, horizon: int) -> np.ndarray:
    """All rows of all chunks, rotations by SciPy, in the smallest numbers of their form."""
    width = ROTATION_WIDTHS[kind]
    rows = all_chunks(states, actions, LENGTHS, horizon=horizon, delta_mask=[True] * (3 + width) + [False]).reshape(-1, 4 + width)
    turned = written(composed_chunks(states, actions, LENGTHS, horizon=horizon, kind=kind, unit=unit), kind, unit)
    if kind.startswith("quaternion"):
        w = 3 if kind == "quaternion_xyzw" else 0
        turned = turned * np.where(turned[:, w : w + 1] < 0, -1, 1)
    rows[:, 3 : 3 + width] = turned
    return rows


@EACH_FORM
def test_statistics_are_those_of_all_deltas_composed_by_scipy(kind: Kind, unit: Unit) -> None:
    states, actions = (poses(FRAMES, kind, unit, seed=seed) for seed in (0, 1))
    spec = pose_spec(parts(kind, unit, stream="/state"), parts(kind, unit, stream="/action"))
    got, rows = stats_of(spec, states, actions), expected_rows(states, actions, kind, unit, horizon=5)
    assert got.count == len(rows) == FRAMES * 5
    scale = 180 if unit == "deg" else 1
    np.testing.assert_allclose(got.mean, rows.mean(axis=0), atol=1e-9 * scale)
    np.testing.assert_allclose(got.std, rows.std(axis=0), atol=1e-9 * scale)
    for name, expected in (("q01", by_rank(rows, 1)), ("q99", by_rank(rows, 99)), ("min", rows.min(axis=0)), ("max", rows.max(axis=0))):
        np.testing.assert_allclose(getattr(got, name), expected, atol=1e-9 * scale)


@quick
@given(st.sampled_from(["rotation_vector", "quaternion_wxyz", "rotation_rpy"]), st.integers(16, 300), st.integers(1, 50))
def test_block_size_sample_and_missed_pivots_change_no_number(kind: Kind, block: int, sample: int) -> None:
    states, actions = (poses(FRAMES, kind, "rad", seed=seed) for seed in (2, 3))
    unit = "1" if kind.startswith("quaternion") else "rad"
    spec = pose_spec(parts(kind, unit, stream="/state"), parts(kind, unit, stream="/action"))
    usual = stats_of(spec, states, actions)
    other = stats_of(spec, states, actions, effort=Effort(block_frames=block, sample=sample, margin_sigmas=1e-9))
    for name in ("q01", "q99", "min", "max", "mean", "std"):
        np.testing.assert_allclose(getattr(other, name), getattr(usual, name), rtol=1e-11, atol=1e-12)


def test_two_arms_are_composed_each_with_its_own_state() -> None:
    kind: Kind = "rotation_vector"
    left, right = (poses(FRAMES, kind, "rad", seed=seed) for seed in (0, 1))
    state = [*parts(kind, "rad", stream="/left", side="left_"), *parts(kind, "rad", stream="/right", side="right_")]
    spec = pose_spec(state)
    assert spec.delta_rotations == (RotationGroup(3, 6, kind, "rad"), RotationGroup(10, 13, kind, "rad"))
    states = np.concatenate([left, right], axis=1)
    actions = np.concatenate([np.roll(left, -1, axis=0), np.roll(right, -2, axis=0)], axis=1)
    both = stats_of(spec, states, actions)
    alone = pose_spec(parts(kind, "rad", stream="/one"))
    for k, arm in enumerate((slice(0, 7), slice(7, 14))):
        np.testing.assert_array_equal(both.q99[arm], stats_of(alone, states[:, arm], actions[:, arm]).q99, err_msg=f"arm {k}")


def test_an_arm_that_holds_its_rotation_has_exactly_no_spread_in_it() -> None:
    states = poses(FRAMES, "rotation_vector", "rad")
    states[:, 3:6] = states[0, 3:6]
    got = stats_of(pose_spec(parts("rotation_vector", "rad", stream="/state")), states, states)
    for name in ("mean", "std", "q01", "q99", "min", "max"):
        np.testing.assert_array_equal(getattr(got, name)[3:6], 0.0)


def test_turns_of_the_recorded_numbers_do_not_reach_the_model() -> None:
    """Subtracted, a wrist that is followed past half a turn gives deltas of a whole turn where the command is not."""
    states = poses(FRAMES, "rotation_vector", "rad")
    actions = states.copy()
    axis = actions[:, 3:6] / np.linalg.norm(actions[:, 3:6], axis=1, keepdims=True)
    actions[::2, 3:6] += (2 * np.pi * axis[::2]).astype(np.float32)
    robot = parts("rotation_vector", "rad", stream="/state")
    composed = stats_of(pose_spec(robot, action_horizon=1), states, actions)
    subtracted = stats_of(pose_spec(robot, action_horizon=1, rotation_delta="subtracted"), states, actions)
    assert np.abs([composed.min[3:6], composed.max[3:6]]).max() < 1e-5
    assert np.abs([subtracted.min[3:6], subtracted.max[3:6]]).max() > 5


def test_asked_for_subtraction_gets_what_openpi_would_compute() -> None:
    states, actions = (poses(FRAMES, "quaternion_xyzw", "1", seed=seed) for seed in (0, 1))
    spec = pose_spec(parts("quaternion_xyzw", "1", stream="/state"), rotation_delta="subtracted")
    assert (spec.delta_rotations, spec.delta_mask) == ((), (True,) * 7 + (False,))
    rows = all_chunks(states, actions, LENGTHS, horizon=5, delta_mask=spec.delta_mask).reshape(-1, 8)
    np.testing.assert_array_equal(stats_of(spec, states, actions).q01, by_rank(rows, 1))


def test_numbers_in_a_dataset_that_are_no_rotation_are_refused_by_name() -> None:
    states = poses(FRAMES, "quaternion_xyzw", "1")
    actions = states.copy()
    actions[17, 3:7] = 0
    names = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
    groups = [RotationGroup(3, 7, "quaternion_xyzw", "1")]
    mask = [True] * 7 + [False]
    with pytest.raises(DatasetError, match=r"1 of 200 samples are no quaternion_xyzw.*action.*qx, qy, qz, qw.*sample 17.*norm 0"):
        chunk_norm_stats(
            states, actions, LENGTHS, horizon=2, delta_mask=mask, delta_rotations=groups, state_names=names, action_names=names
        )
    with pytest.raises(SchemaMismatchError, match="in part"):
        chunk_norm_stats(states, states, LENGTHS, horizon=2, delta_mask=[True] * 5 + [False] * 3, delta_rotations=groups)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    states, actions = (poses(FRAMES, "rotation_vector", "rad", seed=seed) for seed in (0, 1))
    names = ["x", "y", "z", "r0", "r1", "r2", "gripper"]
    return write_dataset(tmp_path / "dataset", states, actions, LENGTHS, names=names)


ARM = parts("rotation_vector", "rad", stream="/state")


@pytest.mark.parametrize("way", ["composed", "subtracted"])
def test_the_file_says_how_each_delta_was_formed_and_is_read_back_whole(tmp_path: Path, dataset: Path, way: str) -> None:
    stats = compute_norm_stats(dataset, spec=pose_spec(ARM, rotation_delta=way))
    path = write_norm_stats(tmp_path / "norm_stats", stats)
    meta = json.loads((path.parent / "norm_stats.meta.json").read_text())
    assert meta["rotation_delta"] == way
    assert [dim["delta"] for dim in meta["actions"]["dimensions"]] == [True, True, True, way, way, way, False]
    assert [dim["delta"] for dim in meta["state"]["dimensions"]] == [False] * 7
    again = read_norm_stats(path)
    assert again.provenance == stats.provenance
    assert again.provenance.delta_rotations == pose_spec(ARM, rotation_delta=way).delta_rotations
    assert again.version == stats.version
    before = path.stat().st_mtime_ns
    assert write_norm_stats(tmp_path / "norm_stats", stats).stat().st_mtime_ns == before


def test_the_table_says_how_each_delta_was_formed(dataset: Path) -> None:
    stats = compute_norm_stats(dataset, spec=pose_spec(ARM))
    rows = [row for row in stats_rows(stats) if row["vector"] == "actions"]
    assert [row["delta"] for row in rows] == ["yes", "yes", "yes", "composed", "composed", "composed", "no"]
    assert "delta, rotations composed" in render(stats).splitlines()[0]
    absolute = compute_norm_stats(dataset, spec=pose_spec(ARM, action_space="absolute"))
    assert "rotations" not in render(absolute).splitlines()[0]
    assert absolute.provenance.rotation_delta is None


def test_composed_and_subtracted_stats_have_versions_of_their_own_and_are_not_taken_for_each_other(dataset: Path) -> None:
    composed, subtracted = (compute_norm_stats(dataset, spec=pose_spec(ARM, rotation_delta=way)) for way in ("composed", "subtracted"))
    assert composed.version != subtracted.version
    assert composed.actions.q99[3] != subtracted.actions.q99[3]
    with pytest.raises(StatsMismatchError, match=r"rotation delta subtracted; expected rotation delta composed"):
        check_fits(subtracted, pose_spec(ARM))
    absolute = [
        compute_norm_stats(dataset, spec=pose_spec(ARM, action_space="absolute", rotation_delta=w)) for w in ("composed", "subtracted")
    ]
    assert absolute[0].version == absolute[1].version


def test_a_robot_without_rotations_keeps_the_version_and_the_bytes_it_had_before_there_was_a_choice(tmp_path: Path) -> None:
    names = ["waist", "elbow", "gripper"]
    rows = np.cumsum(np.random.default_rng(0).normal(scale=0.05, size=(FRAMES, 3)), axis=0).astype(np.float32)
    folder = write_dataset(tmp_path / "dataset", rows, rows, LENGTHS, names=names)
    (folder / "meta" / "vla_ops.json").write_text('{"version": "0123456789abcdef"}')
    for way in ("composed", "subtracted"):
        spec = make_spec(names, norm_stats={"action_horizon": 8, "rotation_delta": way})
        stats = compute_norm_stats(folder, spec=spec)
        assert stats.version == "2655e632b6898827"
        meta = json.loads((write_norm_stats(tmp_path / way, stats).parent / "norm_stats.meta.json").read_text())
        assert list(meta) == [
            "version", "stats_version", "robot", "dataset_version", "frames", "horizon", "action_space", "state", "actions", "narrow",
        ]  # fmt: skip
        assert [dim["delta"] for dim in meta["actions"]["dimensions"]] == [True, True, False]
        assert list(meta["actions"]["dimensions"][0]) == ["name", "unit", "kind", "delta", "measured"]
