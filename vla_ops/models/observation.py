"""What the model sees, and how it is made ready: images in [-1, 1], masks, state, prompt tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vla_ops.models.augment import augment
from vla_ops.models.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observation:
    """One batch.

    images: {camera: float32 [B, H, W, 3] in [-1, 1]}; image_masks: {camera: bool [B]}, False where there is no such camera;
    state [B, action_dim]; tokenized_prompt int32 [B, L] with tokenized_prompt_mask bool [B, L], both None without a prompt.
    """

    images: dict[str, Array]
    image_masks: dict[str, Array]
    state: Array
    tokenized_prompt: Array | None = None
    tokenized_prompt_mask: Array | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Observation:
        """Make one of openpi's keys: image, image_mask, state, tokenized_prompt, tokenized_prompt_mask.

        uint8 images become float32 in [-1, 1]; a camera without a mask is taken as present in every sample.
        """
        images = {camera: to_float(image) for camera, image in data["image"].items()}
        masks = data.get("image_mask", {})
        present = {camera: masks.get(camera, jnp.ones(image.shape[:1], bool)) for camera, image in images.items()}
        tokens, tokens_mask = data.get("tokenized_prompt"), data.get("tokenized_prompt_mask")
        if (tokens is None) != (tokens_mask is None):
            raise ValueError("tokenized_prompt and tokenized_prompt_mask must be given together")
        return cls(images, present, data["state"], tokens, tokens_mask)


def to_float(image: Any) -> Any:
    """Map uint8 [0, 255] to float32 [-1, 1]; floats are returned as they are."""
    return image.astype(jnp.float32) / 255.0 * 2.0 - 1.0 if image.dtype == jnp.uint8 else image


def preprocess(key: Array | None, observation: Observation, config: ModelConfig, *, train: bool) -> Observation:
    """Return the observation with the model's cameras in the model's order, augmented when `train`.

    Deviation of openpi: images of another size are refused, where openpi resizes and pads them here. Raises ValueError.
    """
    missing = [camera for camera in config.cameras if camera not in observation.images]
    if missing:
        raise ValueError(f"the observation lacks the cameras {', '.join(missing)}; it has {', '.join(observation.images) or 'none'}")
    images = {camera: observation.images[camera] for camera in config.cameras}
    for camera, image in images.items():
        if image.shape[1:] != (config.image_size, config.image_size, 3):
            raise ValueError(f"images of {camera} are {image.shape[1:]}; the model takes ({config.image_size}, {config.image_size}, 3)")
    if train:
        if key is None:
            raise ValueError("a training pass augments its images and needs a key")
        images = augment(key, images)
    masks = {camera: observation.image_masks[camera] for camera in config.cameras}
    return dataclasses.replace(observation, images=images, image_masks=masks)


def zero_observation(config: ModelConfig, batch_size: int) -> Observation:
    """Return an observation of the model's shapes, every camera and token present: for tracing, warm-up and size estimates."""
    side, length = config.image_size, config.max_token_len
    return Observation(
        images={camera: jnp.zeros((batch_size, side, side, 3)) for camera in config.cameras},
        image_masks={camera: jnp.ones((batch_size,), bool) for camera in config.cameras},
        state=jnp.zeros((batch_size, config.action_dim)),
        tokenized_prompt=jnp.zeros((batch_size, length), jnp.int32),
        tokenized_prompt_mask=jnp.ones((batch_size, length), bool),
    )
