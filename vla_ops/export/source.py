"""What is exported: a checkpoint with all that is known of it, refused where something is missing or belongs to something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.architecture import Architecture, differences
from vla_ops.checkpoints.layout import RUN_FILE, Checkpoint
from vla_ops.checkpoints.reading import ArraySpec, read_specs
from vla_ops.checkpoints.sources import checkpoint_at
from vla_ops.errors import CheckpointError, StatsMismatchError
from vla_ops.export.convert import Read, reader_of
from vla_ops.export.lora import Alphas
from vla_ops.export.plan import Plan, make_plan
from vla_ops.models.config import GemmaConfig, LoraConfig, ModelConfig, SiglipConfig
from vla_ops.policies import PolicyStats, PolicyTransforms, read_stats
from vla_ops.policies.model_sizes import sizes_of
from vla_ops.spec.model import ModelSpec
from vla_ops.training.run import Run, read_run

_UNFINISHED = ("orbax-checkpoint-tmp", ".tmp-")


@dataclass(frozen=True)
class Given:
    """What a checkpoint without a run.json does not say."""

    action_horizon: int = 50
    max_token_len: int = 0
    lora_alpha: float | None = None
    # The folder of the norm stats in assets/ where there are several.
    asset_id: str | None = None
    # Norm stats for a checkpoint that has none: the folder of norm_stats.json.
    assets: Path | None = None


@dataclass(frozen=True, eq=False)
class ExportSource:
    """A checkpoint that can be exported."""

    checkpoint: Checkpoint
    specs: Mapping[str, ArraySpec]
    plan: Plan
    config: ModelConfig
    alphas: Alphas
    asset_id: str
    stats: PolicyStats
    # Where a run of this project made it.
    run: Run | None = None
    transforms: PolicyTransforms | None = None

    @property
    def read(self) -> Read:
        """Reads its arrays, one at a time."""
        return reader_of(self.checkpoint)

    @property
    def architecture(self) -> Architecture:
        """The model, from the shapes alone."""
        return self.plan.architecture


def open_source(uri: str, home: Path, *, given: Given | None = None, say: Callable[[str], None] = lambda _: None) -> ExportSource:
    """The checkpoint at a path or URL, or of a run (`robot/training@best`), with its norm stats and what it was trained by.

    Raise CheckpointError for one that is unfinished, of another model, or without norm stats; StatsMismatchError for norm stats that
    are not those it was trained with.
    """
    given = given or Given()
    if any(mark in part for part in Path(uri).parts for mark in _UNFINISHED):
        raise CheckpointError("the checkpoint was never finished", file=uri, todo="Take a step whose folder is called by its number alone.")
    checkpoint = checkpoint_at(uri, home, say=say)
    specs = read_specs(checkpoint)
    plan = make_plan(specs)
    run = _run_of(checkpoint)
    config = run.recipe.model if run else _config_of(plan.architecture, given)
    _require_same_model(checkpoint, config, specs)
    asset_id, stats = _stats_of(checkpoint, run, given)
    transforms = None if run is None else _transforms_of(run, asset_id, stats)
    return ExportSource(checkpoint, specs, plan, config, Alphas.of(config), asset_id, stats, run, transforms)


def _run_of(checkpoint: Checkpoint) -> Run | None:
    file = checkpoint.folder.parent / RUN_FILE
    return read_run(file) if file.is_file() else None


def _config_of(architecture: Architecture, given: Given) -> ModelConfig:
    sizes = sizes_of(architecture, lora_alpha=given.lora_alpha) | {"max_token_len": given.max_token_len or None}
    return ModelSpec.model_validate(sizes).config(horizon=given.action_horizon)


def _require_same_model(checkpoint: Checkpoint, config: ModelConfig, specs: Mapping[str, ArraySpec]) -> None:
    """Raise CheckpointError unless the parameters are those of the model that the recipe speaks of: with or without LoRA for one."""
    expected = shapes_of(config)
    found = {path: spec.shape for path, spec in specs.items()}
    if found == expected:
        return
    wrong = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
    raise CheckpointError(
        "the parameters are not of the model that the run's recipe says",
        file=checkpoint,
        array=", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""),
        found=differences(expected, found) or f"{found.get(wrong[0])} instead of {expected.get(wrong[0])}",
        todo="One of run.json and the checkpoint was copied from elsewhere: put the right run.json beside it, or take it away.",
    )


def shapes_of(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of a model by its path; nothing is allocated."""
    from vla_ops.models import abstract, state_paths

    return {path: tuple(leaf.shape) for path, leaf in state_paths(abstract(config)[1]).items()}


def _stats_of(checkpoint: Checkpoint, run: Run | None, given: Given) -> tuple[str, PolicyStats]:
    there = checkpoint.norm_stats
    known = list(run.recipe.parts) if run else list(there)
    asset_id = given.asset_id or (known[0] if len(known) == 1 else None)
    if run is not None and asset_id not in known:
        raise _no_stats(checkpoint, known, given.asset_id)
    if given.assets is not None:
        asset_id, folder = asset_id or given.assets.name, given.assets
    elif asset_id in there:
        folder = there[asset_id].parent
    else:
        raise _no_stats(checkpoint, list(there), asset_id)
    stats = read_stats(folder)
    expected = run.recipe.parts[asset_id].stats_fingerprint if run is not None and asset_id is not None else None
    if expected not in (None, stats.fingerprint):
        raise StatsMismatchError(
            "the norm stats are not those that the checkpoint was trained with",
            file=stats.origin,
            found=stats.fingerprint,
            expected=expected,
            todo="Put back those of the run, from another of its checkpoints: with others every action would be off by their difference.",
        )
    return asset_id or "", stats


def _no_stats(checkpoint: Checkpoint, there: list[str], asked: str | None) -> CheckpointError:
    if there:
        todo = f"Name one of them: --asset-id {there[0]}."
        return CheckpointError(
            "which norm stats are meant is not clear", file=checkpoint, found=", ".join(there), expected=asked, todo=todo
        )
    return CheckpointError(
        "the checkpoint has no assets: without norm stats its actions have no units",
        file=checkpoint,
        expected=f"assets/{asked or '<asset id>'}/norm_stats.json",
        todo="Copy the training's assets/ into it, or give the folder of the norm_stats.json that it was trained with: --assets FOLDER.",
    )


def _transforms_of(run: Run, asset_id: str, stats: PolicyStats) -> PolicyTransforms:
    from vla_ops.backends.jax import part_transforms

    transforms = part_transforms(run.recipe, asset_id, stats)
    expected = run.trained_transforms(asset_id)
    if expected not in (None, transforms.fingerprint):
        raise CheckpointError(
            "the inputs of the model would not be made as in its training",
            file=run.file,
            found=transforms.fingerprint,
            expected=expected,
            todo="The tokenizer or this code has changed since: export with what it was trained with.",
        )
    return transforms


def describe(config: ModelConfig) -> dict[str, Any]:
    """A model's configuration as JSON; `config_from` reads it."""
    from dataclasses import asdict

    return asdict(config) | {"cameras": list(config.cameras)}


def config_from(value: Mapping[str, Any]) -> ModelConfig:
    """The inverse of `describe`. Raise CheckpointError for what is none."""
    try:
        made = dict(value)
        for field in ("paligemma", "action_expert"):
            if isinstance(made[field], Mapping):
                lora = made[field].get("lora")
                made[field] = GemmaConfig(**{**made[field], "lora": None if lora is None else LoraConfig(**lora)})
        if isinstance(made["siglip"], Mapping):
            made["siglip"] = SiglipConfig(**made["siglip"])
        return ModelConfig(**{**made, "cameras": tuple(made["cameras"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError("not the configuration of a model", found=repr(error), todo="Export the checkpoint again.") from error
