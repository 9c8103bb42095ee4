"""The AIRBOT robots as they are shipped, on recordings as its collector writes them: <task>/<station>/<round>.mcap."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla_ops_tests.robots.airbot_files import MMK, PLAY, PTK, Layout, write_round
from vla_ops_tests.robots.alone import convert_alone, refusal
from vla_ops_tests.robots.made import check_good, columns, mask, names, tasks
from vla_ops_tests.robots.shipped import Shipped

type Ship = Callable[[str], Shipped]

SIX = ("j1", "j2", "j3", "j4", "j5", "j6")
ARMS = [f"{side}_{name}" for side in ("left", "right") for name in (*SIX, "gripper")]
CASES: dict[str, tuple[Layout, list[str], list[int], dict[str, str]]] = {
    "airbot_play": (PLAY, [*SIX, "gripper"], [6, -1], {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_wrist"}),
    "airbot_ptk": (
        PTK,
        ARMS,
        [6, -1, 6, -1],
        {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist", "right_wrist_0_rgb": "cam_right_wrist"},
    ),
    "airbot_mmk": (
        MMK,
        [*ARMS, "head_j1", "head_j2", "spine_height"],
        [6, -1, 6, -1, 3],
        {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left_wrist", "right_wrist_0_rgb": "cam_right_wrist"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_two_stations_of_a_task_become_one_dataset_in_the_order_of_the_names(name: str, shipped: Ship):
    layout, dims, runs, slots = CASES[name]
    robot = shipped(name)
    written = [
        write_round(
            robot.recordings / "put_cup" / station / "0.mcap",
            layout,
            task="put_cup",
            station=station,
            description="put the cup on the saucer",
            seed=seed,
        )
        for seed, station in enumerate(["station1", "station2"])
    ]
    done = robot.ingest()
    check_good(done, episodes=2)
    assert names(done, "state") == names(done, "action") == dims
    assert mask(done) == runs
    assert done.robot.spec.camera_slots == slots
    assert tasks(done) == ["put the cup on the saucer"] * 2
    for episode, motion in enumerate(written):
        for vector, values in (("state", motion.state), ("action", motion.command)):
            found = columns(done, episode, vector)
            np.testing.assert_allclose(np.stack([found[dim] for dim in dims], axis=1), values, atol=1e-6, err_msg=vector)


def test_the_prompt_is_the_description_or_where_there_is_none_the_name(shipped: Ship):
    robot = shipped("airbot_play")
    write_round(robot.recordings / "put_cup/s1/0.mcap", PLAY, task="put_cup", station="s1", description="put the cup down")
    write_round(robot.recordings / "fold/s1/0.mcap", PLAY, task="fold", station="s1", seed=1)
    found = [convert_alone(robot, recording)[1] for recording in ("put_cup/s1/0.mcap", "fold/s1/0.mcap")]
    assert [[e.meta.task for e in episodes] for episodes in found] == [["put the cup down"], ["fold"]]


def misplaced(robot: Shipped, layout: Layout, *, task: str = "put_cup", station: str = "s1") -> str:
    """Why a recording in the folder of task put_cup and station s1 that says something else is left out."""
    write_round(robot.recordings / "put_cup/s1/1.mcap", layout, task=task, station=station)
    return refusal(robot, "put_cup/s1/1.mcap")


def test_a_recording_in_the_folder_of_another_task_is_left_out_by_name(shipped: Ship):
    said = misplaced(shipped("airbot_play"), PLAY, task="pick_cup")
    assert "file put_cup/s1/1.mcap" in said
    assert "found task_info.task_name 'pick_cup'; expected 'put_cup' as its folder is called" in said
    assert "Move the recording to a folder 'pick_cup', or rename the folder 'put_cup'" in said


def test_a_recording_of_another_station_is_left_out_by_name(shipped: Ship):
    said = misplaced(shipped("airbot_ptk"), PTK, station="s2")
    assert "found task_info.station 's2'; expected 's1' as its folder is called" in said


def test_a_task_that_is_only_spelled_otherwise_is_a_near_miss(shipped: Ship):
    said = misplaced(shipped("airbot_mmk"), MMK, task="Put cup")
    assert "differ only in case, spaces, dashes or underscores ('Put cup', 'put_cup')" in said
    assert "Rename the folder 'put_cup' to 'Put cup'" in said


def test_an_empty_station_is_said_to_be_the_collectors(shipped: Ship):
    said = misplaced(shipped("airbot_play"), PLAY, station="")
    assert "Its collector left task_info.station empty" in said


def test_another_kind_of_robot_in_a_stations_folder_is_left_out_by_its_topics(shipped: Ship):
    robot = shipped("airbot_play")
    write_round(robot.recordings / "put_cup/s1/0.mcap", PTK, task="put_cup", station="s1")
    said = refusal(robot, "put_cup/s1/0.mcap")
    assert "no stream '/follow/arm/joint_state/position' in the recording" in said
    assert "/left/follow/arm/joint_state/position" in said


def test_another_robot_of_the_same_kind_is_left_out_by_its_serial_number(shipped: Ship):
    robot = shipped("airbot_play")
    asked = 'must_say: {task_name: "{0}", station: "{1}", component_info./follow.sn: PZ1234}'
    yaml = robot.folder / "defs.yaml"
    yaml.write_text(yaml.read_text().replace('must_say: {task_name: "{0}", station: "{1}"}', asked))
    write_round(robot.recordings / "put_cup/s1/0.mcap", PLAY, task="put_cup", station="s1")
    said = refusal(robot, "put_cup/s1/0.mcap")
    assert "found component_info./follow.sn 'PZfollow'; expected 'PZ1234'" in said
    assert "Move the recording away" in said


def test_recordings_of_the_first_collector_are_read_too(shipped: Ship, recordings_dir: Path):
    """Values that are not JSON, no list of ticks, no description."""
    robot = shipped("airbot_play")
    folder = robot.recordings / "put_cup" / "s1"
    folder.mkdir(parents=True)
    shutil.copy(recordings_dir / "mcap" / "airbot_1-1_h264_oldcollector.mcap", folder / "0.mcap")
    _, (episode,) = convert_alone(robot, "put_cup/s1/0.mcap")
    assert (episode.meta.length, episode.meta.task) == (79, "put_cup")


def test_a_recording_whose_task_has_a_space_lies_in_a_folder_with_a_space(shipped: Ship, recordings_dir: Path):
    robot = shipped("airbot_ptk")
    folder = robot.recordings / "fold cloth" / "ptk-000"
    folder.mkdir(parents=True)
    shutil.copy(recordings_dir / "mcap" / "airbot_ptk_h264.mcap", folder / "0.mcap")
    _, (episode,) = convert_alone(robot, "fold cloth/ptk-000/0.mcap")
    assert (episode.meta.length, episode.meta.task) == (99, "fold the cloth in half")
