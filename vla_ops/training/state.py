"""The train state of a recipe: its shapes on a mesh, how it begins, and which parameters are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from vla_ops.checkpoints.loading import LoadReport, LoadRules, Source, load_into
from vla_ops.checkpoints.trees import TrainState
from vla_ops.errors import SpecError
from vla_ops.models import Freeze, ModelConfig, Pi0, lora_freeze, state_paths
from vla_ops.models import abstract as abstract_model
from vla_ops.spec import TrainingSpec
from vla_ops.training.mesh import sharded

jax.tree_util.register_dataclass(TrainState, data_fields=["step", "params", "opt_state", "ema_params"], meta_fields=[])


def freeze_of(training: TrainingSpec, config: ModelConfig) -> Freeze:
    """What of the model is frozen. Raise SpecError for a pattern that no parameter has, or where nothing is left to train."""
    if training.freeze == "none":
        return Freeze()
    if training.freeze == "lora":
        return lora_freeze(config)
    freeze = Freeze(tuple(training.freeze.matching), tuple(training.freeze.unless))
    paths = state_paths(abstract_model(config)[1])
    if unused := freeze.unused(paths):
        todo = f"Patterns match whole paths, such as {next(iter(paths))}."
        raise SpecError("freeze: no parameter matches", found=", ".join(unused), todo=todo)
    if all(freeze.frozen(path) for path in paths):
        raise SpecError("freeze: every parameter is frozen", found=", ".join(freeze.matching), todo="Say with `unless` what is trained.")
    return freeze


def abstract_state(config: ModelConfig, freeze: Freeze, optimizer: optax.GradientTransformation, mesh: Mesh, *, ema: bool) -> TrainState:
    """Shapes, dtypes and shardings of the train state; frozen parameters are bfloat16 and have no optimiser state."""
    shapes = state_paths(abstract_model(config)[1])
    params = {path: jax.ShapeDtypeStruct(leaf.shape, freeze.train_dtype(path)) for path, leaf in shapes.items()}
    opt_state = jax.eval_shape(optimizer.init, trained_of(params, freeze))
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state, dict(params) if ema else None)
    return sharded(state, mesh)


def initial_state(
    like: TrainState,
    config: ModelConfig,
    freeze: Freeze,
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    source: Source | None = None,
    rules: LoadRules | None = None,
) -> tuple[TrainState, LoadReport | None]:
    """A state at step 0: parameters from `source`, the others drawn from `key`; and the report of what was loaded.

    Raise CheckpointError, before anything is read, for a source that does not fit.
    """
    loaded, report = load_into(like.params, source, rules=rules) if source is not None else ({}, None)
    drawn_paths = {path: leaf for path, leaf in like.params.items() if path not in loaded}

    def drawn(key: Array) -> dict[str, Array]:
        fresh = state_paths(nnx.state(Pi0(config, rngs=nnx.Rngs(params=key))))
        return {path: fresh[path].astype(leaf.dtype) for path, leaf in drawn_paths.items()}

    def begun(params: Mapping[str, Array]) -> TrainState:
        # Copies, so that the average's buffers are not those that the first step gives away.
        average = None if like.ema_params is None else {path: jnp.copy(leaf) for path, leaf in params.items()}
        return TrainState(jnp.zeros((), jnp.int32), dict(params), optimizer.init(trained_of(params, freeze)), average)

    new = jax.jit(drawn, out_shardings=_shardings(drawn_paths), compiler_options=_compiled_once())(key) if drawn_paths else {}
    params = {path: loaded[path] if path in loaded else new[path] for path in like.params}
    return jax.jit(begun, out_shardings=_shardings(like), donate_argnums=0)(params), report


def trained_of[Leaf](params: Mapping[str, Leaf], freeze: Freeze) -> dict[str, Leaf]:
    """Those of the parameters that are trained."""
    return {path: leaf for path, leaf in params.items() if not freeze.frozen(path)}


def _compiled_once() -> dict[str, Any]:
    """For what runs once: on a CPU the optimiser takes ten times as long over fifty random draws as they take."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)
