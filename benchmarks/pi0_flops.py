"""Floating point operations of a training step and of sampling, from the model's sizes alone.

Counted as in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), for model FLOPs utilisation: only products of matrices; a
product of [m, k] and [k, n] is 2 m k n operations; attention adds 2 * 2 T S (heads * head_dim) a layer, masked or not; what is computed
again in the backward pass does not count. PaLM's 6 N a token is the sum of forward (2 N), gradients of inputs (2 N) and gradients of
weights (2 N). Here the last one counts for trained weights only, so that LoRA is not given credit for what it does not do, and the inputs
of the whole model have no gradient. Embedding tables are looked up, not multiplied. All layers count alike, also the last one, of whose
prefix only keys and values are used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vla_ops.models import Freeze, GemmaConfig, ModelConfig

_LLM, _IMG = "PaliGemma/llm", "PaliGemma/img"


@dataclass(frozen=True)
class Product:
    """A product of matrices, `flops` in the forward pass: with the weight of this path, or of two activations where there is none."""

    flops: int
    weight: str | None = None
    # Whether what is multiplied with the weight comes of other weights.
    inner: bool = True


def training_flops(config: ModelConfig, freeze: Freeze, *, batch_size: int) -> int:
    """Operations of one step: forward and backward."""
    return batch_size * sum(_with_gradients(product, freeze) for product in _whole(config))


def sampling_flops(config: ModelConfig, *, batch_size: int, num_steps: int) -> int:
    """Operations of `sample_actions`: the prefix once, the suffix `num_steps` times against the prefix's keys and values."""
    prefix, suffix = _prefix_tokens(config), _suffix_tokens(config)
    once = [*_images(config), *_layers(config, (prefix, 0), keys=prefix)]
    each = [*_projections(config), *_layers(config, (0, suffix), keys=prefix + suffix)]
    return batch_size * (sum(product.flops for product in once) + num_steps * sum(product.flops for product in each))


def _with_gradients(product: Product, freeze: Freeze) -> int:
    if product.weight is None:
        return 3 * product.flops
    trained = not freeze.frozen(product.weight)
    return product.flops * (1 + product.inner + trained)


def _whole(config: ModelConfig) -> Iterator[Product]:
    """One sample through the whole model, prefix and suffix together."""
    tokens = _prefix_tokens(config), _suffix_tokens(config)
    yield from _images(config)
    yield from _projections(config)
    yield from _layers(config, tokens, keys=sum(tokens))


def _images(config: ModelConfig) -> Iterator[Product]:
    tower, images = config.vision, len(config.cameras)
    tokens = images * config.tokens_per_image
    layer = f"{_IMG}/Transformer/encoderblock"
    yield _dense(tokens, 3 * tower.patch**2, tower.width, f"{_IMG}/embedding/kernel", inner=False)
    yield _dense(tower.depth * tokens, tower.width, 4 * tower.width, f"{layer}/MultiHeadDotProductAttention_0/query/kernel")
    yield Product(2 * 2 * tower.depth * tokens * config.tokens_per_image * tower.width)
    yield _dense(tower.depth * tokens, tower.width, 2 * tower.mlp_dim, f"{layer}/MlpBlock_0/Dense_0/kernel")
    yield _dense(tokens, tower.width, config.experts[0].width, f"{_IMG}/head/kernel")


def _projections(config: ModelConfig) -> Iterator[Product]:
    """State, actions and time in, actions out, and the conditions of adaptive norms."""
    width, steps, dim = config.experts[1].width, config.action_horizon, config.action_dim
    yield _dense(steps, dim, width, "action_in_proj/kernel", inner=False)
    yield _dense(steps, width, dim, "action_out_proj/kernel")
    if config.pi05:
        yield _dense(1, width, width, "time_mlp_in/kernel", inner=False)
        yield _dense(1, width, width, "time_mlp_out/kernel")
        yield _dense(2 * config.experts[1].depth, width, 3 * width, f"{_LLM}/layers/pre_attention_norm_1/Dense_0/kernel")
        yield _dense(1, width, 3 * width, f"{_LLM}/final_norm_1/Dense_0/kernel")
    else:
        yield _dense(1, dim, width, "state_proj/kernel", inner=False)
        yield _dense(steps, 2 * width, width, "action_time_mlp_in/kernel")
        yield _dense(steps, width, width, "action_time_mlp_out/kernel")


def _layers(config: ModelConfig, tokens: tuple[int, int], *, keys: int) -> Iterator[Product]:
    """All layers of the language model for so many tokens of each expert, which attend to `keys`."""
    for size, count, suffix in zip(config.experts, tokens, ("", "_1"), strict=True):
        yield from _weights(size, size.depth * count, suffix)
    first = config.experts[0]
    yield Product(2 * 2 * first.depth * sum(tokens) * keys * first.num_heads * first.head_dim)


def _weights(size: GemmaConfig, tokens: int, suffix: str) -> Iterator[Product]:
    width, heads, kv, dim = size.width, size.num_heads, size.num_kv_heads, size.head_dim
    attention, forward = f"{_LLM}/layers/attn", f"{_LLM}/layers/mlp{suffix}"
    yield _dense(tokens, width, heads * dim, f"{attention}/q_einsum{suffix}/w")
    yield _dense(tokens, width, 2 * kv * dim, f"{attention}/kv_einsum{suffix}/w")
    yield _dense(tokens, heads * dim, width, f"{attention}/attn_vec_einsum{suffix}/w")
    yield _dense(tokens, width, 2 * size.mlp_dim, f"{forward}/gating_einsum")
    yield _dense(tokens, size.mlp_dim, width, f"{forward}/linear")
    if size.lora is None:
        return
    rank = size.lora.rank
    # Each head of queries, keys and values has factors of its own; the heads share those of the way out.
    factors = (heads + 2 * kv) * rank * (width + dim) + rank * (heads * dim + width) + 3 * rank * (width + size.mlp_dim)
    yield Product(2 * tokens * factors, f"{attention}/q_einsum{suffix}/lora_a")


def _dense(rows: int, inputs: int, outputs: int, weight: str, *, inner: bool = True) -> Product:
    return Product(2 * rows * inputs * outputs, weight, inner)


def _prefix_tokens(config: ModelConfig) -> int:
    return len(config.cameras) * config.tokens_per_image + config.max_token_len


def _suffix_tokens(config: ModelConfig) -> int:
    return config.action_horizon + (0 if config.pi05 else 1)
