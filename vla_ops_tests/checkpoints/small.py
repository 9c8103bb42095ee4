"""Small parameters with openpi's names, and the train states of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import optax

from vla_ops.checkpoints.layout import Checkpoint
from vla_ops.checkpoints.reading import read_specs
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import TrainState, leaves_of, train_state_item

SHAPES = {
    "PaliGemma/llm/embedder/input_embedding": (64, 16),
    "PaliGemma/llm/layers/attn/q_einsum/w": (2, 4, 16, 8),
    "PaliGemma/llm/layers/attn/q_einsum/lora_a": (2, 4, 16, 3),
    "action_in_proj/bias": (16,),
    "action_in_proj/kernel": (7, 16),
}
FROZEN = ("PaliGemma/llm/embedder/input_embedding", "PaliGemma/llm/layers/attn/q_einsum/w")


def optimiser() -> optax.GradientTransformation:
    """openpi's chain: clipping, then AdamW with a schedule."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.constant_schedule(1e-4)))


def small_params(seed: int = 0, *, shapes: Mapping[str, tuple[int, ...]] = SHAPES, frozen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Random parameters; frozen ones in bfloat16."""
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal(shape).astype(ml_dtypes.bfloat16 if path in frozen else np.float32) for path, shape in shapes.items()}


def small_state(seed: int = 0, *, ema: bool = False, frozen: tuple[str, ...] = (), step: int = 1) -> TrainState:
    """A train state whose every array is random."""
    params = small_params(seed, frozen=frozen)
    trained = {path: array for path, array in params.items() if path not in frozen}
    rng = np.random.default_rng(seed + 1)
    opt_state = jax.tree.map(lambda leaf: (rng.random(leaf.shape) * 100).astype(leaf.dtype), jax.eval_shape(optimiser().init, trained))
    return TrainState(np.asarray(step, np.int32), params, opt_state, small_params(seed + 2, frozen=frozen) if ema else None)


def abstract(state: TrainState) -> TrainState:
    """Shapes and dtypes in place of the arrays."""
    return map_state(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)


def map_state(change: Callable[[Any], Any], state: TrainState) -> TrainState:
    """The state with every array changed."""
    mapped = [jax.tree.map(change, part) for part in (state.step, state.params, state.opt_state, state.ema_params)]
    return TrainState(*mapped)


def like_openpis(checkpoint: Checkpoint, *, ema: bool, frozen: Callable[[str], bool] = lambda _: False) -> TrainState:
    """What openpi's trainer would restore a checkpoint of these parameters into."""
    params = {path: jax.ShapeDtypeStruct(spec.shape, spec.dtype) for path, spec in read_specs(checkpoint).items()}
    opt_state = jax.eval_shape(optimiser().init, {path: leaf for path, leaf in params.items() if not frozen(path)})
    return TrainState(jax.ShapeDtypeStruct((), "int32"), params, opt_state, params if ema else None)


def bytes_of(state: TrainState) -> dict[str, tuple[str, bytes]]:
    """Dtype and bytes of each array of a state by its path on disk."""
    leaves = [*leaves_of(train_state_item(state)), *((f"served/{path}", leaf) for path, leaf in state.served.items())]
    return {path: (str(leaf.dtype), np.asarray(leaf).tobytes()) for path, leaf in leaves}


def saved(run: Path, state: TrainState, *, step: int = 1, **given: Any) -> Path:
    """Save one checkpoint and return its folder."""
    with CheckpointStore(run) as store:
        store.save(step, state, **given)
    return run / str(step)
