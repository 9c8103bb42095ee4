"""SigLIP's vision transformer (Zhai et al. 2023, arXiv:2303.15343; Beyer et al. 2024, arXiv:2407.07726, for PaliGemma).

Attribute names are those of openpi's checkpoints, hence `Transformer`, `LayerNorm_0`, `MlpBlock_0`: a parameter's path is
its path in the checkpoint.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn import initializers as init
from jax.typing import DTypeLike

from vla_ops.models.config import Remat, SiglipConfig
from vla_ops.models.layers import scan_layers, stack


class MlpBlock(nnx.Module):
    """Two dense layers with a tanh-approximated GELU between them."""

    def __init__(self, size: SiglipConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        def dense(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=init.xavier_uniform(), bias_init=init.normal(1e-6), dtype=dtype, rngs=rngs)

        self.Dense_0 = dense(size.width, size.mlp_dim)
        self.Dense_1 = dense(size.mlp_dim, size.width)

    def __call__(self, x: Array) -> Array:
        """Map [B, N, width] to the same shape."""
        return self.Dense_1(jax.nn.gelu(self.Dense_0(x), approximate=True))


class SelfAttention(nnx.Module):
    """Multi-head attention of every patch to every patch."""

    def __init__(self, size: SiglipConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        heads = (size.num_heads, size.width // size.num_heads)

        def project() -> nnx.LinearGeneral:
            return nnx.LinearGeneral(size.width, heads, kernel_init=init.xavier_uniform(), dtype=dtype, rngs=rngs)

        self.query, self.key, self.value = project(), project(), project()
        self.out = nnx.LinearGeneral(heads, size.width, axis=(-2, -1), kernel_init=init.xavier_uniform(), dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Map [B, N, width] to the same shape."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        # Logits and softmax in the model's type, as openpi's: in bfloat16 less exact than Gemma's float32 ones.
        logits = jnp.einsum("BTNH,BSNH->BNTS", q / jnp.sqrt(q.shape[-1]).astype(q.dtype), k)
        return self.out(jnp.einsum("BNTS,BSNH->BTNH", jax.nn.softmax(logits), v))


class EncoderBlock(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, size: SiglipConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.LayerNorm_0 = nnx.LayerNorm(size.width, dtype=dtype, rngs=rngs)
        self.MultiHeadDotProductAttention_0 = SelfAttention(size, dtype=dtype, rngs=rngs)
        self.LayerNorm_1 = nnx.LayerNorm(size.width, dtype=dtype, rngs=rngs)
        self.MlpBlock_0 = MlpBlock(size, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Map [B, N, width] to the same shape."""
        x = x + self.MultiHeadDotProductAttention_0(self.LayerNorm_0(x))
        return x + self.MlpBlock_0(self.LayerNorm_1(x))


class Encoder(nnx.Module):
    """All layers, then a norm."""

    def __init__(self, size: SiglipConfig, *, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> None:
        self.remat: Remat = remat
        self.encoderblock = stack(lambda rngs: EncoderBlock(size, dtype=dtype, rngs=rngs), size.depth, rngs)
        self.encoder_norm = nnx.LayerNorm(size.width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Map [B, N, width] to the same shape."""

        def step(x: Array, block: EncoderBlock) -> tuple[Array, None]:
            return block(x), None

        x, _ = scan_layers(step, x, self.encoderblock, remat=self.remat)
        return self.encoder_norm(x)


class Siglip(nnx.Module):
    """Images to tokens of the language model's width; no pooling, no class token.

    Deviation of PaliGemma as openpi has it: tokens are not divided by sqrt(width), and the linear `head` starts at zero.
    """

    def __init__(self, size: SiglipConfig, *, out_width: int, image_size: int, dtype: DTypeLike, remat: Remat, rngs: nnx.Rngs) -> None:
        patch, tokens = (size.patch, size.patch), (image_size // size.patch) ** 2
        self.dtype = jnp.dtype(dtype)
        self.embedding = nnx.Conv(3, size.width, patch, strides=patch, padding="VALID", rngs=rngs)
        self.pos_embedding = nnx.Param(init.normal(size.width**-0.5)(rngs.params(), (1, tokens, size.width)))
        self.Transformer = Encoder(size, dtype=dtype, remat=remat, rngs=rngs)
        self.head = nnx.Linear(size.width, out_width, kernel_init=init.zeros, dtype=dtype, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Map images [B, H, W, 3] in [-1, 1] to tokens [B, N, out_width]; patches and positions are added in float32."""
        patches = self.embedding(images)
        tokens = patches.reshape(len(images), -1, patches.shape[-1]) + self.pos_embedding[...]
        return self.head(self.Transformer(tokens.astype(self.dtype)))
