"""Measurements on held-out episodes: the flow loss, and the error of sampled actions in robot units.

    validation = Validation.of(spec, config, transforms, frames, batch_size=32, batches=16, sampling_steps=10, seed=42)
    result = validation.run(step, params)                  # {path: array}, EMA weights where there are any
    result.metrics["action_error"] < result.metrics["hold_error"]

Frames, noise and times are the same at every step, on every host and after a resume, so that what changes is the model. Every process
has all the rows in memory and computes the same numbers: an early stop is the same decision everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vla_ops.embodiment import Embodiment
from vla_ops.errors import SpecError
from vla_ops.models import ModelConfig
from vla_ops.policies import Transforms
from vla_ops.training.baselines import Bools, Errors, Float64, Int64, absolute_errors, hold_actions, mean_action
from vla_ops.training.data import Batch, Frames, InOrder, Loader

if TYPE_CHECKING:
    from jax import Array

# What a metric that a checkpoint or an early stop goes by may be called.
CHOOSABLE = ("loss", "action_error")
_PLOTS = 4


@dataclass(frozen=True, eq=False)
class ActionPlot:
    """One chunk, predicted and recorded: what a plot needs."""

    title: str
    dims: tuple[tuple[str, str], ...]
    # [H, a], in robot units; [H] seconds from the frame on; [H] where the episode is over and its last action is repeated.
    predicted: Float64
    recorded: Float64
    time_s: Float64
    is_pad: Bools


@dataclass(frozen=True, eq=False)
class ValidationResult:
    """What one validation measured."""

    step: int
    # loss, action_error, hold_error, mae/<dimension>; see `baselines` for the units.
    metrics: dict[str, float]
    errors: Errors
    plots: tuple[ActionPlot, ...]
    frames: int
    episodes: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row a dimension, for a table."""
        return self.errors.rows()

    @property
    def beats_hold(self) -> bool:
        """Whether the policy is better than repeating the last action."""
        return self.metrics["action_error"] < self.metrics["hold_error"]

    def logged(self) -> dict[str, float]:
        """The metrics under the names they have in logs."""
        return {f"validation/{name}": value for name, value in self.metrics.items()}

    def render(self) -> str:
        """The table with what it was measured on."""
        metrics = self.metrics
        head = f"step {self.step}: {self.frames} frames of {self.episodes} held-out episodes, loss {metrics['loss']:.4g}"
        errors = f"{metrics['action_error']:.3f}; of repeating the last action {metrics['hold_error']:.3f}"
        return f"{head}\naction error in units of the mean action's: {errors}\n{self.errors.render()}"


@dataclass(frozen=True)
class Patience:
    """When a metric no longer gets better: `patience` validations in a row not below the best one by more than `min_delta`."""

    metric: str
    patience: int
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in CHOOSABLE:
            raise SpecError("there is no such metric", found=self.metric, expected=" or ".join(CHOOSABLE))

    def stops(self, values: Sequence[float]) -> bool:
        """Return whether the run ends after these values, the metric of every validation so far in order."""
        best, since = math.inf, 0
        for value in values:
            # A value that is not finite is never better.
            better = value < best - self.min_delta if math.isfinite(best) else math.isfinite(value)
            best, since = (value, 0) if better else (best, since + 1)
        return since >= self.patience


@dataclass(frozen=True, eq=False)
class _Held:
    """A batch of held-out frames as the model takes it, and what its outputs are compared with."""

    inputs: dict[str, Any]
    batch: Batch
    # [B, a]
    hold: Float64


@dataclass(frozen=True, eq=False)
class Validation:
    """Held-out frames in memory and a compiled measurement. Batches are of one size; `valid` says which rows are real."""

    transforms: Transforms
    config: ModelConfig
    held: tuple[_Held, ...]
    mean: Float64
    fps: float
    seed: int
    sampling_steps: int
    place: Callable[[Any], Any] = field(default=lambda inputs: inputs)
    _measure: Callable[..., tuple[Array, Array]] = field(init=False, repr=False)

    @classmethod
    def of(
        cls,
        spec: Embodiment,
        config: ModelConfig,
        transforms: Transforms,
        frames: Frames,
        *,
        batch_size: int,
        batches: int | None = 16,
        sampling_steps: int = 10,
        seed: int = 0,
        workers: int = 0,
        place: Callable[[Any], Any] | None = None,
    ) -> Validation:
        """Load the held-out frames, at most `batches` batches of them, spread evenly.

        `place` puts a tree of numpy arrays, the same on every host, on the devices; without it JAX does. Raise
        DatasetError where nothing is held out.
        """
        rows = frames.validation_rows(None if batches is None else batches * batch_size)
        batch_size = min(batch_size, len(rows)) if place is None else batch_size
        to_inputs = partial(inputs_of, transforms)
        order, size, horizon = InOrder(rows), config.image_size, config.action_horizon
        held = []
        with Loader(frames, order, batch_size=batch_size, horizon=horizon, size=size, workers=workers, transform=to_inputs) as loader:
            for k, loaded in enumerate(loader):
                here = rows[np.minimum(np.arange(k * batch_size, (k + 1) * batch_size), len(rows) - 1)]
                held.append(_Held(loaded.inputs, _without_images(loaded.batch), hold_actions(frames, here, spec)))
        more = {} if place is None else {"place": place}
        return cls(transforms, config, tuple(held), mean_action(frames), frames.fps, seed, sampling_steps, **more)

    def __post_init__(self) -> None:
        # Once: every validation is the same compiled function.
        object.__setattr__(self, "_measure", measurement(self.config, self.sampling_steps))

    def run(self, step: int, params: Mapping[str, Array]) -> ValidationResult:
        """Measure these parameters, `{path: array}`. Raise SchemaMismatchError where sampled actions are not finite."""
        sums, loss, rows = _Sums.zero(len(self.transforms.action_dims)), 0.0, 0
        plots: list[ActionPlot] = []
        wanted = self._plotted()
        for k, held in enumerate(self.held):
            losses, sampled = (_whole(x) for x in self._measure(dict(params), self.place(held.inputs), self._key(k)))
            predicted = self.transforms.inverse(sampled, held.batch.training_row().observation)
            valid = held.batch.valid
            loss, rows = loss + float(losses[valid].sum(dtype=np.float64)), rows + int(valid.sum())
            sums = sums + self._errors(predicted, held)
            plots += [self._plot(predicted[row], held.batch, row) for batch, row in wanted if batch == k]
        errors = sums.means(self.transforms.action_dims)
        episodes = {int(e) for held in self.held for e in held.batch.episode[held.batch.valid]}
        return ValidationResult(step, {"loss": loss / rows, **errors.metrics()}, errors, tuple(plots), rows, len(episodes))

    def _key(self, number: int) -> Array:
        """The key of batch `number`: the same at every step."""
        import jax

        return jax.random.fold_in(jax.random.key(self.seed), number)

    def _errors(self, predicted: Float64, held: _Held) -> _Sums:
        batch, dims = held.batch, self.transforms.action_dims
        counted = (batch.valid[:, None] & ~batch.action_is_pad)[:, :, None]
        if batch.action_mask is not None:
            counted = counted & batch.action_mask[:, None, :]
        counted = np.broadcast_to(counted, predicted.shape)
        others = (np.broadcast_to(guess, predicted.shape) for guess in (held.hold[:, None, :], self.mean))
        totals = [(absolute_errors(guess, batch.actions, dims) * counted).sum(axis=(0, 1)) for guess in (predicted, *others)]
        return _Sums(totals[0], totals[1], totals[2], counted.sum(axis=(0, 1)))

    def _plotted(self) -> list[tuple[int, int]]:
        """Batch and row of the chunks to plot: spread evenly over all."""
        all_rows = [(k, int(row)) for k, held in enumerate(self.held) for row in np.flatnonzero(held.batch.valid)]
        ends = np.linspace(0, len(all_rows), min(_PLOTS, len(all_rows)) + 1).astype(int)
        return [all_rows[(a + b) // 2] for a, b in pairwise(ends)]

    def _plot(self, predicted: Float64, batch: Batch, row: int) -> ActionPlot:
        dims = tuple((dim.name, dim.unit) for dim in self.transforms.action_dims)
        time_s = np.arange(len(predicted)) / self.fps
        return ActionPlot(
            batch.row(row).places()[0], dims, predicted, batch.actions[row].astype(np.float64), time_s, batch.action_is_pad[row]
        )


@dataclass(frozen=True, eq=False)
class _Sums:
    """Summed absolute errors [a], and of how many steps [a]."""

    policy: Float64
    hold: Float64
    mean: Float64
    count: Int64

    @classmethod
    def zero(cls, width: int) -> _Sums:
        return cls(np.zeros(width), np.zeros(width), np.zeros(width), np.zeros(width, np.int64))

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.policy + other.policy, self.hold + other.hold, self.mean + other.mean, self.count + other.count)

    def means(self, dims: Sequence[Any]) -> Errors:
        count = np.maximum(self.count, 1)
        return Errors(tuple(dims), self.policy / count, self.hold / count, self.mean / count)


@lru_cache(maxsize=4)
def measurement(config: ModelConfig, sampling_steps: int) -> Callable[..., tuple[Array, Array]]:
    """Return (params, inputs, key) -> flow loss [B] and sampled actions [B, H, action_dim], compiled at its first call."""
    import jax
    import jax.numpy as jnp

    from vla_ops.models import Observation, merge, preprocess

    @jax.jit
    def measure(params: dict[str, Array], inputs: dict[str, Any], key: Array) -> tuple[Array, Array]:
        model = merge(config, params)
        _, time_key = jax.random.split(key)
        observation = preprocess(None, Observation.from_dict(inputs), config, train=False)
        actions = inputs["actions"]
        noise = noise_of(key, actions.shape)
        # As in training: see `Pi0.compute_loss`.
        time = jax.random.beta(time_key, 1.5, 1, actions.shape[:1]) * 0.999 + 0.001
        loss = model.flow_loss(observation, actions, noise, time)
        sampled = model.sample_actions(key, observation, num_steps=sampling_steps, noise=noise)
        return jnp.mean(loss, axis=-1), sampled

    return measure


def noise_of(key: Array, shape: tuple[int, ...]) -> Array:
    """The noise [B, H, action_dim] of a measurement with this key."""
    import jax

    return jax.random.normal(jax.random.split(key)[0], shape)


def inputs_of(transforms: Transforms, batch: Batch) -> dict[str, Any]:
    """What a batch is to the model: in training and here."""
    return transforms.forward_training(batch.training_row()).as_dict()


def _without_images(batch: Batch) -> Batch:
    """Only the inputs' images are needed again."""
    return replace(batch, images={})


def _whole(array: Array) -> npt.NDArray[Any]:
    """Return all of an array on this host, gathered from the others where they hold parts of it; float32."""
    if not array.is_fully_addressable:
        from jax.experimental import multihost_utils

        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array, np.float32)
