"""The delta of a rotation is the rotation that leads from the state to the action, in every form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_ops.episodes.rotations import apply_delta, compose_delta
from vla_ops.spec import ROTATION_WIDTHS, Kind, Unit
from vla_ops_tests.episodes.rotating import EACH_FORM, SEEDS, anywhere, apart, read, walk, written

quick = settings(max_examples=40, deadline=None)


@EACH_FORM
@quick
@given(SEEDS)
def test_a_delta_is_what_scipy_says_leads_from_state_to_action(kind: Kind, unit: Unit, seed: int) -> None:
    state, action = anywhere(20, seed), anywhere(20, seed + 1)
    got = compose_delta(written(action, kind, unit), written(state, kind, unit), kind, unit)
    expected = action * state.inv()
    assert apart(read(got, kind, unit), expected).max() < 1e-6
    if kind == "rotation_vector":
        # The vector and its opposite are one rotation at half a turn.
        assert np.allclose(got, expected.as_rotvec(degrees=unit == "deg"), atol=1e-9)


@EACH_FORM
@quick
@given(SEEDS)
def test_applying_a_delta_to_the_state_gives_the_action_back(kind: Kind, unit: Unit, seed: int) -> None:
    rotations = walk(seed, count=30)
    state, action = written(rotations[:20], kind, unit), written(rotations[10:], kind, unit)
    back = apply_delta(compose_delta(action, state, kind, unit), state, kind, unit)
    assert apart(read(back, kind, unit), rotations[10:]).max() < 1e-6
    least = written(rotations[10:], kind, unit)
    if kind.startswith("quaternion"):
        w = 3 if kind == "quaternion_xyzw" else 0
        least *= np.where(least[:, w : w + 1] < 0, -1, 1)
    assert np.allclose(back, least, atol=1e-6)


@EACH_FORM
@quick
@given(SEEDS)
def test_a_chunk_is_composed_with_one_state(kind: Kind, unit: Unit, seed: int) -> None:
    state, chunk = anywhere(4, seed), anywhere(4 * 6, seed + 1)
    width = ROTATION_WIDTHS[kind]
    states, chunks = written(state, kind, unit)[:, None], written(chunk, kind, unit).reshape(4, 6, width)
    got = compose_delta(chunks, states, kind, unit)
    assert got.shape == (4, 6, width)
    for k in range(4):
        assert np.allclose(got[k], compose_delta(chunks[k], states[k], kind, unit), atol=1e-12)
    back = apply_delta(got, states, kind, unit)
    assert apart(read(back.reshape(-1, width), kind, unit), chunk).max() < 1e-6
    assert np.allclose(compose_delta(chunks[0, 0], states[0, 0], kind, unit), got[0, 0], atol=1e-12)


@pytest.mark.parametrize("kind", ["quaternion_xyzw", "quaternion_wxyz"])
@quick
@given(SEEDS)
def test_signs_of_quaternions_do_not_show_in_the_delta(kind: Kind, seed: int) -> None:
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (2, 20, 1))
    action, state = (written(anywhere(20, seed + k), kind, "1") for k in range(2))
    got = compose_delta(signs[0] * action, signs[1] * state, kind, "1")
    assert (got[:, 3 if kind == "quaternion_xyzw" else 0] >= 0).all()
    assert np.allclose(got, compose_delta(action, state, kind, "1"))


@quick
@given(SEEDS, st.integers(-3, 3))
def test_turns_that_a_recording_was_followed_over_do_not_show_in_the_delta(seed: int, turns: int) -> None:
    vectors = walk(seed, count=10).as_rotvec()
    followed = vectors * (1 + turns * 2 * np.pi / np.linalg.norm(vectors, axis=1, keepdims=True))
    got = compose_delta(followed[5:], followed[:5], "rotation_vector", "rad")
    assert np.allclose(got, compose_delta(vectors[5:], vectors[:5], "rotation_vector", "rad"), atol=1e-9)
    assert (np.linalg.norm(got, axis=1) <= np.pi + 1e-12).all()


@EACH_FORM
@quick
@given(SEEDS)
def test_a_robot_at_rest_has_exactly_no_delta(kind: Kind, unit: Unit, seed: int) -> None:
    values = written(anywhere(20, seed), kind, unit)
    got = compose_delta(values, values, kind, unit)
    none = written(Rotation.identity(20), kind, unit)
    if kind in ("rotation_6d", "rotation_rpy"):
        assert np.allclose(got, none, atol=1e-15)
    else:
        assert np.allclose(got, none, rtol=1e-15, atol=0)


def test_a_delta_turns_about_the_axes_that_positions_are_along() -> None:
    """A tool that points down and is turned about the base's z: seen from the tool it turns the other way."""
    down = Rotation.from_rotvec([np.pi, 0, 0])
    turned = Rotation.from_rotvec([0, 0, 0.3]) * down
    got = compose_delta(turned.as_quat(), down.as_quat(), "quaternion_xyzw", "1")
    assert np.allclose(Rotation.from_quat(got).as_rotvec(), [0, 0, 0.3])
    assert np.allclose(compose_delta(np.array([0, 0, 0.5]), np.array([0, 0, 0.2]), "rotation_vector", "rad"), [0, 0, 0.3])


def test_a_subtracted_delta_is_something_else() -> None:
    """Why composition is the default: half a turn apart in numbers is a hair's breadth apart as a rotation."""
    state, action = np.array([3.13, 0, 0]), np.array([-3.13, 0, 0])
    assert np.allclose(compose_delta(action, state, "rotation_vector", "rad"), [2 * np.pi - 6.26, 0, 0])
    assert np.allclose(action - state, [-6.26, 0, 0])


@EACH_FORM
@quick
@given(st.integers(0, 4), st.integers(0, 2))
def test_a_number_that_is_not_finite_spoils_only_its_row(kind: Kind, unit: Unit, row: int, column: int) -> None:
    action, state = (written(anywhere(5, k), kind, unit) for k in range(2))
    action[row, column] = np.nan
    for got in (compose_delta(action, state, kind, unit), apply_delta(action, state, kind, unit)):
        assert np.array_equal(np.isnan(got).any(axis=1), np.arange(5) == row)
        assert np.isnan(got[row]).all()


@pytest.mark.parametrize("kind", ["quaternion_xyzw", "quaternion_wxyz", "rotation_6d"])
def test_a_predicted_delta_need_not_be_exactly_a_rotation(kind: Kind) -> None:
    state, action = (written(anywhere(20, k), kind, "1") for k in range(2))
    delta = compose_delta(action, state, kind, "1")
    predicted = 1.1 * delta + np.random.default_rng(0).normal(scale=1e-3, size=delta.shape)
    back = apply_delta(predicted, state, kind, "1")
    assert apart(read(back, kind, "1"), read(action, kind, "1")).max() < 0.02
    lengths = np.linalg.norm(back.reshape(20, -1, 3 if kind == "rotation_6d" else 4), axis=2)
    assert np.allclose(lengths, 1)
