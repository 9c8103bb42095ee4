"""A rotation recorded in one form and written in another is the same rotation, and its numbers do not jump."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vla_ops.episodes.rotations import convert
from vla_ops.robot_file import Robot
from vla_ops.spec import ROTATION_WIDTHS, Kind, Unit
from vla_ops_tests.episodes.ingesting import robot_at, run
from vla_ops_tests.episodes.rotating import EACH_FORM, FORMS, SEEDS, anywhere, apart, read, walk, written

ANY_FORM = st.sampled_from(FORMS)
quick = settings(max_examples=40, deadline=None)


@EACH_FORM
@quick
@given(ANY_FORM, SEEDS)
def test_every_form_becomes_every_other_and_is_the_same_rotation_there_and_back(
    kind: Kind, unit: Unit, form: tuple[Kind, Unit], seed: int
) -> None:
    other, unit_other = form
    rotations = anywhere(8, seed)
    there = convert(written(rotations, kind, unit), kind=kind, unit=unit, written_as=other, unit_written=unit_other)
    assert there.shape == (8, ROTATION_WIDTHS[other])
    assert apart(read(there, other, unit_other), rotations).max() < 1e-6
    back = convert(there, kind=other, unit=unit_other, written_as=kind, unit_written=unit)
    assert apart(read(back, kind, unit), rotations).max() < 1e-6


@EACH_FORM
@quick
@given(ANY_FORM.filter(lambda form: form[0] != "rotation_rpy"), SEEDS)
def test_written_numbers_move_no_further_than_the_rotation_lets_them(kind: Kind, unit: Unit, form: tuple[Kind, Unit], seed: int) -> None:
    """A gripper that points down is turned by about pi: there the numbers of every form but one change sign or turn."""
    other, unit_other = form
    rotations = walk(seed, start=Rotation.from_rotvec([np.pi, 0, 0]))
    got = convert(written(rotations, kind, unit), kind=kind, unit=unit, written_as=other, unit_written=unit_other)
    steps = np.linalg.norm(np.diff(got, axis=0), axis=1) * (np.pi / 180 if unit_other == "deg" else 1)
    turned = apart(rotations[:-1], rotations[1:])
    # A vector of length v moves v/2 / sin(v/2) times as far as the rotation, 2.5 times at pi + 1.
    assert (steps <= 2.5 * turned + 1e-6).all()


@pytest.mark.parametrize(("kind", "unit"), [form for form in FORMS if form[0] != "rotation_rpy"])
@quick
@given(SEEDS, st.floats(-0.3, 0.3))
def test_written_roll_pitch_and_yaw_do_not_jump_where_they_cross_half_a_turn(kind: Kind, unit: Unit, seed: int, pitch: float) -> None:
    rotations = walk(seed, start=Rotation.from_euler("xyz", [np.pi, pitch, -np.pi]), step=0.05)
    got = convert(written(rotations, kind, unit), kind=kind, unit=unit, written_as="rotation_rpy", unit_written="rad")
    assert np.abs(np.diff(got, axis=0)).max() < 0.5


@EACH_FORM
@quick
@given(ANY_FORM, st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), max_size=4, unique_by=lambda place: place[0]))
def test_rows_that_are_not_numbers_stay_so_and_spoil_no_other(
    kind: Kind, unit: Unit, form: tuple[Kind, Unit], places: list[tuple[int, int]]
) -> None:
    other, unit_other = form
    rotations = anywhere(7, 3)
    values = written(rotations, kind, unit)
    for place in places:
        values[place] = np.nan
    bad = [row for row, _ in places]
    got = convert(values, kind=kind, unit=unit, written_as=other, unit_written=unit_other)
    assert sorted(np.flatnonzero(np.isnan(got).any(axis=1))) == sorted(bad)
    good = [k for k in range(7) if k not in bad]
    assert apart(read(got[good], other, unit_other), rotations[good]).max() < 1e-6


@pytest.mark.parametrize(("other", "w"), [("quaternion_xyzw", 3), ("quaternion_wxyz", 0)])
@quick
@given(SEEDS)
def test_written_quaternions_begin_on_one_side(other: Kind, w: int, seed: int) -> None:
    """Half of all recordings would otherwise begin with the negative of what the others begin with."""
    values = written(walk(seed), "quaternion_xyzw", "1")
    for recorded in (values, -values):
        got = convert(recorded, kind="quaternion_xyzw", unit="1", written_as="rotation_6d", unit_written="1")
        again = convert(got, kind="rotation_6d", unit="1", written_as=other, unit_written="1")
        assert again[0, w] >= 0
        assert all(before @ after > 0 for before, after in pairwise(again))


def test_what_is_written_as_it_was_recorded_and_does_not_jump_is_left_as_it_is() -> None:
    values = np.linspace(8, 20, 50, dtype=np.float64)[:, None] * np.array([0, 0.6, 0.8])
    got = convert(values, kind="rotation_vector", unit="rad", written_as="rotation_vector", unit_written="rad")
    assert np.array_equal(got, values)


def write_pose(path: Path, quaternions: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["pose"] = np.concatenate([np.zeros((len(quaternions), 3)), quaternions], axis=1)


def robot_of_poses(folder: Path, columns: str, names: list[str], written_as: str) -> Robot:
    position = {"source": "/pose[0:3]", "names": ["x", "y", "z"], "unit": "m", "kind": "position"}
    turned = {"source": f"/pose[{columns}]", "names": names, "unit": "1", "kind": "quaternion_wxyz", "written_as": written_as}
    return robot_at(folder, "*.hdf5", "hdf5", state=[position, turned])


def test_an_episode_has_the_rotation_in_the_form_it_is_to_be_written_in(tmp_path: Path) -> None:
    rotations = walk(7, start=Rotation.from_rotvec([np.pi, 0, 0]), count=30)
    # As collectors store them: signs as the driver had them.
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (30, 1))
    write_pose(tmp_path / "raw" / "a.hdf5", written(rotations, "quaternion_wxyz", "1") * signs)
    done = run(robot_of_poses(tmp_path / "raw", "3:7", ["rx", "ry", "rz"], "rotation_vector"), tmp_path / "home")
    (episode,) = done.store.read_episodes("a.hdf5")
    frames = pq.read_table(episode.frames)
    state, action = (np.array(frames[name].to_pylist()) for name in ("observation.state", "action"))
    assert state.shape == (29, 6)
    assert apart(read(state[:, 3:], "rotation_vector", "rad"), rotations[:29]).max() < 1e-5
    assert np.abs(np.diff(state[:, 3:], axis=0)).max() < 0.5
    assert np.array_equal(action[:-1], state[1:])
    assert [dim.unit for dim in robot_of_poses(tmp_path, "3:7", ["rx", "ry", "rz"], "rotation_vector").spec.state_dims][3:] == ["rad"] * 3


def test_recorded_numbers_that_are_no_rotation_are_refused_by_the_names_they_would_have(tmp_path: Path) -> None:
    write_pose(tmp_path / "raw" / "a.hdf5", np.full((12, 4), 0.9))
    names = [f"r{k}" for k in range(6)]
    reason = run(robot_of_poses(tmp_path / "raw", "3:7", names, "rotation_6d"), tmp_path / "home").reason("a.hdf5")
    assert "12 of 12 samples are no quaternion_wxyz" in reason
    assert "dimension r0, r1, r2, r3, r4, r5" in reason
    assert "/pose[3:7]" in reason
    assert "expected norm 1" in reason


def test_a_stream_of_another_width_than_the_recorded_form_says_what_is_read(tmp_path: Path) -> None:
    write_pose(tmp_path / "raw" / "a.hdf5", written(anywhere(12, 0), "quaternion_wxyz", "1"))
    names = [f"r{k}" for k in range(6)]
    reason = run(robot_of_poses(tmp_path / "raw", "4:", names, "rotation_6d"), tmp_path / "home").reason("a.hdf5")
    assert "expected 4: one quaternion_wxyz, to be written as r0, r1, r2, r3, r4, r5" in reason
