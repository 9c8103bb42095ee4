"""What a plan finds in each recording: new, changed, converted, or not to be used."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.plan import (
    forget_outdated,
    make_plan,
    observe,
    quarantine_reasons,
    refuse,
    usable_episodes,
)
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import DatasetError
from vla_ops_tests.episodes.ingesting import ALOHA, robot_at
from vla_ops_tests.episodes.planning import STATE, Arm
from vla_ops_tests.recordings.zarr_files import write_replay_buffer


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    return Arm(tmp_path)


# States


def test_what_was_never_converted_is_new_and_then_converted(arm: Arm):
    arm.record("10.hdf5", "9.hdf5")
    assert arm.states() == {"9.hdf5": "new", "10.hdf5": "new"}
    assert arm.convert() == ["9.hdf5", "10.hdf5"]
    assert arm.states() == {"9.hdf5": "converted", "10.hdf5": "converted"}
    assert arm.plan().todo == []


def test_only_the_recording_whose_bytes_changed_is_changed(arm: Arm):
    arm.record("a.hdf5", "b.hdf5")
    arm.convert()
    arm.record("b.hdf5", seed=1)
    assert arm.states() == {"a.hdf5": "converted", "b.hdf5": "changed"}
    assert arm.convert() == ["b.hdf5"]
    assert arm.states() == {"a.hdf5": "converted", "b.hdf5": "converted"}


def test_a_recording_that_was_only_touched_or_copied_over_itself_is_still_converted(arm: Arm):
    arm.record("a.hdf5")
    arm.convert()
    os.utime(arm.raw / "a.hdf5", (1000, 1000))
    assert arm.states() == {"a.hdf5": "converted"}


def test_a_recording_that_cannot_be_used_is_quarantined_and_not_tried_again_until_it_changes(arm: Arm):
    (arm.raw / "a.hdf5").write_bytes(b"not an HDF5 file")
    arm.convert()
    assert arm.states() == {"a.hdf5": "quarantined"}
    assert arm.convert() == []
    arm.record("a.hdf5")
    assert arm.states() == {"a.hdf5": "changed"}
    arm.convert()
    assert arm.states() == {"a.hdf5": "converted"}
    assert arm.store.read_quarantine("a.hdf5") is None


def test_a_good_recording_that_turns_bad_loses_its_episodes(arm: Arm):
    arm.record("a.hdf5")
    arm.convert()
    (arm.raw / "a.hdf5").write_bytes(b"not an HDF5 file")
    arm.convert()
    assert arm.states() == {"a.hdf5": "quarantined"}
    assert usable_episodes(arm.store, arm.plan()) == []


def test_a_recording_written_just_now_is_unsettled_and_has_no_version(arm: Arm):
    arm.record("old.hdf5", "young.hdf5")
    os.utime(arm.raw / "old.hdf5", (time.time() - 100,) * 2)
    arm.with_spec(recordings={"settle_s": 60})
    assert arm.states() == {"old.hdf5": "new", "young.hdf5": "unsettled"}
    assert {file.id: bool(version) for file, version in observe(arm.robot, arm.store)} == {"old.hdf5": True, "young.hdf5": False}
    assert [file.id for file, _ in arm.plan().todo] == ["old.hdf5"]


def test_the_episodes_of_a_recording_that_is_being_written_again_stay_until_it_is_settled(arm: Arm):
    arm.record("a.hdf5")
    arm.convert()
    arm.record("a.hdf5", seed=1)
    arm.with_spec(recordings={"settle_s": 60})
    assert arm.states() == {"a.hdf5": "unsettled"}
    assert len(usable_episodes(arm.store, arm.plan())) == 1


def test_the_second_of_two_recordings_with_the_same_bytes_is_a_duplicate_until_the_first_is_gone(arm: Arm):
    arm.record("1.hdf5")
    shutil.copy(arm.raw / "1.hdf5", arm.raw / "2.hdf5")
    arm.convert()
    assert arm.states() == {"1.hdf5": "converted", "2.hdf5": "duplicate"}
    (arm.raw / "1.hdf5").unlink()
    assert arm.states() == {"2.hdf5": "changed"}
    arm.convert()
    assert arm.states() == {"2.hdf5": "converted"}
    assert quarantine_reasons(arm.store) == []


def test_duplicates_are_kept_if_the_spec_says_so(arm: Arm):
    arm.record("1.hdf5")
    shutil.copy(arm.raw / "1.hdf5", arm.raw / "2.hdf5")
    arm.convert()
    arm.with_spec(recordings={"duplicates": "keep"})
    assert arm.states() == {"1.hdf5": "converted", "2.hdf5": "changed"}
    arm.convert()
    assert arm.states() == {"1.hdf5": "converted", "2.hdf5": "converted"}


def test_an_earlier_twin_of_a_converted_recording_takes_its_place(arm: Arm):
    arm.record("2.hdf5")
    arm.convert()
    shutil.copy(arm.raw / "2.hdf5", arm.raw / "1.hdf5")
    arm.convert()
    assert arm.states() == {"1.hdf5": "converted", "2.hdf5": "duplicate"}
    assert [e.meta.recording for e in usable_episodes(arm.store, arm.plan())] == ["1.hdf5"]


def test_the_second_of_two_names_that_differ_in_case_has_the_same_id_until_it_is_renamed(arm: Arm):
    arm.record("A.hdf5", "a.hdf5")
    arm.convert()
    assert arm.states() == {"A.hdf5": "converted", "a.hdf5": "same id"}
    (arm.raw / "a.hdf5").rename(arm.raw / "b.hdf5")
    assert arm.states() == {"A.hdf5": "converted", "b.hdf5": "new"}
    assert arm.plan().removed == ["a.hdf5"]


def test_a_recording_that_cannot_be_read_is_unreadable_until_it_can(arm: Arm):
    (arm.raw / "a.hdf5").symlink_to(arm.raw.parent / "elsewhere.hdf5")
    arm.convert()
    assert arm.states() == {"a.hdf5": "unreadable"}
    assert [row["recording"] for row in quarantine_reasons(arm.store)] == ["a.hdf5"]
    arm.record("../elsewhere.hdf5")
    assert arm.states() == {"a.hdf5": "changed"}
    arm.convert()
    assert quarantine_reasons(arm.store) == []


def test_a_refusal_is_written_once_and_again_when_its_reason_changes(arm: Arm):
    arm.record("1.hdf5")
    shutil.copy(arm.raw / "1.hdf5", arm.raw / "2.hdf5")
    twin = arm.plan().found[1]
    refusal = refuse(arm.store, twin)
    assert refusal is not None
    assert refusal.recording == "2.hdf5"
    assert refuse(arm.store, twin) is None
    (arm.raw / "1.hdf5").rename(arm.raw / "0.hdf5")
    assert refuse(arm.store, arm.plan().found[1]) is not None
    (row,) = quarantine_reasons(arm.store)
    assert "same bytes as 0.hdf5" in row["reason"]


def test_planning_changes_no_episode_and_no_quarantine_entry(arm: Arm):
    arm.record("a.hdf5")
    arm.convert()
    shutil.copy(arm.raw / "a.hdf5", arm.raw / "0.hdf5")
    (arm.raw / "gone.hdf5").symlink_to(arm.raw / "nowhere")
    assert arm.states() == {"0.hdf5": "new", "a.hdf5": "duplicate", "gone.hdf5": "unreadable"}
    assert len(arm.store.read_episodes("a.hdf5")) == 1
    assert quarantine_reasons(arm.store) == []


def test_what_is_asked_for_again_is_changed_whether_it_was_converted_or_quarantined(arm: Arm):
    arm.record("a.hdf5", "b.hdf5")
    (arm.raw / "bad.hdf5").write_bytes(b"not an HDF5 file")
    arm.convert()
    states = arm.states(again={"a.hdf5", "bad.hdf5"})
    assert states == {"a.hdf5": "changed", "b.hdf5": "converted", "bad.hdf5": "changed"}


def test_a_recording_of_which_one_episode_is_rejected_is_converted(tmp_path: Path):
    # The second episode is a single row: too short for a transition.
    write_replay_buffer(tmp_path / "raw/a.zarr", episode_ends=(10, 11), cameras=())
    state = [{"source": "data/robot0_eef_pos", "names": ["x", "y", "z"], "unit": "m", "kind": "position"}]
    state.append({"source": "data/robot0_gripper_width", "names": ["gripper"], "unit": "m", "kind": "gripper"})
    robot = robot_at(tmp_path / "raw", "*.zarr", "zarr", recordings={"source_rate_hz": 20}, state=state)
    store = RobotStore.of("arm", tmp_path / "store")
    ((file, version),) = make_plan(robot, store).todo
    convert_recording(ConversionJob(file.id, file.uri, version, robot.spec, store.root))
    assert [found.state for found in make_plan(robot, store).found] == ["converted"]
    (row,) = quarantine_reasons(store)
    assert (row["recording"], row["episode"]) == ("a.zarr", "1")


# What of the spec matters

MATTERS: dict[str, dict[str, Any]] = {
    "the rate": {"timeline": {"rate_hz": 10}},
    "how numbers are resampled": {"timeline": {"rate_hz": 20, "numbers": "hold"}},
    "a limit of the quality report": {"quality": {"jump_sigma": {"level": "warn", "limit": 5}}},
    "a joint's name": {"state": [{**STATE[0], "names": ["waist"]}, STATE[1]]},
    "the task": {"task": {"text": "drop the cube"}},
    "the video settings": {"dataset": {"repo_id": "local/arm", "video": {"codec": "av1"}}},
    "what becomes of cut-off files": {"recordings": {"truncated": "keep_whole"}},
}

MATTERS_NOT: dict[str, dict[str, Any]] = {
    "the repo id": {"dataset": {**ALOHA["dataset"], "repo_id": "local/other"}},
    "the licence": {"dataset": {**ALOHA["dataset"], "licence": "mit"}},
    "the horizon": {"norm_stats": {"action_horizon": 10}},
    "the action space": {"norm_stats": {"action_space": "absolute"}},
    "the schedule": {"reconvert": {"cron": "0 2 * * *"}},
    "the pattern": {"pattern": "*.h*"},
    "duplicates": {"recordings": {"duplicates": "keep"}},
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    arm = Arm(tmp_path_factory.mktemp("converted"))
    arm.record("a.hdf5")
    arm.convert()
    return arm


@pytest.mark.parametrize("change", MATTERS)
def test_a_spec_change_that_conversion_reads_makes_every_recording_changed(converted: Arm, change: str):
    converted.with_spec(**MATTERS[change])
    assert converted.states() == {"a.hdf5": "changed"}


@pytest.mark.parametrize("change", MATTERS_NOT)
def test_a_spec_change_that_conversion_does_not_read_converts_nothing_again(converted: Arm, change: str):
    converted.with_spec(**MATTERS_NOT[change])
    assert converted.states() == {"a.hdf5": "converted"}


def test_a_cameras_role_converts_nothing_again_but_its_name_does(tmp_path: Path):
    arm = Arm(tmp_path)
    arm.record("a.hdf5", cameras=("high",))
    high = "/observations/images/high"
    arm.with_spec(cameras={"high": {"source": high, "role": "base"}})
    arm.convert()
    arm.with_spec(cameras={"high": {"source": high, "role": "left_wrist"}})
    assert arm.states() == {"a.hdf5": "converted"}
    arm.with_spec(cameras={"top": {"source": high, "role": "base"}})
    assert arm.states() == {"a.hdf5": "changed"}


# One dataset, one kind of episode


def test_episodes_of_another_spec_or_other_bytes_are_not_given_away(tmp_path: Path):
    arm = Arm(tmp_path)
    arm.record("a.hdf5", "b.hdf5")
    arm.convert()
    arm.record("b.hdf5", seed=1)
    with pytest.raises(DatasetError, match=r"not converted as they and the YAML now are; found b\.hdf5\. "):
        usable_episodes(arm.store, arm.plan())
    arm.with_spec(task={"text": "drop the cube"})
    with pytest.raises(DatasetError, match=r"found a\.hdf5, b\.hdf5\. "):
        usable_episodes(arm.store, arm.plan())


def test_old_episodes_of_an_unsettled_recording_are_left_out_if_the_spec_changed(arm: Arm):
    arm.record("a.hdf5")
    arm.convert()
    arm.record("a.hdf5", seed=1)
    arm.with_spec(recordings={"settle_s": 60}, task={"text": "drop the cube"})
    assert usable_episodes(arm.store, arm.plan()) == []


def test_outdated_episodes_that_could_not_be_made_again_are_forgotten_and_good_ones_stay(arm: Arm):
    arm.record("a.hdf5", "b.hdf5")
    arm.convert()
    arm.record("b.hdf5", seed=1)
    forget_outdated(arm.store, arm.plan(), ["a.hdf5", "b.hdf5", "never/there.hdf5"])
    assert arm.states() == {"a.hdf5": "converted", "b.hdf5": "new"}
    assert [e.meta.recording for e in usable_episodes(arm.store, arm.plan())] == ["a.hdf5"]


def test_a_reason_that_a_killed_run_left_beside_newer_episodes_is_not_named(arm: Arm):
    (arm.raw / "a.hdf5").write_bytes(b"not an HDF5 file")
    arm.convert()
    entry = arm.store.quarantine_file("a.hdf5").read_bytes()
    arm.record("a.hdf5")
    arm.convert()
    arm.store.quarantine_file("a.hdf5").write_bytes(entry)
    assert arm.states() == {"a.hdf5": "converted"}
    assert quarantine_reasons(arm.store) == []
