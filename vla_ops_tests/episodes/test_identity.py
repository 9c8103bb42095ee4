"""A recording is held against what its folder and the YAML say it is; what it says of itself is what `inspect` shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import pytest
from pydantic import ValidationError

from vla_ops.episodes.identity import check_identity, said_by
from vla_ops.episodes.plan import quarantine_reasons, usable_episodes
from vla_ops.errors import RecordingError, SpecError
from vla_ops.recordings import open_recording
from vla_ops.recordings.inspect import describe, render
from vla_ops.spec import RecordingsSpec
from vla_ops_tests.episodes.ingesting import robot_at, run, write_arm
from vla_ops_tests.episodes.planning import Arm
from vla_ops_tests.recordings.hdf5_files import write_aloha, write_robomimic
from vla_ops_tests.recordings.mcap_files import Extras, joints, write_mcap
from vla_ops_tests.recordings.zarr_files import write_replay_buffer

TASK_INFO = {"task_name": '"put_cup"', "station": '"station3"', "task_description": '""', "task_id": "7"}
COMPONENTS = {
    "/lead": {"product_type": "replay", "sn": "PZ01", "arm/joint_names": ["joint1"]},
    "/follow": {"product_type": "play", "sn": "PZ02", "is_sim": False, "arm_types": ["play"]},
}


def airbot(folder: Path, task_info: Mapping[str, str] = TASK_INFO) -> Path:
    attachments = [("component_info", "application/json", json.dumps(COMPONENTS).encode())]
    extras = Extras({"cpu": {"model": "x86"}, "task_info": task_info, "version": {"collector": '"0.6.9"'}}, attachments)
    return write_mcap(folder / "a.mcap", "airbot", joints={"/follow/arm/joint_state/position": joints(5, 6, 20)}, extras=extras)


def check(path: Path, recording_id: str, format: str = "mcap", **must_say: str) -> None:
    with open_recording(str(path), format) as recording:
        check_identity(said_by(recording, recording.spans()), recording_id, must_say)


def refusal(path: Path, recording_id: str, format: str = "mcap", **must_say: str) -> str:
    with pytest.raises(RecordingError) as refused:
        check(path, recording_id, format, **must_say)
    return str(refused.value)


def test_a_recording_that_says_what_its_folders_say_passes_whether_its_values_are_json_or_plain(tmp_path: Path):
    check(airbot(tmp_path), "put_cup/station3/7.mcap", task_name="{0}", station="{1}")
    plain = {key: json.loads(value) for key, value in TASK_INFO.items() if key != "task_id"}
    check(airbot(tmp_path, plain), "put_cup/station3/7.mcap", **{"task_info.task_name": "{0}", "station": "{1}"})


def test_nothing_is_refused_where_nothing_must_be_said(tmp_path: Path):
    check(airbot(tmp_path), "a.mcap")


def test_folders_may_be_a_part_of_what_is_said(tmp_path: Path):
    check(airbot(tmp_path), "put/cup/3/7.mcap", task_name="{0}_{1}", station="station{2}")


def test_all_keys_that_differ_are_named_at_once(tmp_path: Path):
    said = refusal(airbot(tmp_path), "pick_cup/station4/7.mcap", task_name="{0}", station="{1}")
    assert "found task_info.task_name 'put_cup', task_info.station 'station3'" in said
    assert "expected 'pick_cup' as its folder is called, 'station4' as its folder is called" in said
    assert "rename the folder 'pick_cup' if all in it are of 'put_cup'" in said


def test_a_value_that_the_yaml_has_in_full_is_corrected_there(tmp_path: Path):
    said = refusal(airbot(tmp_path), "7.mcap", task_name="pick_cup")
    assert "found task_info.task_name 'put_cup'; expected 'pick_cup'." in said
    assert "correct `recordings.must_say`" in said
    assert "folder" not in said


@pytest.mark.parametrize("folder", ["Put_Cup", "put cup", "put-cup", "PUT_CUP "])
def test_case_spaces_and_underscores_count_and_are_named_as_the_only_difference(tmp_path: Path, folder: str):
    said = refusal(airbot(tmp_path), f"{folder}/7.mcap", task_name="{0}")
    assert "differ only in case, spaces, dashes or underscores" in said
    assert f"Rename the folder {folder!r} to 'put_cup'" in said


def test_a_key_that_the_recording_lacks_is_answered_with_those_it_has_the_nearest_first(tmp_path: Path):
    said = refusal(airbot(tmp_path), "7.mcap", taskname="put_cup")
    assert "does not say its taskname" in said
    assert "found task_info.task_name, " in said
    assert "remove the line `taskname`" in said


def test_a_recording_without_metadata_says_nothing_of_itself(tmp_path: Path):
    path = write_mcap(tmp_path / "a.mcap", joints={"/arm": joints(5)})
    assert "found nothing of itself" in refusal(path, "7.mcap", task_name="put_cup")


def test_a_key_of_several_components_must_be_written_in_full(tmp_path: Path):
    said = refusal(airbot(tmp_path), "7.mcap", product_type="play")
    assert "component_info./lead.product_type 'replay', component_info./follow.product_type 'play'" in said
    check(airbot(tmp_path), "7.mcap", **{"component_info./follow.product_type": "play", "component_info./follow.sn": "PZ02"})


def test_a_recording_that_lies_less_deep_than_the_placeholders_is_the_yamls_mistake(tmp_path: Path):
    with pytest.raises(SpecError, match=r"station speaks of a folder.*'\{1\}' with 1 folder\(s\): put_cup; expected at least 2 folders"):
        check(airbot(tmp_path), "put_cup/7.mcap", task_name="{0}", station="{1}")


def spec(pattern: str = "**/*.mcap", **must_say: Any) -> RecordingsSpec:
    return RecordingsSpec.model_validate({"uri": ".", "pattern": pattern, "format": "mcap", "must_say": must_say})


@pytest.mark.parametrize("text", ["{task}", "{0", "0}", "{}", "{-1}", "{0}{"])
def test_other_braces_are_refused_when_the_yaml_is_read(text: str):
    with pytest.raises(ValidationError, match="in braces stand only numbers"):
        spec(task_name=text)


def test_a_folder_that_the_pattern_does_not_have_is_refused_when_the_yaml_is_read():
    spec("*/*/*.mcap", station="{1}")
    with pytest.raises(ValidationError, match=r"\{2\} is folder number 3 of a recording, and '\*/\*/\*.mcap' has 2"):
        spec("*/*/*.mcap", station="{2}")


@pytest.mark.parametrize("said", [{"task_name": " "}, {" ": "put_cup"}])
def test_an_empty_key_or_value_is_refused_when_the_yaml_is_read(said: dict[str, str]):
    with pytest.raises(ValidationError, match="says nothing"):
        spec(**said)


def test_attributes_of_hdf5_and_what_is_in_their_json_are_said(tmp_path: Path):
    path = tmp_path / "a.hdf5"
    write_robomimic(path, demos=(1,))
    with h5py.File(path, "r+") as file:
        file["data"].attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"], "x": {"robots": 1}}}
        )
    check(path, "a.hdf5", "hdf5", env_name="Lift", robots="Panda", language_instruction="put the bowl on the plate")
    said = refusal(path, "a.hdf5", "hdf5", robots="Sawyer")
    assert "found attrs.env_args.env_kwargs.robots 'Panda'; expected 'Sawyer'" in said


def test_the_task_text_may_be_asked_for_wherever_the_file_keeps_it(tmp_path: Path):
    write_aloha(tmp_path / "a.hdf5", task="pick the cube", cameras=())
    check(tmp_path / "a.hdf5", "a.hdf5", "hdf5", task="pick the cube")
    assert "found task 'pick the cube'; expected 'fold'" in refusal(tmp_path / "a.hdf5", "a.hdf5", "hdf5", task="fold")


def test_attributes_of_zarr_are_said(tmp_path: Path):
    path = tmp_path / "a.zarr"
    write_replay_buffer(path, attributes={"station": "s1", "task": "fold"}, cameras=())
    check(path, "s1/a.zarr", "zarr", station="{0}", task="fold")


def test_inspect_shows_what_a_recording_says_of_itself_the_task_first(tmp_path: Path):
    _, _, after = render(describe(airbot(tmp_path))).partition("\nmetadata\n")
    lines = [line.split()[0] for line in after.partition("\n\n")[0].splitlines()]
    assert lines[:4] == [f"task_info.{key}" for key in TASK_INFO]
    assert "component_info./follow.sn" in lines
    assert lines.index("component_info./follow.sn") < lines.index("cpu.model")


def test_a_run_leaves_the_recording_out_and_converts_it_once_it_lies_where_it_says(tmp_path: Path):
    robot = robot_at(tmp_path / "raw", "*/*.hdf5", "hdf5", recordings={"must_say": {"task": "{0}"}})
    write_arm(tmp_path / "raw" / "fold" / "a.hdf5", task="pick the cube")
    first = run(robot, tmp_path / "home")
    assert first.states == {"fold/a.hdf5": "quarantined"}
    reason = first.reason("fold/a.hdf5")
    assert "another one [file fold/a.hdf5]; found task 'pick the cube'; expected 'fold' as its folder is called" in reason
    (tmp_path / "raw" / "fold").rename(tmp_path / "raw" / "pick the cube")
    again = run(robot, tmp_path / "home")
    assert again.states == {"pick the cube/a.hdf5": "converted"}
    assert [e.meta.recording for e in again.store.read_episodes("pick the cube/a.hdf5")] == ["pick the cube/a.hdf5"]


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    """Two recordings, of which the second says of itself that it is of another task."""
    arm = Arm(tmp_path)
    arm.record("fold/a.hdf5", task="fold")
    arm.record("fold/b.hdf5", task="pick the cube")
    return arm


def asked(arm: Arm, **must_say: str) -> Arm:
    arm.with_spec(recordings={"must_say": must_say})
    return arm


def inodes(arm: Arm) -> dict[str, int]:
    """Of each file of an episode: another one means that it was written again."""
    return {str(path): path.stat().st_ino for path in arm.store.episodes.rglob("*") if path.is_file()}


def usable(arm: Arm) -> list[str]:
    return [episode.id for episode in usable_episodes(arm.store, arm.plan())]


BOTH = ["fold/a.hdf5", "fold/b.hdf5"]


def test_what_must_be_said_is_no_part_of_what_recordings_are_converted_with(arm: Arm):
    asking, silent = asked(arm, task="{0}").robot.spec, asked(arm).robot.spec
    assert asking.conversion_fingerprint == silent.conversion_fingerprint


def test_asking_for_more_leaves_a_converted_recording_out_and_asking_for_less_takes_it_back_as_it_was(arm: Arm):
    assert asked(arm).convert() == BOTH
    before = inodes(arm)
    asked(arm, task="{0}")
    assert arm.states() == {"fold/a.hdf5": "converted", "fold/b.hdf5": "misplaced"}
    assert usable(arm) == ["fold/a.hdf5/0"], "even before the next run"
    for _ in range(2):
        assert arm.convert() == []
        (row,) = quarantine_reasons(arm.store)
        assert "another one [file fold/b.hdf5]; found task 'pick the cube'; expected 'fold' as its folder is called" in row["reason"]
        assert usable(arm) == ["fold/a.hdf5/0"]
    assert asked(arm).convert() == []
    assert quarantine_reasons(arm.store) == []
    assert list(arm.store.quarantined()) == []
    assert usable(arm) == ["fold/a.hdf5/0", "fold/b.hdf5/0"]
    assert inodes(arm) == before


def test_the_reason_is_that_of_what_is_asked_for_now(arm: Arm):
    asked(arm).convert()
    for task in ("{0}", "wave"):
        asked(arm, task=task).convert()
    assert [row["reason"].count("'wave'") for row in quarantine_reasons(arm.store)] == [1, 1]


def test_a_recording_that_only_its_identity_kept_out_is_tried_again_when_something_else_is_asked_for(arm: Arm):
    assert asked(arm, task="fold").convert() == BOTH
    assert arm.states() == {"fold/a.hdf5": "converted", "fold/b.hdf5": "quarantined"}
    assert asked(arm, task="pick the cube").convert() == ["fold/b.hdf5"]
    assert usable(arm) == ["fold/b.hdf5/0"]
    assert asked(arm).convert() == []
    assert usable(arm) == ["fold/a.hdf5/0", "fold/b.hdf5/0"]


def test_a_recording_that_is_unusable_for_another_reason_is_not_tried_again(arm: Arm):
    (arm.raw / "fold/broken.hdf5").write_bytes(b"no recording")
    asked(arm).convert()
    assert asked(arm, task="{0}").states()["fold/broken.hdf5"] == "quarantined"


def test_what_the_recording_says_is_checked_and_not_the_task_that_the_yaml_writes(arm: Arm):
    asked(arm).convert()
    assert {e.meta.task for e in usable_episodes(arm.store, arm.plan())} == {"pick the cube"}
    assert asked(arm, task="pick the cube").states() == {"fold/a.hdf5": "misplaced", "fold/b.hdf5": "converted"}


def test_rejected_episodes_are_listed_again_when_their_recording_is_taken_back(tmp_path: Path):
    arm = Arm(tmp_path)
    write_robomimic(arm.raw / "a.hdf5", demos=(1, 2), cameras=())
    with h5py.File(arm.raw / "a.hdf5", "r+") as file:
        file["data/demo_2/obs/robot0_joint_pos"][3, 0] = float("nan")  # pyright: ignore[reportIndexIssue]
    state = [{"source": "obs/robot0_joint_pos[0:1]", "names": ["j1"], "unit": "rad"}]
    listed = []
    for env in ("Lift", "Drawer", "Lift"):
        arm.with_spec(state=state, recordings={"must_say": {"env_name": env}})
        arm.convert()
        listed.append([row["episode"] for row in quarantine_reasons(arm.store)])
    assert listed == [["demo_2"], ["all"], ["demo_2"]]


def test_a_run_says_what_it_takes_back(tmp_path: Path):
    write_arm(tmp_path / "raw" / "fold" / "a.hdf5", task="pick the cube")
    strict, silent = (robot_at(tmp_path / "raw", "*/*.hdf5", "hdf5", recordings=read) for read in ({"must_say": {"task": "{0}"}}, {}))
    assert run(silent, tmp_path / "home").states == {"fold/a.hdf5": "converted"}
    assert run(strict, tmp_path / "home").states == {"fold/a.hdf5": "quarantined"}
    back = run(silent, tmp_path / "home")
    assert back.states == {}
    assert any("taken back from quarantine" in line and "fold/a.hdf5" in line for line in back.said)
