"""The job that shows one episode in the UI."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from vla_ops.episodes.rerun_log import is_installed
from vla_ops_tests.lineage.conftest import Lineage


def look(lineage: Lineage, episode: str, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    job = lineage.definitions().resolve_job_def(f"{lineage.robot.name}_look")
    config = {"ops": {f"{lineage.robot.name}_look_at_an_episode": {"config": {"episode": episode}}}}
    return job.execute_in_process(instance=lineage.instance, run_config=config, raise_on_error=raise_on_error)


def test_an_episode_is_shown_as_an_observation_of_its_partition_and_nothing_becomes_stale(lineage: Lineage) -> None:
    lineage.run()
    before = lineage.materialized()
    assert look(lineage, "b.mcap/0").success
    records = lineage.instance.fetch_observations(lineage.key("episodes"), limit=1).records
    assert [record.partition_key for record in records] == ["b.mcap"]
    observation = records[0].asset_observation
    assert observation is not None
    seen = observation.metadata
    assert seen["episode"].value == "b.mcap/0"
    assert "Transfer the red cube" in str(seen["facts"].value)
    folder = Path(str(seen["folder"].value))
    assert folder.parts[-3:] == ("looks", "b.mcap", "0")
    assert str(seen["contact_sheet"].value).startswith("![contact_sheet](data:image/jpeg;base64,")
    assert str(seen["vectors"].value).startswith("![vectors](data:image/png;base64,")
    if is_installed():
        assert str(seen["rerun_recording"].value) == str(folder / "episode.rrd")
        assert (folder / "episode.rrd").stat().st_size > 1000
    else:
        assert "uv sync --extra viz" in str(seen["note"].value)
    assert lineage.materialized() == before
    graph = lineage.definitions().resolve_asset_graph()
    resolver = CachingStaleStatusResolver(lineage.instance, graph, LoadingContextForTest(lineage.instance))
    assert resolver.get_status(lineage.key("episodes"), "b.mcap") == StaleStatus.FRESH
    assert resolver.get_status(lineage.key("lerobot_v3"), None) == StaleStatus.FRESH


def test_an_unknown_episode_fails_the_run_and_says_why(lineage: Lineage) -> None:
    result = look(lineage, "c.mcap/0", raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    failed = failure.step_failure_data.user_failure_data
    assert failed is not None
    assert str(failed.description) == "no such episode [episode c.mcap/0]. Nothing is converted yet."
