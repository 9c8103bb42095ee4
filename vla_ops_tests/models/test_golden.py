"""The tiny model gives openpi's numbers: outputs, losses, samples, gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_ops.models import Pi0, lora_freeze, merge, state_paths
from vla_ops_tests.models.golden import QUICK, Golden, forward, largest_difference, suffix_inputs

SAMPLES = ["sample_actions_steps1", "sample_actions_steps2", "sample_actions_steps10"]
# Two of the four cover both families, LoRA and its absence; the others are slow only because they compile again.
VARIANTS = ["pi0", "pi05_lora", pytest.param("pi05", marks=pytest.mark.slow), pytest.param("pi0_lora", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=VARIANTS)
def golden(request: pytest.FixtureRequest, golden_dir: Path) -> Golden:
    return Golden(golden_dir, request.param)


@pytest.fixture(scope="module")
def one_pass(golden: Golden) -> tuple[dict[str, Any], dict[str, Any]]:
    """All outputs of a forward pass, and the gradient of the mean loss by path, of one compilation."""
    graphdef, state = golden.split()
    inputs = golden.inputs | {"posemb_times": golden.outputs["posemb_times"]}
    arrays = {name: array for name, array in inputs.items() if "/" not in name}

    def run(state: nnx.State, observation: Any, arrays: dict[str, Any]) -> Any:
        def loss(state: nnx.State) -> tuple[Any, Any]:
            losses = nnx.merge(graphdef, state).flow_loss(observation, arrays["actions"], arrays["noise"], arrays["time"])
            return losses.mean(), losses

        gradients, losses = jax.grad(loss, has_aux=True)(state)
        outputs = forward(nnx.merge(graphdef, state), observation, arrays)
        return gradients, outputs | {"loss_per_step_fixed": losses, "compute_loss_fixed": losses}

    gradients, outputs = jax.jit(run, compiler_options=QUICK)(state, golden.observation, arrays)
    outputs["v_t"] = nnx.merge(graphdef, state).action_out_proj(outputs["suffix_out"][:, -golden.config.action_horizon :])
    return outputs, state_paths(gradients)


def test_every_output_of_a_forward_pass_is_openpis(golden: Golden, one_pass: Any) -> None:
    ours = one_pass[0] | {}
    packed = np.packbits(np.asarray(ours.pop("attn_mask")), axis=-1)
    assert np.array_equal(packed, golden.outputs["attn_mask_packed"])
    elsewhere = {"attn_mask_packed", "key7_noise", "key7_time", "posemb_times", "sample_actions_key3_steps10", *SAMPLES}
    assert set(ours) == {name for name in golden.outputs if not name.startswith("bf16compute")} - elsewhere
    for name, array in ours.items():
        theirs = golden.outputs[name]
        if theirs.dtype in (np.bool_, np.int32):
            assert np.array_equal(array, theirs), name
        else:
            assert largest_difference(array, theirs) < 5e-5, name


def test_every_gradient_is_openpis(golden: Golden, one_pass: Any) -> None:
    theirs = json.loads((golden.folder / f"grads_{golden.variant}.json").read_text())
    assert one_pass[1].keys() == theirs.keys()
    for path, gradient in one_pass[1].items():
        array = np.asarray(gradient, np.float64)
        assert np.abs(array.ravel()[:8] - theirs[path]["first8"]).max() < 1e-5, path
        assert np.linalg.norm(array) == pytest.approx(theirs[path]["l2"], rel=1e-4, abs=1e-5), path
        assert array.sum() == pytest.approx(theirs[path]["sum"], rel=1e-4, abs=1e-4), path


def test_sampling_with_the_prefix_cache_is_openpis_at_one_two_and_ten_steps(golden: Golden) -> None:
    graphdef, state = golden.split()

    def sample(state: nnx.State, observation: Any, noise: Any, num_steps: Any) -> Any:
        return nnx.merge(graphdef, state).sample_actions(jax.random.key(0), observation, num_steps=num_steps, noise=noise)

    compiled = jax.jit(sample, compiler_options=QUICK)
    for name in SAMPLES:
        ours = compiled(state, golden.observation, golden.inputs["noise"], int(name.removeprefix("sample_actions_steps")))
        assert largest_difference(ours, golden.outputs[name]) < 2e-5, name


@pytest.mark.slow
def test_sampling_draws_openpis_noise_from_the_key(golden: Golden) -> None:
    graphdef, state = golden.split()
    sample = jax.jit(lambda s, seen: nnx.merge(graphdef, s).sample_actions(jax.random.key(3), seen), compiler_options=QUICK)
    assert largest_difference(sample(state, golden.observation), golden.outputs["sample_actions_key3_steps10"]) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("params", ["f32params", "bf16params"])
def test_bfloat16_differs_from_openpis_by_less_than_openpis_does_from_its_float32(golden: Golden, params: str) -> None:
    graphdef, state = golden.split(dtype="bfloat16", params="float32" if params == "f32params" else "bfloat16")
    arrays = {name: array for name, array in golden.inputs.items() if "/" not in name}

    @jax.jit
    def run(state: nnx.State, observation: Any, arrays: dict[str, Any]) -> dict[str, Any]:
        model = nnx.merge(graphdef, state)
        x_t, _ = suffix_inputs(arrays)
        outs, (keys, _) = model.run_all(observation, x_t, arrays["time"])
        (suffix, _, _), _ = model.embed_suffix(observation, x_t, arrays["time"])
        return {
            "prefix_out": outs[0],
            "suffix_out": outs[1],
            "kv_k_last": keys[-1],
            "suffix_tokens": suffix,
            "v_t": model.velocity(observation, x_t, arrays["time"]),
            "sample_actions_steps10": model.sample_actions(jax.random.key(0), observation, noise=arrays["noise"]),
        }

    ours = run(state, golden.observation, arrays)
    family = golden.variant.removesuffix("_lora")
    types = json.loads((golden.folder / "summary.json").read_text())[f"{family}/bf16compute_{params}"]
    assert {name: str(array.dtype) for name, array in ours.items() if name in types} == {
        name: kind for name, kind in types.items() if name in ours
    }
    for name in ("v_t", "suffix_out", "suffix_tokens", "sample_actions_steps10"):
        theirs = golden.outputs[f"bf16compute_{params}/{name}"]
        spread = largest_difference(theirs, golden.outputs[name])
        assert largest_difference(ours[name], theirs) <= spread + 1e-6, name


@pytest.mark.slow
@pytest.mark.parametrize("augmented", [True, False])
def test_the_loss_of_a_training_pass_is_openpis(golden: Golden, golden_dir: Path, *, augmented: bool) -> None:
    steps = json.loads((golden_dir / "openpi_ckpt_tiny" / "train_step_golden.json").read_text())
    recorded = steps.get(f"{golden.variant}_{'aug' if augmented else 'noaug'}")
    if recorded is None:
        pytest.skip(f"no training step of {golden.variant} was recorded")
    freeze = lora_freeze(golden.config)
    params = {path: jnp.asarray(array, freeze.train_dtype(path)) for path, array in golden.params.items()}

    def loss(model: Pi0, observation: Any, actions: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(5), 0)
        return model.compute_loss(key, observation, actions, train=augmented).mean()

    ours = jax.jit(loss, compiler_options=QUICK)(merge(golden.config, params), golden.observation, golden.inputs["actions"])
    assert float(ours) == pytest.approx(recorded[0]["info"]["loss"], abs=2e-5)
