"""LIBERO and robomimic as they are shipped, on demonstrations as their own scripts write them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np

from vla_ops_tests.recordings.pictures import Picture, frame_number
from vla_ops_tests.robots.alone import refusal
from vla_ops_tests.robots.demo_files import Demo, demo, write_libero, write_robomimic
from vla_ops_tests.robots.made import cameras, check_good, mask, matrix, names, norm_stats, tasks
from vla_ops_tests.robots.shipped import Ingestion, Shipped

type Ship = Callable[[str], Shipped]

DELTAS = ["dx", "dy", "dz", "drx", "dry", "drz", "gripper"]


def pictures(done: Ingestion, recording: str, camera: str) -> list[Picture]:
    """The frames of a camera in the first episode of a recording."""
    import av

    container = av.open(str(done.episodes(recording)[0].video(camera)))
    with contextlib.closing(container):
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


class TestLibero:
    FILE = "libero_spatial/pick_up_the_black_bowl_demo.hdf5"

    def test_demonstrations_become_a_dataset_in_which_each_frame_has_the_action_that_follows_it(self, shipped: Ship):
        robot = shipped("libero")
        demos = {"demo_0": demo(64, seed=1), "demo_1": demo(70, seed=2)}
        write_libero(robot.recordings / self.FILE, "pick up the black bowl and place it on the plate", demos)
        write_libero(robot.recordings / "libero_goal/turn_on_the_stove_demo.hdf5", "turn on the stove", {"demo_0": demo(61, seed=3)})
        done = robot.ingest()
        check_good(done, episodes=3)
        assert names(done, "state") == ["x", "y", "z", "rx", "ry", "rz", "gripper_finger_1", "gripper_finger_2"]
        assert names(done, "action") == DELTAS
        assert tasks(done) == ["turn on the stove", *["pick up the black bowl and place it on the plate"] * 2]
        assert cameras(done) == {"agentview": [128, 128, 3], "wrist": [128, 128, 3]}
        assert done.robot.spec.camera_slots == {"base_0_rgb": "agentview", "left_wrist_0_rgb": "wrist"}
        for episode, made in enumerate(demos.values(), start=1):
            # The pose of a frame is the one before the action beside it, and the pose after it is in the next frame.
            poses = np.concatenate([made.position, made.rotation.as_rotvec(), made.fingers], axis=1)[1:-1]
            np.testing.assert_allclose(matrix(done, episode, "state"), poses, atol=1e-5)
            np.testing.assert_allclose(matrix(done, episode, "action"), made.actions[1:], atol=1e-6)

    def test_nothing_is_subtracted_from_actions_that_are_deltas_already(self, shipped: Ship):
        robot = shipped("libero")
        made = demo(64, seed=1)
        write_libero(robot.recordings / self.FILE, "pick up the bowl", {"demo_0": made})
        done = robot.ingest()
        assert mask(done) == [-7]
        # Chunks of 10 that end with the episode repeat its last action.
        chunks = np.minimum(np.arange(63)[:, None] + np.arange(10), 62)
        np.testing.assert_allclose(norm_stats(done)["actions"]["mean"], made.actions[1:][chunks].mean(axis=(0, 1)), atol=1e-5)

    def test_images_stay_as_the_simulator_renders_them_upside_down(self, shipped: Ship):
        robot = shipped("libero")
        write_libero(robot.recordings / self.FILE, "pick up the bowl", {"demo_0": demo(64, seed=1)})
        done = robot.ingest()
        assert [frame_number(picture[::-1]) for picture in pictures(done, self.FILE, "wrist")] == list(range(63))

    def test_a_file_whose_images_are_upright_is_not_mixed_with_the_others(self, shipped: Ship):
        robot = shipped("libero")
        write_libero(robot.recordings / self.FILE, "pick up the bowl", {"demo_0": demo(64, seed=1)}, convention="opencv")
        said = refusal(robot, self.FILE)
        assert "found attrs.macros_image_convention 'opencv'; expected 'opengl'" in said


class TestRobomimic:
    FILE = "lift_the_cube/image_v141.hdf5"

    def test_demonstrations_become_a_dataset_with_the_folder_as_the_task(self, shipped: Ship):
        robot = shipped("robomimic")
        demos: dict[str, Demo] = {"demo_1": demo(64, seed=1), "demo_10": demo(66, seed=2)}
        write_robomimic(robot.recordings / self.FILE, demos)
        done = robot.ingest()
        check_good(done, episodes=2)
        fingers = ["gripper_finger_1", "gripper_finger_2"]
        assert names(done, "state") == ["x", "y", "z", "qx", "qy", "qz", "qw", *fingers]
        assert names(done, "action") == DELTAS
        assert mask(done) == [-7]
        assert tasks(done) == ["lift the cube"] * 2
        assert cameras(done) == {"agentview": [84, 84, 3], "wrist": [84, 84, 3]}
        assert done.robot.spec.camera_slots == {"base_0_rgb": "agentview", "left_wrist_0_rgb": "wrist"}
        assert [frame_number(picture) for picture in pictures(done, self.FILE, "agentview")] == list(range(64))
        for episode, made in enumerate(demos.values()):
            quaternions = made.rotation.as_quat()
            quaternions *= np.sign(np.sum(quaternions * quaternions[:1], axis=1, keepdims=True))
            state = matrix(done, episode, "state")
            np.testing.assert_allclose(state[:, [0, 1, 2, 7, 8]], np.concatenate([made.position, made.fingers], axis=1)[:-1], atol=1e-5)
            np.testing.assert_allclose(np.abs(np.sum(state[:, 3:7] * quaternions[:-1], axis=1)), 1, atol=1e-5)
            np.testing.assert_allclose(matrix(done, episode, "action"), made.actions, atol=1e-6)

    def test_demonstrations_of_two_arms_are_left_out_by_name(self, shipped: Ship):
        robot = shipped("robomimic")
        write_robomimic(robot.recordings / self.FILE, {"demo_1": demo(64, seed=1)}, robots=["Panda", "Panda"])
        said = refusal(robot, self.FILE)
        assert "found attrs.env_args.env_kwargs.robots 'Panda, Panda'; expected 'Panda'" in said

    def test_a_file_without_images_is_left_out_with_what_it_has(self, shipped: Ship):
        robot = shipped("robomimic")
        write_robomimic(robot.recordings / self.FILE, {"demo_1": demo(64, seed=1)}, images=False)
        said = refusal(robot, self.FILE)
        assert "no stream 'obs/agentview_image' in the recording" in said
        assert "obs/robot0_eef_pos" in said
