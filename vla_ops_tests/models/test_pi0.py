"""What holds for any size of model: equal paths to the same number, masks, refusals."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_ops.models import (
    GemmaConfig,
    LoraConfig,
    ModelConfig,
    Observation,
    Pi0,
    SiglipConfig,
    abstract,
    merge,
    state_paths,
    tiny,
    zero_observation,
)
from vla_ops.models.attention import attend, attention_mask, rotate
from vla_ops.models.lora import low_rank
from vla_ops_tests.models.golden import QUICK

SMALL = GemmaConfig(width=16, depth=2, mlp_dim=32, num_heads=4, num_kv_heads=2, head_dim=8)
WIDE = dataclasses.replace(SMALL, width=24)
VISION = SiglipConfig(width=16, depth=1, mlp_dim=16, num_heads=2, patch=16)


def small(**fields: Any) -> ModelConfig:
    """Two experts of different widths, two cameras, two key heads: nothing that openpi's sizes have in common."""
    sizes: dict[str, Any] = {"paligemma": SMALL, "action_expert": WIDE, "siglip": VISION, "image_size": 32, "vocab_size": 64}
    return tiny(**(sizes | {"cameras": ("base", "wrist"), "action_dim": 5, "action_horizon": 3, "max_token_len": 6} | fields))


def observed(config: ModelConfig, batch: int = 2) -> Observation:
    draw = np.random.default_rng(1)
    blank = zero_observation(config, batch)
    images = {name: jnp.asarray(draw.uniform(-1, 1, image.shape), jnp.float32) for name, image in blank.images.items()}
    prompt = jnp.asarray(np.arange(batch * config.max_token_len).reshape(batch, -1), jnp.int32)
    mask = jnp.asarray(np.arange(config.max_token_len)[None] < np.array([4, 6])[:batch, None])
    state = jnp.asarray(draw.normal(size=blank.state.shape), jnp.float32)
    return dataclasses.replace(blank, images=images, state=state, tokenized_prompt=prompt, tokenized_prompt_mask=mask)


@functools.cache
def random_model(config: ModelConfig) -> Pi0:
    """A model whose parameters are all random: fresh ones have zeros where a mistake would hide."""
    draw = np.random.default_rng(0)
    shapes = state_paths(abstract(config)[1])
    return merge(config, {path: jnp.asarray(draw.normal(size=x.shape) * 0.2, jnp.float32) for path, x in shapes.items()})


@functools.partial(jax.jit, compiler_options=QUICK)
def velocity(model: Pi0, seen: Observation, x_t: Any, time: Any) -> Any:
    return model.velocity(seen, x_t, time)


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_the_prefix_cache_gives_the_velocity_of_the_whole_pass(family: str) -> None:
    config = small(family=family)
    model, seen = random_model(config), observed(config)
    x_t, time = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 5)), jnp.float32), jnp.array([0.2, 0.9])

    @functools.partial(jax.jit, compiler_options=QUICK)
    def with_cache(model: Pi0, seen: Observation) -> Any:
        return model.velocity_after_prefix(seen, x_t, time, *model.run_prefix(seen))

    cached = with_cache(model, seen)
    assert cached.shape == (2, 3, 5)
    assert float(jnp.abs(cached).max()) > 0.1
    assert float(jnp.abs(cached - velocity(model, seen, x_t, time)).max()) < 1e-5


def test_what_is_masked_does_not_matter() -> None:
    config = small()
    model, seen = random_model(config), observed(config)
    seen = dataclasses.replace(seen, image_masks=seen.image_masks | {"wrist": jnp.array([False, True])})
    x_t, time = jnp.ones((2, 3, 5)), jnp.array([0.2, 0.9])
    other = dataclasses.replace(
        seen,
        images=seen.images | {"wrist": seen.images["wrist"].at[0].set(0.5)},
        tokenized_prompt=jnp.where(seen.tokenized_prompt_mask, seen.tokenized_prompt, 63),
    )
    assert float(jnp.abs(velocity(model, seen, x_t, time) - velocity(model, other, x_t, time)).max()) < 1e-6
    moved = dataclasses.replace(seen, images=seen.images | {"base": seen.images["base"] * 0.5})
    assert float(jnp.abs(velocity(model, seen, x_t, time) - velocity(model, moved, x_t, time)).max()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_rematerialisation_changes_no_gradient(remat: str) -> None:
    lora = dataclasses.replace(SMALL, lora=LoraConfig(rank=2, alpha=4))
    config = small(paligemma=lora, family="pi05")
    seen, time, actions = observed(config), jnp.array([0.2, 0.9]), jnp.ones((2, 3, 5))

    def gradient(model: Pi0) -> Any:
        return jax.grad(lambda model: model.flow_loss(seen, actions, -actions, time).mean())(model)

    again = dataclasses.replace(config, remat=remat)
    arrays = state_paths(random_model(config))
    plain, redone = (state_paths(jax.jit(gradient, compiler_options=QUICK)(merge(of, arrays))) for of in (config, again))
    for path, array in plain.items():
        assert np.allclose(array, redone[path], atol=1e-5, rtol=1e-4), path


def test_attention_is_jaxs_own_also_for_grouped_heads_and_rows_that_see_nothing() -> None:
    draw = np.random.default_rng(0)
    q, k, v = (draw.normal(size=(2, n, heads, 8)).astype(np.float32) for n, heads in ((5, 4), (7, 2), (7, 2)))
    mask = np.arange(7)[None, None, :] < np.array([[0, 1, 3, 5, 7], [7, 7, 2, 2, 1]])[:, :, None]

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(q: Any, k: Any, v: Any, mask: Any) -> Any:
        return attend(q, k, v, mask), jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=1.0)

    ours, theirs = both(q, k, v, mask)
    assert np.abs(np.asarray(ours) - np.asarray(theirs)).max() < 1e-6


def test_rotation_keeps_lengths_and_makes_products_depend_on_distance_only() -> None:
    q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 16)).astype(np.float32)
    turn = jax.jit(rotate, compiler_options=QUICK)

    def product(first: int, second: int) -> float:
        return float(np.sum(np.asarray(turn(q, np.array([[first]]))) * np.asarray(turn(k, np.array([[second]])))))

    assert product(3, 10) == pytest.approx(product(103, 110), abs=1e-4)
    assert product(3, 10) != pytest.approx(product(3, 11), abs=1e-3)
    assert np.linalg.norm(turn(q, np.array([[50]]))) == pytest.approx(np.linalg.norm(q), rel=1e-5)


def test_blocks_see_themselves_and_what_is_before_them() -> None:
    valid = jnp.array([[True, True, False, True, True, True]])
    mask = attention_mask(valid, jnp.array([False, False, False, True, True, False]))
    assert np.asarray(mask[0]).astype(int).tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 1],
        [1, 1, 0, 1, 1, 1],
    ]


def test_low_rank_einsums_contract_as_openpis_do() -> None:
    assert low_rank("BTD,NDH->BTNH") == ("BTD,NDr->BTNr", "BTNr,NrH->BTNH")
    # Heads are summed in both factors, not kept between them.
    assert low_rank("BTNH,NHD->BTD") == ("BTNH,NHr->BTr", "BTr,NrD->BTD")


def test_bad_inputs_are_refused_by_name() -> None:
    config = small()
    model, seen = random_model(config), observed(config)
    with pytest.raises(ValueError, match="lacks the cameras wrist; it has base"):
        model.sample_actions(jax.random.key(0), dataclasses.replace(seen, images={"base": seen.images["base"]}))
    halved = {name: image[:, ::2] for name, image in seen.images.items()}
    with pytest.raises(ValueError, match=r"images of base are \(16, 32, 3\); the model takes \(32, 32, 3\)"):
        model.compute_loss(jax.random.key(0), dataclasses.replace(seen, images=halved), jnp.ones((2, 3, 5)))
    with pytest.raises(ValueError, match=r"actions are \(4, 5\) a sample; the model takes \(3, 5\)"):
        model.compute_loss(jax.random.key(0), seen, jnp.ones((2, 4, 5)))
    with pytest.raises(ValueError, match="num_steps 0"):
        model.sample_actions(jax.random.key(0), seen, num_steps=0)
    with pytest.raises(ValueError, match="must be given together"):
        Observation.from_dict({"image": {}, "state": jnp.zeros((1, 5)), "tokenized_prompt": jnp.zeros((1, 6), jnp.int32)})


def test_bytes_become_floats_and_a_camera_without_a_mask_is_present() -> None:
    pixels = np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3)
    seen = Observation.from_dict({"image": {"base": pixels}, "state": np.zeros((1, 5), np.float32)})
    assert np.asarray(seen.images["base"]).ravel().tolist() == pytest.approx([-1.0, -0.6, 1.0])
    assert seen.image_masks["base"].tolist() == [True]
    assert seen.tokenized_prompt is None


def test_a_model_without_a_prompt_runs() -> None:
    config = small(family="pi05")
    seen = dataclasses.replace(observed(config), tokenized_prompt=None, tokenized_prompt_mask=None)
    out = jax.eval_shape(lambda model, seen: model.sample_actions(jax.random.key(0), seen), random_model(config), seen)
    assert out.shape == (2, 3, 5)
