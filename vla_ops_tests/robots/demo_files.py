"""Write the demonstrations of LIBERO and robomimic as their own scripts do: a Panda that follows OSC_POSE commands at 20 Hz."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy.spatial.transform import Rotation

from vla_ops_tests.recordings.pictures import Picture, frame_picture
from vla_ops_tests.robots.motions import sway
from vla_ops_tests.robots.shipped import Float64

METRES, RADIANS = 0.05, 0.5


@dataclass(frozen=True)
class Demo:
    """Actions [T,7]; position [T+1,3], rotation of T+1 and finger positions [T+1,2] before the first action and after each."""

    actions: Float64
    position: Float64
    rotation: Rotation
    fingers: Float64


def demo(steps: int, *, seed: int) -> Demo:
    """A gripper that looks down, moves as far as it is told and closes twice."""
    turns = sway([(-0.3, 0.3)] * 6, steps, seed=seed).command
    closed = np.where((np.arange(steps) // 20) % 2, 1.0, -1.0)[:, None]
    rotations = [Rotation.from_rotvec([np.pi - 0.3, 0.0, 0.0])]
    opening = [0.04]
    for turn, close in zip(turns[:, 3:] * RADIANS * 0.1, closed[:, 0], strict=True):
        rotations.append(Rotation.from_rotvec(turn) * rotations[-1])
        opening.append(opening[-1] + 0.3 * ((0.005 if close > 0 else 0.04) - opening[-1]))
    position = np.array([-0.1, 0.0, 1.0]) + np.concatenate([np.zeros((1, 3)), np.cumsum(turns[:, :3] * METRES, axis=0)])
    fingers = np.stack([opening, np.negative(opening)], axis=1)
    return Demo(np.concatenate([turns, closed], axis=1), position, Rotation.concatenate(rotations), fingers)


def write_libero(path: Path, task: str, demos: Mapping[str, Demo], *, convention: str = "opengl") -> None:
    """LIBERO's create_dataset: each step acts and then observes; images bottom row first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_name"] = "Libero_Tabletop_Manipulation"
        data.attrs["problem_info"] = json.dumps(
            {"problem_name": "libero_tabletop_manipulation", "domain_name": "robosuite", "language_instruction": task}
        )
        data.attrs["macros_image_convention"] = convention
        data.attrs["tag"] = "libero-v1"
        data.attrs["env_args"] = env_args("Libero_Tabletop_Manipulation", ["Panda"])
        for name, made in demos.items():
            after = {"ee_pos": made.position[1:], "ee_ori": made.rotation.as_rotvec()[1:], "gripper_states": made.fingers[1:]}
            after["ee_states"] = np.concatenate([after["ee_pos"], after["ee_ori"]], axis=1)
            after["joint_states"] = np.tile(after["ee_states"], (1, 2))[:, :7]
            shots = _pictures(len(made.actions), ("agentview_rgb", "eye_in_hand_rgb"), 128, upside_down=True)
            _write(data.create_group(name), made.actions, after | shots)


def write_robomimic(path: Path, demos: Mapping[str, Demo], *, robots: list[str] | None = None, images: bool = True) -> None:
    """robomimic's dataset_states_to_obs: what is observed before each action; images upright."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = env_args("Lift", robots or ["Panda"])
        data.attrs["total"] = sum(len(made.actions) for made in demos.values())
        for name, made in demos.items():
            before = {
                "robot0_eef_pos": made.position[:-1],
                "robot0_eef_quat": made.rotation.as_quat()[:-1],
                "robot0_gripper_qpos": made.fingers[:-1],
            }
            shots = _pictures(len(made.actions), ("agentview_image", "robot0_eye_in_hand_image"), 84) if images else {}
            _write(data.create_group(name), made.actions, before | shots)


def env_args(name: str, robots: list[str]) -> str:
    """The attribute that says which environment and robot it was."""
    controller = {"type": "OSC_POSE", "input_max": 1, "output_max": [METRES] * 3 + [RADIANS] * 3, "control_delta": True}
    kwargs = {"robots": robots, "controller_configs": controller, "control_freq": 20, "camera_heights": 128}
    return json.dumps({"env_name": name, "type": 1, "env_kwargs": kwargs}, indent=4)


def _pictures(count: int, cameras: tuple[str, ...], size: int, *, upside_down: bool = False) -> dict[str, np.ndarray]:
    def shot(k: int, camera: int) -> Picture:
        picture = frame_picture(k, camera=camera, size=(size, size))
        return picture[::-1] if upside_down else picture

    return {name: np.stack([shot(k, camera) for k in range(count)]) for camera, name in enumerate(cameras)}


def _write(demo: h5py.Group, actions: Float64, obs: Mapping[str, np.ndarray]) -> None:
    demo.attrs["num_samples"] = len(actions)
    demo.create_dataset("actions", data=actions)
    demo.create_dataset("dones", data=np.eye(len(actions), dtype=np.uint8)[-1])
    for name, values in obs.items():
        demo.create_dataset(f"obs/{name}", data=values)
