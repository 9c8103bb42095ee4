from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_ops.checkpoints.architecture import architecture_of
from vla_ops.errors import CheckpointError
from vla_ops.export.lora import Alphas, Factors, find_factors, merged
from vla_ops.export.plan import make_plan
from vla_ops.models.config import LoraConfig, tiny
from vla_ops.models.lora import LoraEinsum
from vla_ops.policies.model_sizes import sizes_of


@pytest.mark.parametrize(
    ("path", "equation", "shape", "inputs"),
    [
        ("q_einsum", "BTD,NDH->BTNH", (4, 12, 6), (2, 3, 12)),
        ("kv_einsum", "BSD,CKDH->CBSKH", (2, 1, 12, 6), (2, 3, 12)),
        ("attn_vec_einsum", "BTNH,NHD->BTD", (4, 6, 12), (2, 3, 4, 6)),
    ],
)
def test_merged_attention_weights_are_the_layer_with_its_factors(
    path: str, equation: str, shape: tuple[int, ...], inputs: tuple[int, ...]
) -> None:
    from flax import nnx

    layer = LoraEinsum(equation, shape, lora=LoraConfig(rank=3, alpha=7), kernel_init=jax.nn.initializers.normal(1.0), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    layer.lora_a[...], layer.lora_b[...] = (jnp.asarray(rng.standard_normal(x.shape), jnp.float32) for x in (layer.lora_a, layer.lora_b))
    stem = f"PaliGemma/llm/layers/attn/{path}"
    pair = find_factors(dict.fromkeys((f"{stem}/w", f"{stem}/lora_a", f"{stem}/lora_b")))[f"{stem}/w"]
    weight = merged(np.asarray(layer.w[...]), np.asarray(layer.lora_a[...]), np.asarray(layer.lora_b[...]), pair, 7 / 3)
    x = rng.standard_normal(inputs).astype(np.float32)
    expected = np.asarray(layer(jnp.asarray(x)))
    assert np.abs(np.einsum(equation, x, weight) - expected).max() < 1e-5 * np.abs(expected).max()
    assert weight.dtype == np.float32


def test_a_product_head_by_head_would_be_another_model() -> None:
    rng = np.random.default_rng(2)
    a, b, w = rng.standard_normal((4, 6, 3)), rng.standard_normal((4, 3, 12)), np.zeros((4, 6, 12))
    of_heads = merged(w, a, b, Factors("PaliGemma/llm/layers/attn/attn_vec_einsum/w", "", "", "summed heads"), 1.0)
    assert np.abs(of_heads - a @ b).max() > 1


def test_feed_forward_is_not_scaled_by_alpha(golden_dir: Path) -> None:
    params = dict(np.load(golden_dir / "golden_tiny/params_pi0_lora.npz"))
    pair = find_factors(params)["PaliGemma/llm/layers/mlp/linear"]
    alphas = Alphas.of(tiny("pi0", lora=True))
    assert alphas.scale(pair) == 1.0
    attention = find_factors(params)["PaliGemma/llm/layers/attn/q_einsum_1/w"]
    assert alphas.scale(attention) == 2.0


def test_without_a_recipe_alpha_must_be_given_unless_it_is_openpis_own(golden_dir: Path) -> None:
    params = dict(np.load(golden_dir / "golden_tiny/params_pi0_lora.npz"))
    with pytest.raises(CheckpointError, match=r"alpha is not in a checkpoint.*--lora-alpha"):
        sizes_of(architecture_of(params))
    assert sizes_of(architecture_of(params), lora_alpha=8.0)["paligemma"]["lora"] == {"rank": 4, "alpha": 8.0}


def test_a_factor_without_its_partner_is_named(golden_dir: Path) -> None:
    params = dict(np.load(golden_dir / "golden_tiny/params_pi0_lora.npz"))
    del params["PaliGemma/llm/layers/attn/q_einsum/lora_b"]
    with pytest.raises(CheckpointError, match=r"stands alone.*q_einsum/lora_a.*q_einsum/lora_b"):
        make_plan(params)
