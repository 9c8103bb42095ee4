"""One Flexiv Rizon 4 in pose space: its quaternion becomes a rotation vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla_ops_tests.robots.flexiv_motions import (
    ONE_ARM_CAMERAS,
    ONE_ARM_TASKS,
    ROWS,
    STAMPS,
    START_S,
    angles_between,
    joints,
    largest_step,
    poses,
    record_one_arm,
    turned,
)
from vla_ops_tests.robots.hdf5_collectors import write_flexiv
from vla_ops_tests.robots.made import check_good, columns, mask, names, on_timeline, reason, tasks
from vla_ops_tests.robots.shipped import Shipped

type Make = Callable[[str], Shipped]


def test_in_pose_space_its_quaternion_becomes_a_rotation_vector_that_does_not_jump(shipped: Make) -> None:
    robot = shipped("flexiv_pose")
    record_one_arm(robot)
    done = robot.ingest()
    check_good(done, episodes=2)
    order = ["x", "y", "z", "rx", "ry", "rz", "gripper"]
    assert names(done, "state") == names(done, "action") == order
    assert mask(done) == [6, -1]
    assert done.robot.spec.camera_slots == {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist"}
    assert tasks(done) == ONE_ARM_TASKS
    for episode in range(2):
        pose = poses(ROWS, episode)
        state, action = columns(done, episode, "state"), columns(done, episode, "action")
        frames = len(state["x"]) + 1
        wanted = on_timeline(STAMPS, np.concatenate([pose.xyz, pose.gripper], axis=1), START_S, frames, 50)
        for column, name in enumerate(("x", "y", "z", "gripper")):
            np.testing.assert_allclose(state[name], wanted[:-1, column], atol=1e-5, err_msg=name)
            np.testing.assert_allclose(action[name], wanted[1:, column], atol=1e-5, err_msg=name)
        rotated = turned(pose.rotations, STAMPS, START_S, frames, 50)
        for values, rotations in ((state, rotated[:-1]), (action, rotated[1:])):
            vectors = [values[name] for name in ("rx", "ry", "rz")]
            assert angles_between(vectors, rotations).max() < 1e-4
            assert largest_step(vectors) < 0.3


def test_a_quaternion_with_w_last_is_told_from_the_data(shipped: Make) -> None:
    robot = shipped("flexiv_pose")
    for k in range(2):
        rows = poses(ROWS, k, tilt=0.05, heading=1.6).stored[:, [0, 1, 2, 4, 5, 6, 3, 7]]
        write_flexiv(robot.recordings / f"episode_{k}_a.hdf5", joints(ROWS, k), rows, cameras=ONE_ARM_CAMERAS, task="insert the peg")
    said = robot.ingest().failed["measured_rotations"]
    assert said is not None
    assert "quaternion_xyzw" in said
    assert "rx" in said


def test_a_post_processed_pose_read_as_the_recorded_one_is_no_quaternion(shipped: Make) -> None:
    robot = shipped("flexiv_pose")
    for k in range(2):
        pose = poses(ROWS, k)
        seven = np.concatenate([pose.xyz, pose.rotations.as_rotvec(), pose.gripper], axis=1)
        write_flexiv(robot.recordings / f"episode_{k}_a.hdf5", joints(ROWS, k), seven, cameras=ONE_ARM_CAMERAS, task="insert the peg")
    done = robot.ingest()
    said = reason(done, "episode_0_a.hdf5")
    assert "samples are no quaternion_wxyz" in said
    assert "dimension rx, ry, rz" in said
    assert "stream /observations/pose[3:7]" in said
