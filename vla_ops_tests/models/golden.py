"""The tiny model of the golden numbers, and everything that is compared with them in one compiled function."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vla_ops.models import ModelConfig, Observation, Pi0, merge, tiny
from vla_ops.models.attention import attention_mask
from vla_ops.models.pi0 import time_embedding


def tiny_config(variant: str) -> ModelConfig:
    family, _, lora = variant.partition("_")
    return tiny(family, lora=bool(lora), siglip="tiny/14", action_horizon=8, max_token_len=16)


# Compiles in half the time; the passes are short.
QUICK: dict[str, str | bool] = {"xla_backend_optimization_level": "1"}


class Golden:
    """Inputs, parameters and recorded outputs of one variant: pi0, pi05, pi0_lora or pi05_lora."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.variant, self.config = folder / "golden_tiny", variant, tiny_config(variant)

    def _load(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as arrays:
            return {key: arrays[key] for key in arrays.files}

    @cached_property
    def params(self) -> dict[str, np.ndarray]:
        return self._load(f"params_{self.variant}")

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        return self._load(f"outputs_{self.variant}")

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        return self._load("inputs")

    @cached_property
    def observation(self) -> Observation:
        def under(prefix: str) -> dict[str, np.ndarray]:
            return {key.removeprefix(prefix): value for key, value in self.inputs.items() if key.startswith(prefix)}

        plain = {key: value for key, value in self.inputs.items() if "/" not in key}
        return Observation.from_dict(plain | {"image": under("image/"), "image_mask": under("image_mask/")})

    def split(self, *, dtype: str = "float32", params: Any = jnp.float32) -> tuple[nnx.GraphDef[Pi0], nnx.State]:
        config = dataclasses.replace(self.config, dtype=dtype)
        graphdef, state = nnx.split(merge(config, {path: jnp.asarray(array, params) for path, array in self.params.items()}))
        return graphdef, state


def suffix_inputs(inputs: dict[str, Any]) -> tuple[Any, Any]:
    """x_t and u_t at the recorded noise and time."""
    t = inputs["time"][:, None, None]
    return t * inputs["noise"] + (1 - t) * inputs["actions"], inputs["noise"] - inputs["actions"]


def forward(model: Pi0, observation: Observation, inputs: dict[str, Any]) -> dict[str, Any]:
    """Everything of outputs_*.npz that passes without a gradient give, under the same names."""
    x_t, u_t = suffix_inputs(inputs)
    prefix, prefix_mask, prefix_starts = model.embed_prefix(observation)
    (suffix, suffix_mask, suffix_starts), cond = model.embed_suffix(observation, x_t, inputs["time"])
    per_image = model.config.tokens_per_image
    outs, (keys, values) = model.run_all(observation, x_t, inputs["time"])
    valid, starts = jnp.concatenate([prefix_mask, suffix_mask], axis=1), jnp.concatenate([prefix_starts, suffix_starts])
    times = jnp.asarray(inputs["posemb_times"])
    outputs = {
        "prefix_tokens": prefix,
        "prefix_mask": prefix_mask,
        "prefix_ar_mask": prefix_starts,
        "suffix_tokens": suffix,
        "suffix_mask": suffix_mask,
        "suffix_ar_mask": suffix_starts,
        "input_mask": valid,
        "ar_mask": starts,
        "positions": jnp.cumsum(valid, axis=1) - 1,
        "attn_mask": attention_mask(valid, starts),
        "prefix_out": outs[0],
        "suffix_out": outs[1],
        "kv_k_last": keys[-1],
        "kv_v_last": values[-1],
        "x_t": x_t,
        "u_t": u_t,
        "key7_compute_loss_train_false": model.compute_loss(jax.random.key(7), observation, inputs["actions"]),
        "posemb_64": time_embedding(times, 64),
        "posemb_1024": time_embedding(times, 1024),
    }
    for i, camera in enumerate(observation.images):
        outputs[f"image_tokens/{camera}"] = prefix[:, i * per_image : (i + 1) * per_image]
    return outputs if cond is None else outputs | {"adarms_cond": cond}


def largest_difference(ours: Any, theirs: np.ndarray) -> float:
    assert np.shape(ours) == theirs.shape
    return float(np.abs(np.asarray(ours, np.float64) - theirs.astype(np.float64)).max())
