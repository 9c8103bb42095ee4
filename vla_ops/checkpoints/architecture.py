"""Which model a set of parameters is, from their names and shapes alone.

What leaves no trace in the shapes is not here: action horizon, token limit, LoRA's alpha, dtype of computation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from vla_ops.errors import CheckpointError

_BLOCK = "PaliGemma/img/Transformer/encoderblock"
_LAYERS = "PaliGemma/llm/layers"
# (width, depth, mlp, heads, kv heads, head width) of the sizes that have a name.
_NAMES = {(2048, 18, 16384, 8, 1, 256): "gemma_2b", (1024, 18, 4096, 8, 1, 256): "gemma_300m", (64, 4, 128, 8, 1, 16): "dummy"}


@dataclass(frozen=True)
class VisionTower:
    """The sizes of SigLIP."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int
    num_tokens: int


@dataclass(frozen=True)
class Expert:
    """The sizes of one Gemma expert; LoRA ranks are None where it has no such factors."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    attention_lora_rank: int | None = None
    ffn_lora_rank: int | None = None

    @property
    def has_lora(self) -> bool:
        """Whether it has LoRA factors."""
        return (self.attention_lora_rank, self.ffn_lora_rank) != (None, None)

    @property
    def variant(self) -> str | None:
        """The name of an expert of this size in openpi, or None."""
        sizes = (self.width, self.depth, self.mlp_dim, self.num_heads, self.num_kv_heads, self.head_dim)
        name = _NAMES.get(sizes)
        return f"{name}_lora" if name and self.has_lora else name


@dataclass(frozen=True)
class Architecture:
    """A pi0 or pi0.5 model. `state_dim` is None for pi0.5, which reads the state as text."""

    family: Literal["pi0", "pi05"]
    action_dim: int
    state_dim: int | None
    vocabulary: int
    vision: VisionTower
    paligemma: Expert
    action_expert: Expert

    def __str__(self) -> str:
        experts = " + ".join(expert.variant or f"an expert {expert.width} wide" for expert in (self.paligemma, self.action_expert))
        return f"{self.family} ({experts}, action_dim {self.action_dim})"

    def differences(self, other: Architecture) -> list[str]:
        """Each field that differs, as `name: mine here, other's there`."""
        mine, theirs = _flat(self), _flat(other)
        return [f"{name}: {mine[name]} here, {theirs[name]} there" for name in mine if mine[name] != theirs[name]]


def architecture_of(shapes: Mapping[str, Any]) -> Architecture:
    """Infer the model from `{path: shape, or anything with a shape}`.

    Raise CheckpointError, naming what is missing, for parameters that are not those of pi0 or pi0.5.
    """
    known = {path: tuple(getattr(shape, "shape", shape)) for path, shape in shapes.items()}
    family = _family(known)

    def at(path: str) -> tuple[int, ...]:
        if path not in known:
            raise CheckpointError(f"the parameters are not those of a whole {family} model", array=path, found="no such parameter")
        return known[path]

    return Architecture(
        family=family,
        action_dim=at("action_in_proj/kernel")[0],
        state_dim=at("state_proj/kernel")[0] if family == "pi0" else None,
        vocabulary=at("PaliGemma/llm/embedder/input_embedding")[0],
        vision=_vision(at),
        paligemma=_expert(at, known, ""),
        action_expert=_expert(at, known, "_1"),
    )


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """What two sets of parameters are and how the models differ, in words; None where one is no such model, or they do not differ."""
    try:
        model, checkpoint = architecture_of(expected), architecture_of(found)
    except CheckpointError:
        return None
    different = checkpoint.differences(model)
    return f"the checkpoint is {checkpoint} and the model {model}: {'; '.join(different)}" if different else None


def _family(shapes: Mapping[str, tuple[int, ...]]) -> Literal["pi0", "pi05"]:
    if "time_mlp_in/kernel" in shapes:
        return "pi05"
    if "action_time_mlp_in/kernel" in shapes:
        return "pi0"
    if any(path.startswith("PaliGemma/") for path in shapes):
        found = "PaliGemma without the flow-matching action expert, as in pi0-FAST or PaliGemma itself"
    else:
        found = ", ".join(sorted(shapes)[:4]) or "no parameters"
    raise CheckpointError("the parameters are not those of pi0 or pi0.5", found=found, expected="action_time_mlp_in or time_mlp_in")


def _vision(at: Callable[[str], tuple[int, ...]]) -> VisionTower:
    depth, width, mlp_dim = at(f"{_BLOCK}/MlpBlock_0/Dense_0/kernel")
    return VisionTower(
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        num_heads=at(f"{_BLOCK}/MultiHeadDotProductAttention_0/query/kernel")[2],
        patch_size=at("PaliGemma/img/embedding/kernel")[0],
        num_tokens=at("PaliGemma/img/pos_embedding")[1],
    )


def _expert(at: Callable[[str], tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], suffix: str) -> Expert:
    depth, num_heads, width, head_dim = at(f"{_LAYERS}/attn/q_einsum{suffix}/w")
    attention = shapes.get(f"{_LAYERS}/attn/q_einsum{suffix}/lora_a")
    ffn = shapes.get(f"{_LAYERS}/mlp{suffix}/gating_einsum_lora_a")
    return Expert(
        width=width,
        depth=depth,
        mlp_dim=at(f"{_LAYERS}/mlp{suffix}/linear")[1],
        num_heads=num_heads,
        num_kv_heads=at(f"{_LAYERS}/attn/kv_einsum{suffix}/w")[2],
        head_dim=head_dim,
        attention_lora_rank=attention[-1] if attention else None,
        ffn_lora_rank=ffn[-1] if ffn else None,
    )


def _flat(architecture: Architecture) -> dict[str, object]:
    flat: dict[str, object] = {}
    for field in fields(architecture):
        value = asdict(architecture)[field.name]
        inner = {f"{field.name}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {field.name: value}
        flat |= inner
    return flat
