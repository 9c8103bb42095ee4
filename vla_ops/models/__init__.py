"""pi0 and pi0.5 in JAX and Flax NNX: openpi's model to the last parameter name, knowing nothing of the rest of vla_ops.

::

    config = ModelConfig(family="pi05", action_horizon=16)     or PRESETS["pi05_lora"], or tiny("pi0")
    graphdef, state = create(config, jax.random.key(0))        fresh float32 parameters, an nnx.State
    model = nnx.merge(graphdef, state)                         a Pi0
    model = merge(config, {path: array})                       a Pi0 of given parameters; refuses any that do not fit
    state_paths(state)                                         {path: array}; also of a model, gradients, moments
    abstract(config)                                           (graphdef, state) of shapes only

    observation = Observation.from_dict({"image": {camera: uint8 or float}, "image_mask": ..., "state": ..., ...})
    model.compute_loss(key, observation, actions, train=True)  [B, H]
    model.flow_loss(observation, actions, noise, time)         [B, H], nothing drawn, nothing augmented
    draw(key, observation, actions, config, train=True)        what flow_loss takes, as compute_loss draws it
    model.sample_actions(key, observation, num_steps=10)       [B, H, action_dim]

    lora_freeze(config)                                        a Freeze: frozen(path), is_trained (an nnx filter), train_dtype(path)

A path is openpi's: `PaliGemma/llm/layers/attn/q_einsum/w`. Read config, siglip, lora, attention, gemma, pi0, in this
order. `config` and `freeze` need no jax, and importing this package does not load it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla_ops.models.config import GEMMA, PRESETS, SIGLIP, GemmaConfig, LoraConfig, ModelConfig, SiglipConfig, tiny
    from vla_ops.models.freeze import Freeze, lora_freeze
    from vla_ops.models.guidance import Guidance
    from vla_ops.models.observation import Observation, preprocess, zero_observation
    from vla_ops.models.params import ParameterMismatchError, abstract, cast, check, create, merge, replace_leaves, state_paths
    from vla_ops.models.pi0 import Pi0, draw

_WHERE = {
    "config": ("GEMMA", "PRESETS", "SIGLIP", "GemmaConfig", "LoraConfig", "ModelConfig", "SiglipConfig", "tiny"),
    "freeze": ("Freeze", "lora_freeze"),
    "guidance": ("Guidance",),
    "observation": ("Observation", "preprocess", "zero_observation"),
    "params": ("ParameterMismatchError", "abstract", "cast", "check", "create", "merge", "replace_leaves", "state_paths"),
    "pi0": ("Pi0", "draw"),
}

__all__ = [
    "GEMMA",
    "PRESETS",
    "SIGLIP",
    "Freeze",
    "GemmaConfig",
    "Guidance",
    "LoraConfig",
    "ModelConfig",
    "Observation",
    "ParameterMismatchError",
    "Pi0",
    "SiglipConfig",
    "abstract",
    "cast",
    "check",
    "create",
    "draw",
    "lora_freeze",
    "merge",
    "preprocess",
    "replace_leaves",
    "state_paths",
    "tiny",
    "zero_observation",
]


def __getattr__(name: str) -> Any:
    for module, names in _WHERE.items():
        if name in names:
            return getattr(importlib.import_module(f"vla_ops.models.{module}"), name)
    raise AttributeError(f"module 'vla_ops.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
