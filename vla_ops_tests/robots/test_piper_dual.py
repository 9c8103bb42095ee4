"""Two AgileX Pipers as Cobot Magic records them, and with the lines in the header as the openpi forks and the ROS 2 writer do."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla_ops_tests.robots.hdf5_collectors import clock, write_cobot_magic, write_piper, write_piper_ros2
from vla_ops_tests.robots.made import cameras, check_good, check_rows, columns, mask, names, on_timeline, reason, tasks
from vla_ops_tests.robots.shipped import Motion, Shipped, reach
from vla_ops_tests.robots.variants import write_instead

type Make = Callable[[str], Shipped]

ARM = [(-2.6, 2.6), (0.0, 3.14), (-2.9, 0.0), (-1.7, 1.7), (-1.2, 1.2), (-2.0, 2.0), (0.0, 0.07)]
NAMES = [f"{side}_{name}" for side in ("left", "right") for name in ("j1", "j2", "j3", "j4", "j5", "j6", "gripper")]
ROWS = 120
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def both_arms(seed: int) -> Motion:
    return reach([*ARM, *ARM], ROWS, seed=seed)


def test_cobot_magic_becomes_a_dataset_of_fourteen_dimensions_led_by_the_leaders(shipped: Make) -> None:
    robot = shipped("piper_dual")
    motions = {"fold_the_towel": both_arms(1), "hand_over": both_arms(2)}
    for k, (task, motion) in enumerate(motions.items()):
        file = robot.recordings / task / "episode_0.hdf5"
        write_cobot_magic(file, motion.state, motion.command, cameras=CAMERAS, compress=k == 1)
    done = robot.ingest()
    check_good(done, episodes=2)
    assert names(done, "state") == names(done, "action") == NAMES
    assert mask(done) == [6, -1, 6, -1]
    assert done.robot.spec.camera_slots == {
        "base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist", "right_wrist_0_rgb": "cam_right_wrist",
    }  # fmt: skip
    assert cameras(done) == {camera: [48, 80, 3] for camera in CAMERAS}
    assert tasks(done) == ["fold the towel", "hand over"]
    check_rows(done, motions.values(), NAMES)


def test_the_forks_two_armed_files_are_read_with_the_lines_in_the_header(shipped: Make) -> None:
    robot = shipped("piper_dual")
    times = 'times: {"*": /observations/timestamps/robot}'
    write_instead(robot, "source_rate_hz: 30", times, told=times)
    write_instead(robot, "task: {from: folder}", "task: {from: recording}", told="task: {from: recording}")
    for k in range(2):
        file = robot.recordings / f"episode_2025100{k}_101500_pour_water.hdf5"
        write_piper(file, both_arms(k).state, cameras=CAMERAS, task="pour water", rate_hz=30)
    done = robot.ingest()
    check_good(done, episodes=2)
    assert tasks(done) == ["pour water"] * 2
    assert names(done, "action") == NAMES
    rows = both_arms(0).state
    stamps = clock(ROWS, 30, late_s=0.002, seed=1)
    state = columns(done, 0, "state")
    wanted = on_timeline(stamps, rows, stamps[0], len(state["left_j1"]), 30)
    np.testing.assert_allclose(state["right_j3"], wanted[:, 9], atol=1e-5)


def test_the_ros_2_writers_files_are_read_and_crashed_or_badly_stamped_ones_are_not(shipped: Make) -> None:
    robot = shipped("piper_dual")
    times = 'times: {"*": /observations/timestamp}'
    write_instead(robot, "source_rate_hz: 30", times, told=times)
    write_instead(robot, "/observations/qpos[", "/observations/state[", told="source: /observations/state[0:6]", count=4)
    folder = robot.recordings / "stack_the_bowls"
    for k in range(2):
        motion = both_arms(k)
        write_piper_ros2(folder / f"episode_{k}.hdf5", motion.state, motion.command, cameras=CAMERAS)
    motion = both_arms(2)
    write_piper_ros2(folder / "episode_2.hdf5", motion.state, motion.command, cameras=CAMERAS, start_s=1_760_000_000)
    write_piper_ros2(folder / "episode_3.hdf5.partial", motion.state, motion.command, cameras=CAMERAS)
    done = robot.ingest()
    assert list(done.failed) == ["every_recording_is_usable"]
    assert tasks(done) == ["stack the bowls"] * 2
    np.testing.assert_allclose(columns(done, 1, "state")["right_gripper"], both_arms(1).state[:, 13], atol=1e-5)
    np.testing.assert_allclose(columns(done, 1, "action")["left_j1"], both_arms(1).command[:, 0], atol=1e-5)
    said = reason(done, "stack_the_bowls/episode_2.hdf5")
    assert "float32 cannot hold these times: neighbouring values are 128 s apart" in said
    assert "/observations/timestamp" in said
    assert "leave it out and set `recordings.source_rate_hz`" in said
    assert not done.store.quarantine_file("stack_the_bowls/episode_3.hdf5.partial").exists()
    assert not done.episodes("stack_the_bowls/episode_3.hdf5.partial")
