"""The DROID-like robot as it is shipped: numbers where DROID's collector puts them, images in the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dagster as dg
import h5py
import numpy as np

from vla_ops_tests.recordings.pictures import frame_picture
from vla_ops_tests.robots.alone import refusal
from vla_ops_tests.robots.made import cameras, check_good, mask, matrix, names, tasks
from vla_ops_tests.robots.motions import as_float32, sway
from vla_ops_tests.robots.shipped import Float64, Ingestion, Shipped

type Ship = Callable[[str], Shipped]

STEPS = 70
HOME = np.array([0.0, -0.6, 0.0, -2.2, 0.0, 1.6, 0.0])
DIMS = [*(f"j{k}" for k in range(1, 8)), "gripper"]


def write_droid(path: Path, *, seed: int, attributes: dict[str, str], images: bool = True) -> dict[str, Float64]:
    """Write a trajectory.h5 in which 1 of velocity is 0.2 rad a step; return its numbers by dataset."""
    velocity = sway([(-0.3, 0.3)] * 7, STEPS, seed=seed).command
    moved = np.cumsum(0.2 * velocity[:-1], axis=0)
    joints = HOME + np.concatenate([np.zeros((1, 7)), moved])
    gripper = sway([(0.0, 1.0)], STEPS, seed=seed + 100)
    numbers = {
        "observation/robot_state/joint_positions": as_float32(joints),
        "observation/robot_state/gripper_position": gripper.state[:, 0],
        "action/joint_velocity": velocity,
        "action/joint_position": as_float32(np.concatenate([joints[1:], joints[-1:]])),
        "action/gripper_position": gripper.command[:, 0],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        for name, values in numbers.items():
            file.create_dataset(name, data=values)
        file.create_dataset("observation/controller_info/movement_enabled", data=np.ones(STEPS, bool))
        for camera, name in enumerate(("exterior_1", "wrist") if images else ()):
            shots = np.stack([frame_picture(k, camera=camera, size=(90, 160)) for k in range(STEPS)])
            file.create_dataset(f"observation/image/{name}", data=shots)
    return numbers


def test_trajectories_become_a_dataset_of_velocities_that_no_state_is_subtracted_from(shipped: Ship):
    robot = shipped("droid_like")
    said = [{"language_instruction": "put the marker in the cup"}, {"current_task": "Move object to a new position", "success": "True"}]
    written = [
        write_droid(robot.recordings / "2023-07-08" / f"episode_{k}" / "trajectory.h5", seed=k, attributes=attributes)
        for k, attributes in enumerate(said)
    ]
    done = robot.ingest()
    check_good(done, episodes=2)
    assert names(done, "state") == names(done, "action") == DIMS
    assert mask(done) == [-8]
    assert tasks(done) == ["put the marker in the cup", "Move object to a new position"]
    assert cameras(done) == {"exterior": [90, 160, 3], "wrist": [90, 160, 3]}
    assert done.robot.spec.camera_slots == {"base_0_rgb": "exterior", "left_wrist_0_rgb": "wrist"}
    for episode, numbers in enumerate(written):
        for vector, arm, gripper in (
            ("state", "observation/robot_state/joint_positions", "observation/robot_state/gripper_position"),
            ("action", "action/joint_velocity", "action/gripper_position"),
        ):
            values = np.concatenate([numbers[arm], numbers[gripper][:, None]], axis=1)
            np.testing.assert_allclose(matrix(done, episode, vector), values, atol=1e-6)
    assert "j3" in {verdict["subject"].removeprefix("action ") for verdict in agreeing(done)}


def agreeing(done: Ingestion) -> list[dict[str, str]]:
    """The rows of the check of the actions in which the data agree with the YAML."""
    verdicts = done.checks["measured_actions"].metadata["verdicts"]
    assert isinstance(verdicts, dg.TableMetadataValue)
    return [row.data for row in verdicts.records if row.data["answer"] == "agrees"]  # pyright: ignore[reportReturnType]


def test_positions_instead_of_velocities_are_one_line_and_deltas_are_taken_of_them(shipped: Ship):
    robot = shipped("droid_like")
    yaml = robot.folder / "defs.yaml"
    old = next(line for line in yaml.read_text().splitlines() if line.startswith("    - {source: /action/joint_velocity"))
    new = "    - {source: /action/joint_position, names: [j1, j2, j3, j4, j5, j6, j7], unit: rad}"
    assert new.strip(" -") in yaml.read_text(), "the line that the header says to write"
    yaml.write_text(yaml.read_text().replace(old, new))
    write_droid(robot.recordings / "day" / "0" / "trajectory.h5", seed=1, attributes={"language_instruction": "wipe"})
    done = robot.ingest()
    check_good(done, episodes=1)
    assert mask(done) == [7, -1]


def test_positions_that_are_called_velocities_are_contradicted_by_the_data(shipped: Ship):
    robot = shipped("droid_like")
    yaml = robot.folder / "defs.yaml"
    yaml.write_text(yaml.read_text().replace("{source: /action/joint_velocity,", "{source: /action/joint_position,"))
    yaml.write_text(yaml.read_text().replace("means: velocity, limits: [-1, 1]}", "means: velocity}"))
    write_droid(robot.recordings / "day" / "0" / "trajectory.h5", seed=1, attributes={"language_instruction": "wipe"})
    done = robot.ingest()
    assert "measured_actions" in done.failed
    assert "remove `means: velocity`" in (done.failed["measured_actions"] or "")


def test_droids_own_raw_files_are_refused_for_their_images_which_are_beside_them(shipped: Ship):
    robot = shipped("droid_like")
    write_droid(robot.recordings / "day" / "0" / "trajectory.h5", seed=1, attributes={"language_instruction": "wipe"}, images=False)
    said = refusal(robot, "day/0/trajectory.h5")
    assert "no stream '/observation/image/exterior_1' in the recording" in said


def test_a_trajectory_without_its_task_is_refused_with_what_to_write(shipped: Ship):
    robot = shipped("droid_like")
    write_droid(robot.recordings / "day" / "0" / "trajectory.h5", seed=1, attributes={})
    said = refusal(robot, "day/0/trajectory.h5")
    assert "the recording has no task text" in said
    assert "`task: {text: ...}`" in said
