"""What a policy is made of: a robot, a model's sizes, norm stats and prompts; from a run of this project, or from what one is told.

A checkpoint of this project says all of it (`run.json` beside it, the norm stats in its assets). Of another the tensors say the
model's sizes; the robot and the norm stats are then a person's choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vla_ops.checkpoints.architecture import Architecture, architecture_of
from vla_ops.checkpoints.layout import ASSETS, EXPORT_FILE, NORM_STATS_FILE, RUN_FILE, open_checkpoint
from vla_ops.checkpoints.reading import read_specs
from vla_ops.embodiment import Embodiment
from vla_ops.errors import CheckpointError, PolicyError, StatsMismatchError
from vla_ops.models.config import ModelConfig
from vla_ops.policies.model_sizes import sizes_of
from vla_ops.policies.placed import PlacedTransforms, RobotTransforms
from vla_ops.policies.policy_stats import PolicyStats, read_stats, take_stats
from vla_ops.policies.sources import SourceRecipe, trained_fingerprint
from vla_ops.policies.tokenizer import load_tokenizer
from vla_ops.policies.transforms import PolicyTransforms, compose
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot
from vla_ops.spec import StatsFrom, TrainingSpec


@dataclass(frozen=True, eq=False)
class PolicySetup:
    """A checkpoint's folder and all that decides what its policy does."""

    folder: Path
    robot: str
    spec: RobotSpec
    training: TrainingSpec
    stats: PolicyStats
    # Of a run of this project.
    training_name: str | None = None
    dataset_version: str | None = None
    transforms_fingerprint: str | None = None
    # Of a run of a mixture: the source that the policy is for. `robot` and `spec` are then that source's.
    source: SourceRecipe | None = None

    @property
    def model(self) -> ModelConfig:
        """The whole configuration of the model."""
        return self.training.model.config(horizon=self.spec.norm_stats.action_horizon)

    def transforms(self) -> RobotTransforms:
        """What stands between the robot and the model. Raise PolicyError where it is not what the run trained with."""
        part = self.source
        spec = self.spec if part is None else part.schema
        robot, version = (self.robot, self.dataset_version) if part is None else (part.robot, part.dataset_version)
        made = transforms_of(spec, self.training, self.stats, self.model, robot=robot, dataset_version=version)
        if self.transforms_fingerprint not in (None, made.fingerprint):
            raise PolicyError(
                "the model's inputs would not be made as they were in training",
                file=self.folder,
                found=made.fingerprint,
                expected=self.transforms_fingerprint,
                todo="The tokenizer or this code has changed since: serve it with the revision in run.json, or train again.",
            )
        return made if part is None or part.placed is None else PlacedTransforms(made, part.placed)


def transforms_of(
    spec: Embodiment, training: TrainingSpec, stats: PolicyStats, model: ModelConfig, *, robot: str, dataset_version: str | None
) -> PolicyTransforms:
    """What stands between a robot and the model of a training: for the trainer, validation and servers. Raise FetchError."""
    return compose(
        spec,
        stats,
        model,
        load_tokenizer(training.tokenizer, sha256=training.tokenizer_sha256),
        robot=robot,
        dataset_version=dataset_version,
        default_prompt=training.prompt.default,
        truncate_prompts=training.prompt.truncate,
        discrete_state=training.prompt.discrete_state,
    )


def asset_id_of(spec: RobotSpec, training: TrainingSpec) -> str:
    """The folder of a training's norm stats in the assets of its checkpoints."""
    return spec.dataset.repo_id if training.norm_stats is None else training.norm_stats.asset_id


def make_setup(
    folder: Path,
    *,
    robot: Robot | None = None,
    stats: PolicyStats | StatsFrom | None = None,
    training: TrainingSpec | None = None,
    source: str | None = None,
) -> PolicySetup:
    """The setup of a checkpoint's folder: of its run, or for `robot`. Raise PolicyError, and as the two below."""
    if robot is not None and source is not None:
        raise PolicyError("a source is of a mixture's run, and a robot is named besides", found=source, todo="Name one of the two.")
    of_run = setup_of_run(folder, source=source) if robot is None else None
    if of_run is not None:
        if stats is not None or training is not None:
            todo = "Name the robot as well to run it otherwise than it was trained."
            raise PolicyError("the checkpoint is of a run, which says its norm stats and its model itself", file=folder, todo=todo)
        return of_run
    if robot is None:
        raise PolicyError(
            "nothing here says which robot the checkpoint is for",
            file=folder,
            found="no run.json in it or beside it",
            todo="Name the robot, and which norm stats to use.",
        )
    architecture = architecture_of(read_specs(open_checkpoint(folder)))
    return setup_for(robot, folder, architecture, stats=stats, training=training)


def setup_of_run(folder: Path, *, source: str | None = None) -> PolicySetup | None:
    """The setup that the run.json in or beside a checkpoint's folder tells, or the vla_ops.json of an export; None where there is none.

    Of a mixture's run that of one `source`. Raise CheckpointError for a checkpoint without its norm stats, StatsMismatchError for others
    than the run's, PolicyError for a run.json that cannot be read, or where it is not clear which source is meant.
    """
    told_by = (folder / EXPORT_FILE, folder / RUN_FILE, folder.parent / RUN_FILE)
    file = next((file for file in told_by if file.is_file()), None)
    if file is None:
        return None
    try:
        told = _read(file)
        part, training = _source_of(told, source, file), TrainingSpec.model_validate(told["recipe"]["training"])
        name, spec = _robot_of(told, part)
        trained = told.get("transforms_fingerprint") if file.name == EXPORT_FILE else trained_fingerprint(told, part and part.name)
        expected = told["stats_fingerprint"] if part is None else part.stats_fingerprint
    except (ValueError, KeyError, TypeError) as error:
        said = "; ".join(found["msg"] for found in error.errors()) if isinstance(error, ValidationError) else repr(error)
        raise PolicyError(
            f"the {file.name} is not one of this version", file=file, found=said, todo="Name the robot and the norm stats instead."
        ) from error
    stats = _stats(folder, asset_id_of(spec, training) if part is None else part.name, expected, file)
    return PolicySetup(folder, name, spec, training, stats, told["training"], told["dataset_version"], trained, part)


def setup_for(
    robot: Robot, folder: Path, architecture: Architecture, *, stats: PolicyStats | StatsFrom | None, training: TrainingSpec | None = None
) -> PolicySetup:
    """A checkpoint for a robot that it was perhaps not trained for. Sizes are the tensors', what these do not say is `training`'s.

    Raise StatsMismatchError where no norm stats are chosen or they are not for this robot, PolicyError for a model that is said
    otherwise than the tensors are.
    """
    base = training or TrainingSpec()
    if stats is None:
        raise StatsMismatchError(
            "which norm stats the policy is to work with must be said",
            robot=robot.name,
            file=folder,
            found=f"assets {', '.join(_asset_ids(folder)) or 'none'}",
            expected="an asset id of the checkpoint, or the robot's own norm stats",
            todo="A policy with another robot's numbers moves wrongly: choose those of the nearest robot, or compute the robot's own.",
        )
    taken = take_stats(stats, robot.spec, robot=robot.name) if isinstance(stats, StatsFrom) else stats
    given = {name: value for name, value in base.model.model_dump().items() if value is not None}
    sizes = sizes_of(architecture, lora_alpha=base.model.lora_alpha)
    try:
        model = type(base.model).model_validate(sizes | given)
    except ValueError as error:
        raise PolicyError("the model cannot be what was said", file=folder, found=f"{architecture}: {error}") from error
    return PolicySetup(folder, robot.name, robot.spec, base.model_copy(update={"model": model}), taken)


def _read(file: Path) -> dict[str, Any]:
    """What a run.json or vla_ops.json tells of its run, the recipe's own names first."""
    told = json.loads(file.read_text(encoding="utf-8"))
    recipe = told["recipe"]
    if recipe is None:
        raise PolicyError("the export is of no run of this project", file=file, todo="Name the robot and the norm stats: --robot.")
    return told | {"robot": recipe["robot"], "training": recipe["name"], "dataset_version": recipe["dataset_version"]}


def _source_of(told: Mapping[str, Any], source: str | None, file: Path) -> SourceRecipe | None:
    """The source of the mixture that is meant; None for a run of a robot. Raise PolicyError where it is not clear which, or if any."""
    sources = {each["name"]: each for each in told["recipe"].get("sources", ())}
    # An export is of one source already.
    exported = told.get("asset_id") if sources else None
    asked = exported if source is None else source
    if not sources:
        if source is None:
            return None
        raise PolicyError("a source is asked for, and the run is of one robot", file=file, found=source, todo="Leave the source out.")
    if exported not in (None, asked):
        todo = "Export the checkpoint for it: --asset-id SOURCE."
        raise PolicyError("the export is of another source of the mixture", file=file, found=asked, expected=exported, todo=todo)
    if asked not in sources:
        raise PolicyError(
            "the checkpoint is of a mixture, which is several robots",
            file=file,
            found="no source named" if source is None else f"source {source}",
            expected=" or ".join(sources),
            todo=f"Say whose policy it is to be: --source {next(iter(sources))} (in Python source=).",
        )
    if (found := SourceRecipe.from_json(sources[asked])).placed is None:
        todo = "Resume the run once (`vla-ops train`), or serve it with --robot ROBOT --norm-stats SOURCE."
        raise PolicyError("the run was begun before a mixture's run.json said what its sources are", file=file, found=asked, todo=todo)
    return found


def _robot_of(told: Mapping[str, Any], part: SourceRecipe | None) -> tuple[str, RobotSpec]:
    if part is None or part.placed is None:
        return told["robot"], RobotSpec.model_validate(told["recipe"]["spec"])
    return part.placed.name, part.placed.spec


def _stats(folder: Path, asset_id: str, expected: str, file: Path) -> PolicyStats:
    stats = read_stats(_assets(folder, asset_id))
    if stats.fingerprint != expected:
        raise StatsMismatchError(
            "the norm stats in the checkpoint's assets are not those it was trained with",
            file=stats.origin,
            found=stats.fingerprint,
            expected=f"{expected}, as {file} says",
            todo="Put back those of the run: they are in the assets of its other checkpoints.",
        )
    return stats


def _assets(folder: Path, asset_id: str) -> Path:
    assets = folder / ASSETS / asset_id
    if not (assets / NORM_STATS_FILE).is_file():
        raise CheckpointError(
            "the checkpoint has no norm stats: a policy cannot say in which units its numbers are",
            file=folder,
            found=f"assets {', '.join(_asset_ids(folder)) or 'none'}",
            expected=f"{ASSETS}/{asset_id}/{NORM_STATS_FILE}",
            todo=f"Copy the run's norm stats there (all files of {asset_id}, from another checkpoint of the run or from the store).",
        )
    return assets


def _asset_ids(folder: Path) -> list[str]:
    assets = next((place / ASSETS for place in (folder, folder.parent) if (place / ASSETS).is_dir()), folder / ASSETS)
    return sorted(file.parent.relative_to(assets).as_posix() for file in assets.rglob(NORM_STATS_FILE)) if assets.is_dir() else []
