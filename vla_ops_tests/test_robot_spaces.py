"""The spaces of state and action: which rotations are composed, and what a robot must be to be adapted to pi0's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from vla_ops.errors import SpecError
from vla_ops.robot import RobotSpec, RotationGroup
from vla_ops.robot_file import load_robot
from vla_ops_tests.norm_stats.arms import parts, pose_spec
from vla_ops_tests.norm_stats.data import ALOHA, make_spec

STATE = parts("rotation_vector", "rad", stream="/state")
POSITION, TURNED, GRIPPER = STATE


def test_the_rotations_that_are_composed_are_derived_from_the_parts() -> None:
    left, right = (parts("rotation_6d", "1", stream=f"/{side}", side=f"{side}_") for side in ("left", "right"))
    spec = pose_spec([*left, *right])
    assert spec.delta_rotations == (RotationGroup(3, 9, "rotation_6d", "1"), RotationGroup(13, 19, "rotation_6d", "1"))
    assert all(all(spec.delta_mask[group.start : group.stop]) for group in spec.delta_rotations)


def test_a_rotation_is_composed_in_the_form_it_is_written_in() -> None:
    recorded = TURNED | {"source": "/state[3:7]", "kind": "quaternion_wxyz", "unit": "1", "written_as": "rotation_rpy"}
    assert pose_spec([POSITION, recorded]).delta_rotations == (RotationGroup(3, 6, "rotation_rpy", "rad"),)
    commanded = TURNED | {"source": "/action[3:6]", "kind": "rotation_rpy"}
    assert pose_spec([POSITION, recorded], [POSITION, commanded]).delta_rotations


@pytest.mark.parametrize("asked", [{"action_space": "absolute"}, {"rotation_delta": "subtracted"}])
def test_nothing_is_composed_where_it_was_not_asked_for(asked: dict[str, Any]) -> None:
    assert pose_spec(STATE, **asked).delta_rotations == ()


def test_a_recorded_delta_of_a_rotation_is_left_as_it_is() -> None:
    deltas = [part | {"source": part["source"].replace("state", "action"), "means": "delta"} for part in (POSITION, TURNED)]
    assert pose_spec(STATE, [*deltas, GRIPPER]).delta_rotations == ()


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (
            [POSITION, TURNED | {"kind": "rotation_rpy"}],
            "r1 (rotation_rpy in rad), r2 (rotation_rpy in rad) would be composed with r0 (rotation_vector in rad), r1 (rotation",
        ),
        ([POSITION, TURNED | {"unit": "deg"}], "r0 (rotation_vector in deg)"),
        (
            [POSITION, TURNED | {"kind": "joint"}],
            "r0 (joint in rad), r1 (joint in rad), r2 (joint in rad) would be composed with r0 (rotation",
        ),
        ([TURNED, POSITION], "r2 (rotation_vector in rad) would be composed with x (position in m), y (position in m), z (position in m)"),
        (
            [POSITION, TURNED, GRIPPER, TURNED | {"source": "/other", "names": ["s0", "s1", "s2"]}],
            "s2 (rotation_vector in rad) would be composed with none of the 7 dimensions of the state",
        ),
    ],
)
def test_a_rotation_that_would_be_composed_with_something_else_is_refused(action: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        pose_spec(STATE, action)
    assert said in str(error.value)
    for way_out in ("written_as", "rotation_delta: subtracted", "action_space: absolute"):
        assert way_out in str(error.value)
    assert pose_spec(STATE, action, action_space="absolute")


def test_what_is_subtracted_by_wish_need_not_be_one_form() -> None:
    action = [POSITION, TURNED | {"kind": "rotation_rpy"}, GRIPPER]
    assert pose_spec(STATE, action, rotation_delta="subtracted").delta_mask == (True,) * 6 + (False,)


def test_the_refusal_reaches_the_person_who_wrote_the_file(tmp_path: Path) -> None:
    (tmp_path / "arm").mkdir()
    attributes = pose_spec(STATE).model_dump(
        mode="json", by_alias=True, include={"recordings", "timeline", "task", "dataset"}, exclude_none=True
    )
    attributes |= {"state": STATE, "action": [POSITION, TURNED | {"kind": "rotation_rpy"}]}
    (tmp_path / "arm" / "defs.yaml").write_text(yaml.safe_dump({"type": "vla_ops.RobotPipeline", "attributes": attributes}))
    with pytest.raises(SpecError, match=r"the delta of r0 \(rotation_rpy in rad\)"):
        load_robot(tmp_path / "arm")


def test_aloha_can_be_adapted_to_pi() -> None:
    for space in ("delta", "absolute"):
        assert make_spec(ALOHA, norm_stats={"adapt_to_pi": True, "action_space": space})


def aloha(vector: str, k: int, **changes: Any) -> dict[str, Any]:
    """ALOHA's attributes with dimension `k` of a vector changed."""
    attributes = make_spec(ALOHA).model_dump(mode="json", by_alias=True)
    attributes["norm_stats"] |= {"adapt_to_pi": True, "action_space": "absolute"}
    attributes[vector][k] |= changes
    return attributes


@pytest.mark.parametrize(
    ("vector", "k", "changes", "said"),
    [
        ("state", 2, {"unit": "deg"}, "state 2 should be an absolute joint in rad, found left_elbow, a joint in deg"),
        ("action", 13, {"unit": "m"}, "action 13 should be an absolute gripper in ratio, found right_gripper, a gripper in m"),
        (
            "action",
            6,
            {"open_at": "low"},
            "action 6 should be an absolute gripper in ratio, found left_gripper, a gripper in ratio, open at low",
        ),
        (
            "action",
            0,
            {"means": "velocity"},
            "action 0 should be an absolute joint in rad, found left_waist, a joint in rad that means a velocity",
        ),
        ("state", 9, {"kind": "position"}, "state 9 should be an absolute joint in rad, found right_elbow, a position in rad"),
    ],
)
def test_a_dimension_that_is_not_alohas_is_named(vector: str, k: int, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        RobotSpec.model_validate(aloha(vector, k, **changes))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (ALOHA[:7], "state 7 should be an absolute joint in rad, found nothing"),
        ([*ALOHA, "lift"], "state 14 should be nothing, found lift, a joint in rad"),
        ([*ALOHA[:5], "left_gripper"], "state 5 should be an absolute joint in rad, found left_gripper"),
    ],
)
def test_another_number_of_dimensions_than_alohas_is_named(names: list[str], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        make_spec(names, norm_stats={"adapt_to_pi": True})
    assert said in str(error.value)
