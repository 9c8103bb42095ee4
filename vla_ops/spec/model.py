"""The section `model` of a training: a preset, and what differs from it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from vla_ops.models.config import PRESETS, GemmaConfig, LoraConfig, ModelConfig, SiglipConfig
from vla_ops.spec.base import Strict, unknown_key


class LoraSpec(Strict):
    """Low-rank factors beside the attention and feed-forward weights of an expert."""

    rank: int = Field(ge=1)
    """Rank of the two factors."""
    alpha: float
    """Attention adds alpha / rank times their product."""


class GemmaSpec(Strict):
    """An expert of sizes of its own."""

    width: int = Field(ge=2)
    """Width of its tokens; even."""
    depth: int = Field(ge=1)
    """Layers; the same in both experts."""
    mlp_dim: int = Field(ge=1)
    """Width inside its feed-forward layers."""
    num_heads: int = Field(ge=1)
    """Query heads; the same in both experts."""
    num_kv_heads: int = Field(ge=1)
    """Key and value heads; the same in both experts."""
    head_dim: int = Field(ge=2)
    """Width of a head, even; the same in both experts."""
    lora: LoraSpec | None = None
    """With it, `freeze: lora` trains the factors only."""


class SiglipSpec(Strict):
    """An image tower of sizes of its own."""

    width: int = Field(ge=1)
    """Width of its tokens."""
    depth: int = Field(ge=1)
    """Layers."""
    mlp_dim: int = Field(ge=1)
    """Width inside its feed-forward layers."""
    num_heads: int = Field(ge=1)
    """Heads, which divide the width."""
    patch: int = Field(ge=1)
    """Side of a square patch in pixels; it divides the image's side. Tokens an image: (image_size / patch)^2."""


class ModelSpec(Strict):
    """The model that is trained: what is not written is the preset's, or pi0's in full size without a preset."""

    preset: str | None = None
    """`pi0`, `pi05`, `pi0_lora`, `pi05_lora`, or a tiny one that trains on a laptop: `pi0_tiny`, `pi05_tiny`, ..._lora."""
    family: Literal["pi0", "pi05"] | None = None
    """`pi0`: state is a token, z-score. `pi05`: state is text in the prompt, quantiles, time in the norms."""
    paligemma: str | GemmaSpec | None = None
    """The expert for images and prompt: `gemma_2b`, `gemma_2b_lora`, `dummy`, `dummy_lora`, or its sizes."""
    action_expert: str | GemmaSpec | None = None
    """The expert for state and actions: `gemma_300m`, `gemma_300m_lora`, `dummy`, `dummy_lora`, or its sizes."""
    siglip: str | SiglipSpec | None = None
    """The image tower: `So400m/14`, `mu/14`, `tiny/14`, `tiny/32`, or its sizes."""
    vocab_size: int | None = Field(default=None, ge=1)
    """Rows of the embedding table; not fewer than the tokenizer has."""
    action_dim: int | None = Field(default=None, ge=1)
    """Width of the model's state and actions; the robot's are padded to it with zeros. 32 in openpi's checkpoints."""
    action_horizon: int | None = Field(default=None, ge=1)
    """Steps in a chunk. Default, and only value that fits: norm_stats.action_horizon of the robot."""
    max_token_len: int | None = Field(default=None, ge=1)
    """Tokens of a prompt: 48 for pi0, 200 for pi0.5. A prompt with more is refused, unless `prompt.truncate`."""
    image_size: int | None = Field(default=None, ge=1)
    """Side of the square image in pixels: 224 in openpi's checkpoints."""
    cameras: list[str] | None = Field(default=None, min_length=1)
    """Image slots in order. Default: base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb; one without a camera is black and masked."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Type of the computation; parameters are trained in float32. On a CPU float32 is faster."""
    remat: Literal["full", "dots", "none"] | None = None
    """What is computed again in the backward pass: all (least memory), all but matrix products, nothing (fastest)."""
    lora_rank: int | None = Field(default=None, ge=1)
    """Rank of every LoRA expert, in place of the variant's own: 16 for gemma_2b_lora, 32 for gemma_300m_lora."""
    lora_alpha: float | None = None
    """Alpha of every LoRA expert, in place of the variant's own."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(unknown_key(self.preset, list(PRESETS)).replace("unknown key", "preset: there is no"))
        self.config(horizon=self.action_horizon or 1)
        return self

    def config(self, *, horizon: int) -> ModelConfig:
        """The whole model, for chunks of `horizon` steps. Raise ValueError for sizes that do not fit one another."""
        base = _fields(PRESETS[self.preset] if self.preset else ModelConfig())
        given = {name: getattr(self, name) for name in type(self).model_fields if name != "preset" and getattr(self, name) is not None}
        if self.family not in (None, base["family"]):
            # The token limit is the family's, unless it is said.
            base["max_token_len"] = 0
        towers: dict[str, Any] = {name: _tower(given[name]) for name in ("paligemma", "action_expert", "siglip") if name in given}
        cameras = {"cameras": tuple(given["cameras"])} if "cameras" in given else {}
        sizes: dict[str, Any] = base | given | towers | cameras | {"action_horizon": horizon}
        return ModelConfig(**sizes)


def _fields(config: ModelConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ModelConfig.__dataclass_fields__}


def _tower(given: str | GemmaSpec | SiglipSpec) -> str | GemmaConfig | SiglipConfig:
    if isinstance(given, str):
        return given
    sizes = given.model_dump()
    if isinstance(given, SiglipSpec):
        return SiglipConfig(**sizes)
    lora = sizes.pop("lora")
    return GemmaConfig(**sizes, lora=None if lora is None else LoraConfig(**lora))
