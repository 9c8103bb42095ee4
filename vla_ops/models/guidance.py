"""Guidance of real-time chunking (arXiv:2506.07339): a flow that is pulled towards actions which are already decided.

The clean chunk that a velocity promises, x_t - t v, is compared with what it is to become, and the velocity is corrected by the gradient
of that (pseudo-inverse guidance). The paper's time is tau = 1 - t and its velocity -v; here both are openpi's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


class Guidance(NamedTuple):
    """What a chunk is to become [B, H, action_dim], and how much each of its steps is held to it, 0 .. 1 [B, H]."""

    actions: ArrayLike
    weights: ArrayLike


def guided_velocity(
    velocity: Callable[[Array], Array], x_t: Array, t: Array, guidance: Guidance, *, max_weight: float, through_model: bool
) -> Array:
    """Return v(x_t, t) [B, H, action_dim], corrected: equations 2 to 4 of the paper, in openpi's time.

    Without `through_model` the promised chunk is taken to move as x_t does (its Jacobian is left out), as LeRobot computes it: no pass
    backwards through the model.
    """

    def promised(noisy: Array) -> tuple[Array, Array]:
        v = velocity(noisy)
        return noisy - t * v, v

    clean, pull_back, v = jax.vjp(promised, x_t, has_aux=True)
    error = jnp.asarray(guidance.weights)[..., None] * (guidance.actions - clean)
    correction = pull_back(error)[0] if through_model else error
    return v - _strength(t, max_weight) * correction


def _strength(t: Array, most: float) -> Array:
    """(1 - tau) / (tau r^2) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2), infinite at pure noise, and at most `most`."""
    return jnp.minimum(((1 - t) ** 2 + t**2) / (t * (1 - t)), most)
