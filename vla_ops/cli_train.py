"""`vla-ops train`: a training of a robot's YAML on this machine, by the same path as the asset."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vla_ops.cli_named import named_robot_or_mixture, say
from vla_ops.errors import SpecError, VlaOpsError

if TYPE_CHECKING:
    from vla_ops.episodes.store import RobotStore
    from vla_ops.mixture_file import Mixture
    from vla_ops.robot_file import Robot
    from vla_ops.training.recipe import Recipe
    from vla_ops.training.run import Run


@dataclass(frozen=True)
class Train:
    """Train what a robot's YAML says in `trainings`; a run that was stopped goes on, and one that is finished is not repeated.

    Exit code: 0 finished, 1 failed, 2 refused, 130 and 143 stopped with a checkpoint.
    """

    robot: tyro.conf.Positional[str]
    """Name of a folder in robots/ (or VLA_OPS_ROBOTS), or the path of one: a robot or a mixture."""
    training: tyro.conf.Positional[str]
    """Name of one of its `trainings`."""
    overrides: Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="KEY=VALUE [KEY=VALUE ...]")] = ()
    """Fields of the training that are others in this run, as the YAML would have them: `steps=10 schedule.peak=1e-4 ema=null`."""
    run_name: Annotated[str | None, tyro.conf.arg(name="run", metavar="NAME")] = None
    """Go on with the run of this name, or begin one of it. Default: the last one of this recipe that can go on, or a new one."""
    new: bool = False
    """Begin a new run, though there is a finished or an unfinished one of this recipe."""
    check_only: bool = False
    """Only look for what would stop or spoil the training, and say how much memory it needs."""

    def run(self) -> int:
        """Train, and say where the checkpoints are."""
        from vla_ops.homes.at_home import at_home, checkpoints_every_s, training_needs

        given = parsed(self.overrides)
        if self.new and self.run_name:
            raise VlaOpsError("--new names no run, and --run one", todo="Leave one of them out.")
        robot, store = named_robot_or_mixture(self.robot)
        with at_home(training_needs(robot, self.training, given), say, every_s=checkpoints_every_s()):
            return self._train(robot, store, given)

    def _train(self, robot: Robot | Mixture, store: RobotStore, given: dict[str, Any]) -> int:
        from vla_ops.training.prepare import current_recipe, run_for

        recipe = current_recipe(robot, store, self.training, overrides=given)
        if self.check_only:
            return _check(recipe, store)
        run = run_for(recipe, store.root.parent, name=self.run_name, new=self.new)
        if run.is_finished:
            _print(f"nothing to do: {run.folder} is finished, and neither data, norm stats nor recipe have changed; --new begins another")
            return 0
        return self._launch(run)

    def _launch(self, run: Run) -> int:
        from vla_ops.launchers import launcher_of
        from vla_ops.training.launched import LOG_FILE, launch, raise_unless_finished
        from vla_ops.training.main import FAILED, REFUSED
        from vla_ops.training.summary import Summary

        _print(f"training in {run.folder}; its log is {LOG_FILE} there")
        try:
            with _terminated_as_interrupted():
                code = launch(run, launcher_of(run.recipe.training.launcher), say=say, echo=say)
        except KeyboardInterrupt as stopped:
            say(f"stopped: {Summary.of(run)}\ngo on with: {self._again(run)}")
            return stopped.code if isinstance(stopped, _Terminated) else 128 + signal.SIGINT
        if code in (FAILED, REFUSED):
            # The last lines of the log, which were shown, say why.
            return code
        try:
            raise_unless_finished(run, code)
        except VlaOpsError as error:
            say(f"vla-ops: {error}\ngo on with: {self._again(run)}")
            return code
        summary = Summary.of(run)
        _print(f"{summary}\n{run.folder / str(summary.best if summary.best is not None else summary.step)}")
        return code

    def _again(self, run: Run) -> str:
        given = f" --set {' '.join(self.overrides)}" if self.overrides else ""
        return f"vla-ops train {self.robot} {self.training}{given}{f' --run {run.folder.name}' if self.run_name or self.new else ''}"


def parsed(given: tuple[str, ...]) -> dict[str, Any]:
    """`KEY=VALUE` as keys and values, the value as YAML has it. Raise SpecError for what has no key or no YAML."""
    import yaml

    found: dict[str, Any] = {}
    for each in given:
        key, sign, value = each.partition("=")
        if not sign or not key:
            raise SpecError("--set takes KEY=VALUE", found=each, todo="Such as: --set steps=10 schedule.peak=1e-4")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"--set {key}: the value is no YAML", found=value) from error
    return found


def trainings_of(robot: Robot | Mixture, store: RobotStore) -> Iterator[str]:
    """A line for each training of `vla-ops status`: its last run."""
    from vla_ops.training.run import last_run
    from vla_ops.training.summary import Summary

    for name in robot.spec.trainings:
        try:
            run = last_run(store.root.parent, robot.name, name)
            said = f"not trained yet: `vla-ops train {robot.name} {name}`" if run is None else str(Summary.of(run))
        except VlaOpsError as error:
            said = f"its last run cannot be read: {error}"
        yield f"  training    {name}: {said}"


def _check(recipe: Recipe, store: RobotStore) -> int:
    from vla_ops.training.main import FAILED
    from vla_ops.training.preflight import preflight
    from vla_ops.training.run import trainings_folder

    home = store.root.parent
    report = preflight(recipe, trainings_folder(home, recipe.robot, recipe.name) / "next", home=home, say=say)
    _print(report.render())
    return FAILED if report.errors else 0


class _Terminated(KeyboardInterrupt):
    code = 128 + signal.SIGTERM


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the context as Ctrl-C does: with a checkpoint."""

    def interrupt(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
