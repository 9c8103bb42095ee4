"""AdamW behind clipping, and the learning rates, as openpi has them."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from vla_ops.spec.training import OptimizerSpec, ScheduleSpec


def learning_rates(asked: ScheduleSpec) -> optax.Schedule:
    """Learning rate by step. The first one is peak / (warmup_steps + 1), and `peak` is reached at step `warmup_steps`."""
    peak, warmup = asked.peak_rate, asked.warmup_steps
    if asked.kind == "warmup_cosine":
        return optax.warmup_cosine_decay_schedule(peak / (warmup + 1), peak, warmup, asked.decay_steps, asked.end)
    rising = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    falling = lambda step: peak / jnp.sqrt((asked.timescale + step) / asked.timescale)  # noqa: E731
    return optax.join_schedules([rising, falling], [warmup])


def make_optimizer(asked: OptimizerSpec, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW; its state is that of openpi's checkpoints."""
    adamw = optax.adamw(schedule, asked.b1, asked.b2, asked.eps, weight_decay=asked.weight_decay)
    return optax.chain(optax.clip_by_global_norm(asked.clip), adamw)
