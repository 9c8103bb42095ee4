"""The training step in itself, on random samples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_ops.checkpoints.trees import TrainState
from vla_ops.models import ModelConfig, lora_freeze
from vla_ops.spec.model import ModelSpec
from vla_ops.spec.training import OptimizerSpec
from vla_ops.training.mesh import make_mesh
from vla_ops.training.optimizer import make_optimizer
from vla_ops.training.state import abstract_state, trained_of
from vla_ops.training.step import make_step
from vla_ops_tests.training.arm import HORIZON
from vla_ops_tests.training.small_training import TRAINING

pytestmark = pytest.mark.usefixtures("compiled_fast")


def _batch(config: ModelConfig, *, rows: int) -> dict[str, Any]:
    """Random samples, whose last camera is masked in every other one."""
    rng = np.random.default_rng(0)
    size, last = config.image_size, config.cameras[-1]
    return {
        "state": rng.standard_normal((rows, config.action_dim), np.float32),
        "image": {camera: rng.integers(0, 256, (rows, size, size, 3), np.uint8) for camera in config.cameras},
        "image_mask": {camera: (np.arange(rows) % 2 == 0) | (camera != last) for camera in config.cameras},
        "tokenized_prompt": rng.integers(0, config.vocab_size, (rows, config.max_token_len), np.int32),
        "tokenized_prompt_mask": np.arange(config.max_token_len) < rng.integers(3, config.max_token_len, (rows, 1)),
        "actions": rng.standard_normal((rows, config.action_horizon, config.action_dim), np.float32),
    }


@pytest.mark.slow
def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    expert = TRAINING["model"]["paligemma"] | {"lora": {"rank": 4, "alpha": 8.0}}
    config = ModelSpec.model_validate(TRAINING["model"] | {"paligemma": expert, "action_expert": expert}).config(horizon=HORIZON)
    freeze, optimizer = lora_freeze(config), make_optimizer(OptimizerSpec(), lambda _: 1e-3)
    like = abstract_state(config, freeze, optimizer, make_mesh(), ema=False)
    rng = np.random.default_rng(1)
    before = {path: (0.1 * rng.standard_normal(leaf.shape)).astype(leaf.dtype) for path, leaf in like.params.items()}
    begin = jax.jit(lambda params: TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained_of(params, freeze))))
    found = []
    for parts in (1, 2):
        step = make_step(config, freeze, optimizer, augmentation=False, accumulate=parts, like=like)
        found.append(step(jax.random.key(0), begin(before), _batch(config, rows=4)))
    (whole, one), (cut, two) = found
    assert float(one["loss"]) == pytest.approx(float(two["loss"]), rel=1e-5)
    assert float(one["grad_norm"]) == pytest.approx(float(two["grad_norm"]), rel=1e-4)
    moments = [jax.tree.leaves(state.opt_state[1][0].mu) for state in (whole, cut)]
    for first, second in zip(*moments, strict=True):
        np.testing.assert_allclose(first, second, atol=2e-5)
    # What is frozen is as it was, to the bit, and has no moments.
    frozen = [path for path in before if freeze.frozen(path)]
    assert frozen
    for path in frozen:
        assert whole.params[path].dtype == jnp.bfloat16
        assert np.array_equal(whole.params[path], before[path])
        assert path not in whole.opt_state[1][0].mu
