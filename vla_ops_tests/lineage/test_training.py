"""A checkpoint as an asset: what a run shows, what it repeats, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.robot_file import load_robot
from vla_ops.training.run import read_run
from vla_ops_tests.lineage.trainings import FAST, add_trained_robot, edit_training, make_dataset, runs_in, train

# A trainer takes its time to compile.
pytestmark = pytest.mark.timeout(900)

KEY = dg.AssetKey(["arm", "small", "checkpoint"])


class Trained:
    """A robot with a training; `result` is of its first run as an asset, which happens when it is first looked at."""

    def __init__(self, folder: Path, home: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.home, self.instance = folder, home, instance

    @cached_property
    def result(self) -> dg.ExecuteInProcessResult:
        return train(self.folder, self.instance)

    def again(self, config: dict[str, Any] | None = None, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        return train(self.folder, self.instance, config, raise_on_error=raise_on_error)

    def staleness(self) -> StaleStatus:
        graph = robot_definitions(load_robot(self.folder)).resolve_asset_graph()
        return CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance)).get_status(KEY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLA_OPS_HOME", str(root / "home"))
        for name, value in FAST.items():
            patch.setenv(name, value)
        folder = add_trained_robot(root)
        make_dataset(folder)
        with dg.DagsterInstance.ephemeral(tempdir=str(root)) as instance:
            yield Trained(folder, root / "home", instance)


def materialized(result: dg.ExecuteInProcessResult) -> dg.AssetMaterialization:
    return result.asset_materializations_for_node("arm__small__checkpoint")[0]


def data_version(result: dg.ExecuteInProcessResult) -> str:
    return str((materialized(result).tags or {})["dagster/data_version"])


def said(result: dg.ExecuteInProcessResult) -> str:
    failure = result.failure_data_for_node("arm__small__checkpoint")
    assert failure is not None
    assert failure.error is not None
    assert failure.error.cause is None or failure.user_failure_data is not None
    return str(failure.user_failure_data.description if failure.user_failure_data else failure.error)


@pytest.mark.slow
def test_a_checkpoint_shows_what_a_person_wants_to_see(trained: Trained) -> None:
    assert trained.result.success
    (run,) = runs_in(trained.home)
    metadata = materialized(trained.result).metadata
    shown: dict[str, Any] = {name: value.value for name, value in metadata.items()}
    assert (shown["run"], shown["ended"], shown["steps"], shown["devices"]) == (run.name, "finished", 6, 1)
    assert shown["checkpoint"] == str(run / "5")
    assert Path(str(shown["best_checkpoint"])).parent == run
    assert {"loss", "first_loss", "steps_per_s", "samples_per_s", "data_wait", "host_peak_gb", "minutes", "cpu_hours"} <= shown.keys()
    assert {"validation/action_error", "validation/hold_error", "validation/loss"} <= shown.keys()
    assert shown["overrides"] == {}
    assert shown["recipe"]["steps"] == 6
    rows = shown["errors_by_dimension"].records
    assert [(row.data["dimension"], row.data["unit"]) for row in rows] == [("j1", "rad"), ("gripper", "ratio")]
    for name in ("curves", "cameras", "actions"):
        assert str(shown[name]).startswith(f"![{name}"), name
    assert data_version(trained.result) == read_run(run / "run.json").recipe.fingerprint


@pytest.mark.slow
def test_curves_and_pictures_come_while_it_runs(trained: Trained) -> None:
    assert trained.result.success
    records = trained.instance.fetch_observations(KEY, limit=100).records
    events = [record.asset_observation for record in reversed(records)]
    done = trained.instance.fetch_materializations(KEY, limit=1).records[0]
    assert all(record.timestamp < done.timestamp for record in records)
    seen: dict[str, Any] = {}
    for event in events:
        assert event is not None
        seen |= {name: value.value for name, value in event.metadata.items()}
    assert {"run", "step", "loss", "grad_norm", "learning_rate", "validation/action_error", "cameras", "actions", "curves"} <= seen.keys()
    assert seen["step"] == 5
    assert not [name for name in seen if "/mae/" in name]


@pytest.mark.slow
def test_the_checks_say_what_they_compare(trained: Trained) -> None:
    checks = {check.check_name: check for check in trained.result.get_asset_check_evaluations()}
    assert set(checks) == {"loss_fell", "beats_repeating_the_last_action"}
    held = checks["beats_repeating_the_last_action"]
    values: dict[str, Any] = {name: value.value for name, value in held.metadata.items()}
    assert held.passed == (values["action_error"] < values["hold_error"])
    assert held.severity is dg.AssetCheckSeverity.ERROR
    assert "of repeating the last action" in str(held.description)


@pytest.mark.slow
def test_a_second_run_trains_nothing_and_says_so(trained: Trained, capfd: pytest.CaptureFixture[str]) -> None:
    assert trained.result.success
    (run,) = runs_in(trained.home)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    result = trained.again()
    assert result.success
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert runs_in(trained.home) == [run]
    assert data_version(result) == data_version(trained.result)
    assert "nothing to do" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": 0}, "an override is refused: steps: Input should be greater than or equal to 1"),
        ({"accumulate": 3}, "it does not divide batch_size 4"),
        ({"model": {"preset": "pi0_tinyy"}}, "did you mean 'pi0_tiny'"),
        ({"model": {"action_horizon": 50}}, "the norm stats are of chunks of 6"),
    ],
)
def test_an_override_that_the_yaml_could_not_have_is_refused_before_anything_runs(
    trained: Trained, config: dict[str, Any], message: str
) -> None:
    before = runs_in(trained.home)
    result = trained.again(config, raise_on_error=False)
    assert not result.success
    assert message in said(result)
    assert runs_in(trained.home) == before


def test_a_key_that_is_none_is_refused_by_the_launchpad(trained: Trained) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match='unexpected config entry "stepz"'):
        trained.again({"stepz": 10})


def test_an_edit_of_the_recipe_is_out_of_sync_before_anything_runs(trained: Trained) -> None:
    def version() -> str | None:
        return robot_definitions(load_robot(trained.folder)).resolve_asset_graph().get(KEY).code_version

    text, before = (trained.folder / "defs.yaml").read_text(), version()
    try:
        edit_training(trained.folder, log_every=3, workers=1)
        assert version() == before
        edit_training(trained.folder, batch_size=8)
        assert version() != before
    finally:
        (trained.folder / "defs.yaml").write_text(text)


@pytest.mark.slow
def test_a_checkpoint_is_fresh_until_its_recipe_is_edited(trained: Trained) -> None:
    assert trained.result.success
    text = (trained.folder / "defs.yaml").read_text()
    try:
        edit_training(trained.folder, log_every=3)
        fresh = trained.staleness()
        edit_training(trained.folder, seed=8)
        edited = trained.staleness()
    finally:
        (trained.folder / "defs.yaml").write_text(text)
    assert (fresh, edited) == (StaleStatus.FRESH, StaleStatus.STALE)


def test_norm_stats_that_are_not_there_are_asked_for(trained: Trained) -> None:
    stats, aside = trained.home / "arm/norm_stats", trained.home / "arm/aside"
    stats.rename(aside)
    try:
        result = trained.again(raise_on_error=False)
    finally:
        aside.rename(stats)
    assert "Run: vla-ops norm-stats arm" in said(result)


@pytest.mark.slow
def test_an_override_is_a_run_of_its_own_with_another_data_version(trained: Trained) -> None:
    assert trained.result.success
    before = runs_in(trained.home)
    result = trained.again({"seed": 8, "steps": 4, "schedule": {"peak": 1e-3}})
    assert result.success
    (run,) = set(runs_in(trained.home)) - set(before)
    told = json.loads((run / "run.json").read_text())
    assert told["overrides"] == {"seed": 8, "steps": 4, "schedule.peak": 1e-3}
    assert told["recipe"]["training"]["schedule"]["peak"] == 1e-3
    assert data_version(result) == told["fingerprint"] != data_version(trained.result)
    assert materialized(result).metadata["overrides"].value == told["overrides"]
    # What it was overridden with is not what the YAML says, and the YAML's own run is still there.
    assert data_version(trained.again()) == data_version(trained.result)


@pytest.mark.slow
def test_more_steps_go_on_where_the_run_ended(trained: Trained) -> None:
    assert trained.result.success
    before = runs_in(trained.home)
    result = trained.again({"steps": 9})
    assert materialized(result).metadata["steps"].value == 9
    assert runs_in(trained.home) == before


@pytest.mark.slow
def test_a_trainer_that_refuses_fails_the_step_with_its_own_words(trained: Trained) -> None:
    result = trained.again({"model": {"action_dim": 1}}, raise_on_error=False)
    assert not result.success
    words = said(result)
    assert "the training is not started" in words
    assert "gripper have no place" in words
    assert "Traceback" not in words
