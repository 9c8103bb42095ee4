"""What both models are shown: frames of held-out episodes, all cameras in the first half, one camera masked in each of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import DatasetError, ParityError
from vla_ops.models.config import ModelConfig
from vla_ops.policies import Observation, PolicyTransforms
from vla_ops.training.recipe import Recipe

FEWEST = 8
type Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Samples:
    """B observations as a model takes them, with the noise they are sampled from."""

    # In openpi's keys, all with a leading [B]; images uint8.
    inputs: dict[str, Any]
    # [B, H, action_dim], and [B] for a single velocity.
    noise: Float32
    time: Float32
    # Where they are from, one text for all and one a row.
    origin: str
    places: tuple[str, ...]
    # The same in robot units; None where they were made up.
    observation: Observation | None = None

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def noisy(self) -> Float32:
        """The point [B, H, action_dim] at which the velocity is compared: noise, and the recorded actions where there are any."""
        t = self.time[:, None, None]
        return t * self.noise + (1 - t) * self.inputs.get("actions", np.float32(0))

    def rows(self, start: int, stop: int) -> Samples:
        """Some of them."""
        cut = slice(start, stop)

        def of(value: Any) -> Any:
            return {key: array[cut] for key, array in value.items()} if isinstance(value, Mapping) else value[cut]

        observation = self.observation
        if observation is not None:
            prompt = (
                observation.prompt if observation.prompt is None or isinstance(observation.prompt, str) else tuple(observation.prompt)[cut]
            )
            observation = Observation(observation.state[cut], of(observation.images), prompt)
        inputs = {key: of(value) for key, value in self.inputs.items()}
        return Samples(inputs, self.noise[cut], self.time[cut], self.origin, self.places[cut], observation)

    def masked_cameras(self) -> list[tuple[str, ...]]:
        """Of each row the cameras that are masked though the robot has them."""
        masks = self.inputs["image_mask"]
        shown = [slot for slot in masks if masks[slot].any()]
        return [tuple(slot for slot in shown if not masks[slot][row]) for row in range(len(self))]


def held_out_samples(
    recipe: Recipe, transforms: PolicyTransforms, asset_id: str, *, count: int = FEWEST, dataset: Path | None = None, seed: int = 0
) -> Samples:
    """Frames of the held-out episodes of the dataset that a recipe is of, of a mixture those of the source `asset_id`, spread evenly.

    `dataset` is where the dataset is now, if not where the recipe says. Raise DatasetError where it is not there or holds out nothing,
    ParityError for fewer frames than a gate needs.
    """
    from vla_ops.training.data import InOrder, Loader, read_frames

    folder = dataset or recipe.dataset
    if not folder.is_dir():
        todo = "Give the folder it is in now: --dataset FOLDER."
        raise DatasetError("the dataset that the checkpoint was trained on is not there", file=folder, todo=todo)
    frames = read_frames(
        folder,
        cameras=transforms.cameras.cameras,
        state_names=[dim.name for dim in recipe.spec.state_dims],
        action_names=[dim.name for dim in recipe.spec.action_dims],
    )
    rows = frames.validation_rows()
    if frames.source_of is not None:
        rows = rows[frames.source_of[rows] == frames.sources.index(asset_id)]
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
    if len(rows) < FEWEST:
        raise ParityError(
            "there are too few held-out frames to compare models on", file=folder, found=len(rows), expected=f"{FEWEST} or more"
        )
    size, horizon = recipe.model.image_size, recipe.model.action_horizon
    with Loader(frames, InOrder(rows), batch_size=len(rows), horizon=horizon, size=size, workers=0) as loader:
        batch = next(iter(loader)).batch
    row = batch.training_row()
    inputs = transforms.forward_training(row).as_dict()
    origin = f"held-out episodes of {recipe.dataset_version}"
    return _with_noise(
        Samples(inputs, np.empty(0, np.float32), np.empty(0, np.float32), origin, tuple(batch.places()), row.observation), seed
    )


def made_up_samples(config: ModelConfig, *, count: int = FEWEST, seed: int = 0) -> Samples:
    """Random images, states, prompts and actions of the model's shapes, for a checkpoint whose dataset is not at hand."""
    rng = np.random.default_rng(seed)
    side, dim = config.image_size, config.action_dim
    tokens = np.arange(config.max_token_len) < rng.integers(2, config.max_token_len + 1, count)[:, None]
    inputs = {
        "image": {camera: rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8) for camera in config.cameras},
        "image_mask": {camera: np.ones(count, bool) for camera in config.cameras},
        "state": rng.uniform(-1, 1, (count, dim)).astype(np.float32),
        "tokenized_prompt": np.where(tokens, rng.integers(3, config.vocab_size, tokens.shape), 0).astype(np.int32),
        "tokenized_prompt_mask": tokens,
        "actions": rng.uniform(-1, 1, (count, config.action_horizon, dim)).astype(np.float32),
    }
    empty = np.empty(0, np.float32)
    return _with_noise(Samples(inputs, empty, empty, "made up", tuple(f"made up {k}" for k in range(count))), seed)


def _with_noise(samples: Samples, seed: int) -> Samples:
    """Draw noise and times, and mask one camera in each row of the second half."""
    rng = np.random.default_rng(seed + 1)
    actions = samples.inputs["actions"]
    masks = {camera: np.array(mask) for camera, mask in samples.inputs["image_mask"].items()}
    shown = [camera for camera, mask in masks.items() if mask.all()]
    count = len(actions)
    for row in range(count // 2, count):
        masks[shown[row % len(shown)]][row] = False
    noise = rng.standard_normal(actions.shape).astype(np.float32)
    time = np.linspace(1.0, 0.1, count, dtype=np.float32)
    return replace(samples, inputs=samples.inputs | {"image_mask": masks}, noise=noise, time=time)
