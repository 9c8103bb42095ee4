"""A robot with a training that takes seconds: its YAML in a folder, and its dataset and norm stats in VLA_OPS_HOME."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from vla_ops.datasets.refresh import refresh_lerobot_v3
from vla_ops.episodes.ingest import ingest
from vla_ops.episodes.store import RobotStore
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.norm_stats.refresh import refresh_norm_stats
from vla_ops.robot_file import load_robot
from vla_ops_tests.episodes.ingesting import ALOHA, InThisProcess
from vla_ops_tests.episodes.killing import CAMERA, STATE, write_filmed
from vla_ops_tests.training.small_training import TRAINING

# Compiling takes most of the time.
FAST = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
SMALL: dict[str, Any] = {
    **TRAINING,
    "model": {**TRAINING["model"], "max_token_len": 32},
    "steps": 6,
    "validation": {"every": 3, "batches": 1, "sampling_steps": 2},
}
CODE = "import sys\nfrom vla_ops.lineage.pipeline import robot_definitions\nfrom vla_ops.robot_file import load_robot\n"


def add_trained_robot(folder: Path, trainings: Mapping[str, Any] | None = None) -> Path:
    """`folder`/arm with three recordings, one of them held out; return it."""
    robot = folder / "arm"
    for k in range(3):
        write_filmed(robot / f"recordings/{k}.hdf5", frames=24, seed=k)
    recordings = {"uri": "recordings", "pattern": "*.hdf5", "format": "hdf5", "source_rate_hz": 20, "settle_s": 0}
    attributes = {
        **ALOHA,
        "recordings": recordings,
        "state": STATE,
        "cameras": {"high": {"source": CAMERA, "role": "base"}},
        "norm_stats": {"action_horizon": 6},
        "trainings": dict(trainings if trainings is not None else {"small": SMALL}),
    }
    (robot / "defs.yaml").write_text(yaml.safe_dump({"type": "vla_ops.RobotPipeline", "attributes": attributes}))
    (robot / "curation.yaml").write_text("held_out: {episodes: [2.hdf5]}\n")
    (robot / "defs.py").write_text(f"{CODE}defs = robot_definitions(load_robot({str(robot)!r}))\n")
    return robot


def make_dataset(folder: Path) -> None:
    """Convert the robot in `folder`, and compute its norm stats; VLA_OPS_HOME must be set."""
    robot = load_robot(folder)
    store = RobotStore.of(robot.name)
    ingest(robot, store, say=lambda _: None, workers=InThisProcess())
    refresh_lerobot_v3(robot, store, say=lambda _: None)
    refresh_norm_stats(robot, store)


def edit_training(folder: Path, **changed: Any) -> None:
    """Change the training `small` of the YAML."""
    path = folder / "defs.yaml"
    document = yaml.safe_load(path.read_text())
    document["attributes"]["trainings"]["small"].update(changed)
    path.write_text(yaml.safe_dump(document))


def train(
    folder: Path, instance: dg.DagsterInstance, config: Mapping[str, Any] | None = None, *, raise_on_error: bool = True
) -> dg.ExecuteInProcessResult:
    """Run the job `arm_train`, with `config` for the training `small`."""
    job = robot_definitions(load_robot(folder)).resolve_job_def("arm_train")
    run_config = {"ops": {"arm__small__checkpoint": {"config": dict(config)}}} if config else None
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=raise_on_error)


def runs_in(home: Path) -> list[Path]:
    return sorted(path.parent for path in (home / "arm/trainings/small").glob("*/run.json"))


def fast() -> dict[str, str]:
    return {**os.environ, **FAST}
