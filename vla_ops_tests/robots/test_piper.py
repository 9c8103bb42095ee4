"""One AgileX Piper as the openpi forks record it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla_ops_tests.robots.hdf5_collectors import clock, next_rows, write_piper
from vla_ops_tests.robots.made import cameras, check_good, columns, mask, names, on_timeline, tasks, warnings
from vla_ops_tests.robots.shipped import Float64, Shipped, reach

type Make = Callable[[str], Shipped]

ARM = [(-2.6, 2.6), (0.0, 3.14), (-2.9, 0.0), (-1.7, 1.7), (-1.2, 1.2), (-2.0, 2.0), (0.0, 0.07)]
NAMES = [*(f"j{j}" for j in range(1, 7)), "gripper"]
ROWS = 120
CAMERAS = ("cam_high", "cam_left_wrist")


def arm(seed: int) -> Float64:
    return reach(ARM, ROWS, seed=seed).state


def test_two_recordings_become_a_dataset_of_six_joints_and_a_gripper(shipped: Make) -> None:
    robot = shipped("piper")
    arms = [arm(1), arm(2)]
    files = ("episode_20251009_101500_put_the_cup_on_the_plate.hdf5", "day2/episode_20251010_090000_close_the_drawer.hdf5")
    texts = ["put the cup on the plate", "close the drawer"]
    for file, rows, text in zip(files, arms, texts, strict=True):
        write_piper(robot.recordings / file, rows, cameras=CAMERAS, task=text)
    done = robot.ingest()
    check_good(done, episodes=2)
    assert names(done, "state") == names(done, "action") == NAMES
    assert mask(done) == [6, -1]
    assert done.robot.spec.camera_slots == {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist"}
    assert cameras(done) == {camera: [48, 80, 3] for camera in CAMERAS}
    order = [texts[1], texts[0]]  # By path: day2/ comes before episode_.
    assert tasks(done) == order
    # All have begun when the last camera has.
    stamps = clock(ROWS, 50, late_s=0.002, seed=1)
    start_s = max(clock(ROWS, 50, late_s=0.002 * k, seed=k)[0] for k in (1, 2, 3))
    for episode, rows in enumerate(reversed(arms)):
        state, action = columns(done, episode, "state"), columns(done, episode, "action")
        for kind, values, expected in (("state", state, rows), ("action", action, next_rows(rows))):
            wanted = on_timeline(stamps, expected, start_s, len(values["j1"]), 50)
            for column, name in enumerate(NAMES):
                np.testing.assert_allclose(values[name], wanted[:, column], atol=1e-5, err_msg=f"{kind} {name}")
    measured = done.checks["measured_actions"].description
    assert measured == "nothing in the data contradicts the YAML; 0 of 7 cannot be told"


def test_a_read_that_failed_and_a_gripper_in_another_unit_are_named(shipped: Make) -> None:
    robot = shipped("piper")
    at_work = [(0.5, 1.1), (1.0, 1.6), (-1.6, -1.0), (-0.9, -0.3), (0.3, 0.9), (-1.2, -0.6), (0.0, 0.07)]
    slow = reach(at_work, ROWS, seed=1).state
    write_piper(robot.recordings / "episode_1_lift.hdf5", slow, cameras=CAMERAS, task="lift the cup", lost=[40])
    ratio = arm(2) / [1, 1, 1, 1, 1, 1, 0.07]
    write_piper(robot.recordings / "episode_2_lift.hdf5", ratio, cameras=CAMERAS, task="lift the cup")
    done = robot.ingest()
    assert not done.success
    jumps = [text for text in warnings(done, "episode_1_lift.hdf5") if text.startswith("state") and "jumps by" in text]
    assert len({text.split(":")[0] for text in jumps}) >= 4, jumps
    assert all("at frame 39" in text or "at frame 40" in text for text in jumps), jumps
    said = warnings(done, "episode_2_lift.hdf5")
    assert any(text.startswith("state gripper:") and "outside its limits [0, 0.07] m" in text for text in said), said
    units = done.failed["measured_units"]
    assert units is not None
    assert units.startswith("state gripper: goes from")
    assert "(episode_2_lift.hdf5/0); the YAML says `unit: m`" in units
    assert "write `unit: ratio` in the entry of `state` that reads `/observations/qpos[6:7]`" in units
