"""Gemma (arXiv:2403.08295) as several experts that share one attention, as in pi0 (arXiv:2410.24164) and pi0.5.

Every expert has its own weights and width; queries, keys and values of all of them stand in one sequence. The weights of the
first expert have openpi's plain names (PaliGemma's own), those of the second end in `_1`: `name(base, expert)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn import initializers as init
from jax.typing import DTypeLike

from vla_ops.models.attention import KVCache, attend, rotate
from vla_ops.models.config import GemmaConfig, Remat
from vla_ops.models.layers import scan_layers, stack
from vla_ops.models.lora import LoraEinsum, factor_init

# One entry an expert; None is an expert that has no tokens in this pass.
PerExpert = Sequence[Array | None]


def name(base: str, expert: int) -> str:
    """Return the attribute that holds `base` of this expert: attn, then attn_1."""
    return base if expert == 0 else f"{base}_{expert}"


class RMSNorm(nnx.Module):
    """Root mean square norm, times 1 + scale; adaptive, the scale, a shift and a gate come from a condition.

    The adaptive form is pi0.5's (adaRMS): one dense layer, zero at first, from the time embedding.
    """

    def __init__(self, width: int, *, adaptive: bool, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        if adaptive:
            self.Dense_0 = nnx.Linear(width, 3 * width, kernel_init=init.zeros, dtype=dtype, rngs=rngs)
        else:
            self.scale = nnx.Param(jnp.zeros((width,)))

    def __call__(self, x: Array, cond: Array | None = None) -> tuple[Array, Array | None]:
        """Return the normed x [B, T, width] in its own type and the gate [B, 1, width], None where not adaptive."""
        mean_square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        normed = x * jax.lax.rsqrt(mean_square + 1e-6)
        if cond is None:
            return (normed * (1 + self.scale[...])).astype(x.dtype), None
        scale, shift, gate = jnp.split(self.Dense_0(cond)[:, None, :], 3, axis=-1)
        return (normed * (1 + scale) + shift).astype(x.dtype), gate


class FeedForward(nnx.Module):
    """GeGLU: gelu(x W0) * (x W1), then a linear layer.

    Deviation of openpi from the LoRA paper: alpha / rank is not applied here (it is 1 in the variants that it ships).
    """

    def __init__(self, size: GemmaConfig, *, rngs: nnx.Rngs) -> None:
        gating, linear = (2, size.width, size.mlp_dim), (size.mlp_dim, size.width)
        self.gating_einsum = nnx.Param(_fan_in(batch=(0,))(rngs.params(), gating))
        self.linear = nnx.Param(_fan_in()(rngs.params(), linear))
        self.has_lora = size.lora is not None
        if size.lora is not None:
            rank = size.lora.rank
            self.gating_einsum_lora_a = nnx.Param(factor_init(rngs.params(), (2, size.width, rank)))
            self.gating_einsum_lora_b = nnx.Param(factor_init(rngs.params(), (2, rank, size.mlp_dim)))
            self.linear_lora_a = nnx.Param(factor_init(rngs.params(), (size.mlp_dim, rank)))
            self.linear_lora_b = nnx.Param(factor_init(rngs.params(), (rank, size.width)))

    def __call__(self, x: Array) -> Array:
        """Map [B, T, width] to the same shape."""
        gate, up = (self._dot(x, "gating_einsum", half) for half in (0, 1))
        return self._dot(jax.nn.gelu(gate, approximate=True) * up, "linear")

    def _dot(self, x: Array, weight: str, half: int | None = None) -> Array:
        def of(key: str) -> Array:
            whole = getattr(self, key)[...]
            return (whole if half is None else whole[half]).astype(x.dtype)

        y = x @ of(weight)
        return y + (x @ of(f"{weight}_lora_a")) @ of(f"{weight}_lora_b") if self.has_lora else y


class Attention(nnx.Module):
    """Attention over the tokens of all experts as one sequence; projections in and out are each expert's own."""

    def __init__(self, sizes: Sequence[GemmaConfig], *, rngs: nnx.Rngs) -> None:
        for i, size in enumerate(sizes):
            heads, kv_heads, width, dim = size.num_heads, size.num_kv_heads, size.width, size.head_dim
            einsums: dict[str, tuple[str, tuple[int, ...], init.Initializer]] = {
                "q_einsum": ("BTD,NDH->BTNH", (heads, width, dim), _fan_in(batch=(0,))),
                "kv_einsum": ("BSD,CKDH->CBSKH", (2, kv_heads, width, dim), _fan_in(batch=(0, 1))),
                "attn_vec_einsum": ("BTNH,NHD->BTD", (heads, dim, width), _fan_in(inputs=(-3, -2))),
            }
            for base, (equation, shape, kernel_init) in einsums.items():
                setattr(self, name(base, i), LoraEinsum(equation, shape, lora=size.lora, kernel_init=kernel_init, rngs=rngs))
        self.head_dim = sizes[0].head_dim

    def __call__(self, xs: PerExpert, positions: Array, mask: Array, cache: KVCache | None) -> tuple[list[Array | None], KVCache]:
        """Return what each expert's tokens attended to and all keys and values, those of the cache first.

        positions [B, T] and mask [B, T, cached + T] are of the joined tokens.
        """
        present = [i for i, x in enumerate(xs) if x is not None]
        q = jnp.concatenate([self._of("q_einsum", i)(xs[i]) for i in present], axis=1)
        k, v = jnp.concatenate([self._of("kv_einsum", i)(xs[i]) for i in present], axis=2)
        # Scaled after the rotation, in the model's type; keys are cached rotated.
        q = rotate(q, positions) * self.head_dim**-0.5
        k = rotate(k, positions)
        if cache is not None:
            k, v = (jnp.concatenate(pair, axis=1) for pair in zip(cache, (k, v), strict=True))
        return self._project_out(attend(q, k, v, mask), xs), (k, v)

    def _project_out(self, attended: Array, xs: PerExpert) -> list[Array | None]:
        outs: list[Array | None] = []
        start = 0
        for i, x in enumerate(xs):
            stop = start + (0 if x is None else x.shape[1])
            outs.append(None if x is None else self._of("attn_vec_einsum", i)(attended[:, start:stop]))
            start = stop
        return outs

    def _of(self, base: str, expert: int) -> Any:
        return getattr(self, name(base, expert))


class Block(nnx.Module):
    """One layer: a shared attention, then each expert's own feed-forward, each with a norm before and a residual around."""

    def __init__(self, sizes: Sequence[GemmaConfig], *, adaptive: Sequence[bool], dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.attn = Attention(sizes, rngs=rngs)
        for i, size in enumerate(sizes):
            for base in ("pre_attention_norm", "pre_ffw_norm"):
                setattr(self, name(base, i), RMSNorm(size.width, adaptive=adaptive[i], dtype=dtype, rngs=rngs))
            setattr(self, name("mlp", i), FeedForward(size, rngs=rngs))

    def __call__(
        self, xs: PerExpert, conds: PerExpert, positions: Array, mask: Array, cache: KVCache | None
    ) -> tuple[list[Array | None], KVCache]:
        """Return every expert's tokens after this layer, and its keys and values."""
        normed, gates = self._norm("pre_attention_norm", xs, conds)
        attended, cache = self.attn(normed, positions, mask, cache)
        xs = [_residual(*of_expert) for of_expert in zip(xs, attended, gates, strict=True)]
        normed, gates = self._norm("pre_ffw_norm", xs, conds)
        forwarded = [None if x is None else getattr(self, name("mlp", i))(x) for i, x in enumerate(normed)]
        return [_residual(*of_expert) for of_expert in zip(xs, forwarded, gates, strict=True)], cache

    def _norm(self, base: str, xs: PerExpert, conds: PerExpert) -> tuple[PerExpert, PerExpert]:
        return norm_experts([getattr(self, name(base, i)) for i in range(len(xs))], xs, conds)


class Embedder(nnx.Module):
    """The table of token embeddings."""

    def __init__(self, vocab_size: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.input_embedding = nnx.Param(init.normal(0.01)(rngs.params(), (vocab_size, width)))

    def __call__(self, tokens: Array) -> Array:
        """Map ids [B, T] to [B, T, width], times sqrt(width), in the table's own type."""
        x = self.input_embedding[...][tokens]
        return x * jnp.sqrt(x.shape[-1]).astype(x.dtype)


class Gemma(nnx.Module):
    """The experts' layers, stacked on axis 0, and the first expert's embedding table."""

    def __init__(
        self,
        sizes: Sequence[GemmaConfig],
        *,
        vocab_size: int,
        adaptive: Sequence[bool],
        dtype: DTypeLike,
        remat: Remat,
        rngs: nnx.Rngs,
    ) -> None:
        self.remat: Remat = remat
        self.dtype = jnp.dtype(dtype)
        self.embedder = Embedder(vocab_size, sizes[0].width, rngs=rngs)
        self.layers = stack(lambda rngs: Block(sizes, adaptive=adaptive, dtype=dtype, rngs=rngs), sizes[0].depth, rngs)
        for i, size in enumerate(sizes):
            setattr(self, name("final_norm", i), RMSNorm(size.width, adaptive=adaptive[i], dtype=dtype, rngs=rngs))

    def embed(self, tokens: Array) -> Array:
        """Map ids [B, T] to embeddings [B, T, width] in the model's type."""
        return self.embedder(tokens).astype(self.dtype)

    def __call__(
        self, xs: PerExpert, positions: Array, mask: Array, *, conds: PerExpert | None = None, cache: KVCache | None = None
    ) -> tuple[list[Array | None], KVCache]:
        """Return each expert's normed outputs and the keys and values of every layer, (k, v) each [depth, B, S, K, H].

        xs: tokens [B, T_i, width_i] of each expert; positions [B, T] and mask [B, T, S] of all of them in order, where S
        counts the cached tokens too, which come first. conds [B, width_i] feed the adaptive norms.
        """
        conds = [None] * len(xs) if conds is None else conds
        xs = [None if x is None else x.astype(self.dtype) for x in xs]

        def step(xs: PerExpert, layer: tuple[Block, KVCache | None]) -> tuple[PerExpert, KVCache]:
            block, cached = layer
            return block(xs, conds, positions, mask, cached)

        xs, keys_and_values = scan_layers(step, xs, (self.layers, cache), remat=self.remat)
        # The last norm's gate has no residual to weigh.
        outs, _ = norm_experts([getattr(self, name("final_norm", i)) for i in range(len(xs))], xs, conds)
        return outs, keys_and_values


def norm_experts(norms: Sequence[RMSNorm], xs: PerExpert, conds: PerExpert) -> tuple[list[Array | None], list[Array | None]]:
    """Return the normed tokens and the gates of every expert that has tokens."""
    pairs = [(None, None) if x is None else norm(x, cond) for norm, x, cond in zip(norms, xs, conds, strict=True)]
    return [x for x, _ in pairs], [gate for _, gate in pairs]


def _residual(x: Array | None, y: Array | None, gate: Array | None) -> Array | None:
    if x is None or y is None:
        return x
    return x + y if gate is None else x + y * gate


def _fan_in(*, inputs: int | tuple[int, ...] = -2, batch: tuple[int, ...] = ()) -> init.Initializer:
    return init.lecun_normal(in_axis=inputs, out_axis=-1, batch_axis=batch)
