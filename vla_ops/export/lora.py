"""LoRA's factors folded into the weights they belong to, in float32: W + B A alpha / rank, as openpi computes it.

Three einsums, three sums. With x the input, each is exactly one other weight in place of W, but for rounding:

* queries, keys and values: every head has factors of its own, so W_n + s A_n B_n.
* the output of attention sums heads in both factors, (sum_n x_n A_n)(sum_m B_m). That is linear in every x_n, and the weight that
  stands before x_n is A_n (sum_m B_m): so W_n + s A_n (sum_m B_m). A product head by head, A_n B_n, would be another model.
* feed-forward: W + A B. openpi does not apply alpha / rank there.

s = alpha / rank. alpha is nowhere in a checkpoint: a run's recipe has it, and the variants that openpi ships have alpha = rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vla_ops.errors import CheckpointError
from vla_ops.models.config import ModelConfig

type Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Factors:
    """Where the factors of one weight are, and how they are folded in."""

    weight: str
    a: str
    b: str
    kind: Literal["per head", "summed heads", "feed forward"]

    @property
    def expert(self) -> int:
        """0 for PaliGemma's language model, 1 for the action expert."""
        return int("_1/" in self.weight)


@dataclass(frozen=True)
class Alphas:
    """alpha / rank of the attention of each expert; None where it has no factors."""

    paligemma: float | None = None
    action_expert: float | None = None

    @classmethod
    def of(cls, config: ModelConfig) -> Alphas:
        """Those of a model."""
        return cls(*(None if expert.lora is None else expert.lora.alpha / expert.lora.rank for expert in config.experts))

    def scale(self, factors: Factors) -> float:
        """By what the product of these factors is multiplied."""
        if factors.kind == "feed forward":
            return 1.0
        scale = (self.paligemma, self.action_expert)[factors.expert]
        if scale is None:
            raise CheckpointError("the parameters have LoRA factors of an expert that is said to have none", array=factors.a)
        return scale


def find_factors(paths: Mapping[str, Any]) -> dict[str, Factors]:
    """Every pair of LoRA factors by the path of its weight. Raise CheckpointError, naming it, for one without the other or a weight."""
    found: dict[str, Factors] = {}
    for a in (path for path in paths if path.endswith("lora_a")):
        stem = a.removesuffix("lora_a")
        weight = f"{stem}w" if stem.endswith("/") else stem.removesuffix("_")
        if missing := [path for path in (weight, f"{stem}lora_b") if path not in paths]:
            raise CheckpointError("a LoRA factor stands alone", array=a, found="no such parameter", expected=", ".join(missing))
        kind = "summed heads" if "/attn_vec_einsum" in a else "per head" if stem.endswith("/") else "feed forward"
        found[weight] = Factors(weight, a, f"{stem}lora_b", kind)
    return found


def merged(weight: Any, a: Any, b: Any, factors: Factors, scale: float) -> Float32:
    """One layer's weight with its factors folded in, float32, in the weight's shape."""
    first, second = np.asarray(a, np.float32), np.asarray(b, np.float32)
    if factors.kind == "summed heads":
        second = second.sum(axis=0)
    delta = first @ second
    delta *= np.float32(scale)
    delta += np.asarray(weight, np.float32)
    return delta
