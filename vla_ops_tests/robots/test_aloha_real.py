"""ALOHA as ACT and Mobile ALOHA record it: fourteen dimensions led by the leaders, four cameras, the task as the folder's name."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from vla_ops_tests.robots.hdf5_collectors import write_aloha_real
from vla_ops_tests.robots.made import cameras, check_good, check_rows, mask, names, norm_stats, reason, tasks
from vla_ops_tests.robots.shipped import Motion, Shipped, reach
from vla_ops_tests.robots.variants import write_instead

type Make = Callable[[str], Shipped]

ARM = [(-1.0, 1.0), (-1.6, 0.6), (-0.6, 1.5), (-1.2, 1.2), (-1.6, 1.6), (-1.5, 1.5), (0.02, 0.98)]
JOINTS = ["waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper"]
NAMES = [f"{side}_{joint}" for side in ("left", "right") for joint in JOINTS]
CAMERAS = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
ROWS = 100


def motion(seed: int) -> Motion:
    # At 50 Hz a follower is some 100 ms behind its leader.
    return reach([*ARM, *ARM], ROWS, seed=seed, lag=0.2)


def test_two_tasks_become_a_dataset_of_fourteen_dimensions_and_four_cameras(shipped: Make) -> None:
    robot = shipped("aloha_real")
    motions = {"open_the_cup": motion(1), "transfer_the_tape": motion(2)}
    for k, (task, moved) in enumerate(motions.items()):
        write_aloha_real(robot.recordings / task / "episode_0.hdf5", moved.state, moved.command, cameras=CAMERAS, compress=k == 1)
    done = robot.ingest()
    check_good(done, episodes=2)
    assert names(done, "state") == names(done, "action") == NAMES
    assert mask(done) == [6, -1, 6, -1]
    assert done.robot.spec.camera_slots == {
        "base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist", "right_wrist_0_rgb": "cam_right_wrist",
    }  # fmt: skip
    assert cameras(done) == {camera: [48, 80, 3] for camera in CAMERAS}
    assert tasks(done) == ["open the cup", "transfer the tape"]
    check_rows(done, motions.values(), NAMES)


def test_norm_stats_are_in_pis_space_until_it_is_switched_off_and_the_dataset_never_is(shipped: Make) -> None:
    robot = shipped("aloha_real")
    for k in range(2):
        moved = motion(k)
        write_aloha_real(robot.recordings / "open_the_cup" / f"episode_{k}.hdf5", moved.state, moved.command, cameras=CAMERAS)
    adapted = robot.ingest()
    check_good(adapted, episodes=2)
    in_pis, first = norm_stats(adapted), adapted.norm_stats
    write_instead(robot, "adapt_to_pi: true", "adapt_to_pi: false", told="norm_stats.adapt_to_pi")
    plain = robot.ingest()
    assert plain.failed == {}
    assert plain.dataset == adapted.dataset
    (path,) = {*plain.store.root.glob("norm_stats/*/norm_stats.json")} - {first}
    as_it_is = json.loads(path.read_text())["norm_stats"]
    for vector in ("state", "actions"):
        with_pi, without = (dict(zip(NAMES, stats[vector]["mean"], strict=True)) for stats in (in_pis, as_it_is))
        for name in NAMES:
            if "gripper" in name:
                assert abs(with_pi[name] - without[name]) > 0.01, name
            else:
                sign = -1 if "shoulder" in name or "elbow" in name else 1
                assert np.isclose(with_pi[name], sign * without[name], rtol=1e-3, atol=1e-6), name


def test_mobile_alohas_three_cameras_and_a_file_outside_a_task_folder_are_named(shipped: Make) -> None:
    robot = shipped("aloha_real")
    for k, file in enumerate(("open_the_cup/episode_0.hdf5", "episode_1.hdf5", "open_the_cup/episode_2.hdf5")):
        moved = motion(k)
        write_aloha_real(robot.recordings / file, moved.state, moved.command, cameras=[c for c in CAMERAS if k or c != "cam_low"])
    done = robot.ingest()
    assert list(done.failed) == ["every_recording_is_usable"]
    said = reason(done, "open_the_cup/episode_0.hdf5")
    assert "/observations/images/cam_low" in said
    assert "/observations/images/cam_high" in said, "the cameras that are there are named"
    said = reason(done, "episode_1.hdf5")
    assert "no folder to take the task from [file episode_1.hdf5" in said
    assert "Put the recording in a folder named after its task" in said
    assert tasks(done) == ["open the cup"]
