"""The correction of real-time chunking, against the paper's own equations and a flow whose gradient is known."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.models import Guidance
from vla_ops.models.guidance import guided_velocity

TURN = np.array([[0.3, -1.0], [0.7, 0.2]], np.float32)


def corrected(x: Any, t: float, target: Any, weights: Any, **rules: Any) -> np.ndarray[Any, Any]:
    """Of the flow v(x) = x TURN."""
    guidance = Guidance(jnp.asarray(target), jnp.asarray(weights))
    return np.asarray(guided_velocity(lambda noisy: noisy @ TURN, jnp.asarray(x), jnp.float32(t), guidance, **rules))


def paper(x: Any, t: float, target: Any, weights: Any, most: float) -> np.ndarray[Any, Any]:
    """Equations 2 to 4 in the paper's time tau, whose velocity goes from noise to actions; back in openpi's."""
    tau, jacobian = 1 - t, np.eye(2) - t * TURN
    clean = x + (1 - tau) * (x @ -TURN)
    r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    pull = (weights[..., None] * (target - clean)) @ jacobian.T
    return -(x @ -TURN + min(most, (1 - tau) / (tau * r2)) * pull)


@given(t=st.floats(0.05, 0.95), seed=st.integers(0, 100), most=st.floats(0.5, 20))
def test_it_is_the_papers(t: float, seed: int, most: float) -> None:
    random = np.random.default_rng(seed)
    x, target = random.standard_normal((2, 1, 4, 2)).astype(np.float32)
    weights = np.array([[1, 0.6, 0.2, 0]], np.float32)
    found = corrected(x, t, target, weights, max_weight=most, through_model=True)
    np.testing.assert_allclose(found, paper(x, t, target, weights, most), rtol=1e-3, atol=1e-4)


def test_without_the_models_gradient_the_error_itself_corrects() -> None:
    x, target = np.ones((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.float32)
    found = corrected(x, 0.5, target, np.ones((1, 2), np.float32), max_weight=5.0, through_model=False)
    # (0.25 + 0.25) / 0.25 = 2 times the error.
    np.testing.assert_allclose(found, x @ TURN - 2 * (target - (x - 0.5 * x @ TURN)), rtol=1e-6)


@pytest.mark.parametrize("through_model", [True, False])
def test_at_pure_noise_it_is_bounded_and_where_nothing_is_held_the_flow_is_as_it_was(*, through_model: bool) -> None:
    x, target = np.ones((1, 2, 2), np.float32), np.full((1, 2, 2), 9, np.float32)
    held = corrected(x, 1.0, target, np.array([[1, 0]], np.float32), max_weight=5.0, through_model=through_model)
    assert np.isfinite(held).all()
    np.testing.assert_array_equal(held[0, 1], (x @ TURN)[0, 1])
    assert np.abs(held[0, 0] - (x @ TURN)[0, 0]).max() > 1
