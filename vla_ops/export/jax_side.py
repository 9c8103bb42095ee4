"""What the JAX model computes of samples: prefix embeddings, a velocity, a sampled chunk; and layer by layer, to find a difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vla_ops.export.samples import Samples
from vla_ops.models.config import ModelConfig

if TYPE_CHECKING:
    from vla_ops.models import Observation, Pi0

type Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What is compared, all float32: [B, P, width] of the prefix, [B, H, action_dim] of the velocity and of the sampled chunk."""

    prefix: Float32
    velocity: Float32
    chunk: Float32

    @classmethod
    def joined(cls, parts: list[Outputs]) -> Outputs:
        """Of samples that were computed a few at a time."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("prefix", "velocity", "chunk")))


def jax_outputs(config: ModelConfig, params: Mapping[str, Any], samples: Samples, *, steps: int = 10, at_once: int = 8) -> Outputs:
    """Compute in the dtype of `config`, parameters in their own; `at_once` samples at a time."""
    compute = _compiled(replace(config, remat="none"), steps)
    parts = []
    for start in range(0, len(samples), at_once):
        part = samples.rows(start, start + at_once)
        computed = compute(dict(params), part.inputs, part.noise, part.noisy, part.time)
        parts.append(Outputs(*(np.asarray(array, np.float32) for array in computed)))
    return Outputs.joined(parts)


@lru_cache(maxsize=4)
def _compiled(config: ModelConfig, steps: int) -> Callable[..., Any]:
    import jax

    from vla_ops.models import merge

    @jax.jit
    def compute(params: dict[str, Any], inputs: dict[str, Any], noise: Any, noisy: Any, time: Any) -> Any:
        model = merge(config, params)
        observation = _observation(model, inputs)
        prefix, _, _ = model.embed_prefix(observation)
        mask, cache = model.run_prefix(observation)
        velocity = model.velocity_after_prefix(observation, noisy, time, mask, cache)
        return prefix, velocity, model.sample_actions(jax.random.key(0), observation, num_steps=steps, noise=noise)

    return compute


def _observation(model: Pi0, inputs: Mapping[str, Any]) -> Observation:
    from vla_ops.models import Observation, preprocess

    return preprocess(None, Observation.from_dict(inputs), model.config, train=False)


def jax_layers(config: ModelConfig, params: Mapping[str, Any], samples: Samples) -> dict[str, Float32]:
    """Return the output of every layer in order, under the name of its module in PyTorch, computed one layer at a time."""
    from vla_ops.models import merge

    model = merge(replace(config, remat="none"), params)
    observation = _observation(model, samples.inputs)
    seen: dict[str, Any] = {}
    _vision(model, observation, seen)
    _language(model, observation, samples, seen)
    return {name: np.asarray(array, np.float32) for name, array in seen.items()}


def _vision(model: Pi0, observation: Observation, seen: dict[str, Any]) -> None:
    import jax.numpy as jnp

    tower, name = model.PaliGemma.img, "paligemma_with_expert.paligemma.model.vision_tower.vision_model"
    images = jnp.concatenate(list(observation.images.values()))
    patches = tower.embedding(images)
    x = patches.reshape(len(images), -1, patches.shape[-1]) + tower.pos_embedding[...]
    seen[f"{name}.embeddings"] = x
    x = x.astype(tower.dtype)
    for k in range(model.config.vision.depth):
        x = seen[f"{name}.encoder.layers.{k}"] = _layer(tower.Transformer.encoderblock, k)(x)
    x = seen[f"{name}.post_layernorm"] = tower.Transformer.encoder_norm(x)
    seen["paligemma_with_expert.paligemma.model.multi_modal_projector"] = tower.head(x)


def _language(model: Pi0, observation: Observation, samples: Samples, seen: dict[str, Any]) -> None:
    import jax.numpy as jnp

    from vla_ops.models.attention import attention_mask
    from vla_ops.models.gemma import name as expert_name

    llm = model.PaliGemma.llm
    tokens, valid, starts = model.embed_prefix(observation)
    mask, positions = attention_mask(valid, starts), jnp.cumsum(valid, axis=1) - 1
    xs: list[Any] = [tokens.astype(llm.dtype), None]
    caches = []
    name = "paligemma_with_expert.paligemma.model.language_model"
    for k in range(model.config.experts[0].depth):
        xs, cache = _layer(llm.layers, k)(xs, [None, None], positions, mask, None)
        caches.append(cache)
        seen[f"{name}.layers.{k}"] = xs[0]
    (suffix, suffix_valid, suffix_starts), cond = model.embed_suffix(observation, jnp.asarray(samples.noisy), jnp.asarray(samples.time))
    seen["suffix"] = suffix
    if cond is not None:
        seen["condition"] = cond
    to_prefix = jnp.repeat(valid[:, None, :], suffix.shape[1], axis=1)
    mask = jnp.concatenate([to_prefix, attention_mask(suffix_valid, suffix_starts)], axis=-1)
    positions = jnp.sum(valid, axis=1)[:, None] + jnp.cumsum(suffix_valid, axis=1) - 1
    xs, name = [None, suffix.astype(llm.dtype)], "paligemma_with_expert.gemma_expert.model"
    for k in range(model.config.experts[1].depth):
        xs, _ = _layer(llm.layers, k)(xs, [None, cond], positions, mask, caches[k])
        seen[f"{name}.layers.{k}"] = xs[1]
    normed = seen[f"{name}.norm"] = getattr(llm, expert_name("final_norm", 1))(xs[1], cond)[0]
    seen["action_out_proj"] = model.action_out_proj(normed[:, -model.config.action_horizon :])


def _layer(stacked: Any, number: int) -> Any:
    """One layer of a stack."""
    import jax
    from flax import nnx

    graphdef, state = nnx.split(stacked)
    return nnx.merge(graphdef, jax.tree.map(lambda array: array[number], state))
