"""What an RLDS view holds, known before anything is written: its shards, its place, and its entry for OpenVLA-OFT."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vla_ops.datasets.lerobot_layout import Layout
from vla_ops.datasets.lerobot_version import HELD_OUT, VERSION_FILE
from vla_ops.datasets.rlds_features import TFDS_VERSION, image_keys
from vla_ops.datasets.rlds_images import Resize
from vla_ops.datasets.rlds_oft import oft_entry
from vla_ops.robot import RobotSpec, fingerprint

# Raise when the same episodes would now give other records.
FORMAT_VERSION = 1
VIEW_FILE = "vla_ops.json"
# A shard is full at either: small enough to be written again when one episode is added, many enough to be shuffled by file.
SHARD_EPISODES, SHARD_MB = 32, 128
# Of one pixel of a camera's image at quality 95, to know a shard's size before it is written.
_BYTES_A_PIXEL = 0.35

# What an episode's record depends on besides the settings: id, version, task.
type Key = tuple[str, str, str]


@dataclass(frozen=True)
class RldsSettings:
    """What of an RLDS dataset is a choice."""

    image_size: int = 256
    # stretch: to a square whatever the aspect, as OpenVLA-OFT's own data are; pad: with black bars.
    resize: Resize = "stretch"
    quality: int = 95
    # Actions that OFT predicts at once; by default one second of them.
    chunk_steps: int | None = None


@dataclass(frozen=True)
class Shard:
    """One TFRecord file: the places of its episodes in the dataset, and how many shards its split has."""

    split: str
    number: int
    of: int
    places: tuple[int, ...]

    def file(self, name: str) -> str:
        """Its path below the view's folder."""
        return shard_file(name, self.split, self.number, self.of)


def shard_file(name: str, split: str, number: int, of: int) -> str:
    """Path of a shard below the view's folder."""
    return f"{name}/{TFDS_VERSION}/{name}-{split}.tfrecord-{number:05d}-of-{of:05d}"


@dataclass(frozen=True)
class Plan:
    """One view of one v3.0 dataset version."""

    spec: RobotSpec
    robot: str
    settings: RldsSettings
    layout: Layout
    # Of the v3.0 dataset.
    version: str
    # Places of the episodes for validation.
    held_out: frozenset[int]

    @classmethod
    def read(cls, v30: Path, *, spec: RobotSpec, robot: str, settings: RldsSettings) -> Plan:
        """Plan the view of the v3.0 dataset folder `v30`. Raise SpecError if no camera has a role."""
        identity = json.loads((v30 / VERSION_FILE).read_text(encoding="utf-8"))
        image_keys(spec)
        return cls(spec, robot, settings, Layout.from_json(identity), identity["version"], frozenset(identity.get(HELD_OUT, ())))

    @property
    def name(self) -> str:
        """TFDS's name of the dataset."""
        return self.robot.lower()

    @cached_property
    def images(self) -> dict[str, str]:
        """Name in the observation -> camera."""
        return image_keys(self.spec)

    @cached_property
    def training(self) -> list[bool]:
        """For each episode whether it is for training."""
        return [k not in self.held_out for k in range(len(self.layout.entries))]

    @cached_property
    def keys(self) -> list[Key]:
        """The key of each episode."""
        return [(e.id, e.version, e.task) for e in self.layout.entries]

    @cached_property
    def records(self) -> str:
        """Fingerprint of all that a record depends on besides its episode's key."""
        size = [self.settings.image_size, self.settings.resize, self.settings.quality]
        return fingerprint({"format": FORMAT_VERSION, "images": self.images, "size": size})

    @cached_property
    def splits(self) -> dict[str, list[int]]:
        """Split -> the places of its episodes; only splits that have any."""
        places = {"train": [k for k, trains in enumerate(self.training) if trains], "val": sorted(self.held_out)}
        return {split: held for split, held in places.items() if held}

    @cached_property
    def shards(self) -> list[Shard]:
        """Filled in dataset order, so that what is added changes at most the last one of each split."""
        groups = {split: list(self._filled(places)) for split, places in self.splits.items()}
        return [Shard(split, k, len(held), places) for split, held in groups.items() for k, places in enumerate(held)]

    def _filled(self, places: Sequence[int]) -> Iterator[tuple[int, ...]]:
        step_bytes = _BYTES_A_PIXEL * len(self.images) * self.settings.image_size**2
        held: list[int] = []
        size = 0.0
        for k in places:
            weight = step_bytes * self.layout.entries[k].length
            if held and (len(held) == SHARD_EPISODES or size + weight > SHARD_MB * 1e6):
                yield tuple(held)
                held, size = [], 0.0
            held.append(k)
            size += weight
        yield tuple(held)

    @cached_property
    def oft(self) -> dict[str, Any]:
        """oft_dataset.json."""
        counts = {split: len(places) for split, places in self.splits.items()}
        chunk = self.settings.chunk_steps
        return oft_entry(self.spec, self.name, robot=self.robot, version=self.version, splits=counts, chunk_steps=chunk)

    def folder(self, root: Path) -> Path:
        """The view's own folder below `root`.

        Camera roles and claims about actions are not in the v3.0 dataset's version: the second half of the name changes with them.
        """
        return root / f"{self.version}-{fingerprint({'records': self.records, 'oft': self.oft})[:8]}"
