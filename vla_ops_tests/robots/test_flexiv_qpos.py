"""One Flexiv Rizon 4 in joint space."""

from __future__ import annotations

from collections.abc import Callable

import h5py
import numpy as np

from vla_ops_tests.robots.flexiv_motions import ONE_ARM_CAMERAS, ONE_ARM_TASKS, ROWS, STAMPS, START_S, joints, record_one_arm
from vla_ops_tests.robots.made import cameras, check_good, columns, mask, names, on_timeline, reason, tasks
from vla_ops_tests.robots.shipped import Shipped
from vla_ops_tests.robots.variants import write_instead

type Make = Callable[[str], Shipped]


def test_in_joint_space_it_has_seven_joints_and_a_gripper(shipped: Make) -> None:
    robot = shipped("flexiv_qpos")
    record_one_arm(robot)
    done = robot.ingest()
    check_good(done, episodes=2)
    order = [*(f"j{j}" for j in range(1, 8)), "gripper"]
    assert names(done, "state") == names(done, "action") == order
    assert mask(done) == [7, -1]
    assert done.robot.spec.camera_slots == {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist"}
    assert cameras(done) == {camera: [48, 80, 3] for camera in ONE_ARM_CAMERAS}
    assert tasks(done) == ONE_ARM_TASKS
    for episode in range(2):
        state, action = columns(done, episode, "state"), columns(done, episode, "action")
        wanted = on_timeline(STAMPS, joints(ROWS, episode), START_S, len(state["j1"]) + 1, 50)
        for column, name in enumerate(order):
            np.testing.assert_allclose(state[name], wanted[:-1, column], atol=1e-5, err_msg=name)
            np.testing.assert_allclose(action[name], wanted[1:, column], atol=1e-5, err_msg=name)


def test_a_file_without_stamps_is_named_with_what_it_lacks(shipped: Make) -> None:
    robot = shipped("flexiv_qpos")
    record_one_arm(robot)
    first = sorted(robot.recordings.iterdir())[0]
    with h5py.File(first, "r+") as file:
        del file["/observations/timestamps"]
    write_instead(robot, "pattern:", "settle_s: 0\n    pattern:")
    done = robot.ingest()
    assert list(done.failed) == ["every_recording_is_usable"]
    assert "/observations/timestamps/robot" in reason(done, first.name)
    assert tasks(done) == ONE_ARM_TASKS[1:]
