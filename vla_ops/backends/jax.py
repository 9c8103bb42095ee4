"""Train pi0 and pi0.5 in JAX: a recipe's data, transforms, model and loop put together, in the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import optax

from vla_ops.checkpoints.layout import latest_step, marked_best, open_checkpoint, read_state
from vla_ops.checkpoints.reading import read_train_state
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.sources import default_rules, init_source
from vla_ops.checkpoints.space import Keep, checkpoint_bytes, require_space
from vla_ops.checkpoints.trees import TrainState
from vla_ops.errors import TrainingError
from vla_ops.models import Freeze, ModelConfig
from vla_ops.policies import MixtureTransforms, PolicyStats, PolicyTransforms, Transforms, setup
from vla_ops.spec import TrainingSpec
from vla_ops.training.data import Cache, Frames, Loader, Order, Shuffled, Weighted, mixture_sources, read_frames
from vla_ops.training.loop import Ended, Loop, Progress
from vla_ops.training.mesh import check_batch, make_mesh, of_batch
from vla_ops.training.metrics import Metrics, Sink
from vla_ops.training.optimizer import learning_rates, make_optimizer
from vla_ops.training.preflight import preflight
from vla_ops.training.recipe import Recipe
from vla_ops.training.reporting import Reporting
from vla_ops.training.run import RESULT_FILE, Run, open_run, run_folder
from vla_ops.training.sinks import open_sinks
from vla_ops.training.state import abstract_state, freeze_of, initial_state
from vla_ops.training.step import Step, make_step
from vla_ops.training.stopping import Stopping
from vla_ops.training.validation import Validation, inputs_of

type Say = Callable[[str], None]


@dataclass(frozen=True)
class Trained:
    """How a training ended."""

    run: Run
    # `finished`, `stopped early` or `stopped by a signal`, and which one that was (0: none).
    how: str
    signal: int
    # The last step, which is the name of the last checkpoint.
    step: int
    # Of the last line and the last validation.
    metrics: Mapping[str, float]
    # Of this process; 0.0 where the run was finished already.
    seconds: float
    devices: int

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.run.folder / str(self.step)

    @property
    def best(self) -> Path | None:
        """The best checkpoint by the validation's metric, where there was one."""
        step = marked_best(self.run.folder)
        return None if step is None else self.run.folder / str(step)


def train(
    recipe: Recipe,
    *,
    home: Path,
    say: Say = print,
    run: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    check: bool = True,
    stopping: Stopping | None = None,
    sinks: Sequence[Sink] = (),
) -> Trained:
    """Train in the run of that name under `home`, from its last checkpoint where it has one; without a name in a new run.

    With several processes (`jax.distributed` is theirs to start) all of them call this with the same name. `check` looks for everything
    that would stop the run before a device is touched. Raise VlaOpsError; StoreError, naming it, where another process trains in the run.
    """
    recipe = recipe.with_overrides(overrides) if overrides else recipe
    folder = run_folder(recipe, home, name=run)
    # From here on nobody else writes to the folder.
    with _store(folder, recipe.training) as store:
        opened = open_run(recipe, home, name=folder.name)
        if opened.is_finished and opened.result is not None:
            result = opened.result
            say(f"{opened.folder}: the run is finished already: {result['how']} at step {result['step']}; raise `steps` to go on")
            return Trained(opened, result["how"], 0, result["step"], result["metrics"], 0.0, jax.device_count())
        with stopping or Stopping(say) as asked:
            return _train(opened, store, say, asked, sinks, check=check)


def _store(folder: Path, training: TrainingSpec) -> CheckpointStore:
    metric = None if training.validation is None else f"validation/{training.validation.metric}"
    return CheckpointStore(folder, keep=Keep(training.keep.latest, training.keep.period, metric))


def _train(run: Run, store: CheckpointStore, say: Say, stopping: Stopping, sinks: Sequence[Sink], *, check: bool) -> Trained:
    began = time.perf_counter()
    at = latest_step(run.folder)
    if check:
        report = preflight(run.recipe, run.folder, home=run.home, resumes=at is not None, say=say)
        say(report.render())
        report.refuse()
    made = _Made.of(run, say)
    if jax.process_index() == 0:
        (run.folder / RESULT_FILE).unlink(missing_ok=True)
    ended = made.go_on(store, stopping, say, sinks)
    seconds = time.perf_counter() - began
    trained = Trained(run, ended.how, ended.signal, ended.step, ended.metrics, seconds, jax.device_count())
    if jax.process_index() == 0:
        told = {"metrics": ended.metrics, "seconds": round(seconds, 3), "devices": trained.devices, "signal": ended.signal}
        run.write_result(ended.how, ended.step, **told)
    say(f"{run.folder}: {ended.how} at step {ended.step} after {seconds:.0f} s")
    return trained


@dataclass(frozen=True, eq=False)
class _Machine:
    """What computes: shapes and shardings of the state, its optimiser, and the compiled step."""

    freeze: Freeze
    rates: Callable[[int], Any]
    optimizer: optax.GradientTransformation
    like: TrainState
    step: Step


# A run that is resumed in the process that started it compiles nothing again.
@lru_cache(maxsize=1)
def _machine(config: ModelConfig, mesh: jax.sharding.Mesh, decides: str) -> _Machine:
    """`decides` is the training as JSON, which is hashed as a text is."""
    asked = TrainingSpec.model_validate_json(decides)
    rates, freeze = learning_rates(asked.schedule), freeze_of(asked, config)
    optimizer = make_optimizer(asked.optimizer, rates)
    like = abstract_state(config, freeze, optimizer, mesh, ema=asked.ema is not None)
    step = make_step(config, freeze, optimizer, ema=asked.ema, augmentation=asked.augmentation, accumulate=asked.accumulate, like=like)
    return _Machine(freeze, rates, optimizer, like, step)


@dataclass(frozen=True, eq=False)
class _Made:
    """What a recipe says, made: nothing of it changes while the run goes on."""

    run: Run
    config: ModelConfig
    # By their folder in a checkpoint's assets.
    stats: Mapping[str, PolicyStats]
    transforms: Transforms
    frames: Frames

    @classmethod
    def of(cls, run: Run, say: Say) -> _Made:
        recipe, asked = run.recipe, run.recipe.training
        config, stats = recipe.model, recipe.read_stats()
        transforms = transforms_of(recipe, stats)
        _same_transforms(run, transforms)
        frames = frames_of(recipe, transforms)
        say(f"{run.folder}: {len(frames.training_rows())} frames of {len(frames.places) - len(frames.held_out)} episodes to train on")
        if asked.validation is not None:
            # Empty is found now, and not at the first validation.
            frames.validation_rows()
        return cls(run, config, stats, transforms, frames)

    @property
    def training(self) -> TrainingSpec:
        return self.run.recipe.training

    def go_on(self, store: CheckpointStore, stopping: Stopping, say: Say, sinks: Sequence[Sink]) -> Ended:
        """Take the steps that are left."""
        asked = self.training
        mesh = make_mesh(asked.fsdp_devices)
        check_batch(mesh, batch_size=asked.batch_size, accumulate=asked.accumulate)
        computes = {"schedule", "optimizer", "freeze", "ema", "augmentation", "accumulate"}
        machine = _machine(self.config, mesh, asked.model_dump_json(include=computes))
        most = store.keep.most(steps=asked.steps, save_every=asked.save_every)
        require_space(self.run.folder, checkpoint_bytes(machine.like), checkpoints=most)
        train_key, init_key = jax.random.split(jax.random.key(asked.seed))
        at = store.latest_step
        if at is not None:
            say(f"resuming after step {at}")
        state, progress = self._begun(machine, init_key, say) if at is None else self._resumed(at, machine.like)
        with self._reporting(sinks, first_step=int(state.step), place=_placing(mesh)) as reporting, self._loader(progress) as loader:
            loop = Loop(
                asked, machine.step, machine.rates, train_key, mesh, store, self._assets(), reporting, stopping, say,
                validator=None if reporting.validation is None else reporting,
                waited_s=lambda: loader.waited_s,
            )  # fmt: skip
            return loop.run(state, loader, progress)

    def _begun(self, machine: _Machine, key: jax.Array, say: Say) -> tuple[TrainState, Progress]:
        asked = self.training
        source = None if asked.init is None else init_source(asked.init, self.run.home, say=say)
        given = {name: value for name, value in asked.init_rules.model_dump().items() if value is not None}
        rules = None if source is None else replace(default_rules(source), **given)
        state, report = initial_state(machine.like, self.config, machine.freeze, machine.optimizer, key, source=source, rules=rules)
        found: dict[str, Any] = {"transforms_fingerprint": self.transforms.fingerprint, "transforms": self.transforms.describe()}
        if report is not None:
            say(report.summary())
            found["load_report"] = report.to_json()
        if jax.process_index() == 0:
            replace(self.run, found=found).write()
        return state, Progress()

    def _resumed(self, at: int, like: TrainState) -> tuple[TrainState, Progress]:
        checkpoint = open_checkpoint(self.run.folder / str(at))
        extra = read_state(checkpoint.folder).get("extra", {})
        if not extra:
            raise TrainingError(
                "the checkpoint does not say where the run stood in its data",
                file=checkpoint,
                todo="Start a new run with `init:` of this checkpoint.",
            )
        return read_train_state(checkpoint, like), Progress(**extra)

    @contextmanager
    def _reporting(self, sinks: Sequence[Sink], *, first_step: int, place: Callable[[Any], Any] | None) -> Iterator[Reporting]:
        asked, run = self.training, self.run
        is_first = jax.process_index() == 0
        asked_for = open_sinks(run.folder, asked.metrics, name=run.title, config=run.recipe.to_json()) if is_first else []
        with Metrics(run.folder, first_step=first_step, sinks=[*sinks, *asked_for], writes=is_first) as metrics:
            yield Reporting(metrics, self._validation(place))

    def _validation(self, place: Callable[[Any], Any] | None) -> Validation | None:
        asked = self.training.validation
        if asked is None:
            return None
        return Validation.of(
            self.run.recipe.spec,
            self.config,
            self.transforms,
            self.frames,
            batch_size=self.training.batch_size,
            batches=asked.batches,
            sampling_steps=asked.sampling_steps,
            seed=self.training.seed,
            workers=self.training.workers,
            place=place,
        )

    def _loader(self, progress: Progress) -> Loader[dict[str, Any]]:
        asked = self.training
        return Loader(
            self.frames,
            self._order(),
            batch_size=asked.batch_size,
            horizon=self.config.action_horizon,
            size=self.config.image_size,
            # Validation always sees them as a policy is served them.
            resize=asked.resize,
            workers=asked.workers,
            transform=partial(inputs_of, self.transforms),
            cache=Cache(asked.cache.kind, asked.cache.max_gb),
            state=progress.loader,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _order(self) -> Order:
        sources = mixture_sources(self.frames)
        if sources is not None:
            return Weighted(sources, seed=self.training.seed)
        return Shuffled(self.frames.training_rows(), seed=self.training.seed)

    def _assets(self) -> dict[str, bytes]:
        return {f"{asset_id}/{name}": text.encode() for asset_id, stats in self.stats.items() for name, text in stats.files.items()}


def transforms_of(recipe: Recipe, stats: Mapping[str, PolicyStats]) -> Transforms:
    """What stands between the recipe's robot, or the sources of its mixture, and its model; `stats` as `Recipe.read_stats` gives them.

    Raise FetchError for a tokenizer that cannot be had.
    """
    parts = {asset_id: part_transforms(recipe, asset_id, of_part) for asset_id, of_part in stats.items()}
    return MixtureTransforms(parts) if recipe.sources else next(iter(parts.values()))


def part_transforms(recipe: Recipe, asset_id: str, stats: PolicyStats) -> PolicyTransforms:
    """What stands between one of the recipe's parts and its model."""
    part = recipe.parts[asset_id]
    return setup.transforms_of(part.spec, recipe.training, stats, recipe.model, robot=part.robot, dataset_version=part.dataset_version)


def frames_of(recipe: Recipe, transforms: Transforms) -> Frames:
    """The recipe's dataset with what its model sees of it. Raise DatasetError."""
    return read_frames(
        recipe.dataset,
        cameras=transforms.cameras.cameras,
        state_names=[dim.name for dim in recipe.spec.state_dims],
        action_names=[dim.name for dim in recipe.spec.action_dims],
    )


def _same_transforms(run: Run, transforms: Transforms) -> None:
    before = run.found.get("transforms_fingerprint")
    if before not in (None, transforms.fingerprint):
        mine, theirs = transforms.describe(), run.found.get("transforms", {})
        raise TrainingError(
            "the inputs of the model would not be made as they were when the run was started",
            file=run.file,
            found=", ".join(key for key in mine if mine[key] != theirs.get(key)) or transforms.fingerprint,
            todo="The tokenizer or this code has changed: put it back, or start a new run with `init:` of this run's checkpoint.",
        )


def _placing(mesh: jax.sharding.Mesh) -> Callable[[Any], Any] | None:
    """How arrays that every host has whole are cut over the devices; JAX does it by itself where there is one."""
    if mesh.size == 1:
        return None
    how = of_batch(mesh)
    return partial(jax.tree.map, lambda array: jax.make_array_from_callback(array.shape, how, lambda index: array[index]))
