"""What a policy's files say, and whether it is the robot's: without LeRobot, of files written here as it writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vla_ops.errors import CheckpointError, SchemaMismatchError, StatsMismatchError
from vla_ops.policies.lerobot_fit import fit
from vla_ops.policies.lerobot_folder import lerobot_folder, read_lerobot
from vla_ops.robot_file import Robot
from vla_ops_tests.policies.making import ARM, ROBOT, arm_spec

ARM_ROBOT = Robot(ROBOT, Path(), arm_spec())
TOP, HAND = "observation.images.top", "observation.images.hand"
ONES = np.ones(3, np.float32)
STATS = {f"{feature}.{name}": ONES for feature in ("observation.state", "action") for name in ("mean", "std")}
NORM = {"norm_map": {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}}


def write(folder: Path, *, kind: str = "act", cameras: tuple[str, ...] = (TOP, HAND), **config: Any) -> Path:
    """A folder as `save_pretrained` leaves it."""
    images = {feature: {"type": "VISUAL", "shape": [3, 48, 64]} for feature in cameras}
    features = {"observation.state": {"type": "STATE", "shape": [3]}} | images
    outputs = {"action": {"type": "ACTION", "shape": [3]}}
    told = {
        "type": kind,
        "n_obs_steps": 1,
        "input_features": features,
        "output_features": outputs,
        "normalization_mapping": NORM["norm_map"],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(told | config))
    (folder / "model.safetensors").write_bytes(b"")
    for name, steps in {
        "preprocessor": [{"registry_name": "rename_observations_processor", "config": {"rename_map": {}}}, normalizer("normalizer")],
        "postprocessor": [normalizer("unnormalizer")],
    }.items():
        (folder / f"policy_{name}.json").write_text(json.dumps({"name": f"policy_{name}", "steps": steps}))
    for name in ("normalizer", "unnormalizer"):
        save_file(STATS, folder / f"{name}.safetensors")
    return folder


def normalizer(name: str) -> dict[str, Any]:
    return {"registry_name": f"{name}_processor", "config": NORM, "state_file": f"{name}.safetensors"}


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))


def checked(folder: Path) -> list[str]:
    """The cameras that the policy sees of the arm."""
    there = read_lerobot(folder)
    there.refuse_no_stats()
    return [camera.name for camera in fit(there, ARM_ROBOT)]


# Where it is


def test_exports_of_this_project_and_other_folders_are_none_of_lerobots(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    assert lerobot_folder(folder) == folder
    assert lerobot_folder(tmp_path / "nothing") is None
    (folder / "vla_ops.json").write_text("{}")
    assert lerobot_folder(folder) is None
    other = tmp_path / "openpi"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"paligemma_variant": "gemma_2b"}))
    assert lerobot_folder(other) is None


def test_the_last_checkpoint_of_a_training_is_taken(tmp_path: Path) -> None:
    for step in ("000100", "000200"):
        write(tmp_path / "checkpoints" / step / "pretrained_model")
    (tmp_path / "checkpoints" / "last").symlink_to("000200")
    found = lerobot_folder(tmp_path)
    assert found is not None
    assert found.resolve() == tmp_path / "checkpoints" / "000200" / "pretrained_model"
    assert lerobot_folder(tmp_path / "checkpoints" / "000100") == tmp_path / "checkpoints" / "000100" / "pretrained_model"


# What is in it


@pytest.mark.parametrize("name", ["policy_preprocessor.json", "policy_postprocessor.json"])
def test_without_processors_it_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "a")
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"no processors.*found no {name}.*migrate_policy_normalization"):
        checked(folder)


def test_an_adapter_a_damaged_file_and_missing_numbers_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    (folder / "normalizer.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"norm stats cannot be read.*normalizer\.safetensors"):
        checked(folder)
    (folder / "normalizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"norm stats are missing.*expected normalizer\.safetensors"):
        checked(folder)
    (folder / "policy_preprocessor.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"damaged.*policy_preprocessor\.json"):
        checked(folder)
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"no weights of its own.*Merge the adapter"):
        checked(folder)


def test_a_step_that_is_not_lerobots_own_is_never_imported(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    edit(folder / "policy_postprocessor.json", lambda told: told["steps"].append({"class": "subprocess.Popen", "config": {"args": "true"}}))
    with pytest.raises(CheckpointError, match=r"not LeRobot's.*policy_postprocessor\.json.*found subprocess\.Popen"):
        checked(folder)


@pytest.mark.parametrize(
    ("file", "numbers", "said"),
    [
        ("normalizer", {}, r"observation\.state by MEAN_STD.*policy_preprocessor\.json.*found none.*mean and std, 3 finite"),
        ("unnormalizer", {}, r"action by MEAN_STD.*policy_postprocessor\.json"),
        ("unnormalizer", {"action.mean": ONES, "action.std": ONES[:2]}, r"found mean \[3\], std \[2\]"),
        ("unnormalizer", {"action.mean": ONES, "action.std": ONES * np.nan}, r"3 finite numbers each"),
    ],
)
def test_normalising_without_numbers_is_refused(tmp_path: Path, file: str, numbers: dict[str, Any], said: str) -> None:
    folder = write(tmp_path / "a")
    save_file(numbers or {"other.mean": ONES}, folder / f"{file}.safetensors")
    with pytest.raises(StatsMismatchError, match=said):
        checked(folder)


def test_a_processor_without_the_step_that_the_config_asks_for_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    edit(folder / "policy_postprocessor.json", lambda told: told.update(steps=[]))
    with pytest.raises(StatsMismatchError, match=r"action by MEAN_STD.*found no unnormalizer_processor"):
        checked(folder)


# Whose it is


def test_a_robot_of_other_widths_is_refused_by_feature(tmp_path: Path) -> None:
    wide = {"action": {"type": "ACTION", "shape": [7]}}
    with pytest.raises(
        SchemaMismatchError, match=r"policy's action is not the robot's.*config\.json.*found shape \[7\].*waist, elbow, gripper"
    ):
        fit(read_lerobot(write(tmp_path / "a", output_features=wide)), ARM_ROBOT)
    narrow = {"observation.state": {"type": "STATE", "shape": [2]}}
    with pytest.raises(SchemaMismatchError, match=r"observation\.state is not the robot's.*found shape \[2\]"):
        fit(read_lerobot(write(tmp_path / "b", input_features=narrow)), ARM_ROBOT)


def test_names_of_actions_must_be_the_robots_where_they_are_known(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", action_feature_names=ARM)
    assert checked(folder) == ["top", "hand"]
    relative = {"registry_name": "relative_actions_processor", "config": {"enabled": True, "action_names": ["waist", "wrist", "gripper"]}}
    edit(folder / "policy_preprocessor.json", lambda told: told["steps"].append(relative))
    with pytest.raises(SchemaMismatchError, match=r"other names.*policy_preprocessor\.json, dimension elbow.*found waist, wrist, gripper"):
        checked(folder)
    # A dataset of LeRobot's may name all its motors as one group.
    assert checked(write(tmp_path / "b", action_feature_names=["motors"])) == ["top", "hand"]


def test_a_camera_that_the_robot_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaMismatchError, match=r"camera that the robot has not.*camera1.*found cameras top, hand; expected camera1"):
        checked(write(tmp_path / "a", cameras=("observation.images.camera1", HAND)))
    environment = {"observation.environment_state": {"type": "ENV", "shape": [3]}}
    with pytest.raises(SchemaMismatchError, match=r"sees what no robot here sends.*environment_state"):
        checked(write(tmp_path / "b", input_features=environment))


def test_cameras_are_found_by_name_slot_and_the_names_of_their_dataset_never_by_place(tmp_path: Path) -> None:
    assert checked(write(tmp_path / "a", cameras=(HAND, TOP))) == ["hand", "top"]
    slots = ("observation.images.left_wrist_0_rgb", "observation.images.base_0_rgb")
    assert checked(write(tmp_path / "b", cameras=slots)) == ["hand", "top"]
    renamed = write(tmp_path / "c", cameras=("observation.images.camera1",))
    edit(
        renamed / "policy_preprocessor.json",
        lambda told: told["steps"][0].update(config={"rename_map": {HAND: "observation.images.camera1"}}),
    )
    (camera,) = fit(read_lerobot(renamed), ARM_ROBOT)
    assert (camera.name, camera.feature, camera.size) == ("hand", HAND, (48, 64))


def test_a_camera_that_the_policy_never_saw_is_left_to_lerobot_to_mask(tmp_path: Path) -> None:
    features = (TOP, "observation.images.empty_camera_0", "observation.images.right_wrist_0_rgb")
    folder = write(tmp_path / "a", kind="pi0", cameras=features)
    with pytest.raises(SchemaMismatchError, match="right_wrist_0_rgb"):
        checked(folder)
    # The dataset that the norm stats are of had one camera.
    save_file(STATS | {f"{TOP}.mean": np.ones((3, 1, 1), np.float32)}, folder / "normalizer.safetensors")
    (camera,) = fit(read_lerobot(folder), ARM_ROBOT)
    assert (camera.name, camera.size) == ("top", None)
    with pytest.raises(SchemaMismatchError, match="empty_camera_0"):
        checked(write(tmp_path / "b", cameras=features))
