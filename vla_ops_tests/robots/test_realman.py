"""RealMan arms in RDT's wide layout: one arm with inst.txt in each task folder, two arms with the task in each file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vla_ops_tests.robots.hdf5_collectors import wide, write_realman
from vla_ops_tests.robots.made import cameras, check_good, columns, mask, names, reason, tasks
from vla_ops_tests.robots.shipped import Float64, Shipped, reach
from vla_ops_tests.robots.variants import write_instead

type Make = Callable[[str], Shipped]

RM75_DEG = (178, 130, 178, 135, 178, 128, 360)
ARM = [*((-np.radians(angle), np.radians(angle)) for angle in RM75_DEG), (0.0, 1.0)]
DUAL_CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
SINGLE_CAMERAS = ("cam_high", "cam_right_wrist")
# 8 s at 30 Hz are 80 frames at 10 Hz.
ROWS = 240


def arm(seed: int) -> Float64:
    return reach(ARM, ROWS, seed=seed).state.astype(np.float32).astype(np.float64)


def thirds(rows: Float64) -> Float64:
    """What a 10 Hz timeline takes of 30 Hz."""
    return rows[::3]


class TestTwoArms:
    def test_two_recordings_become_a_dataset_of_sixteen_dimensions(self, shipped: Make) -> None:
        robot = shipped("realman_dual")
        right, left = [arm(1), arm(3)], [arm(2), arm(4)]
        for k, text in enumerate(("hand over the bottle", "open the box with both arms")):
            file = robot.recordings / "day1" / f"episode_{k}.hdf5"
            write_realman(file, wide(right[k], left[k]), cameras=DUAL_CAMERAS, images=("raw", "jpeg_padded")[k], task=text)  # pyright: ignore[reportArgumentType]
        done = robot.ingest()
        check_good(done, episodes=2)
        order = [*(f"r{j}" for j in range(1, 8)), "gr", *(f"l{j}" for j in range(1, 8)), "gl"]
        assert names(done, "state") == names(done, "action") == order
        assert mask(done) == [7, -1, 7, -1]
        assert done.robot.spec.timeline.rate_hz == 10
        assert done.robot.spec.camera_slots == {
            "base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist", "right_wrist_0_rgb": "cam_right_wrist",
        }  # fmt: skip
        assert cameras(done) == {camera: [48, 80, 3] for camera in DUAL_CAMERAS}
        assert tasks(done) == ["hand over the bottle", "open the box with both arms"]
        for k in range(2):
            both = np.concatenate([thirds(right[k]), thirds(left[k])], axis=1)
            state, action = columns(done, k, "state"), columns(done, k, "action")
            for column, name in enumerate(order):
                np.testing.assert_allclose(state[name], both[:-1, column], atol=1e-6, err_msg=name)
                np.testing.assert_allclose(action[name], both[1:, column], atol=1e-6, err_msg=name)

    def test_the_action_that_is_stored_stands_still_and_is_refused(self, shipped: Make) -> None:
        robot = shipped("realman_dual")
        parts = "\n".join(
            f'    - {{source: "/action{place}", names: [{", ".join(names)}], unit: {unit}, kind: {kind}}}'
            for place, names, unit, kind in (
                ("[0:7]", [f"r{j}" for j in range(1, 8)], "rad", "joint"), ("[10]", ["gr"], "ratio", "gripper"),
                ("[50:57]", [f"l{j}" for j in range(1, 8)], "rad", "joint"), ("[60]", ["gl"], "ratio", "gripper"),
            )
        )  # fmt: skip
        write_instead(robot, "  action: {from: next_state}", f"  action:\n{parts}")
        for k in range(2):
            write_realman(robot.recordings / f"episode_{k}.hdf5", wide(arm(k), arm(k + 5)), cameras=DUAL_CAMERAS, task="pour the water")
        said = robot.ingest().failed["measured_actions"]
        assert said is not None
        assert "action r1: the state of the same frame" in said
        assert "action: {from: next_state}" in said


class TestOneArm:
    def test_two_tasks_become_a_dataset_of_seven_joints_and_a_gripper_in_liberos_slots(self, shipped: Make) -> None:
        robot = shipped("realman_single")
        arms = {"pick_cup": arm(1), "wipe_table": arm(2)}
        for folder, rows in arms.items():
            write_realman(robot.recordings / folder / "episode_0.hdf5", wide(rows), cameras=SINGLE_CAMERAS)
        (robot.recordings / "pick_cup" / "inst.txt").write_text("1. \u200bPick up the cup.\n2. Lift the cup.\n", encoding="utf-8")
        (robot.recordings / "wipe_table" / "inst.txt").write_text("\n1、擦桌子\n", encoding="utf-8")
        done = robot.ingest()
        check_good(done, episodes=2)
        order = [*(f"j{j}" for j in range(1, 8)), "gripper"]
        assert names(done, "state") == names(done, "action") == order
        assert mask(done) == [7, -1]
        assert done.robot.spec.camera_slots == {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_wrist"}
        assert tasks(done) == ["Pick up the cup.", "擦桌子"]
        for k, rows in enumerate(arms.values()):
            state, action = columns(done, k, "state"), columns(done, k, "action")
            for column, name in enumerate(order):
                np.testing.assert_allclose(state[name], thirds(rows)[:-1, column], atol=1e-6, err_msg=name)
                np.testing.assert_allclose(action[name], thirds(rows)[1:, column], atol=1e-6, err_msg=name)

    def test_a_folder_without_inst_txt_is_named(self, shipped: Make) -> None:
        robot = shipped("realman_single")
        for folder in ("pick_cup", "wipe_table"):
            write_realman(robot.recordings / folder / "episode_0.hdf5", wide(arm(len(folder))), cameras=SINGLE_CAMERAS)
        (robot.recordings / "pick_cup" / "inst.txt").write_text("1. pick the cup")
        done = robot.ingest()
        said = reason(done, "wipe_table/episode_0.hdf5")
        assert "no task text: No such file or directory [file wipe_table/episode_0.hdf5" in said
        assert f"expected {robot.recordings / 'wipe_table' / 'inst.txt'}" in said
        assert tasks(done) == ["pick the cup"]


@pytest.mark.parametrize("name", ["realman_single", "realman_dual"])
def test_gripper_and_joint_columns_are_those_of_the_wide_layout(shipped: Make, name: str) -> None:
    from vla_ops.robot_file import load_robot

    parts = load_robot(shipped(name).folder).spec.state
    assert [part.source.removeprefix("/observations/qpos") for part in parts] == ["[0:7]", "[10]", "[50:57]", "[60]"][: len(parts)]
