"""A training that takes seconds: the small arm, a model of one layer, and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params
from vla_ops.robot_file import Robot
from vla_ops.spec import TrainingSpec
from vla_ops.training.metrics import read_metrics
from vla_ops.training.recipe import Recipe, bind
from vla_ops_tests.training.arm import ROBOT, Arm

_EXPERT = {"width": 32, "depth": 1, "mlp_dim": 32, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
TRAINING: dict[str, Any] = {
    "model": {
        "preset": "pi0_tiny",
        "paligemma": _EXPERT,
        "action_expert": _EXPERT,
        "siglip": {"width": 16, "depth": 1, "mlp_dim": 16, "num_heads": 2, "patch": 32},
        "vocab_size": 259,
        "action_dim": 8,
        "max_token_len": 16,
        "image_size": 64,
    },
    "tokenizer": "bytes",
    "batch_size": 4,
    "steps": 8,
    "seed": 7,
    "schedule": {"peak": 3e-3, "warmup_steps": 2, "decay_steps": 100},
    "augmentation": False,
    "workers": 0,
    "save_every": 3,
    "log_every": 1,
}


def recipe_of(arm: Arm, *, name: str = "small", overrides: dict[str, Any] | None = None, **changed: Any) -> Recipe:
    """The recipe of TRAINING with other values."""
    training = TrainingSpec.model_validate(TRAINING | changed)
    robot = Robot(ROBOT, arm.folder.parent, arm.spec.model_copy(update={"trainings": {name: training}}))
    stats = Path(arm.stats.origin)
    return bind(robot, name, dataset=arm.folder, dataset_version=arm.folder.name, stats=stats, overrides=overrides)


def losses(run: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of each line of a run."""
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_metrics(run) if "loss" in line]


def same_parameters(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same parameters to the bit."""
    first, second = (read_params(open_checkpoint(path)) for path in (one, other))
    return first.keys() == second.keys() and all(np.array_equal(first[path], second[path]) for path in first)
