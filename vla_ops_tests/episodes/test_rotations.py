"""Rotations between samples are rotations between them, in every form, and their numbers do not jump from frame to frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from vla_ops.episodes.align import Placement, resample
from vla_ops.episodes.rotations import check_rotations
from vla_ops.errors import RecordingError
from vla_ops.spec import ROTATION_WIDTHS, Kind, Unit
from vla_ops_tests.episodes.rotating import EACH_FORM, FORMS, SEEDS, anywhere, apart, read, walk, written


def at(samples: int, fractions: list[float]) -> Placement:
    """Frames at each fraction of the way from every sample to the next, and one on the last."""
    index = np.append(np.repeat(np.arange(samples - 1), len(fractions)), samples - 1)
    return Placement(index, np.zeros(len(index), np.int64), np.append(np.tile(fractions, samples - 1), 0.0))


@EACH_FORM
@given(SEEDS)
def test_on_a_sample_the_rotation_is_the_sample(kind: Kind, unit: Unit, seed: int) -> None:
    rotations = anywhere(5, seed)
    values = written(rotations, kind, unit)
    got = resample(values, at(5, [0.0]), kind=kind, unit=unit)
    assert apart(read(got, kind, unit), rotations).max() < 1e-6
    assert np.allclose(got[0], values[0], atol=1e-6)


@EACH_FORM
@given(SEEDS)
def test_halfway_between_two_rotations_is_as_far_from_one_as_from_the_other(kind: Kind, unit: Unit, seed: int) -> None:
    rotations = anywhere(5, seed)
    half = read(resample(written(rotations, kind, unit), at(5, [0.5]), kind=kind, unit=unit), kind, unit)[:4]
    way = apart(rotations[:4], rotations[1:])
    assert np.allclose(apart(rotations[:4], half), way / 2, atol=1e-6)
    assert np.allclose(apart(half, rotations[1:]), way / 2, atol=1e-6)


@pytest.mark.parametrize("fraction", [None, 0.3], ids=["hold", "linear"])
@pytest.mark.parametrize(("kind", "unit"), [f for f in FORMS if f[0] != "rotation_rpy"])
@given(SEEDS)
def test_numbers_move_no_further_than_the_rotation_lets_them(fraction: float | None, kind: Kind, unit: Unit, seed: int) -> None:
    """A gripper that points down is turned by about pi, where the numbers as recorded change sign."""
    rotations = walk(seed, start=Rotation.from_rotvec([np.pi, 0, 0]))
    placed = at(60, [0.0, fraction or 0.0])
    got = resample(written(rotations, kind, unit), placed if fraction else Placement(placed.index, placed.skew_ns), kind=kind, unit=unit)
    steps = np.linalg.norm(np.diff(got, axis=0), axis=1) * (np.pi / 180 if unit == "deg" else 1)
    turned = apart(read(got[:-1], kind, unit), read(got[1:], kind, unit))
    # A vector of length v moves v/2 / sin(v/2) times as far as the rotation, 2.5 times at pi + 1.
    assert (steps <= 2.5 * turned + 1e-6).all()


@pytest.mark.parametrize("unit", ["rad", "deg"])
@given(SEEDS, st.floats(-0.3, 0.3))
def test_roll_pitch_and_yaw_do_not_jump_where_they_cross_half_a_turn(unit: Unit, seed: int, pitch: float) -> None:
    rotations = walk(seed, start=Rotation.from_euler("xyz", [np.pi, pitch, -np.pi]), step=0.05)
    got = resample(written(rotations, "rotation_rpy", unit), at(60, [0.0, 0.7]), kind="rotation_rpy", unit=unit)
    steps = np.abs(np.diff(got, axis=0)) * (np.pi / 180 if unit == "deg" else 1)
    assert steps.max() < 0.5


@pytest.mark.parametrize("side", [1, -1])
def test_roll_pitch_and_yaw_do_not_jump_on_the_way_through_a_pitch_of_a_right_angle(side: int) -> None:
    through = [Rotation.from_euler("xyz", [0.4, side * pitch, 0.3]) for pitch in np.linspace(1.2, np.pi - 1.2, 41)]
    with pytest.warns(UserWarning, match="Gimbal lock"):
        values = Rotation.concatenate(through).as_euler("xyz")
    assert np.abs(np.diff(values, axis=0)).max() > 2
    got = resample(values, at(41, [0.0]), kind="rotation_rpy", unit="rad")
    assert np.allclose(got, [[0.4, side * pitch, 0.3] for pitch in np.linspace(1.2, np.pi - 1.2, 41)], atol=1e-6)


def test_a_rotation_vector_that_crosses_pi_is_interpolated_the_short_way() -> None:
    axis = np.array([1, 1, 0]) / 2**0.5
    values = Rotation.from_rotvec([axis * 3.10, axis * 3.18]).as_rotvec()
    assert np.allclose(values[1], axis * (3.18 - 2 * np.pi))
    got = resample(values, at(2, [0.0, 0.5]), kind="rotation_vector", unit="rad")
    assert np.allclose(got, [axis * 3.10, axis * 3.14, axis * 3.18])


def test_a_rotation_vector_is_followed_over_more_than_one_turn() -> None:
    turned = np.linspace(0, 4 * np.pi, 101)
    values = Rotation.from_rotvec(turned[:, None] * np.array([0, 0, 1.0])).as_rotvec()
    assert np.allclose(resample(values, at(101, [0.0]), kind="rotation_vector", unit="rad")[:, 2], turned)


@pytest.mark.parametrize("kind", ["quaternion_xyzw", "quaternion_wxyz"])
@given(SEEDS)
def test_held_quaternions_keep_their_sign(kind: Kind, seed: int) -> None:
    rotations = walk(seed)
    recorded = written(rotations, kind, "1") * np.random.default_rng(seed).choice([-1.0, 1.0], (60, 1))
    got = resample(recorded, Placement(np.arange(60), np.zeros(60, np.int64)), kind=kind)
    assert (np.sum(got[1:] * got[:-1], axis=1) >= 0).all()
    assert np.array_equal(np.abs(got), np.abs(recorded))
    assert np.array_equal(got[0], recorded[0])


@EACH_FORM
@given(st.integers(0, 4), st.integers(0, 2))
def test_a_sample_that_is_not_a_number_spoils_only_the_frames_that_need_it(kind: Kind, unit: Unit, bad: int, column: int) -> None:
    values = written(anywhere(5, 1), kind, unit)
    values[bad, column] = np.nan
    check_rotations(values, kind, ["a"] * ROTATION_WIDTHS[kind], "/pose")
    placed = at(5, [0.0, 0.5])
    got = resample(values, placed, kind=kind, unit=unit)
    assert placed.fraction is not None
    needed = (placed.index == bad) | ((placed.index + 1 == bad) & (placed.fraction > 0))
    assert (np.isnan(got).any(axis=1) == needed).all()


@pytest.mark.parametrize("kind", ["quaternion_xyzw", "quaternion_wxyz"])
@pytest.mark.parametrize("norm", [0.0, 0.98, 1.02, 1000.0])
def test_a_quaternion_that_is_no_unit_quaternion_is_refused_by_name_and_sample(kind: Kind, norm: float) -> None:
    values = written(anywhere(20, 0), kind, "1")
    values[13] *= norm
    with pytest.raises(
        RecordingError, match=rf"1 of 20 samples are no {kind}.*/pose.*qa, qb, qc, qd.*sample 13.*norm {norm:g}; expected norm 1"
    ):
        check_rotations(values, kind, ["qa", "qb", "qc", "qd"], "/pose")


@given(hnp.arrays(np.float64, (4, 4), elements=st.floats(-1, 1)).filter(lambda v: np.linalg.norm(v, axis=1).min() > 0.1))
def test_a_quaternion_in_half_precision_is_accepted(values: np.ndarray) -> None:
    half = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    check_rotations(half, "quaternion_xyzw", ["a", "b", "c", "d"], "/pose")


def test_six_numbers_of_a_matrix_in_another_order_are_refused() -> None:
    matrices = anywhere(3, 0).as_matrix()
    names = [f"r{k}" for k in range(6)]
    check_rotations(matrices[:, :, :2].transpose(0, 2, 1).reshape(3, 6), "rotation_6d", names, "/pose")
    with pytest.raises(
        RecordingError, match=r"3 of 3 samples are no rotation_6d.*sample 0.*expected norm 1, and two columns at right angles"
    ):
        check_rotations(matrices[:, :, :2].reshape(3, 6), "rotation_6d", names, "/pose")
