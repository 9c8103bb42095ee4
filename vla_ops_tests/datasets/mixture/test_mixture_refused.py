"""Sources whose data cannot be one dataset are refused before anything is written, all reasons at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from vla_ops.datasets.mixture import frame_weights
from vla_ops.errors import DatasetError
from vla_ops.mixture_file import Mixture
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, UNCHECKED, Arm, Lab

SMALL = replace(LEFT, cameras={"cam_high": "base"})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.add("left", SMALL)
    return made


def refusal(lab: Lab, mixture: Mixture) -> str:
    with pytest.raises(DatasetError) as caught:
        lab.make(mixture)
    assert not (lab.store(mixture.name).root / "lerobot_v3").exists()
    return str(caught.value)


def test_sources_without_a_dataset_are_all_named(lab: Lab) -> None:
    for name in ("one", "two"):
        lab.write_yaml(name, SMALL.document)
    said = refusal(lab, lab.mix("both", {"robot": "left"}, {"robot": "one"}, {"robot": "two"}))
    assert "one has no dataset yet" in said
    assert "two has no dataset yet" in said
    assert f"{lab.robots / 'both/defs.yaml'}:" in said


def test_another_camera_shape_is_refused_with_both(lab: Lab) -> None:
    lab.add("large", replace(SMALL, size=(96, 128)))
    said = refusal(lab, lab.mix("both", {"robot": "left"}, {"robot": "large"}))
    assert "camera cam_high: 64x96 in left, 96x128 in large (height x width)" in said


def test_an_unknown_task_is_named_with_the_nearest(lab: Lab) -> None:
    said = refusal(lab, lab.mix("both", {"robot": "left", "tasks": ["pikc", "place"]}))
    assert "the dataset of left has no task 'pikc'; did you mean 'pick'?" in said


def test_a_source_of_which_all_is_held_out_is_refused(lab: Lab) -> None:
    said = refusal(lab, lab.mix("both", {"robot": "left", "tasks": ["place"]}))
    assert "all 1 episodes of left are held out for validation" in said


def test_a_source_whose_yaml_was_changed_since_is_refused(lab: Lab) -> None:
    lab.write_yaml("left", replace(SMALL, more={"timeline": {"rate_hz": 30, "max_skew_ms": 1}}).document)
    assert "was made before the YAML was changed" in refusal(lab, lab.mix("both", {"robot": "left"}))


def test_a_source_that_a_measured_check_blocks_is_refused(lab: Lab) -> None:
    # Its numbers are those of joints in radians that turn hundreds of times.
    checked = {**UNCHECKED, "units": "block"}
    lab.add("odd", replace(SMALL, unit="deg", first=0, episodes=((400, "pick"), (400, "place")), more={"checks": checked}))
    mixture = lab.mix("both", {"robot": "odd"})
    assert "contradict the robot's YAML" in refusal(lab, mixture)


def test_what_is_no_mixture_has_no_frame_weights(lab: Lab) -> None:
    dataset = next((lab.store("left").root / "lerobot_v3").glob("*/meta")).parent
    with pytest.raises(DatasetError, match="not a mixture"):
        frame_weights(dataset)


def test_right_alone_is_a_mixture(lab: Lab) -> None:
    lab.add("right", RIGHT)
    assert lab.make(lab.mix("alone", {"robot": "right"})).made.episodes == 2


def test_a_robot_without_cameras_can_be_mixed_with_one_that_has_some(lab: Lab) -> None:
    lab.add("blind", Arm(cameras={}))
    made = lab.make(lab.mix("both", {"robot": "blind"}, {"robot": "left"})).made
    assert made.episodes == 4
