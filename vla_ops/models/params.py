"""Models and their parameters by path: made, listed, and put together again.

A path is openpi's, such as `PaliGemma/llm/layers/attn/q_einsum/w`: the names of attributes joined by '/', without the
`value` with which it ends in a checkpoint.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vla_ops.models.config import ModelConfig
from vla_ops.models.pi0 import Pi0


class ParameterMismatchError(ValueError):
    """Parameters that are not those of the model: `missing` and `unexpected` are paths, `other_shape` {path: (found, expected)}."""

    def __init__(
        self, missing: tuple[str, ...], unexpected: tuple[str, ...], other_shape: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> None:
        self.missing, self.unexpected, self.other_shape = missing, unexpected, other_shape
        shapes = [f"{path} is {found}, expected {expected}" for path, (found, expected) in other_shape.items()]
        parts = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        super().__init__("; ".join(f"{len(found)} {what}: {_few(found)}" for what, found in parts.items() if found))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.missing, self.unexpected, self.other_shape)


def create(config: ModelConfig, key: Array) -> tuple[nnx.GraphDef[Pi0], nnx.State]:
    """Return a fresh model as (graphdef, state), float32; `nnx.merge(graphdef, state)` is the `Pi0`."""
    return abstract(config)[0], _initialiser(config)(key)


@functools.cache
def _initialiser(config: ModelConfig) -> Callable[[Array], nnx.State]:
    # On a CPU the random draws of fifty arrays take LLVM 20 s to compile at its highest level, 3 s at this one, and run as fast.
    options: dict[str, str | bool] | None = {"xla_backend_optimization_level": "1"} if jax.default_backend() == "cpu" else None
    return jax.jit(lambda key: nnx.state(Pi0(config, rngs=nnx.Rngs(params=key))), compiler_options=options)


def abstract(config: ModelConfig) -> tuple[nnx.GraphDef[Pi0], nnx.State]:
    """Return what `create` returns with `jax.ShapeDtypeStruct` in place of arrays; nothing is allocated."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: Pi0(config, rngs=nnx.Rngs(params=0))))
    return graphdef, state


def state_paths(state: Any) -> dict[str, Any]:
    """Return {path: array} of a state, a model, or of any tree of the same form, such as gradients or optimiser moments."""
    leaves = jax.tree.leaves_with_path(nnx.to_pure_dict(nnx.state(state) if isinstance(state, nnx.Module) else state))
    return {"/".join(str(part.key) for part in path): leaf for path, leaf in leaves}


def merge(config: ModelConfig, flat: Mapping[str, Any]) -> Pi0:
    """Return the model with these parameters, in their own types. Raises ParameterMismatchError unless they fit exactly."""
    graphdef, state = abstract(config)
    check(flat, state_paths(state))
    return nnx.merge(graphdef, replace_leaves(state, flat))


def check(flat: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise ParameterMismatchError unless both have the same paths with the same shapes."""
    missing = tuple(path for path in expected if path not in flat)
    unexpected = tuple(path for path in flat if path not in expected)
    shapes = {path: (tuple(flat[path].shape), tuple(expected[path].shape)) for path in expected if path in flat}
    other = {path: pair for path, pair in shapes.items() if pair[0] != pair[1]}
    if missing or unexpected or other:
        raise ParameterMismatchError(missing, unexpected, other)


def replace_leaves[Tree](tree: Tree, flat: Mapping[str, Any]) -> Tree:
    """Return the state with each array replaced by that of its path; `flat` may hold anything: arrays, types, shardings."""
    return jax.tree.map_with_path(lambda path, _: flat[_path_of(path)], tree)


def cast(flat: Mapping[str, Any], dtypes: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays in the type of their path, bfloat16 for all when serving."""
    return {path: jnp.asarray(array, dtypes[path]) for path, array in flat.items()}


def _path_of(path: tuple[Any, ...]) -> str:
    # The last entry is the Variable's own (`value`).
    return "/".join(str(part.key) for part in path if isinstance(part, jax.tree_util.DictKey))


def _few(names: tuple[str, ...] | list[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
