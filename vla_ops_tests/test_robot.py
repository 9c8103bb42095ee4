from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from vla_ops.errors import SpecError
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import load_robot

ATTRIBUTES: dict[str, Any] = {
    "recordings": {"uri": "recordings", "pattern": "*.mcap", "format": "mcap"},
    "timeline": {"rate_hz": 20},
    "state": [
        {"source": "/arm.position[0:6]", "names": ["j1", "j2", "j3", "j4", "j5", "j6"], "unit": "rad"},
        {"source": "/eef", "names": ["gripper"], "unit": "m", "kind": "gripper"},
    ],
    "action": {"from": "next_state"},
    "cameras": {"cam_high": {"source": "/cam", "role": "base"}, "cam_wrist": {"source": "/wrist", "role": "left_wrist"}},
    "task": {"from": "recording"},
    "dataset": {"repo_id": "my-lab/arm"},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """ATTRIBUTES with the value at a dotted path replaced (digits index lists)."""
    copy = yaml.safe_load(yaml.safe_dump(ATTRIBUTES))
    node = copy
    *way, last = path.split(".")
    for key in way:
        node = node[int(key)] if key.isdigit() else node[key]
    node[int(last) if last.isdigit() else last] = value
    return copy


def robot_in(folder: Path, attributes: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": "vla_ops.RobotPipeline", "attributes": attributes}, sort_keys=False))
    return folder


def test_positions_are_derived_from_names() -> None:
    spec = RobotSpec.model_validate(ATTRIBUTES)
    assert [d.name for d in spec.state_dims] == ["j1", "j2", "j3", "j4", "j5", "j6", "gripper"]
    assert spec.delta_mask == (True,) * 6 + (False,)
    assert spec.camera_slots == {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_wrist"}
    assert spec.streams_mapped == ["/arm", "/eef", "/cam", "/wrist"]


@pytest.mark.parametrize("key", ["/arm", "/arm.position", "/cam"])
def test_a_clock_offset_may_name_any_dotted_beginning_of_a_source_since_names_of_streams_may_hold_dots(key: str) -> None:
    assert RobotSpec.model_validate(changed("timeline.clock_offsets", {key: 5})).timeline.clock_offsets == {key: 5}


def test_a_stream_of_arrays_is_mapped_by_its_whole_dotted_name() -> None:
    attributes = changed("recordings", ATTRIBUTES["recordings"] | {"format": "hdf5", "source_rate_hz": 30}) | {
        "cameras": {"cam": {"source": "observation.images.front", "channels": "bgr"}}
    }
    spec = RobotSpec.model_validate(attributes)
    assert spec.streams_mapped == ["/arm.position", "/eef", "observation.images.front"]
    assert spec.open_options.bgr_sources == {"observation.images.front"}
    assert spec.open_options.streams == {"/arm.position[0:6]", "/eef", "observation.images.front"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("cameras.cam_wrist.source", "/cam", "cam_high and cam_wrist both show /cam"),
        ("state.1.source", "/arm.position[5:6]", "gripper and j1, j2, j3, j4, j5, j6 both read column 5 of /arm.position"),
        ("recordings.format", "hdf5", "hdf5 needs `source_rate_hz`"),
        ("recordings.format", "zarr", "zarr needs `source_rate_hz`"),
        ("task", {"text": "DECIDE: what the robot does, in one sentence"}, "still the one that was suggested"),
    ],
)
def test_what_was_copied_and_not_edited_is_refused(path: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        RobotSpec.model_validate(changed(path, value))
    assert said in str(error.value)


def test_a_key_that_is_there_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    folder = robot_in(tmp_path / "arm", ATTRIBUTES)
    text = (folder / "defs.yaml").read_text()
    (folder / "defs.yaml").write_text(text.replace("    cam_wrist:\n", "    cam_high:\n"))
    first = text.splitlines().index("    cam_high:") + 1
    with pytest.raises(SpecError) as error:
        load_robot(folder)
    assert f"defs.yaml:{first + 3}: cam_high: is already at line {first}; only one of them would count" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "defs.yaml:1: empty"),
        ("type: vla_ops.RobotPipelin\nattributes: {}", "type: found 'vla_ops.RobotPipelin', expected vla_ops.RobotPipeline"),
        ("type: vla_ops.RobotPipeline", "attributes: there are none"),
    ],
)
def test_a_file_that_is_no_robot_says_what_is_wrong_with_it(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "defs.yaml").write_text(text)
    with pytest.raises(SpecError) as error:
        load_robot(tmp_path / "arm")
    assert said in str(error.value)


def test_a_value_of_the_wrong_kind_is_shown_and_the_other_forms_of_its_key_are_not(tmp_path: Path) -> None:
    action = [{"source": "/leader", "names": ["a", "gripper"], "unit": "rad"}]
    folder = robot_in(tmp_path / "arm", changed("timeline.rate_hz", 29.97) | {"action": action})
    with pytest.raises(SpecError) as error:
        load_robot(folder)
    assert "timeline.rate_hz: Input should be a valid integer, got a number with a fractional part; found 29.97" in str(error.value)
    assert "action.0: 'gripper' of source '/leader' looks like a gripper" in str(error.value)
    assert "NextState" not in str(error.value)


def test_a_folder_whose_name_dagster_cannot_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"found my-arm\. Rename the folder"):
        load_robot(robot_in(tmp_path / "my-arm", ATTRIBUTES))


def test_nothing_is_delta_encoded_in_an_absolute_action_space() -> None:
    spec = RobotSpec.model_validate(changed("norm_stats", {"action_space": "absolute"}))
    assert not any(spec.delta_mask)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("timeline.rate_hz", 30),
        ("cameras.cam_side", {"source": "/side"}),
        ("state.0.unit", "deg"),
        ("dataset.video", {"codec": "h264"}),
        ("task", {"text": "a"}),
    ],
)
def test_what_conversion_reads_makes_episodes_stale(path: str, value: Any) -> None:
    assert (
        RobotSpec.model_validate(changed(path, value)).conversion_fingerprint != RobotSpec.model_validate(ATTRIBUTES).conversion_fingerprint
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("norm_stats", {"action_horizon": 10}),
        ("dataset.repo_id", "my-lab/other"),
        ("cameras.cam_high.role", None),
        ("reconvert", {"cron": "0 2 * * *"}),
        ("recordings.uri", "elsewhere"),
        ("recordings.must_say", {"task_name": "put_cup"}),
    ],
)
def test_what_conversion_does_not_read_converts_nothing_again(path: str, value: Any) -> None:
    assert (
        RobotSpec.model_validate(changed(path, value)).conversion_fingerprint == RobotSpec.model_validate(ATTRIBUTES).conversion_fingerprint
    )


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("timeline.rate_hertz", 30, "unknown key 'rate_hertz'; did you mean 'rate_hz'?"),
        ("recordings.format", "mcapp", "'mcap', 'hdf5', 'zarr' or 'lerobot'"),
        ("cameras.cam_wrist.role", "base", "cam_high and cam_wrist both have role base"),
        ("state.0.names", ["j1", "j2"], "'/arm.position[0:6]' selects 6 columns but there are 2 names"),
        ("state.1.kind", "joint", "'gripper' of source '/eef' looks like a gripper but is not marked"),
        ("state.1.kind", "rotation", "write `rotation_vector` (axis times angle), `rotation_rpy` (roll, pitch, yaw) or `rotation_6d`"),
        ("state.0.kind", "rotation_vector", "kind rotation_vector needs 3 names, found 6"),
        ("state.0.kind", "rotation_rpy", "kind rotation_rpy needs 3 names, found 6"),
        ("state.0.kind", "quaternion_wxyz", "kind quaternion_wxyz needs 4 names, found 6"),
        (
            "state.1",
            {"source": "/eef", "names": ["a"] * 3, "unit": "rad", "kind": "rotation_6d"},
            "kind rotation_6d needs 6 names, found 3",
        ),
        ("state.1", {"source": "/eef", "names": ["a", "b", "c"], "unit": "1", "kind": "rotation_rpy"}, "in `rad` or `deg`, found unit '1'"),
        ("state.1.names", ["j1"], "j1 occurs more than once"),
        ("dataset.repo_id", "arm", "the Hub takes `owner/name`"),
        ("dataset.repo_id", "my--lab/arm", "refuses '--'"),
        ("reconvert", {"cron": "0 2 * *"}, "cron '0 2 * *' does not parse"),
        ("reconvert", {"cron": "0 2 * * *", "timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'?"),
        ("state.0.source", "/arm[a:b]", "neither a:b nor a list"),
        ("state.0.limits", [[0, 1]], "1 limits for 6 names"),
        ("timeline.clock_offsets", {"/cam_typo": "start"}, "'/cam_typo' is not a mapped stream"),
        ("recordings.source_rate_hz", 50, "an mcap has its own stamps"),
        ("task", {"text": "a", "from": "folder"}, "write either"),
        ("task", {"text": ""}, "at least 1 character"),
    ],
)
def test_a_mistake_is_refused_with_what_to_write_instead(path: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        RobotSpec.model_validate(changed(path, value))
    assert said in str(error.value)


COMMANDS = {"source": "/leader.position[0:6]", "names": ["j1", "j2", "j3", "j4", "j5", "j6"], "unit": "rad"}


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (
            [COMMANDS | {"names": ["j2", "j1", "j3", "j4", "j5", "j6"]}],
            "delta action 0, j2 in rad, would have state 0, which is j1 in rad subtracted",
        ),
        ([COMMANDS | {"unit": "deg"}], "delta action 0, j1 in deg, would have state 0, which is j1 in rad"),
        (
            [COMMANDS, {"source": "/base", "names": ["lift", "turn"], "unit": "m"}],
            "delta action 7, turn in m, would have a state of only 7 dimensions subtracted",
        ),
    ],
)
def test_a_delta_action_that_would_have_another_joint_subtracted_is_refused(action: list[dict[str, Any]], said: str) -> None:
    attributes = changed("action", action)
    with pytest.raises(ValidationError) as error:
        RobotSpec.model_validate(attributes)
    assert said in str(error.value)
    assert "action_space: absolute" in str(error.value)
    assert RobotSpec.model_validate(attributes | {"norm_stats": {"action_space": "absolute"}})


def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    folder = robot_in(tmp_path / "arm", changed("timeline.rate_hertz", 30))
    line = next(i for i, text in enumerate((folder / "defs.yaml").read_text().splitlines(), 1) if "rate_hertz" in text)
    with pytest.raises(SpecError) as error:
        load_robot(folder)
    assert f"defs.yaml:{line}: attributes" not in str(error.value)
    assert f"defs.yaml:{line}: timeline.rate_hertz: unknown key 'rate_hertz'; did you mean 'rate_hz'?" in str(error.value)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    attributes = changed("timeline.rate_hertz", 30)
    attributes["dataset"]["repo_id"] = "nope"
    with pytest.raises(SpecError) as error:
        load_robot(robot_in(tmp_path / "arm", attributes))
    assert "rate_hertz" in str(error.value)
    assert "'nope'" in str(error.value)


def test_environment_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = robot_in(tmp_path / "arm", changed("recordings.uri", "{{ env.ARM_RECORDINGS }}/raw"))
    monkeypatch.setenv("ARM_RECORDINGS", "/mnt/nas")
    assert load_robot(folder).recordings_uri == "/mnt/nas/raw"
    monkeypatch.delenv("ARM_RECORDINGS")
    with pytest.raises(SpecError, match=r"environment variable ARM_RECORDINGS is not set.*export ARM_RECORDINGS"):
        load_robot(folder)


def test_a_relative_root_is_below_the_robots_folder(tmp_path: Path) -> None:
    assert load_robot(robot_in(tmp_path / "arm", ATTRIBUTES)).recordings_uri == str(tmp_path / "arm" / "recordings")


def test_a_robot_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    robot_in(tmp_path / "piper", ATTRIBUTES)
    with pytest.raises(SpecError, match=r"no such robot.*piper"):
        load_robot(tmp_path / "pipr")


def test_yaml_that_does_not_parse_is_named(tmp_path: Path) -> None:
    (tmp_path / "arm").mkdir()
    (tmp_path / "arm" / "defs.yaml").write_text("type: [")
    with pytest.raises(SpecError, match=r"defs\.yaml:2: not YAML: did not find expected node content"):
        load_robot(tmp_path / "arm")
