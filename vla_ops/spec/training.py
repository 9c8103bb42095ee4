"""A training: everything that decides what its checkpoints are, with openpi's defaults, and how it is run.

`python -c "from vla_ops.spec import TrainingSpec; print(TrainingSpec().model_dump_json(indent=1))"` shows them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from vla_ops.spec.base import Strict
from vla_ops.spec.metrics import MetricsSpec
from vla_ops.spec.model import ModelSpec
from vla_ops.spec.publishing import PublishSpec, export_name

PALIGEMMA_TOKENIZER = "gs://big_vision/paligemma_tokenizer.model"


class StatsFrom(Strict):
    """Norm stats that were not computed from the robot's own dataset: those in a checkpoint's assets."""

    origin: str = Field(alias="from")
    """A checkpoint (its folder, or `.../params` of it, or its `assets`): a path, gs://, s3://, hf://, https://, or what was published."""
    asset_id: str = Field(min_length=1)
    """The folder of the robot's numbers in the checkpoint's assets, such as `trossen`."""
    dims: list[int] | None = None
    """Which of the file's dimensions are the robot's state, in its order. Without it the file must be as wide as the state."""
    action_dims: list[int] | None = None
    """The same of the actions, where it is not `dims`."""
    robot: str | None = None
    """The robot that the file speaks of, where it says one and it is not this robot."""


class InitRules(Strict):
    """Regular expressions on whole parameter paths for what need not be loaded from `init`; everything else must be there and fit."""

    missing: str | None = None
    """Parameters that the checkpoint may lack. Default: `.*lora.*`, and what PaliGemma's own file has not."""
    anew: str | None = None
    """Parameters that start anew even where the checkpoint has them: `(action_in_proj|action_out_proj|state_proj)/.*` for another
    action_dim."""
    extra: str | None = None
    """Arrays of the checkpoint that the model does not have and that are left out."""

    @field_validator("missing", "anew", "extra")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        return pattern if pattern is None else _regex(pattern)


class PromptSpec(Strict):
    """What the model is told."""

    default: str | None = None
    """The prompt of frames whose dataset has no task."""
    truncate: bool = False
    """Cut prompts that have more than `max_token_len` tokens, as openpi does in silence. Without it they are refused."""
    discrete_state: bool | None = None
    """Whether the state is in the prompt. Default: yes for pi0.5, no for pi0; `false` makes a pi0.5 that is told no state at all."""


class OptimizerSpec(Strict):
    """AdamW, after clipping by the global norm."""

    b1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    b2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=1e-10, ge=0)
    """Of all trained parameters, biases and norms too; openpi's is as good as none."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient of all trained parameters together."""


class ScheduleSpec(Strict):
    """Learning rate by step, after a linear warm-up."""

    kind: Literal["warmup_cosine", "rsqrt"] = "warmup_cosine"
    """`warmup_cosine` falls from `peak` to `end` at `decay_steps`; `rsqrt` falls with the root of the steps and never ends."""
    peak: float | None = Field(default=None, gt=0)
    """Learning rate after the warm-up. Default: 2.5e-5 (warmup_cosine), 5e-5 (rsqrt)."""
    warmup_steps: int = Field(default=1000, ge=0)
    """Steps of the warm-up. A run that is shorter never reaches `peak`."""
    decay_steps: int = Field(default=30_000, ge=1)
    """warmup_cosine: the step at which `end` is reached, warm-up included. Set it to `steps`."""
    end: float = Field(default=2.5e-6, ge=0)
    """warmup_cosine: learning rate from `decay_steps` on."""
    timescale: float = Field(default=10_000, gt=0)
    """rsqrt: steps after which the rate has fallen to 1 / sqrt(2) of `peak`."""

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        return self.peak if self.peak is not None else 2.5e-5 if self.kind == "warmup_cosine" else 5e-5

    @model_validator(mode="after")
    def _warms_up_first(self) -> Self:
        if self.kind == "warmup_cosine" and self.warmup_steps >= self.decay_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps}: decay_steps ({self.decay_steps}) includes them and must be more")
        return self


type Resize = Literal["exact", "fast"]


class FreezeSpec(Strict):
    """Frozen is a parameter whose whole path matches one of `matching` and none of `unless`."""

    matching: list[str] = Field(min_length=1)
    """Regular expressions, such as `PaliGemma/img/.*`. One that matches no parameter is refused."""
    unless: list[str] = Field(default=[])
    """Regular expressions for what is trained all the same."""

    @field_validator("matching", "unless")
    @classmethod
    def _compile(cls, patterns: list[str]) -> list[str]:
        return [_regex(pattern) for pattern in patterns]


class CacheSpec(Strict):
    """What is kept of decoded images."""

    kind: Literal["none", "memory", "disk"] = "none"
    """`memory` for this run, `disk` for the next one too (VLA_OPS_HOME/cache/frames)."""
    max_gb: float = Field(default=8.0, gt=0)
    """A dataset that needs more keeps its first frames only."""


class KeepSpec(Strict):
    """Which checkpoints stay; the best one by `validation.metric` always does."""

    latest: int = Field(default=1, ge=1)
    """The last ones."""
    period: int | None = Field(default=5000, ge=1)
    """Those of every so many steps; null keeps none for their step."""


class EarlyStop(Strict):
    """End the run when validation no longer gets better."""

    patience: int = Field(default=5, ge=1)
    """Validations in a row that are not better than the best one."""
    min_delta: float = Field(default=0.0, ge=0)
    """By how much a value must be below the best one to be better."""


class ValidationSpec(Strict):
    """Measurements on the episodes that curation.yaml holds out, which are never trained on."""

    every: int = Field(default=1000, ge=1)
    """Steps between two; the last step is always validated."""
    batches: int | None = Field(default=16, ge=1)
    """At most so many batches, spread evenly over the held-out frames; null takes all of them."""
    sampling_steps: int = Field(default=10, ge=1)
    """Euler steps of the sampled actions."""
    metric: Literal["loss", "action_error"] = "action_error"
    """What the best checkpoint is found by: the flow loss, or the error of sampled actions in robot units."""
    early_stop: EarlyStop | None = None
    """Without it the run takes all its steps."""


class ExportSpec(Strict):
    """The best checkpoint for PyTorch, kept only where it computes what was trained (docs/export.md)."""

    layouts: list[Literal["lerobot", "openpi"]] = Field(default=["lerobot"], min_length=1)
    """`lerobot` loads with PI0Policy and PI05Policy of LeRobot, `openpi` in openpi's PyTorch server."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """What is stored."""
    lora: Literal["merge", "adapter"] = "merge"
    """`merge` folds LoRA into its weights; `adapter` keeps it as a PEFT adapter beside the policy, in LeRobot's layout."""
    source: str | None = None
    """Of a mixture's training: whose policy it is, by the source's name in the mixture."""

    @model_validator(mode="after")
    def _keeps_adapters(self) -> Self:
        if self.lora == "adapter" and "openpi" in self.layouts:
            raise ValueError("lora: adapter is for LeRobot's layout alone: write `layouts: [lerobot]`, or leave `lora` out")
        return self


class TrainingSpec(Strict):
    """One training of a robot: its model, data, optimiser, and how it is run."""

    backend: Literal["jax"] = "jax"
    """The trainer: `jax` is the one of this project."""
    model: ModelSpec = ModelSpec()
    """The model."""
    init: str | None = None
    """Where its parameters start: a checkpoint by path, gs://, s3://, hf://, https://; a run as ROBOT/TRAINING[/RUN][@best|@STEP]; what
    was published, as URI[@VERSION]; PaliGemma's own .npz. Null starts from random ones, which is for tiny models."""
    init_rules: InitRules = InitRules()
    """What of `init` need not fit."""
    tokenizer: str = PALIGEMMA_TOKENIZER
    """PaliGemma's SentencePiece model by path or URL, or `bytes`, which needs no download and is for tiny models."""
    tokenizer_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """What the downloaded tokenizer's SHA-256 must be."""
    norm_stats: StatsFrom | None = None
    """Norm stats of a base checkpoint in place of the robot's own."""
    prompt: PromptSpec = PromptSpec()
    """Prompts."""
    batch_size: int = Field(default=32, ge=1)
    """Samples in a step, of all devices and hosts together."""
    steps: int = Field(default=30_000, ge=1)
    """Steps of the whole run."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Of initialisation, noise, augmentation and the order of frames."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimiser."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The learning rate."""
    ema: float | None = Field(default=0.99, ge=0, lt=1)
    """Decay of the average of the weights that is saved as `params`; it needs the memory of a second model. openpi's LoRA has null."""
    freeze: Literal["lora", "none"] | FreezeSpec = "lora"
    """`lora`: of an expert with LoRA only the factors are trained, and everything else; without LoRA nothing is frozen."""
    augmentation: bool = True
    """Random crops, turns and colours of the training images, as openpi's."""
    accumulate: int = Field(default=1, ge=1)
    """Parts that a batch is computed in, one after another: less memory for activations, the same step."""
    fsdp_devices: int = Field(default=1, ge=1)
    """Devices over which parameters and optimiser state are cut; the others hold copies. The number of devices is a multiple of it."""
    resize: Resize = "fast"
    """How training images are made the model's size: `exact` is PIL's bilinear of RGB, as a policy is served and validated; `fast` shrinks
    the video's own planes before it makes RGB of them: twice as many images a second, and 0.8 of 255 off in the mean."""
    workers: int = Field(default=2, ge=0)
    """Processes that decode images; 0 decodes in the trainer. Batches do not depend on it."""
    cache: CacheSpec = CacheSpec()
    """What is kept of decoded images."""
    save_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints; the last step is always saved."""
    keep: KeepSpec = KeepSpec()
    """Which checkpoints stay."""
    log_every: int = Field(default=100, ge=1)
    """Steps between two lines of metrics, each the mean of what lies between."""
    validation: ValidationSpec | None = None
    """Without it nothing tells that a run learns by heart. It needs held-out episodes."""
    metrics: MetricsSpec = MetricsSpec()
    """Where curves go."""
    export: ExportSpec | None = None
    """Makes the asset `<training>/torch_policy`."""
    publish: PublishSpec | None = None
    """Makes the asset `<training>/published_policy`, and with `export` also `<training>/published_torch_policy`."""
    launcher: Literal["local"] = "local"
    """Where the trainer runs: `local` is a process on this machine."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate {self.accumulate}: it does not divide batch_size {self.batch_size}")
        if self.validation is not None and self.save_every % self.validation.every:
            raise ValueError(
                f"save_every {self.save_every} is no multiple of validation.every ({self.validation.every}): the best checkpoint would be "
                "found among those that happen to be measured"
            )
        if self.export is not None and self.export.lora == "adapter" and not any(self.model.config(horizon=1).has_lora):
            raise ValueError("export.lora: adapter: the model has no LoRA; leave `lora` out")
        if self.publish is not None and self.publish.hub is not None and self.export is not None:
            for layout in self.export.layouts:
                # Said now, not when the training is done.
                export_name(self.publish.hub, layout)
        return self


def _apart(trainings: dict[str, TrainingSpec]) -> dict[str, TrainingSpec]:
    """Raise ValueError where two trainings would be published to one place: the second would be refused when it is trained."""
    taken: dict[str, str] = {}
    for name, training in trainings.items():
        for place in _places(name, training):
            if (other := taken.setdefault(place, name)) != name:
                raise ValueError(f"{other}.publish and {name}.publish: both would be {place}; give each a name of its own")
    return trainings


def _places(name: str, training: TrainingSpec) -> Iterator[str]:
    asked = training.publish
    if asked is None:
        return
    layouts = [] if training.export is None else training.export.layouts
    if asked.hub is not None:
        yield from (f"hub:{asked.hub}", *(f"hub:{export_name(asked.hub, layout)}" for layout in layouts))
    if asked.store is not None:
        own = f"{asked.store}/{asked.name or name}"
        yield from (own, *(f"{own}_torch_{layout}" for layout in layouts))


type Trainings = Annotated[dict[str, TrainingSpec], AfterValidator(_apart)]


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}; patterns match whole paths, like .*lora.*") from error
    return pattern
