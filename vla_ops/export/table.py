"""Which array of an openpi checkpoint becomes which tensor of openpi's `PI0Pytorch`: one table, read in both directions.

A rule's axes say what is done to the array: `L 0 K D H -> (K H) D` takes the array of each layer (L), of it the first of an axis (0),
and brings the rest into the order and groups on the right. Nothing else happens to a number, so the way back is the same line read from
right to left. LeRobot's pi0 and pi0.5 have the same tensors with `model.` before each name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

_VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model"
_LANGUAGE = "paligemma_with_expert.paligemma.model.language_model"
_EXPERT = "paligemma_with_expert.gemma_expert.model"
EMBEDDING = f"{_LANGUAGE}.embed_tokens.weight"
# The same numbers as the embedding: `safetensors.save_model` keeps this name and writes the other one beside it as an alias.
TIED = "paligemma_with_expert.paligemma.lm_head.weight"
# pi0 never asks its action expert for a word. The model has the layer all the same: zeros stand there, never chance.
UNUSED = "paligemma_with_expert.gemma_expert.lm_head.weight"

type Family = Literal["pi0", "pi05"]


@dataclass(frozen=True)
class Rule:
    """One line of the table; `{layer}` in `target` is the number on the axis L."""

    source: str
    target: str
    axes: str
    families: tuple[Family, ...] = ("pi0", "pi05")

    @property
    def of(self) -> tuple[str, ...]:
        """The axes of the source: `L` for layers, a number for a place that is taken, else a name."""
        return tuple(self.axes.partition("->")[0].split())

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The axes of the target, each of one or more of the source's."""
        said = self.axes.partition("->")[2].replace("(", " ( ").replace(")", " ) ").split()
        groups: list[tuple[str, ...]] = []
        inside: list[str] | None = None
        for word in said:
            if word == "(":
                inside = []
            elif word == ")" and inside is not None:
                groups.append(tuple(inside))
                inside = None
            elif inside is not None:
                inside.append(word)
            else:
                groups.append((word,))
        return tuple(groups)

    @property
    def by_layer(self) -> bool:
        """Whether the source holds all layers."""
        return self.of[0] == "L"


def _dense(source: str, target: str, *, layers: bool = False, families: tuple[Family, ...] = ("pi0", "pi05")) -> Iterator[Rule]:
    of = "L " if layers else ""
    yield Rule(f"{source}/kernel", f"{target}.weight", f"{of}I O -> O I", families)
    yield Rule(f"{source}/bias", f"{target}.bias", f"{of}O -> O", families)


def _layer_norm(source: str, target: str, *, layers: bool = False) -> Iterator[Rule]:
    of = "L " if layers else ""
    yield Rule(f"{source}/scale", f"{target}.weight", f"{of}D -> D")
    yield Rule(f"{source}/bias", f"{target}.bias", f"{of}D -> D")


def _vision() -> Iterator[Rule]:
    img, block, layer = "PaliGemma/img", "PaliGemma/img/Transformer/encoderblock", f"{_VISION}.encoder.layers.{{layer}}"
    attention = f"{block}/MultiHeadDotProductAttention_0"
    yield Rule(f"{img}/embedding/kernel", f"{_VISION}.embeddings.patch_embedding.weight", "H W C D -> D C H W")
    yield Rule(f"{img}/embedding/bias", f"{_VISION}.embeddings.patch_embedding.bias", "D -> D")
    yield Rule(f"{img}/pos_embedding", f"{_VISION}.embeddings.position_embedding.weight", "0 S D -> S D")
    yield from _layer_norm(f"{block}/LayerNorm_0", f"{layer}.layer_norm1", layers=True)
    yield from _layer_norm(f"{block}/LayerNorm_1", f"{layer}.layer_norm2", layers=True)
    yield from _dense(f"{block}/MlpBlock_0/Dense_0", f"{layer}.mlp.fc1", layers=True)
    yield from _dense(f"{block}/MlpBlock_0/Dense_1", f"{layer}.mlp.fc2", layers=True)
    for source, target in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        yield Rule(f"{attention}/{source}/kernel", f"{layer}.self_attn.{target}.weight", "L D N H -> (N H) D")
        yield Rule(f"{attention}/{source}/bias", f"{layer}.self_attn.{target}.bias", "L N H -> (N H)")
    yield Rule(f"{attention}/out/kernel", f"{layer}.self_attn.out_proj.weight", "L N H D -> D (N H)")
    yield Rule(f"{attention}/out/bias", f"{layer}.self_attn.out_proj.bias", "L D -> D")
    yield from _layer_norm(f"{img}/Transformer/encoder_norm", f"{_VISION}.post_layernorm")
    yield from _dense(f"{img}/head", "paligemma_with_expert.paligemma.model.multi_modal_projector.linear")


def _gemma(end: str, model: str) -> Iterator[Rule]:
    layers, layer = "PaliGemma/llm/layers", f"{model}.layers.{{layer}}"
    yield Rule(f"{layers}/attn/q_einsum{end}/w", f"{layer}.self_attn.q_proj.weight", "L N D H -> (N H) D")
    yield Rule(f"{layers}/attn/kv_einsum{end}/w", f"{layer}.self_attn.k_proj.weight", "L 0 K D H -> (K H) D")
    yield Rule(f"{layers}/attn/kv_einsum{end}/w", f"{layer}.self_attn.v_proj.weight", "L 1 K D H -> (K H) D")
    yield Rule(f"{layers}/attn/attn_vec_einsum{end}/w", f"{layer}.self_attn.o_proj.weight", "L N H D -> D (N H)")
    yield Rule(f"{layers}/mlp{end}/gating_einsum", f"{layer}.mlp.gate_proj.weight", "L 0 D M -> M D")
    yield Rule(f"{layers}/mlp{end}/gating_einsum", f"{layer}.mlp.up_proj.weight", "L 1 D M -> M D")
    yield Rule(f"{layers}/mlp{end}/linear", f"{layer}.mlp.down_proj.weight", "L M D -> D M")


def _norms(end: str, model: str) -> Iterator[Rule]:
    """The RMS norms, of which pi0.5's action expert has the adaptive form."""
    plain: tuple[Family, ...] = ("pi0",) if end else ("pi0", "pi05")
    names = (
        ("layers/pre_attention_norm", "layers.{layer}.input_layernorm"),
        ("layers/pre_ffw_norm", "layers.{layer}.post_attention_layernorm"),
    )
    for source, target in (*names, ("final_norm", "norm")):
        layers = source.startswith("layers/")
        yield Rule(f"PaliGemma/llm/{source}{end}/scale", f"{model}.{target}.weight", "L D -> D" if layers else "D -> D", plain)
        if end:
            yield from _dense(f"PaliGemma/llm/{source}{end}/Dense_0", f"{model}.{target}.dense", layers=layers, families=("pi05",))


def _projections() -> Iterator[Rule]:
    both: tuple[Family, ...] = ("pi0", "pi05")
    own: dict[str, tuple[Family, ...]] = {"state_proj": ("pi0",), "action_time_mlp_in": ("pi0",), "action_time_mlp_out": ("pi0",)}
    own |= {"time_mlp_in": ("pi05",), "time_mlp_out": ("pi05",), "action_in_proj": both, "action_out_proj": both}
    for name, families in own.items():
        yield from _dense(name, name, families=families)


TABLE: tuple[Rule, ...] = (
    *_vision(),
    Rule("PaliGemma/llm/embedder/input_embedding", EMBEDDING, "V D -> V D"),
    *_gemma("", _LANGUAGE),
    *_norms("", _LANGUAGE),
    *_gemma("_1", _EXPERT),
    *_norms("_1", _EXPERT),
    *_projections(),
)


def rules_of(family: Family) -> tuple[Rule, ...]:
    """The lines of the table for one family."""
    return tuple(rule for rule in TABLE if family in rule.families)


def taken(rule: Rule, array: Any) -> Any:
    """What the rule takes of one layer's array (of the whole one where it has no layers), in the target's shape."""
    names, index = _of_layer(rule)
    order = [names.index(name) for group in rule.groups for name in group]
    part = array[index].transpose(order)
    sizes = dict(zip(names, array[index].shape, strict=True))
    return part.reshape([math.prod(sizes[name] for name in group) for group in rule.groups])


def put(rule: Rule, tensor: Any, into: Any) -> None:
    """The inverse of `taken`: write the tensor to its place in one layer's array, `into`."""
    names, index = _of_layer(rule)
    place = into[index]
    sizes = dict(zip(names, place.shape, strict=True))
    flat = [name for group in rule.groups for name in group]
    place[...] = tensor.reshape([sizes[name] for name in flat]).transpose([flat.index(name) for name in names])


def shape_of(rule: Rule, source: tuple[int, ...]) -> tuple[int, ...]:
    """The target's shape, from the whole source's."""
    sizes = dict(zip(rule.of, source, strict=True))
    return tuple(math.prod(sizes[name] for name in group) for group in rule.groups)


def layer_index(rule: Rule) -> tuple[Any, ...]:
    """What the rule takes of one layer's array, as an index."""
    of = rule.of[1:] if rule.by_layer else rule.of
    return tuple(int(name) if name.isdecimal() else slice(None) for name in of)


def _of_layer(rule: Rule) -> tuple[list[str], tuple[Any, ...]]:
    """The named axes of one layer's array, and the index that leaves them."""
    of = rule.of[1:] if rule.by_layer else rule.of
    return [name for name in of if not name.isdecimal()], layer_index(rule)
