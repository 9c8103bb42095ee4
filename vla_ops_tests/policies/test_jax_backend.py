"""The JAX backend: the contract, and that nothing is compiled after it was made."""

from __future__ import annotations

import logging

import jax
import numpy as np
import pytest

from vla_ops.models import ModelConfig, ParameterMismatchError, merge
from vla_ops.models import Observation as Seen
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.jax_backend import JaxBackend
from vla_ops.policies.real_time import RealTime
from vla_ops_tests.policies.backend_contract import BackendContract, guide, inputs, noise
from vla_ops_tests.training.arm import small
from vla_ops_tests.training.untrained import random_params

STEPS = 3


@pytest.fixture(scope="module", params=["pi0", pytest.param("pi05", marks=pytest.mark.slow)])
def config(request: pytest.FixtureRequest) -> ModelConfig:
    return small(request.param)


@pytest.fixture(scope="module")
def backend(config: ModelConfig) -> JaxBackend:
    return JaxBackend(config, random_params(config), BackendOptions(batch_sizes=(2, 1), sampling_steps=STEPS, real_time=RealTime()))


class TestJaxBackend(BackendContract):
    """See BackendContract."""


def test_prefix_and_denoising_apart_are_the_models_own_sampling(backend: JaxBackend, config: ModelConfig) -> None:
    given, drawn = inputs(config, 1), noise(config, 1)

    @jax.jit
    def whole(params: dict[str, jax.Array], seen: dict[str, jax.Array]) -> jax.Array:
        return merge(config, params).sample_actions(jax.random.key(0), Seen.from_dict(seen), num_steps=STEPS, noise=drawn)

    np.testing.assert_allclose(backend.sample(given, drawn).actions, whole(backend.params, given.as_dict()), atol=1e-5)


def test_nothing_is_compiled_after_it_was_made(backend: JaxBackend, config: ModelConfig, caplog: pytest.LogCaptureFixture) -> None:
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        for seed in range(2):
            backend.sample(inputs(config, 2, seed), noise(config, 2, seed))
            backend.sample(inputs(config, 1, seed), noise(config, 1, seed), guide(config, (1, 3)))
    assert not compilations(caplog)
    with jax.log_compiles(), caplog.at_level(logging.WARNING, logger="jax"):
        jax.jit(lambda x: x * 3)(1.0)
    assert compilations(caplog)


def compilations(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "ompil" in record.getMessage()]


def test_parameters_of_another_model_are_refused_before_anything_is_compiled(config: ModelConfig) -> None:
    params = random_params(config)
    params.pop("action_in_proj/bias")
    with pytest.raises(ParameterMismatchError, match="action_in_proj/bias"):
        JaxBackend(config, params, BackendOptions())
