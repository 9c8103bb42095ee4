"""A small arm with held-out episodes, its norm stats and the transforms of a tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.models import ModelConfig, tiny
from vla_ops.norm_stats import compute_norm_stats, write_norm_stats
from vla_ops.policies import PolicyStats, PolicyTransforms, compose, load_tokenizer, read_stats
from vla_ops.robot import RobotSpec
from vla_ops.training.data import Frames, read_frames
from vla_ops_tests.datasets.episode_folders import Kind, spec, write_episodes

HORIZON = 6
NAMES = ("j1", "j2", "gripper")
CAMERAS = {"cam_high": "base", "cam_wrist": "left_wrist"}
ROBOT = "arm"


@dataclass(frozen=True)
class Arm:
    spec: RobotSpec
    folder: Path
    stats: PolicyStats

    def frames(self) -> Frames:
        return read_frames(self.folder, cameras=tuple(CAMERAS), state_names=NAMES, action_names=NAMES)

    def transforms(self, config: ModelConfig) -> PolicyTransforms:
        return compose(self.spec, self.stats, config, load_tokenizer("bytes"), robot=ROBOT)


def small(family: str = "pi0", **fields: Any) -> ModelConfig:
    """The smallest model: four image tokens a camera."""
    sizes = {"action_horizon": HORIZON, "image_size": 64, "action_dim": 8, "max_token_len": 120}
    return tiny(family, **(sizes | fields))  # pyright: ignore[reportArgumentType]


def arm_spec(**changed: Any) -> RobotSpec:
    said = spec(Kind(cameras=tuple(CAMERAS))).model_dump(mode="json", by_alias=True, exclude_unset=True)
    said["cameras"] = {name: {"source": f"/{name}/image", "role": role} for name, role in CAMERAS.items()}
    said["norm_stats"] = {"action_horizon": HORIZON}
    return RobotSpec.model_validate(said | changed)


def make_arm(root: Path, lengths: list[int], *, held_out: tuple[int, ...] = (), **changed: Any) -> Arm:
    """Episodes of `lengths` frames, those of `held_out` for validation."""
    robot = arm_spec(**changed)
    episodes = write_episodes(root / "episodes", lengths, kind=Kind(cameras=tuple(CAMERAS)), tasks=["pick", "place"])
    ids = {episodes[k].id for k in held_out}
    version = write_lerobot_v3(root / "lerobot_v3", episodes, spec=robot, robot=ROBOT, held_out=ids)
    stats = write_norm_stats(root / "norm_stats", compute_norm_stats(version.folder, spec=robot))
    return Arm(robot, version.folder, read_stats(stats))
