"""Recipe: a robot's training bound to what it is trained on. It is what run.json holds, and all that a trainer needs to know.

recipe = bind(robot, "pi05_lora", dataset=folder, dataset_version=version, stats=norm_stats_folder)
recipe = bind_mixture(mixture, "pi05_lora", dataset=folder, dataset_version=version, stats={source: folder})
recipe = recipe.with_overrides({"steps": 10, "optimizer.clip": 0.5})    # checked as the YAML is
recipe.fingerprint                                                      # of all that decides what comes out
Recipe.from_json(recipe.to_json()) == recipe
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vla_ops.embodiment import Embodiment
from vla_ops.errors import SpecError, StatsMismatchError
from vla_ops.home import moved_here
from vla_ops.mixture_file import Mixture, Source
from vla_ops.mixture_schema import Schema
from vla_ops.models.config import ModelConfig
from vla_ops.policies import PolicyStats, check_stats, read_stats, take_stats
from vla_ops.policies.setup import asset_id_of
from vla_ops.policies.sources import PlacedRobot, SourceRecipe, same_stats
from vla_ops.robot import RobotSpec, fingerprint, training_problem
from vla_ops.robot_file import Robot
from vla_ops.spec import TrainingSpec
from vla_ops.training.overrides import dumped, mistakes, overridden

# Raise when the same recipe would now give other parameters.
RECIPE_VERSION = 1
# How a run is carried out, which does not decide what comes out but for the rounding of sums.
_HOW = {
    "workers", "cache", "save_every", "keep", "log_every", "metrics", "launcher", "export", "publish", "accumulate", "fsdp_devices",
    "model.remat",
}  # fmt: skip
# What besides may be another one when a run is resumed: how long it goes on, and what is measured meanwhile.
_MAY_CHANGE = _HOW | {"steps", "validation"}


@dataclass(frozen=True)
class Part:
    """What samples of one kind go through: those of a robot, or of one source of a mixture."""

    spec: Embodiment
    # What the norm stats were made for.
    robot: str
    dataset_version: str
    stats_fingerprint: str


@dataclass(frozen=True)
class Recipe:
    """A training of a robot or a mixture, with the dataset and the norm stats it is done with."""

    robot: str
    name: str
    # The robot's YAML without its trainings, or what the frames of the mixture hold.
    spec: RobotSpec | Schema
    training: TrainingSpec
    dataset: Path
    dataset_version: str
    # The folder of norm_stats.json; None where `training.norm_stats` says where they are from, and for a mixture.
    stats: Path | None
    stats_fingerprint: str
    # Dotted key -> value, as they were given for this run.
    overrides: Mapping[str, Any] = field(default_factory=dict)
    # Of a mixture.
    sources: tuple[SourceRecipe, ...] = ()

    @property
    def model(self) -> ModelConfig:
        """The whole configuration of the model."""
        return self.training.model.config(horizon=self.spec.norm_stats.action_horizon)

    @property
    def parts(self) -> dict[str, Part]:
        """The robot, or the sources of the mixture, each by the folder of its norm stats in a checkpoint's assets."""
        if isinstance(self.spec, Schema):
            return {each.name: Part(each.schema, each.robot, each.dataset_version, each.stats_fingerprint) for each in self.sources}
        own = Part(self.spec, self.robot, self.dataset_version, self.stats_fingerprint)
        return {asset_id_of(self.spec, self.training): own}

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the checkpoint: data, norm stats, model, start, optimiser, seed; not how the run is carried out."""
        validation = self.training.validation
        left_out = _HOW if validation and validation.early_stop else _HOW | {"validation"}
        return fingerprint({"recipe": RECIPE_VERSION, **{key: value for key, value in self._decides() if key not in left_out}})

    def with_overrides(self, overrides: Mapping[str, Any]) -> Recipe:
        """The recipe with values of the training replaced by dotted keys. Raise SpecError, naming key and nearest, as the YAML does."""
        training = overridden(self.training, overrides)
        if isinstance(self.spec, Schema):
            _check_with_mixture(self.name, training, self.spec)
        else:
            _check_with_robot(self.name, training, self.spec)
        if training.norm_stats != self.training.norm_stats:
            todo = "Write it into the robot's YAML: other norm stats are read when the recipe is made."
            raise SpecError("norm_stats cannot be overridden for a run", found=dict(overrides), todo=todo)
        return replace(self, training=training, overrides={**self.overrides, **overrides})

    def read_stats(self) -> dict[str, PolicyStats]:
        """The norm stats of each of `parts`.

        Raise StatsMismatchError for others than the recipe was made with, FetchError where they are gone.
        """
        if isinstance(self.spec, Schema):
            return {source.name: source.read_stats() for source in self.sources}
        stats = _stats(self.robot, self.spec, self.training, self.stats, dataset_version=self.dataset_version)
        return {asset_id_of(self.spec, self.training): same_stats(stats, self.stats_fingerprint, robot=self.robot)}

    def differences(self, other: Recipe) -> list[str]:
        """What differs in `other` that a run which goes on must have alike: `key: mine, not other`."""
        mine, others = dict(self._decides()), dict(other._decides())
        keys = [key for key in {**mine, **others} if key not in _MAY_CHANGE and mine.get(key) != others.get(key)]
        return [f"{key}: {mine.get(key, 'not there')}, not {others.get(key, 'not there')}" for key in keys]

    def to_json(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "robot": self.robot,
            "name": self.name,
            **({"schema": self.spec.to_json()} if isinstance(self.spec, Schema) else {"spec": dumped(self.spec)}),
            "training": dumped(self.training),
            "dataset": str(self.dataset),
            "dataset_version": self.dataset_version,
            "stats": None if self.stats is None else str(self.stats),
            "stats_fingerprint": self.stats_fingerprint,
            "overrides": dict(self.overrides),
            **({"sources": [source.to_json() for source in self.sources]} if self.sources else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """The inverse of `to_json`. Raise SpecError for what is none."""
        try:
            return cls(
                robot=value["robot"],
                name=value["name"],
                spec=Schema.from_json(value["schema"]) if "schema" in value else RobotSpec.model_validate(value["spec"]),
                training=TrainingSpec.model_validate(value["training"]),
                dataset=moved_here(Path(value["dataset"])),
                dataset_version=value["dataset_version"],
                stats=None if value["stats"] is None else moved_here(Path(value["stats"])),
                stats_fingerprint=value["stats_fingerprint"],
                overrides=value["overrides"],
                sources=tuple(SourceRecipe.from_json(source) for source in value.get("sources", ())),
            )
        except (KeyError, TypeError) as error:
            raise SpecError("not a recipe", found=repr(error), todo="Start the run again from the robot's YAML.") from error
        except ValidationError as error:
            raise SpecError(f"the recipe is not one of this version: {mistakes(error)}") from error

    def _decides(self) -> Iterator[tuple[str, Any]]:
        """Dotted keys and values of all there is, the model's sizes as they come out."""
        training = dumped(self.training)
        training["model"] = asdict(self.model) | {"cameras": list(self.model.cameras)}
        yield from _flat(training, "")
        yield "robot", self.robot
        yield "dataset version", self.dataset_version
        yield "norm stats", self.stats_fingerprint
        yield from ((f"camera {slot}", camera) for slot, camera in self.spec.camera_slots.items())
        for source in self.sources:
            yield from ((f"camera {slot} of {source.name}", camera) for slot, camera in source.schema.camera_slots.items())


def bind(
    robot: Robot, name: str, *, dataset: Path, dataset_version: str, stats: Path | None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe of the training `name` of a robot; `stats` is the folder of its own norm stats, which `norm_stats: {from: ...}` replaces.

    Raise SpecError for a training that the YAML does not have or an override that it could not have, StatsMismatchError for norm
    stats of something else.
    """
    training = overridden(training_of(robot, name), overrides or {})
    _check_with_robot(name, training, robot.spec)
    own = None if training.norm_stats is not None else stats
    found = _stats(robot.name, robot.spec, training, own, dataset_version=dataset_version)
    return Recipe(
        robot=robot.name,
        name=name,
        spec=robot.spec.model_copy(update={"trainings": {}}),
        training=training,
        dataset=dataset.absolute(),
        dataset_version=dataset_version,
        stats=None if own is None else own.absolute(),
        stats_fingerprint=found.fingerprint,
        overrides=dict(overrides or {}),
    )


def bind_mixture(
    mixture: Mixture,
    name: str,
    *,
    dataset: Path,
    dataset_version: str,
    stats: Mapping[str, Path],
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of the training `name` of a mixture; `stats` are the folders of its sources' norm stats, by their names in it.

    Raise what `bind` raises.
    """
    training = overridden(training_of(mixture, name), overrides or {})
    _check_with_mixture(name, training, mixture.schema)
    sources = tuple(_source_recipe(source, mixture.schema, stats[source.name]) for source in mixture.sources)
    return Recipe(
        robot=mixture.name,
        name=name,
        spec=mixture.schema,
        training=training,
        dataset=dataset.absolute(),
        dataset_version=dataset_version,
        stats=None,
        stats_fingerprint=fingerprint([[source.name, source.stats_fingerprint] for source in sources]),
        overrides=dict(overrides or {}),
        sources=sources,
    )


def training_of(robot: Robot | Mixture, name: str) -> TrainingSpec:
    """The training of that name. Raise SpecError, naming the nearest, for one that the YAML does not have."""
    if name not in robot.spec.trainings:
        todo = f"Trainings in its YAML: {', '.join(robot.spec.trainings) or 'none'}."
        near = difflib.get_close_matches(name, robot.spec.trainings, n=1, cutoff=0.4)
        said = f"Did you mean {near[0]!r}? {todo}" if near else todo
        raise SpecError(f"{robot.name} has no such training", found=name, file=robot.folder / "defs.yaml", todo=said)
    return robot.spec.trainings[name]


def _check_with_robot(name: str, training: TrainingSpec, spec: RobotSpec) -> None:
    # The robot's own check, of what an override may have changed.
    try:
        RobotSpec.model_validate({**dumped(spec), "trainings": {name: dumped(training)}})
    except ValidationError as error:
        raise SpecError(f"an override is refused: {mistakes(error)}") from error


def _check_with_mixture(name: str, training: TrainingSpec, schema: Schema) -> None:
    if said := training_problem(name, training, horizon=schema.norm_stats.action_horizon):
        raise SpecError(f"an override is refused: trainings: {said}")
    if training.norm_stats is not None:
        raise SpecError("a mixture is trained with its own norm stats, those of each of its sources", found=f"norm_stats of {name}")


def _source_recipe(source: Source, schema: Schema, folder: Path) -> SourceRecipe:
    stats = read_stats(folder)
    made = stats.provenance
    if made is None:
        todo = f"Delete {folder.parent} and compute the mixture's norm stats again."
        raise StatsMismatchError("the norm stats do not say what they were made from", robot=source.name, file=folder, todo=todo)
    spec = source.robot.spec.model_copy(update={"trainings": {}})
    recipe = SourceRecipe(
        source.name,
        schema.seen_by(source.placement),
        folder.absolute(),
        stats.fingerprint,
        made.robot,
        made.dataset_version,
        PlacedRobot(source.robot.name, spec, source.placement),
    )
    recipe.read_stats()
    return recipe


def _stats(robot: str, spec: RobotSpec, training: TrainingSpec, own: Path | None, *, dataset_version: str) -> PolicyStats:
    if own is not None:
        stats = read_stats(own)
    elif training.norm_stats is not None:
        stats = take_stats(training.norm_stats, spec, robot=robot)
    else:
        raise SpecError("the training needs norm stats", robot=robot, todo=f"Run: vla-ops norm-stats {robot}")
    check_stats(stats, spec, robot=robot, horizon=spec.norm_stats.action_horizon, dataset_version=dataset_version)
    return stats


def _flat(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; the sections of `_MAY_CHANGE` stay whole."""
    for key, inner in value.items():
        dotted = f"{prefix}{key}"
        if isinstance(inner, Mapping) and dotted not in _MAY_CHANGE:
            yield from _flat(inner, f"{dotted}.")
        else:
            yield dotted, inner
