"""UMI and Push-T as they are shipped, on Zarr replay buffers as they are published."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vla_ops_tests.recordings.pictures import frame_number
from vla_ops_tests.robots.alone import convert_alone, refusal
from vla_ops_tests.robots.buffer_files import cut_pusht, write_umi
from vla_ops_tests.robots.made import cameras, check_good, mask, matrix, names, tasks
from vla_ops_tests.robots.shipped import Ingestion, Shipped

type Ship = Callable[[str], Shipped]

PUSHT = "zarr/pusht_cchi_v7_replay.zarr.zip"


TASK = "put_the_cup_on_the_saucer"


def in_task(robot: Shipped) -> Path:
    """The folder of a task, whose name is the prompt."""
    folder = robot.recordings / TASK
    folder.mkdir(exist_ok=True)
    return folder


class TestUmi:
    def test_every_third_row_is_a_frame_whose_action_is_the_next_ones_pose(self, shipped: Ship):
        robot = shipped("umi")
        rows = write_umi(in_task(robot) / "dataset.zarr.zip", [190, 200])
        done = robot.ingest()
        check_good(done, episodes=2)
        assert names(done, "state") == names(done, "action") == ["x", "y", "z", "rx", "ry", "rz", "gripper"]
        assert mask(done) == [6, -1]
        assert tasks(done) == ["put the cup on the saucer"] * 2
        assert cameras(done) == {"camera0": [64, 80, 3]}
        assert done.robot.spec.camera_slots == {"left_wrist_0_rgb": "camera0"}
        for episode, poses in enumerate(rows):
            np.testing.assert_allclose(matrix(done, episode, "state"), poses[::3][:-1], atol=1e-5)
            np.testing.assert_allclose(matrix(done, episode, "action"), poses[::3][1:], atol=1e-5)
        assert shown(done, f"{TASK}/dataset.zarr.zip") == [list(range(0, 190, 3))[:-1], list(range(0, 200, 3))[:-1]]

    def test_one_hand_of_a_buffer_of_two_is_read(self, shipped: Ship, recordings_dir: Path):
        robot = shipped("umi")
        shutil.copy(recordings_dir / "zarr" / "umi_bimanual.zarr.zip", in_task(robot))
        _, episodes = convert_alone(robot, f"{TASK}/umi_bimanual.zarr.zip")
        # 35, 50 and 28 rows: a third of them, and the last pose has no next one.
        assert [e.meta.length for e in episodes] == [11, 16, 9]

    def test_a_buffer_of_another_robot_is_left_out_with_what_it_has(self, shipped: Ship, recordings_dir: Path):
        robot = shipped("umi")
        cut_pusht(recordings_dir / PUSHT, in_task(robot) / "a.zarr.zip", 1)
        said = refusal(robot, f"{TASK}/a.zarr.zip")
        assert "no stream 'data/robot0_eef_pos' in the recording" in said
        assert "data/action, data/img" in said


def shown(done: Ingestion, recording: str) -> list[list[int]]:
    """The numbers of the rows that the frames of each episode show."""
    import av

    found = []
    for episode in done.episodes(recording):
        with av.open(str(episode.video("camera0"))) as container:
            found.append([frame_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)])
    return found


class TestPusht:
    def test_published_episodes_become_a_dataset_of_targets_in_pixels(self, shipped: Ship, recordings_dir: Path):
        robot = shipped("pusht")
        state, action = cut_pusht(recordings_dir / PUSHT, robot.recordings / "pusht.zarr.zip", 3)
        done = robot.ingest()
        check_good(done, episodes=3)
        assert names(done, "state") == ["agent_x", "agent_y", "block_x", "block_y", "block_angle"]
        assert names(done, "action") == ["agent_x", "agent_y"]
        assert mask(done) == [-2]
        assert tasks(done) == ["push the T-shaped block onto the T-shaped target"] * 3
        assert cameras(done) == {"top": [96, 96, 3]}
        assert done.robot.spec.camera_slots == {"base_0_rgb": "top"}
        for episode in range(3):
            np.testing.assert_allclose(matrix(done, episode, "state"), state[episode], atol=1e-4)
            np.testing.assert_allclose(matrix(done, episode, "action"), action[episode], atol=1e-4)

    def test_the_published_zip_with_its_folders_inside_is_refused_with_where_things_are(self, shipped: Ship, recordings_dir: Path):
        robot = shipped("pusht")
        with (
            zipfile.ZipFile(recordings_dir / PUSHT) as published,
            zipfile.ZipFile(robot.recordings / "pusht.zarr.zip", "w") as nested,
        ):
            for name in published.namelist():
                nested.writestr(f"pusht/pusht_cchi_v7_replay.zarr/{name}", published.read(name))
        said = refusal(robot, "pusht.zarr.zip")
        assert "no stream 'data/state' in the recording" in said
        assert "pusht_cchi_v7_replay.zarr/data/state" in said
