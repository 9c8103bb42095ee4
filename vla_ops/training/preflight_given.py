"""What a pre-flight is of, and what several of its checks need; nothing is read before a check asks for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vla_ops.datasets.lerobot_features import video_key
from vla_ops.errors import SpecError, VlaOpsError
from vla_ops.models import Freeze, ModelConfig, abstract, state_paths
from vla_ops.policies import PolicyStats, Tokenizer, load_tokenizer
from vla_ops.policies.images import CameraSlots
from vla_ops.recordings.lerobot_index import LeRobotIndex
from vla_ops.training.data import Frames, read_frames
from vla_ops.training.memory_estimate import MemoryEstimate, Setting, training_memory
from vla_ops.training.recipe import Recipe

type Verdict = Literal["ok", "warning", "error", "not checked"]


@dataclass(frozen=True)
class Row:
    """One fact (`ok`) or problem; `said` is a problem in a sentence, with what to do."""

    check: str
    found: str
    verdict: Verdict = "ok"
    said: str = ""

    @classmethod
    def judged(cls, check: str, found: str, verdict: Verdict, said: str, *, wrong: bool) -> Row:
        """A fact, which is a problem where it is `wrong`."""
        return cls(check, found, verdict, said) if wrong else cls(check, found)


@dataclass(frozen=True)
class Given:
    """What is checked, and what several checks need."""

    recipe: Recipe
    run: Path
    home: Path
    devices: int
    available: int
    device: str
    resumes: bool
    say: Callable[[str], None]

    @cached_property
    def config(self) -> ModelConfig:
        """The model. Raise SpecError for sizes that do not fit one another."""
        try:
            return self.recipe.model
        except ValueError as error:
            raise SpecError(str(error)) from error

    @cached_property
    def shapes(self) -> dict[str, Any]:
        """The model's parameters by path, as shapes."""
        return state_paths(abstract(self.config)[1])

    @cached_property
    def freeze(self) -> Freeze:
        """What is frozen. Raise SpecError for patterns that do not fit."""
        from vla_ops.training.state import freeze_of

        return freeze_of(self.recipe.training, self.config)

    @cached_property
    def memory(self) -> MemoryEstimate | None:
        """The estimate; None where there is no model to estimate."""
        training = self.recipe.training
        try:
            setting = Setting(
                training.batch_size,
                self.freeze,
                ema=training.ema is not None,
                accumulate=training.accumulate,
                devices=self.devices,
                fsdp_devices=training.fsdp_devices,
            )
            return training_memory(self.config, self.shapes, setting)
        except VlaOpsError:
            # Said by the checks of the model.
            return None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raise FetchError where it cannot be had."""
        return load_tokenizer(self.recipe.training.tokenizer, sha256=self.recipe.training.tokenizer_sha256)

    @cached_property
    def stats(self) -> dict[str, PolicyStats]:
        """See Recipe.read_stats. Raise StatsMismatchError or FetchError."""
        return self.recipe.read_stats()

    @cached_property
    def frames(self) -> Frames:
        """The dataset, with those of the cameras that it has. Raise DatasetError or SchemaMismatchError."""
        spec = self.recipe.spec
        lacking = self.lacking_cameras
        return read_frames(
            self.recipe.dataset,
            cameras=[camera for camera in self.slots.cameras if camera not in lacking],
            state_names=[dim.name for dim in spec.state_dims],
            action_names=[dim.name for dim in spec.action_dims],
        )

    @cached_property
    def slots(self) -> CameraSlots:
        """The robot's cameras in the model's slots. Raise SchemaMismatchError where none has one."""
        return CameraSlots.of(self.recipe.spec, slots=self.config.cameras, size=self.config.image_size, robot=self.recipe.robot)

    @cached_property
    def lacking_cameras(self) -> tuple[str, ...]:
        """Cameras the model sees and the dataset has not."""
        features = LeRobotIndex(self.recipe.dataset).features
        return tuple(camera for camera in self.slots.cameras if camera not in features and video_key(camera) not in features)
