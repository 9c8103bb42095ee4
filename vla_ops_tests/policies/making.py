"""Robots with cameras, models' shapes and norm stats for the tests of what stands between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vla_ops.norm_stats import Provenance
from vla_ops.policies.normalize import Numbers
from vla_ops.policies.policy_stats import PolicyStats
from vla_ops.policies.tokenizer import ByteTokenizer
from vla_ops.policies.transforms import Observation, PolicyTransforms, compose
from vla_ops.robot import RobotSpec
from vla_ops_tests.norm_stats.data import ALOHA, make_spec

ROBOT = "test_arm"
CAMERAS = {"top": {"source": "/top", "role": "base"}, "hand": {"source": "/hand", "role": "left_wrist"}}
ALOHA_CAMERAS = {
    "cam_high": {"source": "/cam_high", "role": "base"},
    "cam_left_wrist": {"source": "/cam_left_wrist", "role": "left_wrist"},
}
ARM = ["waist", "elbow", "gripper"]


@dataclass(frozen=True)
class Shape:
    """What the transforms ask of a model."""

    family: Literal["pi0", "pi05"] = "pi0"
    action_dim: int = 32
    action_horizon: int = 5
    max_token_len: int = 200
    vocab_size: int = 2048
    image_size: int = 224
    cameras: tuple[str, ...] = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def arm_spec(**norm_stats: Any) -> RobotSpec:
    return make_spec(ARM, cameras=CAMERAS, norm_stats={"action_horizon": 5, **norm_stats})


def aloha_spec(horizon: int = 10, **norm_stats: Any) -> RobotSpec:
    return make_spec(ALOHA, cameras=ALOHA_CAMERAS, norm_stats={"action_horizon": horizon, **norm_stats})


def numbers(width: int, seed: int) -> Numbers:
    random = np.random.default_rng(seed)
    mean, std = random.normal(size=width), random.uniform(0.01, 3, width)
    return Numbers(mean, std, mean - random.uniform(0.1, 3, width), mean + random.uniform(0.1, 3, width))


def stats_of(spec: RobotSpec, *, robot: str = ROBOT, seed: int = 0) -> PolicyStats:
    made = Provenance.of(spec, robot=robot, dataset_version="d" * 16)
    state, actions = numbers(len(made.state_dims), seed), numbers(len(made.action_dims), seed + 1)
    return PolicyStats(state, actions, "memory", made)


def transforms_of(spec: RobotSpec, model: Shape | None = None, *, stats: PolicyStats | None = None, **options: Any) -> PolicyTransforms:
    model = model or Shape(action_horizon=spec.norm_stats.action_horizon)
    return compose(spec, stats or stats_of(spec), model, ByteTokenizer(), robot=ROBOT, **options)


def seen(spec: RobotSpec, *, batch: int | None = None, seed: int = 0, prompt: str | None = "do it") -> Observation:
    """A random observation of a robot without rotations."""
    random = np.random.default_rng(seed)
    lead = () if batch is None else (batch,)
    images = {name: random.integers(0, 256, (*lead, 30, 40, 3), dtype=np.uint8) for name in spec.cameras}
    return Observation(random.uniform(0, 1, (*lead, len(spec.state_dims))).astype(np.float32), images, prompt)
