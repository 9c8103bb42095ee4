"""LoRA's factors kept as what PEFT calls an adapter: for each linear layer two matrices, whose product is added to its weight.

PEFT adds scale B A to a weight [out, in], with A [R, in], B [out, R] and scale = alpha_pattern / rank_pattern. openpi's three sums
(`lora.py`) are of this form, with every number of a factor as it was trained but for one sum:

* queries, keys and values: factors A_n [in, r], B_n [r, H] of each head n. A stacks the A_n (R = heads x r); B has the B_n as blocks on
  its diagonal and zeros elsewhere, so that head n sees A_n alone.
* the output of attention: W_n + s A_n (sum_m B_m) for each head. A has the A_n side by side, B is sum_m B_m; R = r.
* feed-forward: A and B as they are, R = r, and scale 1: openpi does not apply alpha / rank there.

The scale is alpha / R of each layer's own R. It is not rsLoRA's alpha / sqrt(R), which `use_rslora` would make of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.export.convert import Read, require_finite
from vla_ops.export.lora import Alphas, Factors, Float32
from vla_ops.export.plan import Plan
from vla_ops.export.table import Rule, layer_index
from vla_ops.export.tensors import SafetensorsWriter, TensorSpec

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# The folder in an export that has the policy which the adapter is added to.
BASE = "base"
# What PEFT and LeRobot put before a tensor's name: PeftModel.base_model.model is LeRobot's policy, and its `.model` openpi's model.
PREFIX = "base_model.model.model."
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Added:
    """What is added to one kind of linear layer, in all layers of an expert; `{layer}` in `module` is the layer's number."""

    module: str
    rule: Rule
    factors: Factors
    layers: int
    # Of the two matrices: R of A [R, in] and B [out, R].
    rank: int
    shape: tuple[int, int]

    @property
    def pattern(self) -> str:
        """A regular expression for its modules, to be matched up to the end of a name."""
        return re.escape(self.module).replace(r"\{layer\}", r"\d+")

    def names(self, layer: int) -> tuple[str, str]:
        """The names of A and B in the file."""
        name = f"{PREFIX}{self.module.format(layer=layer)}"
        return f"{name}.lora_A.weight", f"{name}.lora_B.weight"

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of A and B."""
        return (self.rank, self.shape[1]), (self.shape[0], self.rank)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and the policy itself in `base`."""
    return (folder / WEIGHTS).is_file()


def base_of(folder: Path) -> Path:
    """The folder with the weights of a policy's own layers."""
    return folder / BASE if is_adapter(folder) else folder


def added_of(plan: Plan) -> list[Added]:
    """What the adapter of a checkpoint adds, one for each kind of layer; all its factors are in it."""
    found, by_source = [], plan.by_source()
    for weight, factors in plan.factors.items():
        *_, heads, _, rank = plan.sources[factors.a]
        whole = heads * rank if factors.kind == "per head" else rank
        for rule in dict.fromkeys(piece.rule for piece in by_source[weight] if piece.rule):
            shapes = [piece.shape for piece in by_source[weight] if piece.rule == rule]
            found.append(Added(rule.target.removesuffix(_WEIGHT), rule, factors, len(shapes), whole, (shapes[0][0], shapes[0][1])))
    return found


def matrices(added: Added, a: Any, b: Any) -> tuple[Float32, Float32]:
    """A [R, in] and B [out, R] of one layer's factors, float32."""
    index = layer_index(added.rule)
    first, second = np.asarray(a, np.float32)[index], np.asarray(b, np.float32)[index]
    if added.factors.kind == "feed forward":
        return first.T, second.T
    heads, width, rank = first.shape
    if added.factors.kind == "summed heads":
        return first.transpose(2, 0, 1).reshape(rank, heads * width), second.sum(axis=0).T
    blocks = np.zeros((heads, second.shape[-1], heads, rank), np.float32)
    for head in range(heads):
        blocks[head, :, head] = second[head].T
    return first.transpose(0, 2, 1).reshape(heads * rank, width), blocks.reshape(-1, heads * rank)


def write_adapter(folder: Path, plan: Plan, read: Read, *, alphas: Alphas, base: Path) -> None:
    """Write the adapter's two files, its numbers float32; `base` is where the policy's folder will be for PEFT to find it.

    Raise CheckpointError, naming array and layer, for numbers that are not finite.
    """
    from peft import LoraConfig

    every = added_of(plan)
    LoraConfig(**config_of(every, alphas), base_model_name_or_path=str(base)).save_pretrained(str(folder))
    specs = {
        name: TensorSpec(shape, "float32")
        for added in every
        for layer in range(added.layers)
        for name, shape in zip(added.names(layer), added.shapes, strict=True)
    }
    with SafetensorsWriter(folder / WEIGHTS, specs, metadata={"format": "pt"}) as writer:
        for name, matrix in _tensors(every, read):
            writer.write(name, matrix)


def config_of(every: list[Added], alphas: Alphas) -> dict[str, Any]:
    """What PEFT's LoraConfig takes."""
    ranks = {added.pattern: added.rank for added in every}
    scaled = {added.pattern: alphas.scale(added.factors) * added.rank for added in every}
    return {
        # Each layer has its own by the patterns; these stand for none.
        "r": min(ranks.values()),
        "lora_alpha": min(ranks.values()),
        "rank_pattern": ranks,
        "alpha_pattern": scaled,
        "target_modules": rf"(.*\.)?({'|'.join(ranks)})",
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "inference_mode": True,
    }


def rows(plan: Plan) -> list[dict[str, Any]]:
    """The adapter's lines of the table of what became what."""
    found = []
    for added in added_of(plan):
        for source, name, shape, axes in zip(
            (added.factors.a, added.factors.b), ("lora_A", "lora_B"), added.shapes, _AXES[added.factors.kind], strict=True
        ):
            told = {"source": source, "shape": list(plan.sources[source]), "axes": axes}
            found.append(told | {"target": f"{added.module}.{name}.weight", "target_shape": list(shape), "tensors": added.layers})
    return found


_AXES: Mapping[str, tuple[str, str]] = {
    "per head": ("L N D R -> (N R) D", "L N R H -> (N H) (N R), a block for each head, zeros elsewhere"),
    "summed heads": ("L N H R -> R (N H)", "L N R D -> D R, summed over N"),
    "feed forward": ("L I R -> R I", "L R O -> O R"),
}


def _tensors(every: list[Added], read: Read) -> Iterator[tuple[str, Float32]]:
    """Every tensor of the file by its name; the factors of one weight in memory at a time."""
    by_factors: dict[Factors, list[Added]] = {}
    for added in every:
        by_factors.setdefault(added.factors, []).append(added)
    for factors, of_factors in by_factors.items():
        a, b = read(factors.a), read(factors.b)
        for layer in range(of_factors[0].layers):
            require_finite(a[layer], factors.a, layer)
            require_finite(b[layer], factors.b, layer)
            for added in of_factors:
                yield from zip(added.names(layer), matrices(added, a[layer], b[layer]), strict=True)
