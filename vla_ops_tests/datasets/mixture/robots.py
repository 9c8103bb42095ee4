"""Small robots with datasets, and mixtures of them, in the folders of one test."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from vla_ops.datasets.lerobot_v3 import DatasetVersion, update_dataset
from vla_ops.datasets.mixture import RefreshedMixture, refresh_mixture
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.mixture_file import Mixture, load_mixture
from vla_ops.norm_stats.refresh import refresh_norm_stats
from vla_ops.robot_file import load_robot
from vla_ops.spec import ChecksSpec
from vla_ops_tests.datasets.episode_folders import Kind, save, write_episode

# What is written here moves as no robot does.
UNCHECKED = dict.fromkeys(ChecksSpec.model_fields, "ignore")


@dataclass(frozen=True)
class Arm:
    """One robot: what its YAML says and its episodes as (length, task), of which the last `held_out` are for validation."""

    names: tuple[str, ...] = ("j1", "j2", "gripper")
    cameras: dict[str, str | None] = field(default_factory=lambda: {"cam_high": "base"})
    episodes: tuple[tuple[int, str], ...] = ((8, "pick"), (6, "place"))
    held_out: int = 0
    first: int = 0
    codec: str = "h264"
    rate_hz: int = 30
    size: tuple[int, int] = (64, 96)
    unit: str = "rad"
    gripper_unit: str = "m"
    more: dict[str, Any] = field(default_factory=dict)
    state: tuple[dict[str, Any], ...] = ()

    @property
    def kind(self) -> Kind:
        height, width = self.size
        names = tuple(name for part in self.parts for name in part["names"])
        return Kind(codec=self.codec, cameras=tuple(self.cameras), names=names, rate_hz=self.rate_hz, height=height, width=width)

    @property
    def parts(self) -> list[dict[str, Any]]:
        if self.state:
            return list(self.state)
        joints = [name for name in self.names if "gripper" not in name]
        grippers = [name for name in self.names if "gripper" in name]
        parts = [{"source": "/arm.position", "names": joints, "unit": self.unit}] if joints else []
        return parts + [{"source": f"/{name}.position", "names": [name], "unit": self.gripper_unit, "kind": "gripper"} for name in grippers]

    @property
    def document(self) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "recordings": {"uri": "recordings", "pattern": "*.mcap", "format": "mcap"},
            "timeline": {"rate_hz": self.rate_hz},
            "state": self.parts,
            "action": {"from": "next_state"},
            "cameras": {name: {"source": f"/{name}/image", **({"role": role} if role else {})} for name, role in self.cameras.items()},
            "task": {"from": "recording"},
            "dataset": {"repo_id": "my-lab/arm", "licence": "apache-2.0"},
            "norm_stats": {"action_horizon": 3},
            "checks": UNCHECKED,
        }
        return {"type": "vla_ops.RobotPipeline", "attributes": attributes | self.more}


@dataclass(frozen=True)
class Lab:
    """`robots/` and the store of a test."""

    root: Path

    @property
    def robots(self) -> Path:
        return self.root / "robots"

    def store(self, name: str) -> RobotStore:
        return RobotStore.of(name, self.root / "home")

    def write_yaml(self, name: str, document: dict[str, Any]) -> Path:
        path = self.robots / name / "defs.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def add(self, name: str, arm: Arm, *, stats: bool = False) -> DatasetVersion:
        """Write the robot's YAML, its episodes that are not there yet, its dataset and, if asked, its norm stats."""
        self.write_yaml(name, arm.document)
        robot, store = load_robot(self.robots / name), self.store(name)
        episodes, first = [], arm.first
        for k, (length, task) in enumerate(arm.episodes):
            episodes.append(self._episode(store, f"rec_{k}", arm, length=length, first=first, task=task))
            first += length
        held_out = {episode.id for episode in episodes[len(episodes) - arm.held_out :]}
        made = update_dataset(store.root / "lerobot_v3", episodes, spec=robot.spec, robot=name, held_out=held_out)
        if stats:
            refresh_norm_stats(robot, store)
        return made

    def _episode(self, store: RobotStore, recording: str, arm: Arm, *, length: int, first: int, task: str) -> Episode:
        folder = store.recording_folder(recording)
        if folder.exists():
            return store.read_episodes(recording)[0]
        episode = write_episode(store.episodes, recording, length, kind=arm.kind, first=first, task=task)
        fingerprint = load_robot(self.robots / store.root.name).spec.conversion_fingerprint
        episode = save(replace(episode, meta=replace(episode.meta, spec_fingerprint=fingerprint)))
        made_from = {"source_version": episode.meta.source_version, "spec_fingerprint": fingerprint}
        (folder / "recording.json").write_text(json.dumps({**made_from, "episodes": [0]}))
        return episode

    def mix(self, name: str, *sources: dict[str, Any], **attributes: Any) -> Mixture:
        """Write the mixture's YAML and load it."""
        attributes = {"sources": list(sources), "dataset": {"repo_id": "my-lab/both", "licence": "mit"}, **attributes}
        self.write_yaml(name, {"type": "vla_ops.Mixture", "attributes": attributes})
        return load_mixture(self.robots / name)

    def make(self, mixture: Mixture) -> RefreshedMixture:
        """Bring it up to date."""
        return refresh_mixture(mixture, self.store(mixture.name), say=lambda _: None)


# Of a mixture of `left` and `right`.
SOURCES: list[dict[str, Any]] = [
    {"robot": "left", "weight": 2.0},
    {"robot": "right", "weight": 1.0, "cameras": {"cam_top": "cam_high"}},
]
LEFT = Arm(names=("j1", "j2", "gripper"), cameras={"cam_high": "base", "cam_left": "left_wrist"}, held_out=1)
RIGHT = Arm(
    names=("j2", "j3", "gripper"), cameras={"cam_top": "base", "cam_right": "right_wrist"}, episodes=((5, "push"), (7, "pick")), first=200
)
