"""How data sit in norm stats of elsewhere: what is counted is what is there, and a misfit is told by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_ops.errors import StatsMismatchError
from vla_ops.norm_stats import Provenance, compute_norm_stats, write_norm_stats
from vla_ops.policies import PolicyStats, read_stats, stats_fit
from vla_ops.policies.normalize import Numbers
from vla_ops.policies.stats_fit import COLUMNS
from vla_ops_tests.norm_stats.arms import parts, pose_spec, poses
from vla_ops_tests.norm_stats.data import ALOHA, all_chunks, write_dataset
from vla_ops_tests.policies.making import ARM, ROBOT, aloha_spec, arm_spec

LENGTHS = [80, 1, 119]


def walk(seed: int = 0, width: int = 3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(scale=0.05, size=(200, width)), axis=0).astype(np.float32)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", walk(), walk(1), LENGTHS, names=ARM)


def of(state: Numbers, actions: Numbers) -> PolicyStats:
    return PolicyStats(
        state, actions, "gs://base/assets/trossen", Provenance.of(arm_spec(), robot=ROBOT, dataset_version=""), accepted=True
    )


def around(values: np.ndarray) -> Numbers:
    return Numbers(values.mean(axis=0), values.std(axis=0), *np.quantile(values, [0.01, 0.99], axis=0))


def test_data_sit_in_their_own_stats(tmp_path: Path, dataset: Path) -> None:
    stats = read_stats(write_norm_stats(tmp_path / "stats", compute_norm_stats(dataset, spec=arm_spec())))
    fit = stats_fit(stats, arm_spec(), dataset, robot=ROBOT)
    assert fit.verdict == "fits"
    fit.refuse_misfit()
    for dim in fit.dimensions:
        assert dim.outside is not None
        assert dim.outside <= 0.02
        assert (round(dim.shift, 3), round(dim.ratio, 3)) == (0, 1)


def test_every_number_is_that_of_all_chunks_written_out(dataset: Path) -> None:
    chunks = all_chunks(walk(), walk(1), LENGTHS, horizon=5, delta_mask=(True, True, False)).reshape(-1, 3)
    state, actions = Numbers(np.zeros(3), np.full(3, 0.3), np.full(3, -0.4), np.full(3, 0.5)), Numbers(np.ones(3), np.full(3, 0.2))
    fit = stats_fit(of(state, actions), arm_spec(), dataset, robot=ROBOT)
    assert [(dim.vector, dim.name) for dim in fit.dimensions] == [(v, name) for v in ("state", "actions") for name in ARM]
    for k, (there, here) in enumerate(zip(fit.dimensions[3:], chunks.T, strict=True)):
        scores = (here - 1) / (0.2 + 1e-6)
        assert there.outside is None
        np.testing.assert_allclose(there.beyond, (np.abs(scores) > 3).mean())
        np.testing.assert_allclose(
            (there.shift, there.ratio, there.furthest), (scores.mean(), scores.std(), np.abs(scores).max()), err_msg=str(k)
        )
    for there, here in zip(fit.dimensions[:3], walk().astype(np.float64).T, strict=True):
        np.testing.assert_allclose(there.outside, ((here < -0.4) | (here > 0.5)).mean())


@pytest.mark.parametrize("adapt", [False, True])
def test_an_alohas_chunks_are_seen_in_the_space_the_stats_are_in(tmp_path: Path, *, adapt: bool) -> None:
    spec, rows = aloha_spec(adapt_to_pi=adapt), np.random.default_rng(0).uniform(0, 1, (60, 14)).astype(np.float32)
    dataset = write_dataset(tmp_path / "dataset", rows, rows, [60], names=ALOHA)
    stats = read_stats(write_norm_stats(tmp_path / "stats", compute_norm_stats(dataset, spec=spec)))
    assert stats_fit(stats, spec, dataset, robot=ROBOT).verdict == "fits"
    other = stats_fit(stats, aloha_spec(adapt_to_pi=not adapt), dataset, robot=ROBOT)
    # Only one way round do the elbows' states leave the range: pi's are negative where the robot's are positive.
    assert other.verdict != "fits"


def test_rotations_are_composed_as_in_the_stats(tmp_path: Path) -> None:
    spec, rows = pose_spec(parts("rotation_vector", "rad", stream="/state")), poses(200, "rotation_vector", "rad")
    names = [dim.name for dim in spec.state_dims]
    dataset = write_dataset(tmp_path / "dataset", rows, poses(200, "rotation_vector", "rad", seed=1), LENGTHS, names=names)
    stats = read_stats(write_norm_stats(tmp_path / "stats", compute_norm_stats(dataset, spec=spec)))
    for dim in stats_fit(stats, spec, dataset, robot=ROBOT).dimensions:
        assert (abs(dim.shift) < 1e-9, round(dim.ratio, 3)) == (True, 1)


def test_degrees_in_stats_of_radians_do_not_fit_and_are_named(tmp_path: Path) -> None:
    radians = walk()
    degrees = radians.copy()
    degrees[:, 1] *= 180 / np.pi
    dataset = write_dataset(tmp_path / "dataset", degrees, degrees, LENGTHS, names=ARM)
    chunks = all_chunks(radians, radians, LENGTHS, horizon=5, delta_mask=(True, True, False)).reshape(-1, 3)
    fit = stats_fit(of(around(radians), around(chunks)), arm_spec(), dataset, robot=ROBOT)
    assert [dim.name for dim in fit.dimensions if dim.verdict == "does not fit"] == ["elbow", "elbow"]
    with pytest.raises(StatsMismatchError, match=r"do not sit in.*dimension state elbow, actions elbow, robot test_arm.*Check units"):
        fit.refuse_misfit()


def test_a_table_for_a_person_has_a_row_a_dimension_and_the_verdict(dataset: Path) -> None:
    chunks = all_chunks(walk(), walk(1), LENGTHS, horizon=5, delta_mask=(True, True, False)).reshape(-1, 3)
    shifted = around(walk())
    shifted.mean[2] -= 2 * shifted.std[2]
    lines = stats_fit(of(shifted, around(chunks)), arm_spec(), dataset, robot=ROBOT).render().splitlines()
    assert lines[0] == "200 frames of test_arm in the norm stats of gs://base/assets/trossen: off"
    assert lines[1].split() == " ".join(COLUMNS).split()
    assert len(lines) == 8
    assert lines[4].split()[:3] == ["state", "gripper", "ratio"]
    assert lines[4].endswith("off")
    assert "+2.00" in lines[4]


def test_a_joint_that_is_held_is_not_too_tight(tmp_path: Path) -> None:
    rows = walk()
    held = rows.copy()
    held[:, 0] = rows[:, 0].mean()
    dataset = write_dataset(tmp_path / "dataset", held, held, LENGTHS, names=ARM)
    fit = stats_fit(of(around(rows), around(rows)), arm_spec(action_space="absolute"), dataset, robot=ROBOT)
    waist = fit.dimensions[0]
    assert (waist.still, waist.verdict) == (True, "fits")
    slow = (rows - rows.mean(axis=0)) * 0.01 + rows.mean(axis=0)
    tight = stats_fit(
        of(around(rows), around(rows)),
        arm_spec(action_space="absolute"),
        write_dataset(tmp_path / "slow", slow.astype(np.float32), slow.astype(np.float32), LENGTHS, names=ARM),
        robot=ROBOT,
    )
    assert tight.dimensions[1].verdict == "does not fit"


def test_a_dimension_that_stats_were_filled_up_with_does_not_fit(dataset: Path) -> None:
    zeros = Numbers(*(np.zeros(3) for _ in range(4)))
    assert {dim.verdict for dim in stats_fit(of(zeros, zeros), arm_spec(), dataset, robot=ROBOT).dimensions} == {"does not fit"}
