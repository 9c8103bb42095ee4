"""Rotary positions, masks, and masked attention with fewer key heads than query heads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

# Keys and values, each [B, S, K, H] for one layer, [depth, B, S, K, H] for all.
KVCache = tuple[Array, Array]

# What a masked logit becomes (Gemma's number): finite, so that a row without a single key is uniform rather than NaN.
MASKED = -2.3819763e38


def rotate(x: Array, positions: Array, *, max_wavelength: float = 10_000.0) -> Array:
    """Rotate x [B, T, N, H] by its positions [B, T] (RoPE, arXiv:2104.09864), in float32, and return it in its own type.

    Pairs are (i, i + H/2), as in Gemma, where the paper pairs neighbours.
    """
    half = x.shape[-1] // 2
    wavelength = max_wavelength ** (jnp.arange(half, dtype=jnp.float32) / half)
    radians = positions[..., None, None] / wavelength
    sin, cos = jnp.sin(radians), jnp.cos(radians)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Return softmax(q k) v as [B, T, N, H]; q [B, T, N, H] is already scaled, k and v are [B, S, K, H], mask [B, T, S].

    N/K query heads share one key head. Logits and softmax are float32, their sum over values is in the type of v.
    """
    batch, queries, heads, dim = q.shape
    grouped = q.reshape(batch, queries, k.shape[2], heads // k.shape[2], dim)
    # T before G: the product comes out in this order, and its transpose would be the largest array of the model.
    logits = jnp.einsum("BTKGH,BSKH->BKTGS", grouped, k, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None, :, None, :], logits, MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
    return jnp.einsum("BKTGS,BSKH->BTKGH", weights, v).reshape(batch, queries, heads, dim)


def attention_mask(valid: Array, starts: Array) -> Array:
    """Return which token sees which, bool [B, T, T], from valid [B, T] and where a new block `starts`, bool [T].

    A token sees its own block, in both directions, and all earlier ones; invalid tokens see and are seen by nobody.
    """
    block = jnp.cumsum(starts)
    sees = block[None, :] <= block[:, None]
    return sees[None] & valid[:, None, :] & valid[:, :, None]
