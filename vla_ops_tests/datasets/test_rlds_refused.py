"""What an RLDS view is not made of, each named, with nothing half-made left behind."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.rlds import write_rlds
from vla_ops.errors import DatasetError, SchemaMismatchError, SpecError
from vla_ops_tests.datasets.episode_folders import spec, write_episodes, write_frames, write_video
from vla_ops_tests.datasets.rlds_reading import KIND, LENGTHS, SETTINGS, SPEC, views


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("episodes"), LENGTHS, kind=KIND)


@pytest.fixture
def own_episodes(tmp_path):
    """Episodes that a test may damage."""
    return write_episodes(tmp_path / "episodes", LENGTHS[:2], kind=KIND)


def test_a_video_shorter_than_its_episode_is_named_with_both_numbers(own_episodes, tmp_path):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", own_episodes, spec=SPEC, robot="Arm")
    write_video(own_episodes[1].video("cam_left"), 0, LENGTHS[1] - 2, KIND)
    said = f"episode rec_1/0, stream cam_left.*found {LENGTHS[1] - 2} frames decoded; expected {LENGTHS[1]} frames"
    with pytest.raises(DatasetError, match=said):
        write_rlds(tmp_path / "rlds", v30.folder, own_episodes, spec=SPEC, robot="Arm", settings=SETTINGS)
    assert not [path for path in (tmp_path / "rlds").rglob("*") if path.is_file()]


@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_video_that_cannot_be_decoded_is_named(damage, own_episodes, tmp_path):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", own_episodes, spec=SPEC, robot="Arm")
    path = own_episodes[1].video("cam_right")
    whole = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    with pytest.raises(DatasetError, match=f"cannot be decoded.*{path}.*episode rec_1/0, stream cam_right"):
        write_rlds(tmp_path / "rlds", v30.folder, own_episodes, spec=SPEC, robot="Arm", settings=SETTINGS)


def test_frames_that_are_not_the_episodes_are_refused_by_name(own_episodes, tmp_path):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", own_episodes, spec=SPEC, robot="Arm")
    episode = own_episodes[1]
    wrong = {
        "differ in length.*rec_1/0.*found 8 rows; expected 9 frames": (8, 3, DatasetError),
        "not as wide.*rec_1/0.*found 2 numbers a row; expected 3: j1, j2, gripper": (9, 2, SchemaMismatchError),
    }
    for said, (rows, width, error) in wrong.items():
        write_frames(episode.frames, np.zeros((rows, width), np.float32), np.zeros((rows, width), np.float32), KIND.rate_hz)
        with pytest.raises(error, match=said):
            write_rlds(tmp_path / "rlds", v30.folder, own_episodes, spec=SPEC, robot="Arm", settings=SETTINGS)


def test_cameras_without_roles_are_refused_before_anything_is_written(episodes, tmp_path):
    with pytest.raises(SpecError, match=r"needs a camera with a role.*cam_high, cam_left"):
        views(tmp_path, episodes[:1], spec=spec(KIND))
    assert not (tmp_path / "rlds").exists()


def test_other_episodes_than_those_of_the_v30_dataset_are_refused_by_name(episodes, tmp_path):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", episodes, spec=SPEC, robot="Arm")
    with pytest.raises(DatasetError, match=f"not among them: {episodes[4].id}"):
        write_rlds(tmp_path / "rlds", v30.folder, episodes[:4], spec=SPEC, robot="Arm")


def test_a_damaged_record_is_not_copied_into_another_shard(episodes, tmp_path):
    _, view = views(tmp_path, episodes[:2])
    (path,) = view.dataset.glob("*.tfrecord-*")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3] ^= 1
    path.chmod(0o644)
    path.write_bytes(whole)
    with pytest.raises(DatasetError, match=f"checksum.*Delete {path}|{path}.*checksum"):
        views(tmp_path, episodes[:3])
    path.unlink()
    assert views(tmp_path, episodes[:3])[1].encoded == 3
