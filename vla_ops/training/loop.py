"""The loop: steps, lines of metrics, validations and checkpoints, from wherever it stands to the last step.

Step k is the one that begins with a state of k steps taken; its checkpoint is called k and holds k + 1 steps, as openpi's do. A state,
where the loader stands, what was measured since the last line and all validations so far are saved together: a run that is
killed and resumed takes the same steps and writes the same lines as one that is not.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import jax
from jax import Array
from jax.sharding import Mesh

from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import TrainState
from vla_ops.errors import TrainingError
from vla_ops.spec import TrainingSpec
from vla_ops.training.data import Batch, Loaded
from vla_ops.training.hooks import Validator, Watcher
from vla_ops.training.mesh import put_batch
from vla_ops.training.metrics import Meter, memory_use
from vla_ops.training.step import Step
from vla_ops.training.stopping import Stopping
from vla_ops.training.validation import Patience

type How = Literal["finished", "stopped early", "stopped by a signal"]

# With several hosts they agree on a stop every so many steps: asking costs a round trip.
_AGREE_EVERY = 10
_PLACES_SHOWN = 64


@dataclass
class Progress:
    """What a run remembers beside its state; JSON in every checkpoint."""

    # Where the loader stands.
    loader: dict[str, int] | None = None
    # Sums of what was measured since the last line, and of how many steps.
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    # Every validation so far: [step, value of the metric that the run goes by].
    validations: list[list[float]] = field(default_factory=list)
    # The key of all randomness in steps, as numbers.
    rng: list[int] = field(default_factory=list)

    def add(self, values: Mapping[str, float]) -> None:
        """Count what one step measured."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in values.items()}
        self.count += 1

    def mean(self) -> dict[str, float]:
        """What was measured since the last line, a step; begins anew."""
        means = {name: total / self.count for name, total in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


@dataclass(frozen=True)
class Ended:
    """How a loop ended: `step` is the last one taken, `signal` what stopped it or 0."""

    how: How
    step: int
    signal: int
    state: TrainState
    metrics: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Taken:
    """A step that was begun; its numbers are on their way."""

    number: int
    batch: Batch
    info: Mapping[str, Array]


@dataclass(eq=False)
class Loop:
    """All that is needed to go on; `run` does it once."""

    training: TrainingSpec
    step: Step
    rates: Callable[[int], Any]
    key: Array
    mesh: Mesh
    store: CheckpointStore
    assets: Mapping[str, bytes]
    watcher: Watcher
    stopping: Stopping
    say: Callable[[str], None]
    validator: Validator | None = None
    # The loader's clock, for the share of the time that steps waited for data.
    waited_s: Callable[[], float] = lambda: 0.0
    _last: dict[str, float] = field(default_factory=dict, init=False)

    def run(self, state: TrainState, loader: Iterable[Loaded[dict[str, Any]]], progress: Progress) -> Ended:
        """Go on from `state` to the last step, an early stop or a signal; every end has its checkpoint.

        Raise TrainingError, naming the batch, for numbers that are not finite: nothing is saved of them.
        """
        number = first = int(state.step)
        if (ended := self._ended_before(first, progress)) is not None:
            return Ended(ended, first - 1, self.stopping.asked, state, {})
        meter = Meter(batch_size=self.training.batch_size, step=first, waited_s=self.waited_s())
        before: _Taken | None = None
        progress.rng = jax.random.key_data(self.key).ravel().tolist()
        how: How | None = None
        for number, loaded in enumerate(loader, start=first):
            if number == first:
                self.watcher.on_first_batch(number, loaded)
            state, info = self.step(self.key, state, put_batch(loaded.inputs, self.mesh))
            progress.loader = loaded.state
            if before is not None:
                self._count(before, progress)
            before = _Taken(number, loaded.batch, info)
            if number == first:
                self._compiled(before, meter)
            how = self._after(before, state, progress, meter)
            if how is not None:
                break
            if self._has_pause(number):
                before = None
        if how is None:
            raise TrainingError("the loader ended before the run did", found=f"step {number}", expected=f"{self.training.steps} steps")
        self.store.wait()
        return Ended(how, number, self.stopping.asked, state, dict(self._last))

    def _ended_before(self, first: int, progress: Progress) -> How | None:
        """How a run ended that was killed between its last checkpoint and its result."""
        if first >= self.training.steps:
            return "finished"
        was_validated = bool(progress.validations) and progress.validations[-1][0] == first - 1
        return "stopped early" if was_validated and self._stops_early(progress) else None

    def _after(self, taken: _Taken, state: TrainState, progress: Progress, meter: Meter) -> How | None:
        """Do what is due after a step. The next one is begun meanwhile only where nothing is."""
        stop = self._is_stopped(taken.number)
        if not (self._has_pause(taken.number) or stop):
            return None
        self._count(taken, progress)
        how: How | None = "stopped by a signal" if stop else None
        if taken.number == self.training.steps - 1:
            how = "finished"
        if self._is_logged(taken.number):
            self._log(taken.number, progress, meter)
        measured: Mapping[str, float] = {}
        if self._is_validated(taken.number):
            measured = self._validate(taken.number, state, progress, meter)
            if how is None and self._stops_early(progress):
                how = "stopped early"
        if how is not None or self._is_saved(taken.number):
            self._save(taken.number, state, progress, measured)
            meter.skip(step=taken.number + 1, waited_s=self.waited_s())
        return how

    def _has_pause(self, number: int) -> bool:
        return self._is_logged(number) or self._is_saved(number) or self._is_validated(number)

    def _is_logged(self, number: int) -> bool:
        return number % self.training.log_every == 0 or self._is_last(number)

    def _is_saved(self, number: int) -> bool:
        return (number > 0 and number % self.training.save_every == 0) or self._is_last(number)

    def _is_validated(self, number: int) -> bool:
        asked = self.training.validation
        if self.validator is None or asked is None:
            return False
        return (number > 0 and number % asked.every == 0) or self._is_last(number)

    def _is_last(self, number: int) -> bool:
        return number == self.training.steps - 1

    def _is_stopped(self, number: int) -> bool:
        """Whether all hosts end here: a signal may reach them at different steps."""
        if jax.process_count() == 1:
            return bool(self.stopping.asked)
        if number % _AGREE_EVERY:
            return False
        from jax.experimental import multihost_utils

        asked = int(multihost_utils.process_allgather(jax.numpy.asarray(self.stopping.asked)).max())
        if asked:
            self.stopping.ask(asked)
        return bool(asked)

    def _count(self, taken: _Taken, progress: Progress) -> None:
        """Wait for a step's numbers and count them. Raise TrainingError where they are not finite."""
        values = {name: float(value) for name, value in jax.device_get(dict(taken.info)).items()}
        # The norm of the gradient too: with it the parameters are lost, and only the next batch's loss would tell.
        wrong = {name: values[name] for name in ("loss", "grad_norm") if not math.isfinite(values[name])}
        if wrong:
            raise self._not_finite(taken, wrong)
        progress.add(values | {"learning_rate": float(self.rates(taken.number))})

    def _not_finite(self, taken: _Taken, wrong: Mapping[str, float]) -> TrainingError:
        self.store.wait()
        good = self.store.latest_step
        places, said = taken.batch.places(), ", ".join(f"{name} {value}" for name, value in wrong.items())
        more = f" and {len(places) - _PLACES_SHOWN} more" if len(places) > _PLACES_SHOWN else ""
        kept = "there is no checkpoint yet" if good is None else f"the last good checkpoint is step {good}"
        return TrainingError(
            "the training is stopped: its numbers are not finite any more",
            step=taken.number,
            found=f"{said} on the batch of {', '.join(places[:_PLACES_SHOWN])}{more}",
            todo=f"Nothing was saved of it; {kept}. Look at these frames, or start a run from that checkpoint with a lower schedule.peak.",
        )

    def _compiled(self, taken: _Taken, meter: Meter) -> None:
        jax.block_until_ready(taken.info)
        meter.skip(step=taken.number + 1, waited_s=self.waited_s())

    def _log(self, number: int, progress: Progress, meter: Meter) -> None:
        means = progress.mean()
        self._last |= means
        speed = meter.lap(step=number + 1, waited_s=self.waited_s())
        self.watcher.on_step(number, means | speed | memory_use())
        rate = f", {speed['steps_per_s']:.3g} steps/s" if "steps_per_s" in speed else ""
        self.say(f"step {number}: loss {means['loss']:.4f}, gradient {means['grad_norm']:.3f}{rate}")

    def _validate(self, number: int, state: TrainState, progress: Progress, meter: Meter) -> Mapping[str, float]:
        asked, validator = self.training.validation, self.validator
        if asked is None or validator is None:
            return {}
        measured = validator.validate(number, state)
        progress.validations.append([number, float(measured[asked.metric])])
        meter.skip(step=number + 1, waited_s=self.waited_s())
        named = {f"validation/{name}": float(value) for name, value in measured.items()}
        self._last |= named
        return named

    def _stops_early(self, progress: Progress) -> bool:
        asked = self.training.validation
        if asked is None or asked.early_stop is None:
            return False
        patience = Patience(asked.metric, asked.early_stop.patience, asked.early_stop.min_delta)
        return patience.stops([value for _, value in progress.validations])

    def _save(self, number: int, state: TrainState, progress: Progress, measured: Mapping[str, float]) -> None:
        finite = {name: value for name, value in measured.items() if math.isfinite(value)}
        self.store.save(number, state, assets=self.assets, extra=asdict(progress), metrics=finite)
        if self.stopping.asked:
            self.say(f"{signal.Signals(self.stopping.asked).name}: saved step {number}")
