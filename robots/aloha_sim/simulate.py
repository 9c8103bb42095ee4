"""Play a scripted transfer in gym-aloha's joint-space simulator and keep what its sensors saw, with the time they saw it."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from robots.aloha_sim.expert import CONTROL_HZ, Floats, Scene, script

# dm_control carries no types.
type Physics = Any
type Task = Any
type Int64 = npt.NDArray[np.int64]

TASK = "Transfer the red cube from the right arm to the left arm"
# The reward of gym-aloha's transfer task while the left gripper alone carries the cube.
TRANSFERRED = 4
# Real arms and cameras have a clock; a demonstration of the simulator begins at this one, so that its bytes do not depend on the day.
EPOCH_NS = 1_750_000_000_000_000_000
_EPISODE_APART_NS = 60_000_000_000


@dataclass(frozen=True)
class CameraModel:
    """One of the simulator's cameras: its name there, when it is triggered, and its field of view (None: as modelled)."""

    simulator_name: str
    trigger_ms: float
    fovy_deg: float | None = None


# Cameras run free of each other, hence the trigger times. The model's wrist cameras see 20 degrees, which is the fingers and nothing else.
CAMERAS = {
    "cam_high": CameraModel("top", 0.0),
    "cam_left_wrist": CameraModel("left_wrist", 4.0, fovy_deg=50.0),
    "cam_right_wrist": CameraModel("right_wrist", 8.0, fovy_deg=50.0),
}


@dataclass(frozen=True)
class CameraSettings:
    """How cameras record."""

    fps: int = 25
    height: int = 120
    width: int = 160
    jpeg_quality: int = 70


@dataclass(frozen=True)
class CameraTrack:
    """One camera's JPEG images and the time of each, int64 ns [n]."""

    stamps_ns: Int64
    jpegs: list[bytes]


@dataclass(frozen=True)
class Demonstration:
    """One demonstration at the control rate: stamps int64 ns [n]; position, velocity and command [n, 14]."""

    stamps_ns: Int64
    position: Floats
    velocity: Floats
    command: Floats
    cameras: dict[str, CameraTrack]
    reward: int


def simulate(scene: Scene, *, episode: int = 0, settings: CameraSettings | None = None) -> Demonstration:
    """Play the scripted transfer in `scene`. `reward` at the end is 4 if the left arm has the cube."""
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when dm_control is imported
    from dm_control import mujoco
    from gym_aloha.constants import ASSETS_DIR
    from gym_aloha.tasks.sim import TransferCubeTask

    physics, task = mujoco.Physics.from_xml_path(str(ASSETS_DIR / "bimanual_viperx_transfer_cube.xml")), TransferCubeTask()
    _prepare_cameras(physics)
    _place(physics, task, scene)
    start_ns = EPOCH_NS + episode * _EPISODE_APART_NS
    demonstration = _play(physics, task, script(scene), start_ns=start_ns, settings=settings or CameraSettings())
    physics.free()
    return demonstration


def _play(physics: Physics, task: Task, commands: Floats, *, start_ns: int, settings: CameraSettings) -> Demonstration:
    timestep_ns, period_ns = round(physics.timestep() * 1e9), 1_000_000_000 // CONTROL_HZ
    due = _schedule(len(commands) * period_ns, timestep_ns, settings.fps)
    positions, velocities = np.empty_like(commands), np.empty_like(commands)
    taken: dict[str, list[tuple[int, bytes]]] = {name: [] for name in CAMERAS}
    for k, command in enumerate(commands):
        positions[k], velocities[k] = task.get_qpos(physics), task.get_qvel(physics)
        task.before_step(command, physics)
        for since_ns in range(k * period_ns, (k + 1) * period_ns, timestep_ns):
            for name in due.get(since_ns, ()):
                taken[name].append((start_ns + since_ns, _render(physics, CAMERAS[name].simulator_name, settings)))
            physics.step()
    return Demonstration(
        stamps_ns=start_ns + np.arange(len(commands), dtype=np.int64) * period_ns,
        position=positions,
        velocity=velocities,
        command=commands,
        cameras={n: CameraTrack(np.array([at for at, _ in t], np.int64), [jpeg for _, jpeg in t]) for n, t in taken.items()},
        reward=int(task.get_reward(physics)),
    )


def _schedule(duration_ns: int, timestep_ns: int, fps: int) -> dict[int, list[str]]:
    """Time since the start, in whole simulator steps [ns] -> the cameras triggered then."""
    due: dict[int, list[str]] = {}
    for name, camera in CAMERAS.items():
        triggers_ns = np.arange(round(camera.trigger_ms * 1e6), duration_ns, 1e9 / fps)
        for step in np.round(triggers_ns / timestep_ns).astype(int).tolist():
            due.setdefault(step * timestep_ns, []).append(name)
    return due


def _prepare_cameras(physics: Physics) -> None:
    physics.model.vis.quality.shadowsize = 1024  # the model's 4096 costs most of a small image's time in software rendering
    for camera in CAMERAS.values():
        if camera.fovy_deg is not None:
            physics.model.cam_fovy[physics.model.name2id(camera.simulator_name, "camera")] = camera.fovy_deg


def _place(physics: Physics, task: Task, scene: Scene) -> None:
    """Put arms and cube in their start poses. gym-aloha takes the cube's from a module variable."""
    from gym_aloha.tasks import sim

    half = scene.cube_yaw_rad / 2
    box_pose: list[Any] = sim.BOX_POSE
    box_pose[0] = np.array([*scene.cube, np.cos(half), 0, 0, np.sin(half)])
    task.initialize_episode(physics)


def _render(physics: Physics, camera: str, settings: CameraSettings) -> bytes:
    from PIL import Image

    pixels = physics.render(height=settings.height, width=settings.width, camera_id=camera)
    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=settings.jpeg_quality)
    return jpeg.getvalue()
