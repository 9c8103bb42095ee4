"""The section `model` of a training for a checkpoint that no run tells of, from the shapes of its tensors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vla_ops.checkpoints.architecture import Architecture, Expert
from vla_ops.errors import CheckpointError

# Experts with LoRA that openpi ships, by their rank: only of these alpha is known.
_SHIPPED = {("gemma_2b_lora", 16), ("gemma_300m_lora", 32)}


def sizes_of(architecture: Architecture, *, lora_alpha: float | None = None) -> dict[str, Any]:
    """What `ModelSpec` takes for tensors of these shapes. Raise CheckpointError where LoRA's alpha must be said and is not."""
    vision = architecture.vision
    tower = {"width": vision.width, "depth": vision.depth, "mlp_dim": vision.mlp_dim, "num_heads": vision.num_heads}
    return {
        "family": architecture.family,
        "paligemma": _expert(architecture.paligemma, lora_alpha),
        "action_expert": _expert(architecture.action_expert, lora_alpha),
        "siglip": tower | {"patch": vision.patch_size},
        "vocab_size": architecture.vocabulary,
        "action_dim": architecture.action_dim,
        "image_size": round(vision.num_tokens**0.5) * vision.patch_size,
    }


def _expert(expert: Expert, alpha: float | None) -> Any:
    sizes = {key: value for key, value in asdict(expert).items() if not key.endswith("lora_rank")}
    rank = expert.attention_lora_rank
    if not expert.has_lora:
        return expert.variant or sizes
    if rank is None or rank != expert.ffn_lora_rank:
        found = f"ranks {rank} (attention) and {expert.ffn_lora_rank} (feed-forward)"
        raise CheckpointError("LoRA has one rank in all weights of an expert", found=found)
    if alpha is not None:
        return sizes | {"lora": {"rank": rank, "alpha": alpha}}
    if (expert.variant, rank) in _SHIPPED:
        return expert.variant
    raise CheckpointError(
        "LoRA's alpha is not in a checkpoint, and no run.json beside it says it",
        found=f"rank {rank}, which is no variant of openpi's",
        expected="alpha, by which (over the rank) the factors of attention are multiplied",
        todo="Give it as the training's configuration has it: --lora-alpha NUMBER, or the model's `lora_alpha` where it is served.",
    )
