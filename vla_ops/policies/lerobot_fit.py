"""Whether a robot is the one that a policy of LeRobot's was trained for: everything is matched by its name, or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vla_ops.errors import PolicyError, SchemaMismatchError
from vla_ops.policies.lerobot_folder import ACTION, CONFIG, EMPTY_CAMERA, IMAGES, PREPROCESSOR, STATE, LeRobotFolder
from vla_ops.robot import Dimension
from vla_ops.robot_file import Robot

# Policies that fill in a camera which they were never shown, masked, and bring images of any size to their own with black bars.
_FILLS_IN = ("pi0", "pi05", "pi0_fast", "smolvla")


@dataclass(frozen=True)
class SeenCamera:
    """A camera of the robot as the policy is sent it."""

    name: str
    # In the dataset that the policy was trained on.
    feature: str
    # Height and width in pixels; None where the policy takes any.
    size: tuple[int, int] | None


def fit(there: LeRobotFolder, robot: Robot) -> tuple[SeenCamera, ...]:
    """The cameras that the policy sees of this robot. Raise SchemaMismatchError, naming file and feature, where it is another's."""
    _require_vector(there, there.inputs, STATE, robot.spec.state_dims, robot)
    if ACTION not in there.outputs:
        raise PolicyError("the policy has no actions", file=there.folder / CONFIG, found=", ".join(there.outputs) or "no output_features")
    _require_vector(there, there.outputs, ACTION, robot.spec.action_dims, robot)
    _require_names(there, robot)
    seen = [_camera(there, feature, told, robot) for feature, told in there.inputs.items() if feature != STATE]
    return tuple(camera for camera in seen if camera is not None)


def _require_vector(
    there: LeRobotFolder, features: Mapping[str, Mapping[str, Any]], feature: str, dims: Sequence[Dimension], robot: Robot
) -> None:
    shape = list(features.get(feature, {}).get("shape", [len(dims)]))
    if shape != [len(dims)]:
        raise SchemaMismatchError(
            f"the policy's {feature} is not the robot's",
            robot=robot.name,
            file=there.folder / CONFIG,
            feature=feature,
            found=f"shape {shape}",
            expected=f"[{len(dims)}]: {', '.join(dim.name for dim in dims)}",
            todo="Serve it for the robot whose dataset it was trained on.",
        )


def _require_names(there: LeRobotFolder, robot: Robot) -> None:
    """LeRobot keeps the names of the dataset's actions where joints can be left out of relative actions."""
    expected = [dim.name for dim in robot.spec.action_dims]
    told = {CONFIG: there.config.get("action_feature_names")}
    told[PREPROCESSOR] = (there.step("relative_actions_processor") or {}).get("action_names")
    for file, names in told.items():
        # Of datasets that name their motors as a group this is the group's name.
        if names is None or len(names) != len(expected) or list(names) == expected:
            continue
        wrong = next(k for k, (name, ours) in enumerate(zip(names, expected, strict=True)) if name != ours)
        raise SchemaMismatchError(
            "the policy was trained for actions of other names",
            robot=robot.name,
            file=there.folder / file,
            feature=ACTION,
            dimension=expected[wrong],
            found=", ".join(map(str, names)),
            expected=", ".join(expected),
            todo="Serve it for the robot whose dataset it was trained on; or give the robot's YAML the names, if they mean the same.",
        )


def _camera(there: LeRobotFolder, feature: str, told: Mapping[str, Any], robot: Robot) -> SeenCamera | None:
    if told["type"] != "VISUAL" or len(told["shape"]) != 3 or told["shape"][0] != 3:
        raise SchemaMismatchError(
            "the policy sees what no robot here sends",
            robot=robot.name,
            file=there.folder / CONFIG,
            feature=feature,
            found=f"{told['type']} of shape {told['shape']}",
            expected=f"{STATE}, and images {IMAGES}<camera> [3, height, width]",
        )
    fills_in = there.kind in _FILLS_IN
    if fills_in and (feature.startswith(EMPTY_CAMERA) or not there.shows(feature)):
        return None
    sent = there.sent_as.get(feature, feature)
    height, width = told["shape"][1:]
    return SeenCamera(_named(there, feature, sent, robot), sent, None if fills_in else (height, width))


def _named(there: LeRobotFolder, feature: str, sent: str, robot: Robot) -> str:
    """The camera of a feature: of its name, or in the slot of openpi's models of this name."""
    name = sent.removeprefix(IMAGES)
    camera = name if name in robot.spec.cameras else robot.spec.camera_slots.get(name)
    if camera is not None and sent.startswith(IMAGES):
        return camera
    raise SchemaMismatchError(
        "the policy sees a camera that the robot has not",
        robot=robot.name,
        file=there.folder / CONFIG,
        feature=feature,
        found=f"cameras {', '.join(robot.spec.cameras) or 'none'}",
        expected=name,
        todo="Name the camera so in the robot's YAML if it is this one, or train with --rename_map, which is then in the processors.",
    )
