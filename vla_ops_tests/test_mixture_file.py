"""Which mixtures load, what is derived from them, and how each mistake is named with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vla_ops.errors import SpecError
from vla_ops.mixture_file import load_mixture
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, Arm, Lab

TOP = {"cam_top": "cam_high"}
POSE = {"source": "/pose", "names": ["rx", "ry", "rz"], "unit": "rad", "kind": "rotation_vector"}
GRIPPER = {"source": "/gripper.position", "names": ["gripper"], "unit": "m", "kind": "gripper"}
JOINT = {"source": "/arm", "names": ["j1"], "unit": "rad"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    for name, arm in (("left", LEFT), ("right", RIGHT)):
        made.write_yaml(name, arm.document)
    return made


def refusal(lab: Lab, *sources: dict[str, Any], **attributes: Any) -> list[str]:
    """The lines of the error, each `<path>:<line>: ...` after the first."""
    with pytest.raises(SpecError) as caught:
        lab.mix("both", *sources, **attributes)
    return str(caught.value).splitlines()


def line_of(lab: Lab, text: str) -> int:
    lines = (lab.robots / "both" / "defs.yaml").read_text().splitlines()
    return next(k for k, line in enumerate(lines, 1) if text in line)


def robot(lab: Lab, name: str, **fields: Any) -> None:
    lab.write_yaml(name, Arm(**fields).document)


def test_dimensions_and_cameras_are_brought_together_by_name_in_the_order_of_first_appearance(lab: Lab) -> None:
    mixture = lab.mix("both", {"robot": "left"}, {"robot": "right", "cameras": TOP})
    assert [dim.name for dim in mixture.schema.state_dims] == ["j1", "j2", "gripper", "j3"]
    assert dict(mixture.schema.cameras) == {"cam_high": "base", "cam_left": "left_wrist", "cam_right": "right_wrist"}
    left, right = (source.placement for source in mixture.sources)
    assert (left.state, right.state) == ((0, 1, 2, None), (None, 0, 2, 1))
    assert right.has("action") == (False, True, True, True)
    assert dict(right.cameras) == {"cam_high": "cam_top", "cam_left": None, "cam_right": "cam_right"}


def test_a_model_gets_from_a_mixture_what_it_gets_from_a_robot(lab: Lab) -> None:
    schema = lab.mix("both", {"robot": "left"}, {"robot": "right", "cameras": TOP}).schema
    assert schema.delta_mask == (True, True, False, True)
    assert schema.camera_slots == {"base_0_rgb": "cam_high", "left_wrist_0_rgb": "cam_left", "right_wrist_0_rgb": "cam_right"}


def test_an_explicit_schema_orders_and_leaves_out(lab: Lab) -> None:
    asked = {"state": ["gripper", "j2"], "action": ["gripper", "j2"], "cameras": ["cam_high"]}
    mixture = lab.mix("both", {"robot": "left"}, {"robot": "right", "cameras": TOP}, schema=asked)
    assert [dim.name for dim in mixture.schema.action_dims] == ["gripper", "j2"]
    assert mixture.sources[1].placement.state == (2, 0)
    assert list(mixture.schema.cameras) == ["cam_high"]


def test_a_robot_is_there_twice_with_tasks_that_differ(lab: Lab) -> None:
    sources = [{"robot": "left", "name": "picking", "tasks": ["pick"]}, {"robot": "left", "name": "placing", "tasks": ["place"]}]
    assert [source.name for source in lab.mix("both", *sources).sources] == ["picking", "placing"]


def test_all_mistakes_are_named_at_once_with_their_lines_and_the_nearest_names(lab: Lab) -> None:
    lines = refusal(
        lab,
        {"robot": "left", "dims": {"j7": "j2"}},
        {"robot": "right", "cameras": {"cam_tpo": "cam_high"}},
        schema={"state": ["j1", "j9"], "cameras": ["cam_left", "cam_left"]},
    )
    path = lab.robots / "both" / "defs.yaml"
    assert f"{path}:{line_of(lab, 'j7')}: sources.0.dims.j7: left has no dimension 'j7'; did you mean 'j2'?" in lines
    assert f"{path}:{line_of(lab, 'cam_tpo')}: sources.1.cameras.cam_tpo: right has no camera 'cam_tpo'; did you mean 'cam_top'?" in lines
    assert any("schema.state.1: no source has a state dimension 'j9'; did you mean 'j" in line for line in lines)
    assert any("schema.cameras.1: 'cam_left' is listed twice" in line for line in lines)


def test_an_unknown_robot_is_named_with_the_nearest(lab: Lab) -> None:
    (_, line) = refusal(lab, {"robot": "lefft"})
    assert f"there is no robot 'lefft' in {lab.robots}; did you mean 'left'?" in line


def test_an_unknown_key_is_named_with_the_nearest(lab: Lab) -> None:
    (_, line) = refusal(lab, {"robot": "left", "wieght": 1.0})
    assert "unknown key 'wieght'; did you mean 'weight'?" in line


def test_a_mixture_of_a_mixture_is_refused(lab: Lab) -> None:
    lab.mix("inner", {"robot": "left"})
    (_, line) = refusal(lab, {"robot": "inner"})
    assert "inner is a mixture itself; list its sources here instead" in line


def test_the_mistakes_of_a_sources_own_yaml_are_told_with_the_line_that_names_it(lab: Lab) -> None:
    path = lab.write_yaml("left", {**LEFT.document, "attributes": {**LEFT.document["attributes"], "camras": {}}})
    lines = refusal(lab, {"robot": "left"})
    assert lines[0].startswith(f"{lab.robots / 'both' / 'defs.yaml'}:{line_of(lab, 'robot: left')}: a source cannot be loaded")
    assert any(line.startswith(f"{path}:") and "did you mean 'cameras'" in line for line in lines)


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), "much"])
def test_a_weight_that_is_no_weight_is_refused(lab: Lab, weight: object) -> None:
    assert any("sources.0.weight" in line for line in refusal(lab, {"robot": "left", "weight": weight}))


def test_weights_for_some_sources_alone_are_refused(lab: Lab) -> None:
    (_, line) = refusal(lab, {"robot": "left", "weight": 2.0}, {"robot": "right"})
    assert "right has no weight and others have; write one for every source, or for none (by frames)" in line


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (None, ["pick"], "left is there twice; write `tasks` for both"),
        (["pick", "place"], ["pick"], "left is there twice with the task 'pick'"),
        (["pick"], ["place"], "two sources are called left; write `name:` for one of them"),
    ],
)
def test_a_robot_twice_is_refused_unless_no_episode_can_be_in_both(lab: Lab, first: object, second: object, said: str) -> None:
    lines = refusal(lab, {"robot": "left", "tasks": first}, {"robot": "left", "tasks": second})
    assert any(said in line for line in lines)


def test_no_source_is_called_as_the_merged_norm_stats_are(lab: Lab) -> None:
    assert any("write another `name:`" in line for line in refusal(lab, {"robot": "left", "name": "merged"}))


def test_names_that_are_made_one_are_refused(lab: Lab) -> None:
    lines = refusal(lab, {"robot": "left", "dims": {"j1": "j2"}, "cameras": {"cam_left": "cam_high"}})
    assert any("j1 and j2 of left would both be 'j2'" in line for line in lines)
    assert any("cam_high and cam_left of left would both be 'cam_high'" in line for line in lines)


DIFFER = {
    "rate": ({"rate_hz": 25}, "timeline.rate_hz: 30 Hz in left, 25 Hz in other"),
    "unit": ({"unit": "deg"}, "state j2 differs in unit: rad in left, deg in other"),
    "horizon": ({"more": {"norm_stats": {"action_horizon": 9}}}, "norm_stats.action_horizon: 3 in left, 9 in other"),
    "role": ({"cameras": {"cam_high": "left_wrist"}}, "camera cam_high differs in role: base in left, left_wrist in other"),
    "no role": ({"cameras": {"cam_high": None}}, "camera cam_high differs in role: base in left, none in other"),
    "slot": ({"cameras": {"cam_front": "base"}}, "role base: cam_high in left, cam_front in other"),
    "open_at": ({"state": ({**GRIPPER, "open_at": "low"},)}, "state gripper differs in open_at: high in left, low in other"),
}


@pytest.mark.parametrize("what", DIFFER)
def test_sources_that_differ_in_what_is_one_in_a_dataset_are_refused_with_both_values(lab: Lab, what: str) -> None:
    fields, said = DIFFER[what]
    robot(lab, "other", **fields)
    lines = refusal(lab, {"robot": "left"}, {"robot": "other"})
    assert any(said in line for line in lines), lines


def test_an_action_that_means_something_else_is_refused(lab: Lab) -> None:
    parts = [{**LEFT.parts[0], "means": "velocity"}, LEFT.parts[1]]
    lab.write_yaml("fast", {**LEFT.document, "attributes": {**LEFT.document["attributes"], "action": parts}})
    lines = refusal(lab, {"robot": "left"}, {"robot": "fast"})
    assert any("action j1 differs in means: absolute in left, velocity in fast" in line for line in lines)


def test_a_recorded_action_and_the_next_state_may_be_mixed(lab: Lab) -> None:
    parts = [{**part, "source": f"/leader{part['source']}"} for part in LEFT.parts]
    lab.write_yaml("led", {**LEFT.document, "attributes": {**LEFT.document["attributes"], "action": parts}})
    assert lab.mix("both", {"robot": "left"}, {"robot": "led"}).schema.delta_mask == (True, True, False)


def test_two_forms_of_a_rotation_are_refused(lab: Lab) -> None:
    robot(lab, "one", state=(POSE,))
    robot(lab, "two", state=({**POSE, "kind": "rotation_rpy"},))
    lines = refusal(lab, {"robot": "one"}, {"robot": "two"})
    assert any("state rx differs in kind: rotation_vector in one, rotation_rpy in two" in line for line in lines)


@pytest.mark.parametrize("names", [["rx", "ry"], ["ry", "rx", "rz"], ["rx", "j1", "ry", "rz"]])
def test_a_part_of_a_rotation_or_one_that_is_shuffled_is_refused(lab: Lab, names: list[str]) -> None:
    robot(lab, "one", state=(JOINT, POSE))
    lines = refusal(lab, {"robot": "one"}, schema={"state": names, "action": names})
    assert any("rx, ry, rz of one are one rotation (rotation_vector)" in line for line in lines), lines


def test_rotations_of_sources_with_other_dimensions_stay_whole(lab: Lab) -> None:
    robot(lab, "one", state=(POSE,))
    robot(lab, "two", state=(JOINT, POSE))
    schema = lab.mix("both", {"robot": "one"}, {"robot": "two"}).schema
    assert [(group.start, group.stop) for group in schema.delta_rotations] == [(0, 3)]


def test_a_delta_that_would_be_taken_from_another_state_is_refused(lab: Lab) -> None:
    names = {"state": ["j2", "j1", "gripper"], "action": ["j1", "j2", "gripper"]}
    lines = refusal(lab, {"robot": "left"}, schema=names)
    assert any("the delta of action j1 is from state j1 in left, and would be from j2 in the mixture" in line for line in lines)


def test_a_source_without_a_dimension_of_the_schema_is_refused(lab: Lab) -> None:
    robot(lab, "hand", names=("gripper",))
    lines = refusal(lab, {"robot": "left"}, {"robot": "hand"}, schema={"state": ["j1"], "action": ["j1"]})
    assert any("hand has no state dimension of the schema" in line for line in lines)


def test_keys_that_are_there_twice_are_refused(lab: Lab) -> None:
    lab.mix("both", {"robot": "left"})
    path = lab.robots / "both" / "defs.yaml"
    path.write_text(path.read_text() + "  norm_stats: merged\n  norm_stats: per_source\n")
    with pytest.raises(SpecError, match="norm_stats: is already at line"):
        load_mixture(path.parent)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "empty; a mixture's YAML has `type: vla_ops.Mixture`"),
        ({"type": "vla_ops.RobotPipeline", "attributes": {}}, "expected vla_ops.Mixture"),
        ({"type": "vla_ops.Mixture"}, "attributes: there are none"),
        ({"type": "vla_ops.Mixture", "attributes": {"sources": [], "dataset": {"repo_id": "a/b"}}}, "sources: "),
        ({"type": "vla_ops.Mixture", "attributes": {"sources": [{"robot": "left"}], "dataset": {"repo_id": "b"}}}, "the Hub takes"),
    ],
)
def test_what_is_no_mixture_is_refused(lab: Lab, document: object, said: str) -> None:
    path = lab.robots / "both" / "defs.yaml"
    path.parent.mkdir()
    path.write_text("" if document is None else yaml.safe_dump(document))
    with pytest.raises(SpecError) as caught:
        load_mixture(path.parent)
    assert said in str(caught.value)
