"""The space of pi0's base checkpoints: what openpi's own transforms gave, both ways."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_ops.errors import DatasetError, StatsMismatchError
from vla_ops.norm_stats import check_fits, compute_norm_stats, read_norm_stats, write_norm_stats
from vla_ops.norm_stats.aloha import GRIPPERS, JOINT_SIGNS, action_from_pi, action_to_pi, state_from_pi, state_to_pi
from vla_ops.norm_stats.table import render
from vla_ops_tests.norm_stats.data import ALOHA, make_spec, write_dataset

ADAPTED = make_spec(ALOHA, norm_stats={"adapt_to_pi": True, "action_horizon": 3})


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden_dir / "transforms" / "aloha.npz"))


def grippers(ratios: np.ndarray) -> np.ndarray:
    """Vectors [n, 14] whose grippers are at `ratios` and whose joints are at rest."""
    vectors = np.zeros((len(ratios), 14))
    vectors[:, GRIPPERS] = ratios[:, None]
    return vectors


def test_joints_turn_as_openpi_turns_them(golden: dict[str, np.ndarray]) -> None:
    assert np.array_equal(JOINT_SIGNS, golden["joint_flip_mask"])


def test_states_and_actions_are_those_that_openpi_gives_its_model(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(state_to_pi(golden["state"]), golden["adapt1/in/state"], rtol=1e-7)
    np.testing.assert_allclose(action_to_pi(golden["actions"]), golden["adapt1/in/actions"], rtol=1e-7, atol=1e-12)


def test_actions_of_the_model_are_those_that_openpi_gives_the_robot(golden: dict[str, np.ndarray]) -> None:
    chunk = golden["adapt1/out/model_actions"][:, :14]
    np.testing.assert_allclose(action_from_pi(chunk), golden["adapt1/out/actions"], rtol=1e-6, atol=1e-9)


def test_grippers_are_at_openpis_angles_also_beyond_their_ends(golden: dict[str, np.ndarray]) -> None:
    ratios = grippers(golden["gripper_in"])
    for got, name in (
        (state_to_pi(ratios), "gripper_to_angular"),
        (action_from_pi(ratios), "gripper_from_angular"),
        (action_to_pi(ratios), "gripper_from_angular_inv"),
    ):
        np.testing.assert_allclose(got[:, 6], golden[name], rtol=0, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(got[:, 13], got[:, 6])


def test_without_the_adaptation_openpi_changes_nothing(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(golden["adapt0/in/state"], golden["state"])
    np.testing.assert_array_equal(golden["adapt0/in/actions"], golden["actions"])


@given(hnp.arrays(np.float64, (5, 3, 14), elements=st.floats(-3, 3)), st.floats(-0.11, 1))
def test_there_and_back_is_where_it_was(vectors: np.ndarray, ratio: float) -> None:
    before = vectors.copy()
    np.testing.assert_allclose(action_from_pi(action_to_pi(vectors)), vectors, atol=1e-12)
    np.testing.assert_allclose(action_to_pi(action_from_pi(vectors)), vectors, atol=1e-12)
    np.testing.assert_array_equal(vectors, before)
    # A state's gripper is known to pi0 only within what the crank reaches; its arcsine loses half the digits where it is straight.
    vectors[..., GRIPPERS] = ratio
    np.testing.assert_allclose(state_from_pi(state_to_pi(vectors)), vectors, atol=1e-7)


@given(st.floats(-0.11, 0.99), st.floats(1e-3, 0.5))
def test_a_wider_opening_is_a_larger_number(ratio: float, more: float) -> None:
    pair = grippers(np.array([ratio, min(ratio + more, 1.0)]))
    for way in (state_to_pi, action_to_pi, action_from_pi):
        assert np.diff(way(pair)[:, 6])[0] > 0


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).uniform(0, 1, (50, 14)).astype(np.float32)
    return write_dataset(tmp_path / "dataset", rows, rows, [20, 30], names=ALOHA)


def test_the_file_says_that_its_numbers_are_adapted_and_in_which_unit(tmp_path: Path, dataset: Path) -> None:
    stats = compute_norm_stats(dataset, spec=ADAPTED)
    path = write_norm_stats(tmp_path / "norm_stats", stats)
    meta = json.loads((path.parent / "norm_stats.meta.json").read_text())
    assert meta["adapt_to_pi"] is True
    assert [dim["unit"] for dim in meta["actions"]["dimensions"]] == ["rad"] * 14
    assert [dim["unit"] for dim in meta["state"]["dimensions"]] == (["rad"] * 6 + ["ratio"]) * 2
    assert [dim["delta"] for dim in meta["actions"]["dimensions"]] == ([True] * 6 + [False]) * 2
    again = read_norm_stats(path)
    assert (again.provenance, again.version) == (stats.provenance, stats.version)
    assert "delta, adapted to pi" in render(stats).splitlines()[0]


def test_adapted_stats_have_a_version_of_their_own_and_are_not_taken_for_others(dataset: Path) -> None:
    plain = make_spec(ALOHA, horizon=3)
    stats = compute_norm_stats(dataset, spec=ADAPTED)
    assert stats.version != compute_norm_stats(dataset, spec=plain).version
    check_fits(stats, ADAPTED)
    with pytest.raises(StatsMismatchError, match=r"adapt_to_pi True.*expected adapt_to_pi False"):
        check_fits(stats, plain)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gripper_that_is_not_finite_is_still_refused_by_name(tmp_path: Path, bad: float) -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (50, 14)).astype(np.float32)
    rows[7, 6] = bad
    folder = write_dataset(tmp_path / "bad", rows, rows, [50], names=ALOHA)
    with pytest.raises(DatasetError, match=r"left_gripper.*frame 7"):
        compute_norm_stats(folder, spec=ADAPTED)
