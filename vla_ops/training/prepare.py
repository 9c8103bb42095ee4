"""What a training is of at this moment, and which run it is: the one path before the asset and the CLI launch anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import latest_step
from vla_ops.datasets.refresh import accepted_dataset
from vla_ops.episodes.store import RobotStore
from vla_ops.mixture_file import Mixture
from vla_ops.norm_stats.mixture import current_mixture, training_stats
from vla_ops.norm_stats.refresh import current_norm_stats
from vla_ops.robot_file import Robot
from vla_ops.training.overrides import overridden
from vla_ops.training.recipe import Recipe, bind, bind_mixture, training_of
from vla_ops.training.run import Run, open_run, runs_of


def current_recipe(robot: Robot | Mixture, store: RobotStore, name: str, *, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The training `name` of a robot or a mixture bound to the dataset in use and its norm stats.

    Raise SpecError for a training or an override that cannot be, what `accepted_dataset` raises, and StatsMismatchError.
    """
    # What is mistyped is said before what has to be made first.
    training = overridden(training_of(robot, name), overrides or {})
    if isinstance(robot, Mixture):
        return _of_mixture(robot, store, name, overrides)
    dataset = accepted_dataset(robot, store).version
    stats = None if training.norm_stats else current_norm_stats(robot, store, dataset_version=dataset.version)
    return bind(robot, name, dataset=dataset.folder, dataset_version=dataset.version, stats=stats, overrides=overrides)


def _of_mixture(mixture: Mixture, store: RobotStore, name: str, overrides: Mapping[str, Any] | None) -> Recipe:
    stats = training_stats(mixture, store)
    dataset = current_mixture(mixture, store)
    return bind_mixture(mixture, name, dataset=dataset.folder, dataset_version=dataset.version, stats=stats, overrides=overrides)


def fingerprint_of(robot: Robot | Mixture, name: str) -> str:
    """Hash of what the YAML says of a training, before there is a dataset: it changes with what its checkpoints depend on."""
    spec = robot.schema if isinstance(robot, Mixture) else robot.spec.model_copy(update={"trainings": {}})
    return Recipe(robot.name, name, spec, training_of(robot, name), Path(), "", None, "").fingerprint


def run_for(recipe: Recipe, home: Path, *, name: str | None = None, new: bool = False) -> Run:
    """The run of this recipe: the finished one, else the last one that can go on, else a new one.

    `name` is that of the run to go on with or to begin; `new` begins one whatever there is. Raise what `open_run` raises.
    """
    runs = [] if name or new else runs_of(recipe, home)
    if done := next((run for run in runs if run.is_finished and run.recipe.fingerprint == recipe.fingerprint), None):
        return done
    goes_on = next((run for run in runs if _goes_on(run, recipe)), None)
    return open_run(recipe, home, name=goes_on.folder.name if goes_on else name)


def _goes_on(run: Run, recipe: Recipe) -> bool:
    """Whether steps are left: a finished run goes on where the recipe now has more of them."""
    at = latest_step(run.folder)
    return not replace(run, recipe=recipe).is_finished and (at is None or at < recipe.training.steps)
