"""Layers stacked on axis 0, initialised together and run one after the other by a scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from vla_ops.models.config import Remat


def stack[Layer: nnx.Module](make: Callable[[nnx.Rngs], Layer], depth: int, rngs: nnx.Rngs) -> Layer:
    """Return one module whose every parameter has a first axis of `depth`, each slice with a key of its own."""
    keys = jax.random.split(rngs.params(), depth)
    return jax.vmap(lambda key: make(nnx.Rngs(params=key)))(keys)


def scan_layers(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, *, remat: Remat) -> tuple[Any, Any]:
    """Run `step` over axis 0 of `xs`; in the backward pass activations are computed again as `remat` says.

    full: all of them (openpi's choice); dots: all but the results of matrix products with weights; none: none.
    """
    if remat != "none":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
        # The scan already keeps XLA from undoing the rematerialisation.
        step = jax.checkpoint(step, prevent_cse=False, policy=policy)
    return jax.lax.scan(step, carry, xs)
