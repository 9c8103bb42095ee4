"""Names in the YAML that contradict the names in the messages are refused; names that are only other ones are not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.episodes.joint_names import side_of, sides_of
from vla_ops.episodes.read import read_span
from vla_ops.errors import SchemaMismatchError
from vla_ops.recordings import open_recording
from vla_ops_tests.episodes.ingesting import robot_at
from vla_ops_tests.recordings.mcap_files import Extras, joints, write_mcap

PTK = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper", "gripper_finger")
ARM = [{"source": "/arm.position[0:3]", "names": ["j1", "j2", "j3"], "unit": "rad"}]


def read(folder: Path, names: Sequence[str], *parts: dict[str, Any]) -> np.ndarray:
    """The last part of what `parts` read of a JointState topic that names its joints so."""
    path = write_mcap(folder / "a.mcap", "ros2", joints={"/arm": joints(5, len(names), names=names)})
    return values(path, *parts)


def values(path: Path, *parts: dict[str, Any]) -> np.ndarray:
    spec = robot_at(path.parent, "*.mcap", "mcap", state=list(parts)).spec
    with open_recording(str(path), "mcap", spec.open_options) as recording:
        return read_span(recording, recording.spans()[0], spec).parts[id(spec.state[-1])][1]


def test_two_joints_in_the_wrong_order_are_named_with_the_line_that_reads_them_by_name(tmp_path: Path):
    part = {"source": "/arm.position[0:3]", "names": ["left_shoulder_lift", "left_shoulder_pan", "left_elbow"], "unit": "rad"}
    with pytest.raises(SchemaMismatchError) as refused:
        read(tmp_path, PTK, part)
    said = str(refused.value)
    assert "the YAML calls a column 'left_shoulder_lift' that the messages call 'shoulder_pan'" in said
    assert "stream /arm, dimension left_shoulder_lift" in said
    assert "column 0 is 'shoulder_pan' and column 1 is 'shoulder_lift' in the messages" in said
    assert "`source: /arm.position` with `joints: [shoulder_lift, shoulder_pan, elbow_flex]`" in said
    assert "or, if these columns are meant, name them as the messages do" in said


def test_names_beside_joints_may_be_others_but_not_those_of_another_joint(tmp_path: Path):
    swapped = {"source": "/arm.position", "joints": ["shoulder_pan", "shoulder_lift"], "unit": "rad"}
    with pytest.raises(SchemaMismatchError) as refused:
        read(tmp_path, PTK, swapped | {"names": ["left_shoulder_lift", "left_shoulder_pan"]})
    said = str(refused.value)
    assert "the YAML calls the messages' 'shoulder_pan' 'left_shoulder_lift', which is what they call another of `joints`" in said
    assert "stream /arm, dimension left_shoulder_lift" in said
    assert "expected the order of joints: [shoulder_pan, shoulder_lift]" in said
    everything = joints(5, 7).values
    for names in (["pan", "lift"], ["j1", "j2"], ["left_shoulder_pan", "left_shoulder_lift"]):
        np.testing.assert_allclose(read(tmp_path, PTK, swapped | {"names": names}), everything[:, :2])


@pytest.mark.parametrize("prefix", ["", "left_", "right_", "L_", "r_"])
@pytest.mark.parametrize("name", ["wrist_roll", "Wrist_Roll"])
def test_the_side_of_the_arm_and_case_do_not_hide_it(tmp_path: Path, prefix: str, name: str):
    with pytest.raises(SchemaMismatchError, match="column 3 is 'wrist_flex' and column 4 is 'wrist_roll'"):
        read(tmp_path, PTK, {"source": "/arm.position[3:4]", "names": [prefix + name], "unit": "rad"})


def test_both_lines_that_the_error_offers_are_accepted(tmp_path: Path):
    named = {"source": "/arm.position", "names": ["wrist_roll"], "unit": "rad"}
    by_name = read(tmp_path, PTK, named | {"joints": ["wrist_roll"]})
    by_column = read(tmp_path, PTK, named | {"joints": ["wrist_flex"]})
    everything = joints(5, 7).values
    np.testing.assert_allclose(by_name[:, 0], everything[:, 4])
    np.testing.assert_allclose(by_column[:, 0], everything[:, 3])


def test_the_gripper_of_a_ptk_must_be_said_by_name_since_its_sixth_joint_is_called_gripper(tmp_path: Path):
    gripper = {"source": "/arm.position[6:7]", "names": ["left_gripper"], "unit": "m", "kind": "gripper"}
    with pytest.raises(SchemaMismatchError, match="`gripper` is the sixth arm joint and `gripper_finger` the gripper"):
        read(tmp_path, PTK, *ARM, gripper)
    by_name = read(tmp_path, PTK, *ARM, gripper | {"source": "/arm.position", "joints": ["gripper_finger"]})
    np.testing.assert_allclose(by_name[:, 0], joints(5, 7).values[:, 6])


@pytest.mark.parametrize(
    ("written", "part"),
    [
        pytest.param(PTK, {"names": ["left_shoulder_pan", "left_shoulder_lift", "left_elbow_flex"]}, id="the same names"),
        pytest.param(PTK, {"names": ["j1", "j2", "j3"]}, id="names of the YAML's own"),
        pytest.param(("joint1", "joint2", "joint3"), {"names": ["left_j1", "left_j3", "left_j2"]}, id="names that are not equal"),
        pytest.param(("left_j1", "right_j1", "j1"), {"names": ["left_j1", "right_j1", "j1"]}, id="a side that the messages have too"),
        pytest.param(("j1", "j1", "j1"), {"names": ["a", "j1", "b"]}, id="messages that call all joints alike"),
        pytest.param((), {"names": ["j2", "j3", "j1"]}, id="messages without names"),
    ],
)
def test_names_that_contradict_nothing_are_taken(tmp_path: Path, written: tuple[str, ...], part: dict[str, Any]):
    if written:
        assert read(tmp_path, written, part | {"source": "/arm.position[0:3]", "unit": "rad"}).shape == (5, 3)
    else:
        path = write_mcap(tmp_path / "a.mcap", "airbot", joints={"/arm": joints(5, 3)})
        assert values(path, part | {"source": "/arm", "unit": "rad"}).shape == (5, 3)


def test_names_in_the_attachment_of_an_airbot_count_as_those_of_the_messages(tmp_path: Path):
    said = {"/follow": {"arm/joint_names": ["joint1", "joint2", "joint3"]}}
    extras = Extras(attachments=[("component_info", "application/json", json.dumps(said).encode())])
    topic = "/follow/arm/joint_state/position"
    path = write_mcap(tmp_path / "a.mcap", "airbot", joints={topic: joints(5, 3)}, extras=extras)
    assert values(path, {"source": topic, "names": ["joint1", "joint2", "joint3"], "unit": "rad"}).shape == (5, 3)
    with pytest.raises(SchemaMismatchError, match="column 1 is 'joint2' and column 2 is 'joint3'"):
        values(path, {"source": topic, "names": ["joint1", "joint3", "joint2"], "unit": "rad"})


def test_names_of_a_rotation_in_another_form_are_those_of_no_column(tmp_path: Path):
    path = tmp_path / "a.mcap"
    count = 5
    unit = joints(count, 4, names=("qw", "qx", "qy", "qz"))
    unit.values[:] = np.array([1.0, 0.0, 0.0, 0.0])
    write_mcap(path, "ros2", joints={"/arm": unit})
    part = {"source": "/arm.position", "names": ["qx", "qy", "qz"], "unit": "1"}
    assert values(path, part | {"kind": "quaternion_wxyz", "written_as": "rotation_rpy", "unit": "rad"}).shape[0] == count


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left_j1", "left"),
        ("Left_j1", "left"),
        ("L_elbow", "left"),
        ("right_arm_2", "right"),
        ("wrist_r", "right"),
        ("robot0_eef_x", "robot0"),
        ("Arm1_j2", "arm1"),
        ("lift", ""),
        ("r1", ""),
        ("gripper", ""),
    ],
)
def test_the_arm_that_a_name_is_of_is_told_in_any_case(name: str, side: str):
    assert side_of(name) == side


def test_short_names_are_of_a_side_only_beside_those_of_the_other():
    both = ["r1", "r2", "GR", "l1", "l2", "gl"]
    assert sides_of(both) == ["right", "right", "right", "left", "left", "left"]
    assert sides_of(["x", "y", "z", "r1", "r2", "r3", "r4", "r5", "r6"]) == [""] * 9
