"""Two Flexiv Rizon arms with wrist cameras only, from their collector's HDF5 files and from a Zarr replay buffer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import ZipStore

from vla_ops_tests.recordings.pictures import frame_picture
from vla_ops_tests.recordings.zarr_files import put
from vla_ops_tests.robots.flexiv_motions import ROWS, STAMPS, START_S, Poses, angles_between, joints, largest_step, poses, turned
from vla_ops_tests.robots.hdf5_collectors import write_flexiv
from vla_ops_tests.robots.made import cameras, check_good, columns, mask, names, on_timeline, reason, tasks
from vla_ops_tests.robots.shipped import Ingestion, Shipped

type Make = Callable[[str], Shipped]

NAMES = [f"{side}_{name}" for side in ("left", "right") for name in ("x", "y", "z", "rx", "ry", "rz", "gripper")]
SLOTS = {"left_wrist_0_rgb": "cam_left_wrist", "right_wrist_0_rgb": "cam_right_wrist"}
CAMERAS = ("cam_left_wrist", "cam_right_wrist")


def arms(seed: int, rows: int = ROWS) -> tuple[Poses, Poses]:
    return poses(rows, 2 * seed), poses(rows, 2 * seed + 1)


def check_layout(done: Ingestion) -> None:
    """What both sources of this robot have in common."""
    assert names(done, "state") == names(done, "action") == NAMES
    assert mask(done) == [6, -1, 6, -1]
    assert done.robot.spec.camera_slots == SLOTS
    assert list(cameras(done)) == list(CAMERAS)


class TestHdf5:
    def test_two_recordings_become_a_dataset_of_two_poses_and_grippers(self, shipped: Make) -> None:
        robot = shipped("flexiv_bimanual")
        for k, text in enumerate(("fold the towel", "zip the bag")):
            file = robot.recordings / f"episode_20251009_10150{k}_{text.replace(' ', '_')}.hdf5"
            pose = np.concatenate([arm.stored for arm in arms(k)], axis=1)
            qpos = np.concatenate([joints(ROWS, 2 * k), joints(ROWS, 2 * k + 1)], axis=1)
            write_flexiv(file, qpos, pose, cameras=CAMERAS, task=text)
        done = robot.ingest()
        check_good(done, episodes=2)
        check_layout(done)
        assert tasks(done) == ["fold the towel", "zip the bag"]
        for episode in range(2):
            state, action = columns(done, episode, "state"), columns(done, episode, "action")
            for side, arm in zip(("left", "right"), arms(episode), strict=True):
                wanted = on_timeline(STAMPS, np.concatenate([arm.xyz, arm.gripper], axis=1), START_S, len(state["left_x"]) + 1, 50)
                for column, name in enumerate(("x", "y", "z", "gripper")):
                    np.testing.assert_allclose(state[f"{side}_{name}"], wanted[:-1, column], atol=1e-5, err_msg=f"{side} {name}")
                    np.testing.assert_allclose(action[f"{side}_{name}"], wanted[1:, column], atol=1e-5, err_msg=f"{side} {name}")
                rotated = turned(arm.rotations, STAMPS, START_S, len(state["left_x"]) + 1, 50)
                for values, rotations in ((state, rotated[:-1]), (action, rotated[1:])):
                    vectors = [values[f"{side}_{name}"] for name in ("rx", "ry", "rz")]
                    assert angles_between(vectors, rotations).max() < 1e-4
                    assert largest_step(vectors) < 0.3

    def test_an_older_file_of_rotation_vectors_is_too_narrow_or_no_quaternion(self, shipped: Make) -> None:
        robot = shipped("flexiv_bimanual")
        for k in range(2):
            pose = np.concatenate([part for arm in arms(k) for part in (arm.xyz, arm.rotations.as_rotvec(), arm.gripper)], axis=1)
            write_flexiv(robot.recordings / f"episode_{k}_a.hdf5", pose, pose, cameras=CAMERAS, task="fold the towel")
        done = robot.ingest()
        said = reason(done, "episode_0_a.hdf5")
        assert "no quaternion_wxyz" in said or "not as wide as the spec says" in said
        assert "left_rx" in said


def write_buffer(path: Path, episodes: list[tuple[Poses, Poses]]) -> None:
    """A zip as UMI's tools write it: Zarr 2, one JPEG-XL chunk an image, numbers not compressed."""
    from imagecodecs.numcodecs import register_codecs

    register_codecs(verbose=False)
    jpegxl = numcodecs.get_codec({"id": "imagecodecs_jpegxl", "level": 99, "distance": 0.3, "effort": 3})
    path.parent.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([len(left.xyz) for left, _ in episodes])
    with ZipStore(path, mode="w") as store:
        group = zarr.create_group(store, zarr_format=2)
        for i in range(2):
            for name, values in _numbers([episode[i] for episode in episodes]).items():
                put(group, f"data/robot{i}_{name}", values.astype(np.float32), chunk_rows=len(values), compressors=None)
            images = np.stack([frame_picture(k % 1024, camera=i) for k in range(ends[-1])])
            put(group, f"data/camera{i}_rgb", images, chunk_rows=1, compressors=jpegxl)
        put(group, "meta/episode_ends", ends.astype(np.int64), chunk_rows=len(ends), compressors=None)
    os.utime(path, (1_760_000_000, 1_760_000_000))


def _numbers(parts: list[Poses]) -> dict[str, npt.NDArray[np.float64]]:
    return {
        "eef_pos": np.concatenate([part.xyz for part in parts]),
        "eef_rot_axis_angle": np.concatenate([part.rotations.as_rotvec() for part in parts]),
        "gripper_width": np.concatenate([part.gripper for part in parts]),
    }


class TestZarr:
    def test_two_buffers_become_a_dataset_of_all_their_episodes(self, shipped: Make) -> None:
        robot = shipped("flexiv_bimanual_zarr")
        buffers = {"fold_the_towel": [arms(1, 80), arms(2, 100)], "zip_the_bag": [arms(3, 90)]}
        for task, episodes in buffers.items():
            write_buffer(robot.recordings / task / "dataset.zarr.zip", episodes)
        done = robot.ingest()
        check_good(done, episodes=3)
        check_layout(done)
        assert tasks(done) == ["fold the towel", "fold the towel", "zip the bag"]
        for episode, both in enumerate([*buffers["fold_the_towel"], *buffers["zip_the_bag"]]):
            state, action = columns(done, episode, "state"), columns(done, episode, "action")
            for side, arm in zip(("left", "right"), both, strict=True):
                assert len(state[f"{side}_x"]) == len(arm.xyz) - 1
                rows = np.concatenate([arm.xyz, arm.gripper], axis=1)
                for column, name in enumerate(("x", "y", "z", "gripper")):
                    np.testing.assert_allclose(state[f"{side}_{name}"], rows[:-1, column], atol=1e-6, err_msg=f"{side} {name}")
                    np.testing.assert_allclose(action[f"{side}_{name}"], rows[1:, column], atol=1e-6, err_msg=f"{side} {name}")
                for values, rotations in ((state, arm.rotations[:-1]), (action, arm.rotations[1:])):
                    vectors = [values[f"{side}_{name}"] for name in ("rx", "ry", "rz")]
                    assert angles_between(vectors, rotations).max() < 1e-5
                    assert largest_step(vectors) < 0.3

    def test_a_buffer_outside_a_task_folder_is_named(self, shipped: Make) -> None:
        robot = shipped("flexiv_bimanual_zarr")
        write_buffer(robot.recordings / "dataset.zarr.zip", [arms(1, 60)])
        write_buffer(robot.recordings / "zip_the_bag" / "dataset.zarr.zip", [arms(2, 60), arms(3, 60)])
        done = robot.ingest()
        assert list(done.failed) == ["every_recording_is_usable"]
        said = reason(done, "dataset.zarr.zip")
        assert "no folder to take the task from [file dataset.zarr.zip" in said
        assert tasks(done) == ["zip the bag"] * 2
