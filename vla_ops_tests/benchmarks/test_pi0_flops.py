"""The formula counts what the traced model does, product by product."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks.pi0_flops import sampling_flops, training_flops
from vla_ops.models import PRESETS, Freeze, abstract, lora_freeze, merge, state_paths, tiny, zero_observation

BATCH, HORIZON = 2, 6


def counted(jaxpr: Any) -> int:
    """Operations of all products in a traced function, those in loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        assert name != "while", "how often it runs is not known"
        inputs, output = equation.invars[0].aval.shape if equation.invars else (), equation.outvars[0].aval.shape
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            total += 2 * math.prod(output) * math.prod(inputs[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            # Patches do not overlap: each number of an image meets every output once, and so in the kernel's gradient.
            total += 2 * math.prod(inputs) * output[-1]
        inner = sum(counted(getattr(each, "jaxpr", each)) for each in jax.tree.leaves(list(params.values())) if _is_jaxpr(each))
        total += inner * (params["length"] if name == "scan" else 1)
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_a_training_step_is_counted_to_the_last_product(family: Any, *, lora: bool) -> None:
    config = tiny(family, lora=lora, action_horizon=HORIZON)
    freeze = lora_freeze(config)
    params = state_paths(abstract(config)[1])
    trained = {path: leaf for path, leaf in params.items() if not freeze.frozen(path)}
    frozen = {path: leaf for path, leaf in params.items() if path not in trained}
    actions = jax.ShapeDtypeStruct((BATCH, HORIZON, config.action_dim), jnp.float32)

    def loss(trained: Any, frozen: Any, observation: Any, actions: Any) -> Any:
        return merge(config, trained | frozen).flow_loss(observation, actions, actions, jnp.ones(BATCH)).mean()

    observation = jax.eval_shape(lambda: zero_observation(config, BATCH))
    traced = jax.make_jaxpr(jax.value_and_grad(loss))(trained, frozen, observation, actions)
    assert training_flops(config, freeze, batch_size=BATCH) == counted(traced.jaxpr)


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_sampling_is_counted_to_the_last_product(family: Any) -> None:
    config = tiny(family, action_horizon=HORIZON)

    def sample(params: Any, observation: Any) -> Any:
        return merge(config, params).sample_actions(jax.random.key(0), observation, num_steps=3)

    traced = jax.make_jaxpr(sample)(state_paths(abstract(config)[1]), jax.eval_shape(lambda: zero_observation(config, BATCH)))
    assert sampling_flops(config, batch_size=BATCH, num_steps=3) == counted(traced.jaxpr)


def test_a_step_of_pi0_in_full_size_is_about_six_operations_a_parameter_and_token_and_lora_a_third_less() -> None:
    # 3 x 256 image tokens go through the tower's 0.4e9 and PaliGemma's 2.0e9 parameters without the table, 48 more through the latter,
    # and 51 tokens through the action expert's 0.3e9.
    by_hand = 6 * 32 * (768 * 0.41e9 + 816 * 1.98e9 + 51 * 0.31e9)
    full = training_flops(PRESETS["pi0"], Freeze(), batch_size=32)
    assert by_hand < full < 1.1 * by_hand
    lora = PRESETS["pi0_lora"]
    assert training_flops(lora, lora_freeze(lora), batch_size=32) / full == pytest.approx(0.72, abs=0.03)
