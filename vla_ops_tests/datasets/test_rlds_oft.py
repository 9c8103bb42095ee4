"""What OpenVLA-OFT is told of a dataset: encodings, masks and constants of arms as they are, and its statistics."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.rlds import RldsSettings, write_rlds
from vla_ops.datasets.rlds_oft import oft_entry
from vla_ops.robot import RobotSpec
from vla_ops_tests.datasets.episode_folders import Kind, write_episodes
from vla_ops_tests.datasets.rlds_reading import robot_spec

XYZ, RPY, JOINTS = ["x", "y", "z"], ["roll", "pitch", "yaw"], [f"j{k}" for k in range(1, 7)]
JOINT_ARM = [(JOINTS, "joint", "rad"), (["gripper"], "gripper", "ratio")]
EEF_ARM = [(XYZ, "position", "m"), (RPY, "rotation_rpy", "rad"), (["gripper"], "gripper", "ratio")]
R6_ARM = [EEF_ARM[0], ([f"r{k}" for k in range(6)], "rotation_6d", "1"), EEF_ARM[2]]
QUAT_ARM = [EEF_ARM[0], (["qx", "qy", "qz", "qw"], "quaternion_xyzw", "1"), EEF_ARM[2]]


def parts(arms, prefix, means="absolute"):
    found, sides = [], ("left_", "right_") if len(arms) > 1 else ("",)
    for side, arm in zip(sides, arms, strict=True):
        for names, kind, unit in arm:
            part = {"source": f"/{prefix}/{side}{kind}", "names": [side + n for n in names], "kind": kind, "unit": unit}
            found.append(part | ({"means": means} if kind != "gripper" else {}))
    return found


def robot(action_arms, *, state_arms=None, means="absolute", roles=("base", "left_wrist", "right_wrist"), rate_hz=25):
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "recordings", "pattern": "*.mcap", "format": "mcap"},
            "timeline": {"rate_hz": rate_hz},
            "state": parts(state_arms or action_arms, "state"),
            "action": parts(action_arms, "action", means),
            "cameras": {f"cam_{role}": {"source": f"/{role}", "role": role} for role in roles},
            "task": {"from": "recording"},
            "dataset": {"repo_id": "my-lab/arm"},
            "norm_stats": {"action_space": "absolute"},
        }
    )


def entry(*args, **kwargs):
    return oft_entry(robot(*args, **kwargs), "arm", robot="arm", version="v", splits={"train": 3})


def test_an_aloha_gets_what_oft_has_for_its_own_alohas():
    found = entry([JOINT_ARM, JOINT_ARM])
    assert found["config"] == {
        "image_obs_keys": {"primary": "image", "secondary": None, "left_wrist": "left_wrist_image", "right_wrist": "right_wrist_image"},
        "depth_obs_keys": {"primary": None, "secondary": None, "left_wrist": None, "right_wrist": None},
        "state_obs_keys": ["state"],
        "state_encoding": "JOINT_BIMANUAL",
        "action_encoding": "JOINT_POS_BIMANUAL",
    }
    assert found["constants"] == {
        "NUM_ACTIONS_CHUNK": 25,
        "ACTION_DIM": 14,
        "PROPRIO_DIM": 14,
        "ACTION_PROPRIO_NORMALIZATION_TYPE": "bounds",
    }
    assert found["absolute_action_mask"] == found["action_normalization_mask"] == [True] * 14
    assert (found["gripper_dims"], found["registry_is_enough"]) == ([6, 13], True)
    assert (found["load_camera_views"], found["num_images_in_input"]) == (["primary", "left_wrist", "right_wrist"], 3)


def test_a_libero_gets_what_oft_has_for_libero():
    found = entry([EEF_ARM], means="delta", roles=("base", "left_wrist"), rate_hz=20)
    assert found["config"]["image_obs_keys"] == {"primary": "image", "secondary": None, "wrist": "wrist_image"}
    assert (found["config"]["state_encoding"], found["config"]["action_encoding"]) == ("POS_EULER", "EEF_POS")
    assert found["absolute_action_mask"] == [False] * 6 + [True]
    assert found["action_normalization_mask"] == [True] * 6 + [False]
    assert found["constants"]["ACTION_PROPRIO_NORMALIZATION_TYPE"] == "bounds_q99"
    assert (found["constants"]["ACTION_DIM"], found["registry_is_enough"]) == (7, True)
    assert (found["load_camera_views"], found["num_images_in_input"]) == (["primary", "wrist"], 2)


def test_two_cartesian_arms_have_their_grippers_left_alone():
    found = entry([EEF_ARM, EEF_ARM], means="delta")
    assert found["config"]["action_encoding"] == "DUAL_EEF_POS"
    assert found["action_normalization_mask"] == ([True] * 6 + [False]) * 2
    # OFT has no such encoding: whoever trains has to take the masks from here.
    assert found["registry_is_enough"] is False


@pytest.mark.parametrize(
    ("arms", "state", "action"),
    [
        ([R6_ARM], None, "EEF_R6"),
        ([QUAT_ARM], "POS_QUAT", None),
        ([JOINT_ARM], "JOINT", "JOINT_POS"),
        ([[(JOINTS, "joint", "rad")]], None, None),
        ([EEF_ARM, JOINT_ARM], None, None),
    ],
)
def test_what_oft_has_no_name_for_has_none(arms, state, action):
    config = entry(arms)["config"]
    assert (config["state_encoding"], config["action_encoding"]) == (state, action)


def test_absolute_cartesian_actions_are_not_what_oft_takes_them_for():
    found = entry([EEF_ARM])
    assert found["absolute_action_mask"] == [True] * 7
    assert found["constants"]["ACTION_PROPRIO_NORMALIZATION_TYPE"] == "bounds"
    assert (found["config"]["action_encoding"], found["registry_is_enough"]) == ("EEF_POS", False)


def test_a_cartesian_gripper_in_metres_is_normalized():
    arm = [*EEF_ARM[:2], (["gripper"], "gripper", "m")]
    assert entry([arm], means="delta")["action_normalization_mask"] == [True] * 7


def test_a_robot_without_a_base_camera_says_so():
    found = entry([JOINT_ARM, JOINT_ARM], roles=("left_wrist", "right_wrist"))
    assert found["config"]["image_obs_keys"]["primary"] is None
    assert (found["load_camera_views"], found["num_images_in_input"]) == (["primary", "left_wrist", "right_wrist"], 3)


KIND = Kind(cameras=("cam_high",))


def test_files_beside_the_dataset_hold_the_entry_and_the_statistics_of_what_is_for_training(tmp_path):
    episodes = write_episodes(tmp_path / "episodes", [30, 41, 25], kind=KIND)
    spec = robot_spec(KIND)
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", episodes, spec=spec, robot="arm", held_out=[episodes[1].id])
    view = write_rlds(tmp_path / "rlds", v30.folder, episodes, spec=spec, robot="arm", settings=RldsSettings(64, chunk_steps=8))
    found = json.loads((view.folder / "oft_dataset.json").read_text())
    assert (found["name"], found["splits"], found["use_val_set"]) == ("arm", {"train": 2, "val": 1}, True)
    assert (found["constants"]["NUM_ACTIONS_CHUNK"], found["dataset_version"]) == (8, v30.version)
    assert [dim["name"] for dim in found["action"]] == ["j1", "j2", "gripper"]

    statistics = json.loads((view.folder / found["dataset_statistics"]).read_text())
    assert (statistics["num_transitions"], statistics["num_trajectories"]) == (55, 2)
    for name, column in (("action", "action"), ("proprio", "observation.state")):
        values = np.concatenate([np.stack(pq.read_table(episodes[k].frames)[column].to_numpy()) for k in (0, 2)])
        expected = {"mean": values.mean(0), "std": values.std(0), "max": values.max(0), "min": values.min(0)}
        expected |= {f"q{q:02}": np.quantile(values, q / 100, axis=0) for q in (1, 99)}
        assert statistics[name].keys() == expected.keys()
        for which, numbers in expected.items():
            np.testing.assert_allclose(statistics[name][which], numbers, rtol=1e-5, atol=1e-6)


def test_a_robot_of_one_dimension_has_statistics(tmp_path):
    kind = Kind(cameras=("cam_high",), names=("j1",))
    episodes = write_episodes(tmp_path / "episodes", [6], kind=kind)
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", episodes, spec=robot_spec(kind), robot="arm")
    view = write_rlds(tmp_path / "rlds", v30.folder, episodes, spec=robot_spec(kind), robot="arm", settings=RldsSettings(32))
    assert json.loads((view.folder / "dataset_statistics.json").read_text())["proprio"]["max"] == [5.0]
