"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) of weights that are used in an einsum.

Two deviations of openpi from the paper. The second factor does not start at zero but, like the first, at a normal
distribution of 0.01: a fresh LoRA model is not exactly its base. And alpha / rank scales the attention's factors only; the
feed-forward layer adds its product unscaled (`FeedForward` in gemma.py).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn import initializers as init

from vla_ops.models.config import LoraConfig

factor_init = init.normal(0.01)


class LoraEinsum(nnx.Module):
    """A weight `w`, and with `lora` its factors: `lora_a` has the rank for its last axis, `lora_b` for its last but one."""

    def __init__(
        self, equation: str, shape: tuple[int, ...], *, lora: LoraConfig | None, kernel_init: init.Initializer, rngs: nnx.Rngs
    ) -> None:
        self.equation = equation
        self.w = nnx.Param(kernel_init(rngs.params(), shape))
        self.scale = None if lora is None else lora.alpha / lora.rank
        if lora is not None:
            self.lora_equations = low_rank(equation)
            self.lora_a = nnx.Param(factor_init(rngs.params(), (*shape[:-1], lora.rank)))
            self.lora_b = nnx.Param(factor_init(rngs.params(), (*shape[:-2], lora.rank, shape[-1])))

    def __call__(self, x: Array) -> Array:
        """Contract x with w, and add the scaled low-rank product, all in the type of x."""
        y = jnp.einsum(self.equation, x, self.w[...].astype(x.dtype))
        if self.scale is None:
            return y
        first, second = self.lora_equations
        inner = jnp.einsum(first, x, self.lora_a[...].astype(x.dtype))
        return y + jnp.einsum(second, inner, self.lora_b[...].astype(x.dtype)) * self.scale


def low_rank(equation: str) -> tuple[str, str]:
    """Return the einsums with `lora_a` and with `lora_b` that stand for one einsum with `w`.

    The weight's last axis becomes the rank r in the first, its last but one in the second. Where the last but one is
    summed over together with an axis before it, as heads n in `BTNH,NHD->BTD`, openpi sums that axis in both factors
    instead of keeping it between them: (sum_n x_n A_n)(sum_n B_n), not sum_n x_n A_n B_n. So does this.
    """
    inputs, result = equation.split("->")
    x, w = inputs.split(",")
    inner = result.replace(w[-1], "r")
    return f"{x},{w[:-1]}r->{inner}", f"{inner},{w[:-2]}r{w[-1]}->{result}"
