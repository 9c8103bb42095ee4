"""pi0 (arXiv:2410.24164) and pi0.5 (arXiv:2504.16054) by flow matching, as openpi trains and serves them.

Deviations of openpi from the papers:

* Time runs the other way: t = 1 is noise and t = 0 the actions, x_t = t noise + (1 - t) actions, and the model learns
  noise - actions. Sampling goes from 1 to 0.
* t is drawn as 0.999 Beta(1.5, 1) + 0.001 (in these terms more often near noise, as in the paper), so it is never 0.
* Time enters pi0 through one MLP over the concatenation of action and time embedding; sines and cosines have periods
  from 4e-3 to 4.
* The loss counts every action dimension and every step, padded ones too.
* pi0.5 has no state token (its state is text in the prompt), and only its continuous actions are trained here.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from vla_ops.models.attention import KVCache, attention_mask
from vla_ops.models.config import ModelConfig
from vla_ops.models.gemma import Gemma
from vla_ops.models.guidance import Guidance, guided_velocity
from vla_ops.models.observation import Observation, preprocess
from vla_ops.models.siglip import Siglip

# Tokens [B, T, width], which of them are real, bool [B, T], and where a block that earlier tokens do not see starts, bool [T].
Tokens = tuple[Array, Array, Array]


class PaliGemma(nnx.Module):
    """The image tower and the language model with its action expert; the names are those of openpi's checkpoints."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        self.img = Siglip(
            config.vision,
            out_width=config.experts[0].width,
            image_size=config.image_size,
            dtype=config.dtype,
            remat=config.remat,
            rngs=rngs,
        )
        self.llm = Gemma(
            config.experts,
            vocab_size=config.vocab_size,
            adaptive=(False, config.pi05),
            dtype=config.dtype,
            remat=config.remat,
            rngs=rngs,
        )


class Pi0(nnx.Module):
    """A prefix of images and prompt, a suffix of (state and) noisy actions, and the velocity that takes noise to actions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs) -> None:
        width, dim = config.experts[1].width, config.action_dim
        self.config = config
        self.PaliGemma = PaliGemma(config, rngs=rngs)
        self.action_in_proj = nnx.Linear(dim, width, rngs=rngs)
        if config.pi05:
            self.time_mlp_in = nnx.Linear(width, width, rngs=rngs)
            self.time_mlp_out = nnx.Linear(width, width, rngs=rngs)
        else:
            self.state_proj = nnx.Linear(dim, width, rngs=rngs)
            self.action_time_mlp_in = nnx.Linear(2 * width, width, rngs=rngs)
            self.action_time_mlp_out = nnx.Linear(width, width, rngs=rngs)
        self.action_out_proj = nnx.Linear(width, dim, rngs=rngs)

    def compute_loss(self, key: Array, observation: Observation, actions: Array, *, train: bool = False) -> Array:
        """Return the flow matching loss [B, H] of actions [B, H, action_dim]; `train` augments the images."""
        expected = (self.config.action_horizon, self.config.action_dim)
        if actions.shape[1:] != expected:
            raise ValueError(f"actions are {actions.shape[1:]} a sample; the model takes {expected}, steps and dimensions")
        return self.flow_loss(*draw(key, observation, actions, self.config, train=train))

    def flow_loss(self, observation: Observation, actions: Array, noise: Array, time: Array) -> Array:
        """Return the loss [B, H] at given noise [B, H, action_dim] and time [B], of a preprocessed observation."""
        t = time[:, None, None]
        velocity = self.velocity(observation, t * noise + (1 - t) * actions, time)
        return jnp.mean(jnp.square(velocity - (noise - actions)), axis=-1)

    def sample_actions(self, key: Array, observation: Observation, *, num_steps: int | Array = 10, noise: Array | None = None) -> Array:
        """Return actions [B, H, action_dim]: Euler steps from noise (drawn from `key` unless given), the prefix run once.

        num_steps may be traced, so that one compiled function serves every number of steps.
        """
        if isinstance(num_steps, int) and num_steps < 1:
            raise ValueError(f"num_steps {num_steps}: sampling takes at least 1")
        observation = preprocess(None, observation, self.config, train=False)
        batch = observation.state.shape[0]
        if noise is None:
            noise = jax.random.normal(key, (batch, self.config.action_horizon, self.config.action_dim))
        prefix_mask, cache = self.run_prefix(observation)
        return self.denoise(observation, noise, prefix_mask, cache, num_steps=num_steps)

    def denoise(
        self,
        observation: Observation,
        noise: Array,
        prefix_mask: Array,
        cache: KVCache,
        *,
        num_steps: int | Array = 10,
        guidance: Guidance | None = None,
        max_weight: float = 5.0,
        through_model: bool = True,
    ) -> Array:
        """Return actions [B, H, action_dim] from noise by Euler steps after `run_prefix`; of the observation only the state is read.

        `guidance`, and how it is followed, is real-time chunking's: see `guided_velocity`.
        """
        dt = -1.0 / num_steps

        def step(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            x_t, t = carry

            def velocity_at(noisy: Array) -> Array:
                return self.velocity_after_prefix(observation, noisy, jnp.broadcast_to(t, noise.shape[0]), prefix_mask, cache)

            if guidance is None:
                velocity = velocity_at(x_t)
            else:
                velocity = guided_velocity(velocity_at, x_t, t, guidance, max_weight=max_weight, through_model=through_model)
            return x_t + dt * velocity, t + dt

        actions, _ = jax.lax.fori_loop(0, num_steps, step, (noise, jnp.float32(1.0)))
        return actions

    def velocity(self, observation: Observation, x_t: Array, time: Array) -> Array:
        """Return v(x_t, t) [B, H, action_dim], prefix and suffix in one pass."""
        outs, _ = self.run_all(observation, x_t, time)
        return self._project_actions(outs[1])

    def run_all(self, observation: Observation, x_t: Array, time: Array) -> tuple[list[Array | None], KVCache]:
        """Return the outputs of both experts, [prefix, suffix], and the keys and values of the whole sequence."""
        prefix, prefix_mask, prefix_starts = self.embed_prefix(observation)
        (suffix, suffix_mask, suffix_starts), cond = self.embed_suffix(observation, x_t, time)
        valid = jnp.concatenate([prefix_mask, suffix_mask], axis=1)
        mask = attention_mask(valid, jnp.concatenate([prefix_starts, suffix_starts]))
        positions = jnp.cumsum(valid, axis=1) - 1
        return self.PaliGemma.llm([prefix, suffix], positions, mask, conds=[None, cond])

    def run_prefix(self, observation: Observation) -> tuple[Array, KVCache]:
        """Return which prefix tokens are real, bool [B, P], and their keys and values."""
        tokens, valid, starts = self.embed_prefix(observation)
        mask = attention_mask(valid, starts)
        _, cache = self.PaliGemma.llm([tokens, None], jnp.cumsum(valid, axis=1) - 1, mask)
        return valid, cache

    def velocity_after_prefix(self, observation: Observation, x_t: Array, time: Array, prefix_mask: Array, cache: KVCache) -> Array:
        """Return v(x_t, t) from the prefix's keys and values: the same as `velocity`, the prefix not run again."""
        (tokens, valid, starts), cond = self.embed_suffix(observation, x_t, time)
        sees_prefix = jnp.broadcast_to(prefix_mask[:, None, :], (*valid.shape, prefix_mask.shape[1]))
        mask = jnp.concatenate([sees_prefix, attention_mask(valid, starts)], axis=-1)
        positions = jnp.sum(prefix_mask, axis=1)[:, None] + jnp.cumsum(valid, axis=1) - 1
        outs, _ = self.PaliGemma.llm([None, tokens], positions, mask, conds=[None, cond], cache=cache)
        return self._project_actions(outs[1])

    def embed_images(self, images: dict[str, Array]) -> Array:
        """Return the tokens [B, cameras * N, width] of all cameras in order, one pass of the tower for all."""
        batch = next(iter(images.values())).shape[0]
        tokens = self.PaliGemma.img(jnp.concatenate(list(images.values())))
        by_camera = tokens.reshape(len(images), batch, *tokens.shape[1:])
        return jnp.concatenate(list(by_camera), axis=1)

    def embed_prefix(self, observation: Observation) -> Tokens:
        """Return image and prompt tokens: one block, in which all see all."""
        images = self.embed_images(observation.images)
        of_image = images.shape[1] // len(observation.images)
        tokens, masks = [images], [jnp.repeat(observation.image_masks[camera][:, None], of_image, axis=1) for camera in observation.images]
        if observation.tokenized_prompt is not None and observation.tokenized_prompt_mask is not None:
            tokens.append(self.PaliGemma.llm.embed(observation.tokenized_prompt))
            masks.append(observation.tokenized_prompt_mask)
        joined = jnp.concatenate(tokens, axis=1)
        return joined, jnp.concatenate(masks, axis=1), jnp.zeros(joined.shape[1], bool)

    def embed_suffix(self, observation: Observation, x_t: Array, time: Array) -> tuple[Tokens, Array | None]:
        """Return state (pi0) and action tokens in float32, and the condition of the adaptive norms (pi0.5).

        State is a block of its own, and so are all actions together.
        """
        actions = self.action_in_proj(x_t)
        embedded = time_embedding(time, actions.shape[-1])
        if self.config.pi05:
            tokens, states, cond = actions, 0, nnx.swish(self.time_mlp_out(nnx.swish(self.time_mlp_in(embedded))))
        else:
            timed = jnp.concatenate([actions, jnp.broadcast_to(embedded[:, None, :], actions.shape)], axis=-1)
            timed = self.action_time_mlp_out(nnx.swish(self.action_time_mlp_in(timed)))
            tokens, states, cond = jnp.concatenate([self.state_proj(observation.state)[:, None, :], timed], axis=1), 1, None
        starts = jnp.arange(tokens.shape[1]) <= states
        return (tokens, jnp.ones(tokens.shape[:2], bool), starts), cond

    def _project_actions(self, suffix: Array | None) -> Array:
        if suffix is None:
            raise ValueError("the action expert was given no tokens")
        return self.action_out_proj(suffix[:, -self.config.action_horizon :])


def draw(
    key: Array, observation: Observation, actions: Array, config: ModelConfig, *, train: bool
) -> tuple[Observation, Array, Array, Array]:
    """Return what `flow_loss` takes: all that is random in a loss, drawn for the whole batch at once; `train` augments the images."""
    augment_key, noise_key, time_key = jax.random.split(key, 3)
    noise = jax.random.normal(noise_key, actions.shape)
    time = jax.random.beta(time_key, 1.5, 1, actions.shape[:1]) * 0.999 + 0.001
    return preprocess(augment_key, observation, config, train=train), actions, noise, time


def time_embedding(time: Array, width: int, *, min_period: float = 4e-3, max_period: float = 4.0) -> Array:
    """Map time [B] to [B, width]: sines, then cosines, of width / 2 periods spaced evenly on a log scale."""
    period = min_period * (max_period / min_period) ** jnp.linspace(0.0, 1.0, width // 2)
    # In this order: at width 1024 another one rounds angles (up to 1571) by more than 1e-4.
    angle = time[:, None] * (1.0 / period * 2 * math.pi)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
