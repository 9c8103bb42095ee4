"""openpi's table: inference needs more than 8 GB, LoRA more than 22.5 GB, full fine-tuning more than 70 GB, at its batch of 32."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vla_ops.models import PRESETS, Freeze, ModelConfig, abstract, lora_freeze, state_paths
from vla_ops.training.memory_estimate import JAX_SHARE, Setting, available_bytes, inference_memory, training_memory

GIB = 1 << 30


@pytest.fixture(scope="module")
def shapes() -> dict[str, dict[str, Any]]:
    return {name: state_paths(abstract(PRESETS[name])[1]) for name in ("pi0", "pi0_lora")}


def setting(config: ModelConfig, **changed: Any) -> Setting:
    return Setting(**({"batch_size": 32, "freeze": lora_freeze(config), "ema": not any(config.has_lora)} | changed))


def device(gib: float, share: float = 0.9) -> int:
    return available_bytes(int(gib * GIB), share=share)


def test_full_fine_tuning_needs_more_than_70_gb_and_fits_in_80(shapes: dict[str, Any]) -> None:
    found = training_memory(PRESETS["pi0"], shapes["pi0"], setting(PRESETS["pi0"]))
    assert found.total > 70e9
    assert found.fits(device(80))
    assert not found.fits(device(70))
    assert not found.fits(device(48))


def test_lora_needs_about_22_gb_and_fits_in_24(shapes: dict[str, Any]) -> None:
    found = training_memory(PRESETS["pi0_lora"], shapes["pi0_lora"], setting(PRESETS["pi0_lora"]))
    assert found.total > 22e9
    assert found.fits(device(24))
    assert not found.fits(device(16))


def test_inference_does_not_fit_in_what_jax_takes_of_8_gb_and_does_in_24(shapes: dict[str, Any]) -> None:
    found = inference_memory(PRESETS["pi0"], shapes["pi0"])
    assert not found.fits(device(8, JAX_SHARE))
    assert found.fits(device(24, JAX_SHARE))


def test_counts_are_openpis(shapes: dict[str, Any]) -> None:
    full = training_memory(PRESETS["pi0"], shapes["pi0"], setting(PRESETS["pi0"]))
    lora = training_memory(PRESETS["pi0_lora"], shapes["pi0_lora"], setting(PRESETS["pi0_lora"]))
    assert (full.parameters, full.trained) == (3_238_048_528, 3_238_048_528)
    assert (lora.parameters, lora.trained) == (3_288_036_112, 468_039_440)
    assert full.bytes_of["parameters"] == full.bytes_of["gradients"] == full.bytes_of["EMA"] == 4 * 3_238_048_528
    assert full.bytes_of["optimiser"] == 8 * 3_238_048_528
    assert lora.bytes_of["parameters"] == 2 * (3_288_036_112 - 468_039_440) + 4 * 468_039_440
    assert lora.bytes_of["EMA"] == 0


def test_activations_grow_with_the_batch_and_shrink_with_parts_devices_and_remat(shapes: dict[str, Any]) -> None:
    config = PRESETS["pi0"]

    def activations(config: ModelConfig = config, **changed: Any) -> int:
        return training_memory(config, shapes["pi0"], setting(config, **changed)).bytes_of["activations"]

    whole = activations()
    assert activations(batch_size=64) > 1.7 * whole
    assert activations(accumulate=4) < 0.5 * whole
    assert activations(devices=4) == activations(accumulate=4)
    dots, none = (activations(dataclasses.replace(config, remat=remat)) for remat in ("dots", "none"))
    assert whole < dots < none


def test_fsdp_cuts_large_parameters_and_copies_small_ones(shapes: dict[str, Any]) -> None:
    config = PRESETS["pi0"]
    alone = training_memory(config, shapes["pi0"], setting(config, devices=8)).bytes_of["parameters"]
    cut = training_memory(config, shapes["pi0"], setting(config, devices=8, fsdp_devices=8)).bytes_of["parameters"]
    assert alone / 8 <= cut < alone / 7


def test_what_is_kept_between_layers_is_what_jax_says_it_keeps() -> None:
    """The residuals of a rematerialised layer stack are its inputs, one a layer: the count by hand must not drift from the model."""
    import jax
    import jax.numpy as jnp

    from vla_ops.models import merge, tiny, zero_observation
    from vla_ops.training.memory_estimate import _kept_language, _kept_vision

    config = tiny("pi0", remat="full", action_horizon=6)
    shapes = state_paths(abstract(config)[1])
    rows = 4
    observation = jax.eval_shape(lambda: zero_observation(config, rows))
    actions = jax.ShapeDtypeStruct((rows, 6, config.action_dim), jnp.float32)

    def residuals(params: Any, observation: Any, actions: Any) -> Any:
        def loss(params: Any) -> Any:
            return jnp.mean(merge(config, params).flow_loss(observation, actions, actions, jnp.ones(rows)))

        return jax.vjp(loss, params)[1]

    kept = jax.tree.leaves(jax.eval_shape(residuals, shapes, observation, actions))
    depths = {config.vision.depth, config.experts[0].depth}
    stacked = [leaf for leaf in kept if leaf.ndim == 4 and leaf.shape[0] in depths and leaf.shape[1] in (rows, rows * len(config.cameras))]
    counted = sum(4 * leaf.size for leaf in stacked)
    assert counted == _kept_language(config, rows) + _kept_vision(config, rows)


def test_the_environment_says_what_jax_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    assert available_bytes(100) == 50
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
    assert available_bytes(100) == 90


def test_frozen_parameters_have_neither_gradient_nor_moments(shapes: dict[str, Any]) -> None:
    config = PRESETS["pi0"]
    frozen = training_memory(config, shapes["pi0"], setting(config, freeze=Freeze((".*llm.*",))))
    assert frozen.bytes_of["gradients"] == 4 * frozen.trained
    assert frozen.trained < 0.2 * frozen.parameters
