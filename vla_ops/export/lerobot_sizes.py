"""Sizes that LeRobot 0.6.1 has no name for: how a small model is written down, and how it is built all the same.

LeRobot's pi0 and pi0.5 know gemma_2b, gemma_300m, SigLIP So400m/14 and a vocabulary of 257152, and nothing else. A model of another
size gets a variant that spells its sizes out. LeRobot by itself refuses that name; within `other_sizes()` it builds the model:

    with other_sizes():
        policy = PI0Policy.from_pretrained(folder)

An export of the sizes that LeRobot knows has their plain names and needs none of this.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vla_ops.checkpoints.architecture import Architecture, VisionTower
from vla_ops.errors import CheckpointError

_MODULES = (
    ("lerobot.policies.pi0.modeling_pi0", "lerobot.policies.pi0.configuration_pi0", "PI0Config"),
    ("lerobot.policies.pi05.modeling_pi05", "lerobot.policies.pi05.configuration_pi05", "PI05Config"),
)
_KNOWN = ("gemma_2b", "gemma_300m")
_VISION = {"width": 1152, "depth": 27, "mlp_dim": 4304, "num_heads": 16, "patch_size": 14}
_VOCABULARY = 257_152
_MARK = "sizes"


@dataclass(frozen=True)
class Sizes:
    """What LeRobot's `GemmaConfig` has, and for PaliGemma what it has no field for: SigLIP's sizes and the vocabulary."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary: int
    vision: dict[str, int] | None = None


def variants_of(architecture: Architecture) -> tuple[str, str]:
    """LeRobot's `paligemma_variant` and `action_expert_variant` of a model: names it knows, or the sizes spelled out."""
    experts = (architecture.paligemma, architecture.action_expert)
    if is_known(architecture):
        paligemma, action_expert = ((expert.variant or "").removesuffix("_lora") for expert in experts)
        return paligemma, action_expert
    fields = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
    sizes = [Sizes(**{field: getattr(expert, field) for field in fields}, vocabulary=architecture.vocabulary) for expert in experts]
    vision = _vision(architecture.vision)
    return _spelled(sizes[0], vision), _spelled(sizes[1], None)


def is_known(architecture: Architecture) -> bool:
    """Whether LeRobot has names for all sizes of this model."""
    names = [(expert.variant or "").removesuffix("_lora") for expert in (architecture.paligemma, architecture.action_expert)]
    return set(names) <= set(_KNOWN) and _vision(architecture.vision) == _VISION and architecture.vocabulary == _VOCABULARY


def spelled_sizes(variant: str) -> Sizes | None:
    """The sizes that a variant spells out; None for a name."""
    if not variant.startswith("{"):
        return None
    try:
        return Sizes(**json.loads(variant)[_MARK])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError("a variant does not spell out the sizes of a model", found=variant) from error


@contextmanager
def other_sizes() -> Iterator[None]:
    """Let LeRobot build models whose variants spell their sizes out; those that it has names for are built as ever."""
    with ExitStack() as restored:
        for modeling, configuration, config_class in _MODULES:
            module = importlib.import_module(modeling)
            config = getattr(importlib.import_module(configuration), config_class)
            _put(restored, module, "get_gemma_config", _gemma_config(module.get_gemma_config, module.GemmaConfig))
            _put(restored, module, "PaliGemmaWithExpertModel", _sized_model(module, module.PaliGemmaWithExpertModel))
            _put(restored, config, "__post_init__", _accepting(config.__post_init__))
        yield


def _vision(vision: VisionTower) -> dict[str, int]:
    return {name: value for name, value in asdict(vision).items() if name in _VISION}


def _spelled(sizes: Sizes, vision: dict[str, int] | None) -> str:
    return json.dumps({_MARK: {name: value for name, value in (asdict(sizes) | {"vision": vision}).items() if value is not None}})


def _gemma_config(original: Callable[[str], Any], make: Callable[..., Any]) -> Callable[[str], Any]:
    def get(variant: str) -> Any:
        sizes = spelled_sizes(variant)
        if sizes is None:
            return original(variant)
        config = make(sizes.width, sizes.depth, sizes.mlp_dim, sizes.num_heads, sizes.num_kv_heads, sizes.head_dim)
        config.sizes = sizes
        return config

    return get


def _sized_model(module: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    def make(vlm_config: Any, action_expert_config: Any, **given: Any) -> Any:
        sizes = getattr(vlm_config, "sizes", None)
        if sizes is None:
            return original(vlm_config, action_expert_config, **given)
        with ExitStack() as restored:
            for name, resized in (
                ("PaliGemmaForConditionalGenerationWithPiGemma", _resized_paligemma),
                ("PiGemmaForCausalLM", _resized_expert),
            ):
                _put(restored, module, name, _resizing(getattr(module, name), sizes, resized))
            return original(vlm_config, action_expert_config, **given)

    return make


def _resizing(original: Callable[..., Any], sizes: Sizes, resize: Callable[[Any, Sizes], None]) -> Callable[..., Any]:
    def make(*, config: Any) -> Any:
        resize(config, sizes)
        return original(config=config)

    return make


def _resized_paligemma(config: Any, sizes: Sizes) -> None:
    vision = sizes.vision or {}
    config.text_config.vocab_size = sizes.vocabulary
    config.image_token_index = sizes.vocabulary
    config.vision_config.hidden_size = vision["width"]
    config.vision_config.num_hidden_layers = vision["depth"]
    config.vision_config.intermediate_size = vision["mlp_dim"]
    config.vision_config.num_attention_heads = vision["num_heads"]
    config.vision_config.patch_size = vision["patch_size"]
    config.vision_config.projection_dim = sizes.width


def _resized_expert(config: Any, sizes: Sizes) -> None:
    config.vocab_size = sizes.vocabulary


def _accepting(original: Callable[[Any], None]) -> Callable[[Any], None]:
    def check(config: Any) -> None:
        """LeRobot's own check of all but the spelled out variants."""
        given = (config.paligemma_variant, config.action_expert_variant)
        spelled = [spelled_sizes(variant) for variant in given]
        if any(spelled):
            config.paligemma_variant, config.action_expert_variant = _KNOWN
        original(config)
        config.paligemma_variant, config.action_expert_variant = given

    return check


def _put(restored: ExitStack, owner: Any, name: str, value: Any) -> None:
    restored.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
