"""The single checks of a pre-flight, each a row or more; what one raises becomes a row, and the others go on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.errors import PromptError, SpecError, StatsMismatchError, TrainingError, VlaOpsError
from vla_ops.policies import PolicyStats, normalisation_of, stats_fit
from vla_ops.policies.prompts import Prompts
from vla_ops.training.data import check_videos, read_frames
from vla_ops.training.memory_estimate import gigabytes
from vla_ops.training.preflight_given import Given, Row
from vla_ops.training.sinks import wandb_problem

if TYPE_CHECKING:
    from vla_ops.checkpoints.trees import TrainState
    from vla_ops.training.recipe import Recipe

# The estimate of activations may be so much too high.
_SURE_SHARE = 0.75
_SHOWN = 5
# A start from scratch is for tiny models: no dataset of one robot teaches a large one.
_TINY = 100_000_000


def model(given: Given) -> Iterator[Row]:
    """Sizes, what is trained, and the action horizon."""
    config, asked = given.config, given.recipe.training.model
    sizes = [size if isinstance(size, str) else f"{size.width} wide" for size in (config.paligemma, config.action_expert)]
    yield Row("model", f"{config.family}, {' + '.join(sizes)}, {config.dtype}, remat {config.remat}")
    if asked.action_horizon not in (None, config.action_horizon):
        raise SpecError(
            "the model's chunks are not those of the norm stats",
            found=f"action_horizon {asked.action_horizon}",
            expected=f"{config.action_horizon} (norm_stats.action_horizon)",
            todo="Leave model.action_horizon out, or change norm_stats.action_horizon and compute the norm stats again.",
        )
    sizes = {path: math.prod(leaf.shape) for path, leaf in given.shapes.items()}
    yield Row("parameters", f"{sum(sizes.values()):,} in {len(sizes)} arrays")
    freeze = given.freeze
    yield Row("trained", f"{sum(size for path, size in sizes.items() if not freeze.frozen(path)):,}")


def memory(given: Given) -> Iterator[Row]:
    """Bytes on each device against what there is."""
    estimate = given.memory
    if estimate is None:
        return
    for what, count in estimate.bytes_of.items():
        yield Row(f"  {what}", gigabytes(count))
    sure = estimate.total - (1 - _SURE_SHARE) * estimate.bytes_of["activations"]
    found = f"{gigabytes(estimate.total)} of {gigabytes(given.available)} on each of {given.devices} ({given.device})"
    todo = (
        "Use LoRA (pi0_lora, pi05_lora), `ema: null`, a larger `accumulate`, a smaller batch_size or more fsdp_devices; and see that "
        "XLA_PYTHON_CLIENT_MEM_FRACTION is 0.9 or more."
    )
    if sure > given.available:
        said = f"the training needs about {gigabytes(estimate.total)}, there are {gigabytes(given.available)}. {todo}"
        yield Row("memory", found, "error", said)
    elif estimate.total > given.available:
        yield Row("memory", found, "warning", f"it may not fit: activations are estimated to within a quarter. {todo}")
    else:
        yield Row("memory", found)


def init(given: Given) -> Iterator[Row]:
    """Whether the parameters that the training starts from are those of its model, from their shapes."""
    import jax

    from vla_ops.checkpoints.loading import LoadRules, plan_load
    from vla_ops.checkpoints.sources import default_rules, init_source

    training = given.recipe.training
    if given.resumes:
        return
    if training.init is None:
        large = sum(math.prod(leaf.shape) for leaf in given.shapes.values()) > _TINY
        said = "a model of this size learns nothing of use from one robot's data alone: start from pi0's or pi0.5's base checkpoint"
        yield Row.judged("init", "random parameters", "warning", said, wrong=large)
        return
    source = init_source(training.init, given.home, say=given.say)
    base, asked = default_rules(source), training.init_rules
    rules = LoadRules(asked.missing or base.missing, asked.anew or base.anew, asked.extra or base.extra)
    expected = {path: jax.ShapeDtypeStruct(leaf.shape, given.freeze.train_dtype(path)) for path, leaf in given.shapes.items()}
    report = plan_load(expected, source.specs, source=source.name, rules=rules)
    yield Row("init", report.summary())


def tokenizer(given: Given) -> Iterator[Row]:
    """Whether it can be had, and has no more tokens than the model."""
    count, most = given.tokenizer.vocab_size, given.config.vocab_size
    said = f"the tokenizer has {count:,} tokens and the model {most:,}: take the one that the model was trained with"
    yield Row.judged("tokenizer", f"{count:,} tokens of the model's {most:,}", "error", said, wrong=count > most)


def dimensions(given: Given) -> Iterator[Row]:
    """State and action against the width of the model's vectors."""
    spec, most = given.recipe.spec, given.config.action_dim
    for vector, dims in (("state", spec.state_dims), ("action", spec.action_dims)):
        more = ", ".join(dim.name for dim in dims[most:])
        todo = "Leave dimensions out in the robot's YAML, or set a wider model.action_dim."
        said = f"the robot's {vector} is wider than the model's vectors of {most} (action_dim): {more} have no place. {todo}"
        yield Row.judged("dimensions", f"{vector} {len(dims)} of {most}", "error", said, wrong=bool(more))


def cameras(given: Given) -> Iterator[Row]:
    """Which camera each slot shows, and cameras that the dataset lacks."""
    shown = ", ".join(f"{slot} {camera or 'masked'}" for slot, camera in given.slots.shown)
    yield Row("cameras", shown)
    for slot in given.recipe.spec.camera_slots.keys() - set(given.config.cameras):
        camera = given.recipe.spec.camera_slots[slot]
        said = f"{camera} has a role whose slot {slot} the model has not: the model will not see it"
        yield Row("cameras", f"{camera} is not shown", "warning", said)
    for camera in given.lacking_cameras:
        try:
            read_frames(given.recipe.dataset, cameras=(camera,))
        except VlaOpsError as error:
            yield Row("cameras", f"{error.what}: {camera}", "error", str(error))


def dataset(given: Given) -> Iterator[Row]:
    """Whether it is whole, and has frames to train on."""
    frames = given.frames
    rows = frames.training_rows()
    seen = given.recipe.training.batch_size * given.recipe.training.steps / len(rows)
    found = f"{len(rows):,} frames of {len(frames.places) - len(frames.held_out):,} episodes, each seen {seen:.3g} times"
    yield Row("dataset", found)
    check_videos(frames)


def prompts(given: Given) -> Iterator[Row]:
    """Tokens of every task against max_token_len."""
    asked, config, frames = given.recipe.training.prompt, given.config, given.frames
    in_prompt = config.pi05 if asked.discrete_state is None else asked.discrete_state
    made = Prompts(given.tokenizer, config.max_token_len, in_prompt, asked.default, asked.truncate)
    width = len(given.recipe.spec.state_dims)
    used = np.unique(frames.text_of)
    texts = ["" if k < 0 else frames.texts[k] for k in used]
    needed, silent = {}, 0
    for text in texts:
        try:
            needed[text] = made.tokens_needed(text, width)
        except PromptError:
            silent += 1
    if silent:
        todo = "Give the task's text in the robot's YAML and convert again, or set prompt.default."
        said = f"the dataset has frames without a task, and there is no default prompt. {todo}"
        yield Row("prompts", "frames without a task", "error", said)
    yield from _lengths(needed, config.max_token_len, truncate=asked.truncate, state=in_prompt)


def _lengths(needed: Mapping[str, int], limit: int, *, truncate: bool, state: bool) -> Iterator[Row]:
    ordered = sorted(needed.items(), key=lambda item: -item[1])
    if ordered:
        yield Row("prompts", f"{len(ordered)} different, at most {ordered[0][1]} of {limit} tokens")
    long = [(text, count) for text, count in ordered if count > limit]
    if not long:
        return
    listed = ", ".join(f"{text!r} needs {count}" for text, count in long[:_SHOWN])
    more = f" and {len(long) - _SHOWN} more" if len(long) > _SHOWN else ""
    what = "with any state in it, " if state else ""
    if truncate:
        said = f"{what}{listed}{more}: they are cut at {limit} tokens, as prompt.truncate asks"
        yield Row("prompts", f"{len(long)} are cut", "warning", said)
    else:
        said = f"{what}{listed}{more}, and max_token_len is {limit}. Shorten the task, raise model.max_token_len, or set prompt.truncate."
        yield Row("prompts", f"{len(long)} too long", "error", said)


def norm_stats(given: Given) -> Iterator[Row]:
    """Whether they are of this robot, action space and horizon, and how the data sit in borrowed ones."""
    for asset_id, stats in given.stats.items():
        _check_quantiles(given, stats)
        of = f" for {asset_id}" if given.recipe.sources else ""
        made = stats.provenance
        yield Row("norm stats", f"of {made.dataset_version if made else '?'}{of}, {given.recipe.spec.norm_stats.action_space} actions")
        if stats.accepted:
            yield _fit(given.recipe, stats)


def _fit(recipe: Recipe, stats: PolicyStats) -> Row:
    fit = stats_fit(stats, recipe.spec, recipe.dataset, robot=recipe.robot)
    bad = [f"{dim.vector} {dim.name} ({dim.verdict})" for dim in fit.dimensions if dim.verdict != "fits"]
    fit.refuse_misfit()
    said = f"{', '.join(bad)}: see the report of norm stats"
    found = f"{len(bad)} dimensions are off" if bad else f"{fit.frames:,} frames sit in {stats.origin}"
    return Row.judged("stats fit", found, "warning", said, wrong=bool(bad))


def _check_quantiles(given: Given, stats: PolicyStats) -> None:
    """Raise StatsMismatchError where the model is normalised by quantiles and the stats have none."""
    try:
        stats.state.scale(normalisation_of(given.config))
        stats.actions.scale(normalisation_of(given.config))
    except ValueError as error:
        todo = "Compute the norm stats of the robot's own dataset."
        raise StatsMismatchError(
            f"{given.config.family} is normalised by quantiles, and the norm stats have none", file=stats.origin, todo=todo
        ) from error


def batch(given: Given) -> Iterator[Row]:
    """Whether batch and devices can be cut as asked."""
    training, devices = given.recipe.training, given.devices
    parts = training.accumulate * devices
    yield Row("devices", f"batch {training.batch_size} in {training.accumulate} on {devices}, parameters over {training.fsdp_devices}")
    if devices % training.fsdp_devices:
        todo = f"Set it to a divisor of {devices}, or start on another number of devices."
        said = f"fsdp_devices {training.fsdp_devices} does not divide the {devices} devices. {todo}"
        yield Row("devices", f"{devices} over {training.fsdp_devices}", "error", said)
    if training.batch_size % parts:
        said = f"batch_size {training.batch_size} is not a multiple of {parts} (accumulate x devices). Change one of them."
        yield Row("devices", f"{training.batch_size} in {parts} parts", "error", said)


def steps(given: Given) -> Iterator[Row]:
    """Whether what is done every so many steps is ever done, and the schedule is the run's."""
    training = given.recipe.training
    schedule = training.schedule
    yield Row("steps", f"{training.steps:,}, a checkpoint every {training.save_every:,}, a line every {training.log_every:,}")
    if training.save_every > training.steps:
        yield Row("steps", "one checkpoint", "warning", f"save_every {training.save_every} is more than steps: what is killed begins again")
    if training.log_every > training.steps:
        yield Row("steps", "no line of metrics", "warning", f"log_every {training.log_every} is more than steps {training.steps}")
    if schedule.warmup_steps >= training.steps:
        said = f"the run ends within the warm-up of {schedule.warmup_steps} steps: the learning rate never reaches {schedule.peak_rate:g}"
        yield Row("schedule", "all warm-up", "warning", f"{said}. Set schedule.warmup_steps.")
    elif schedule.kind == "warmup_cosine" and schedule.decay_steps != training.steps:
        late = schedule.decay_steps > training.steps
        ends = "the rate is still high at the end" if late else f"from there on the rate stays at {schedule.end:g}"
        said = f"schedule.decay_steps {schedule.decay_steps} is not steps {training.steps}: {ends}"
        yield Row("schedule", f"decays to step {schedule.decay_steps:,}", "warning", said)


def validation(given: Given) -> Iterator[Row]:
    """Whether there are held-out episodes to validate on, and anybody does."""
    training = given.recipe.training
    asked = training.validation
    if asked is None:
        held_out = len(given.frames.held_out)
        said = f"the dataset holds out {held_out} episodes, and nothing is validated: add `validation: {{}}` to the training"
        yield Row.judged("validation", "none", "warning", said, wrong=held_out > 0)
        return
    rows = given.frames.validation_rows()
    count = len(rows) if asked.batches is None else min(len(rows), asked.batches * training.batch_size)
    yield Row("validation", f"{count:,} of {len(rows):,} frames of {len(given.frames.held_out)} episodes every {asked.every:,} steps")
    if asked.every > training.steps:
        said = f"validation.every {asked.every} is more than steps {training.steps}: only the last step is validated"
        yield Row("validation", "once", "warning", said)


def disk(given: Given) -> Iterator[Row]:
    """Whether the disk will hold the run's checkpoints."""
    from vla_ops.checkpoints.space import Keep, checkpoint_bytes, require_space

    training = given.recipe.training
    asked = training.validation
    keep = Keep(training.keep.latest, training.keep.period, None if asked is None else asked.metric)
    needed = checkpoint_bytes(state_shapes(given))
    most = keep.most(steps=training.steps, save_every=training.save_every)
    yield Row("disk", f"{gigabytes(needed)} a checkpoint, at most {most} at once")
    require_space(given.run, needed, checkpoints=most)


def state_shapes(given: Given) -> TrainState:
    """The train state as shapes, for its size: the moments of AdamW and little else."""
    import jax

    from vla_ops.checkpoints.trees import TrainState

    def shape(leaf: Any, dtype: str) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    params = {path: shape(leaf, given.freeze.train_dtype(path)) for path, leaf in given.shapes.items()}
    moments = {path: leaf for path, leaf in params.items() if not given.freeze.frozen(path)}
    step = jax.ShapeDtypeStruct((), "int32")
    ema = dict(params) if given.recipe.training.ema is not None else None
    return TrainState(step, params, {"mu": moments, "nu": moments}, ema)


def wandb(given: Given) -> Iterator[Row]:
    """Whether W&B can be used as asked without asking anybody."""
    mode = given.recipe.training.metrics.wandb
    if problem := wandb_problem(mode):
        raise TrainingError(problem)
    yield Row("W&B", mode)
