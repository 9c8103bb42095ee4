"""One training step, as openpi does it: gradient of the trained parameters, clipping, AdamW, the average of the weights.

Deviation of openpi: the average leaves frozen parameters as they are, where openpi averages them with themselves in bfloat16, which
moves them by rounding.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vla_ops.checkpoints.trees import TrainState
from vla_ops.models import Freeze, ModelConfig, Observation, draw, merge
from vla_ops.training.state import trained_of

type Params = Mapping[str, Array]
type Step = Callable[[Array, TrainState, Mapping[str, Any]], tuple[TrainState, dict[str, Array]]]

# Not among the parameters whose norm is shown.
_NO_KERNEL = re.compile(r".*/(bias|scale|pos_embedding|input_embedding)")


def make_step(
    config: ModelConfig,
    freeze: Freeze,
    optimizer: optax.GradientTransformation,
    *,
    ema: float | None = None,
    augmentation: bool = True,
    accumulate: int = 1,
    like: TrainState | None = None,
) -> Step:
    """The compiled step: (train key, state, inputs as `ModelInputs.as_dict` gives them) -> (state, loss, grad_norm and param_norm).

    The state that is given is used up. `like` says the shardings of the state. A batch is computed in `accumulate` parts.
    """

    def loss_of(trained: Params, frozen: Params, drawn: tuple[Observation, Array, Array, Array]) -> Array:
        return jnp.mean(merge(config, {**frozen, **trained}).flow_loss(*drawn))

    def step(key: Array, state: TrainState, inputs: Mapping[str, Any]) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(key, state.step)
        drawn = draw(key, Observation.from_dict(inputs), inputs["actions"], config, train=augmentation)
        trained = trained_of(state.params, freeze)
        frozen = {path: leaf for path, leaf in state.params.items() if path not in trained}
        loss, grads = _loss_and_gradients(lambda trained, part: loss_of(trained, frozen, part), trained, drawn, parts=accumulate)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        trained = cast("dict[str, Array]", optax.apply_updates(trained, updates))
        params = {**state.params, **trained}
        average = _averaged(state.ema_params, trained, decay=ema)
        info = {"loss": loss, "grad_norm": optax.tree.norm(grads), "param_norm": _kernel_norm(params)}
        return replace(state, step=state.step + 1, params=params, opt_state=opt_state, ema_params=average), info

    if like is None:
        return jax.jit(step, donate_argnums=1)
    return jax.jit(step, donate_argnums=1, out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, like), None))


def _loss_and_gradients(
    loss_of: Callable[[Params, Any], Array], trained: Params, drawn: Any, *, parts: int
) -> tuple[Array, dict[str, Array]]:
    """Mean loss of a batch and its gradient, computed part by part: sample i is in part i mod `parts`, so that no device moves any."""
    of_part = jax.value_and_grad(loss_of)
    if parts == 1:
        return of_part(trained, drawn)
    cut = jax.tree.map(lambda leaf: jnp.moveaxis(leaf.reshape(-1, parts, *leaf.shape[1:]), 1, 0), drawn)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of_part(trained, part)), None

    zero = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_part, trained, jax.tree.map(lambda leaf: leaf[0], cut))
    )
    total, _ = jax.lax.scan(add, zero, cut)
    return jax.tree.map(lambda leaf: leaf / parts, total)


def _averaged(average: Params | None, trained: Params, *, decay: float | None) -> dict[str, Array] | None:
    if average is None or decay is None:
        return None
    return {path: decay * old + (1 - decay) * trained[path] if path in trained else old for path, old in average.items()}


def _kernel_norm(params: Params) -> Array:
    kernels = [leaf for path, leaf in params.items() if leaf.ndim > 1 and not _NO_KERNEL.fullmatch(path)]
    # Squares of frozen ones are added up in bfloat16, as in openpi: good for three digits.
    return optax.tree.norm(kernels)
