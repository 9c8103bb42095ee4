"""`<robot>/<training>/checkpoint`: a training of the YAML, launched through Dagster Pipes and watched while it runs."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg

from vla_ops.episodes.store import RobotStore
from vla_ops.errors import VlaOpsError
from vla_ops.homes.at_home import at_home, checkpoints_every_s, training_needs
from vla_ops.launchers import launcher_of
from vla_ops.lineage.names import code_version
from vla_ops.lineage.tables import picture, table
from vla_ops.lineage.train_in_pipes import command
from vla_ops.lineage.training_config import launch_config, overrides_of
from vla_ops.lineage.training_events import Messages, Observations, drawn_curves, rounded
from vla_ops.mixture_file import Mixture
from vla_ops.robot_file import Robot
from vla_ops.spec import TrainingSpec
from vla_ops.training.launched import LOG_FILE, launch, raise_unless_finished
from vla_ops.training.prepare import current_recipe, fingerprint_of, run_for
from vla_ops.training.run import Run
from vla_ops.training.summary import Summary

BEATS_HOLD, LOSS_FELL = "beats_repeating_the_last_action", "loss_fell"
# dagster.yaml: one op at a time in this pool, and one run at a time with this tag.
POOL, TAG = "gpu", "vla_ops/train"


def checkpoint_assets(robot: Robot | Mixture) -> list[dg.AssetsDefinition]:
    """One asset for each entry of `trainings`."""
    return [_checkpoint_asset(robot, name, training) for name, training in robot.spec.trainings.items()]


def train_jobs(robot: Robot | Mixture, assets: list[dg.AssetsDefinition]) -> list[Any]:
    """The job that makes all checkpoints of the robot, where it has trainings."""
    if not assets:
        return []
    name = robot.name
    return [
        dg.define_asset_job(
            f"{name}_train",
            dg.AssetSelection.assets(*(asset.key for asset in assets)),
            description=f"All trainings of {name}, one after another, on the dataset and norm stats that there are.",
            executor_def=dg.in_process_executor,
            tags=train_tags(name),
        )
    ]


def train_tags(robot: str) -> dict[str, str]:
    """Tags of a run that trains; not those of one that converts, which would wait for hours."""
    return {"vla_ops/robot": robot, TAG: "local"}


def _checkpoint_asset(robot: Robot | Mixture, name: str, training: TrainingSpec) -> dg.AssetsDefinition:
    key = dg.AssetKey([robot.name, name, "checkpoint"])
    made_of = ["lerobot_v3", *(["norm_stats"] if training.norm_stats is None else [])]

    @dg.asset(
        key=key,
        deps=[dg.AssetKey([robot.name, stage]) for stage in made_of],
        code_version=code_version(fingerprint_of(robot, name)),
        group_name=robot.name,
        kinds={training.backend},
        pool=POOL,
        config_schema=launch_config(training),
        description=_description(training),
        check_specs=list(_check_specs(key, training)),
    )
    def checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        overrides = overrides_of(training, context.op_execution_context.op_config or {})
        try:
            with at_home(training_needs(robot, name, overrides), context.log.info, every_s=checkpoints_every_s()):
                run = _prepare(context, robot, name, overrides)
                _train(context, key, run)
        except VlaOpsError as error:
            # The message says it all, and the same would happen again.
            raise dg.Failure(str(error), allow_retries=False) from None
        summary = Summary.of(run)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(run.recipe.fingerprint),
            metadata=_metadata(run, summary),
            check_results=list(_checks(training, run, summary)),
        )

    return checkpoint


def _prepare(context: dg.AssetExecutionContext, robot: Robot | Mixture, name: str, overrides: Mapping[str, Any]) -> Run:
    # Read at run time, so that VLA_OPS_HOME of the run counts.
    store = RobotStore.of(robot.name)
    recipe = current_recipe(robot, store, name, overrides=overrides)
    if overrides:
        context.log.info(f"overridden for this run: {', '.join(f'{key} = {value}' for key, value in overrides.items())}")
    return run_for(recipe, store.root.parent)


def _train(context: dg.AssetExecutionContext, key: dg.AssetKey, run: Run) -> None:
    """Launch the run, unless it is finished, and tell how it goes. Raise SpecError or TrainingError with the trainer's message."""
    if run.is_finished:
        context.log.info(f"nothing to do: {run.folder} is finished, and neither data, norm stats nor recipe have changed since")
        return
    context.log.info(f"training in {run.folder}; its log is {LOG_FILE} there")
    with TemporaryDirectory(prefix="vla-ops-pipes-") as folder, _session(context, Path(folder)) as session:
        observations = Observations(context, key, run, session.get_custom_messages)
        launcher = launcher_of(run.recipe.training.launcher)
        env = dict(session.get_bootstrap_env_vars())
        said = {"say": context.log.info, "echo": _echo, "meanwhile": observations.tell}
        code = launch(run, launcher, command=command(run.file), env=env, **said)
    observations.tell(last=True)
    raise_unless_finished(run, code)


def _session(context: dg.AssetExecutionContext, folder: Path) -> AbstractContextManager[dg.PipesSession]:
    files = {"context_injector": dg.PipesTempFileContextInjector(), "message_reader": Messages(str(folder / "messages"))}
    # Of an asset context it calls what Dagster has deprecated.
    return dg.open_pipes_session(context=context.op_execution_context, **files)


def _echo(line: str) -> None:
    """Show a line of the trainer's log among the compute logs of the step."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _description(training: TrainingSpec) -> str:
    model = training.model.preset or training.model.family or "pi0"
    start = f"from {training.init}" if training.init else "from random parameters"
    return (
        f"{model} {start}, {training.steps:,} steps of {training.batch_size}. Checkpoints are in openpi's layout. A run that was stopped "
        "goes on; one that is finished is not repeated. Every field of the recipe can be changed for one run in the launchpad."
    )


def _check_specs(key: dg.AssetKey, training: TrainingSpec) -> Iterator[dg.AssetCheckSpec]:
    yield dg.AssetCheckSpec(LOSS_FELL, asset=key, description="The loss ended below where it began.")
    if training.validation is not None:
        said = "On held-out episodes the best checkpoint's actions are nearer to the recorded ones than the last action repeated."
        yield dg.AssetCheckSpec(BEATS_HOLD, asset=key, description=said)


def _checks(training: TrainingSpec, run: Run, summary: Summary) -> Iterator[dg.AssetCheckResult]:
    fell = summary.loss_fell
    said = "one line of metrics: it cannot be told" if fell is None else f"from {summary.first_loss:.4g} to {summary.last_loss:.4g}"
    yield dg.AssetCheckResult(
        check_name=LOSS_FELL,
        passed=fell is not False,
        severity=dg.AssetCheckSeverity.WARN,
        description=said,
    )
    # The checks are those of the YAML, whatever was overridden for this run.
    if training.validation is not None:
        yield _beats_hold(run, summary)


def _beats_hold(run: Run, summary: Summary) -> dg.AssetCheckResult:
    values = summary.validation
    if "action_error" not in values or "hold_error" not in values:
        said = f"the run {run.folder.name} was not validated"
        return dg.AssetCheckResult(check_name=BEATS_HOLD, passed=False, severity=dg.AssetCheckSeverity.WARN, description=said)
    error, hold = values["action_error"], values["hold_error"]
    return dg.AssetCheckResult(
        check_name=BEATS_HOLD,
        passed=error < hold,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"error of step {_shown_step(summary)}: {error:.4g}; of repeating the last action: {hold:.4g} (1 is the mean action's)",
        metadata={"action_error": error, "hold_error": hold, "of_hold": error / hold if hold else float("inf")},
    )


def _shown_step(summary: Summary) -> int | None:
    return summary.best if summary.best is not None else summary.step


def _metadata(run: Run, summary: Summary) -> dict[str, Any]:
    recipe, folder = run.recipe, run.folder
    best = {} if summary.best is None else {"best_checkpoint": dg.MetadataValue.path(str(folder / str(summary.best)))}
    hours = "gpu_hours" if summary.is_on_gpu else "cpu_hours"
    losses = {"first_loss": summary.first_loss, "loss": summary.last_loss}
    return {
        "run": folder.name,
        "ended": summary.how or "unfinished",
        "steps": (summary.step or 0) + 1,
        **{name: rounded(value) for name, value in losses.items() if value is not None},
        **{f"validation/{name}": rounded(value) for name, value in summary.validation.items() if not name.startswith("mae/")},
        **_pictures(run, summary),
        **{name: rounded(value) for name, value in summary.speed.items()},
        "minutes": round(summary.seconds / 60, 2),
        hours: round(summary.device_hours, 4),
        "devices": summary.devices,
        "checkpoint": dg.MetadataValue.path(str(folder / str(summary.step))),
        **best,
        "overrides": dict(recipe.overrides),
        "recipe": recipe.training.model_dump(mode="json", by_alias=True),
        "dataset_version": recipe.dataset_version,
        "norm_stats_fingerprint": recipe.stats_fingerprint,
        "code_revision": run.revision,
        "log": dg.MetadataValue.path(str(folder / LOG_FILE)),
        **_errors_by_dimension(run, summary),
    }


def _errors_by_dimension(run: Run, summary: Summary) -> dict[str, Any]:
    """The error of each action dimension in its own unit."""
    errors = {name.removeprefix("mae/"): value for name, value in summary.validation.items() if name.startswith("mae/")}
    units = {dim.name: dim.unit for dim in run.recipe.spec.action_dims}
    rows = [{"dimension": name, "mean error": float(f"{value:.4g}"), "unit": units.get(name, "")} for name, value in errors.items()]
    return {"errors_by_dimension": table(rows, ["dimension", "mean error", "unit"])} if rows else {}


def _pictures(run: Run, summary: Summary) -> dict[str, Any]:
    curves = drawn_curves(run)
    others = {name: picture(path) for name, path in summary.pictures().items() if name != "curves"}
    return ({"curves": curves} if curves is not None else {}) | others
