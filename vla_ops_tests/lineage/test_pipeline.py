from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from syrupy.assertion import SnapshotAssertion

from vla_ops.definitions import defs
from vla_ops.episodes.store import RobotStore
from vla_ops.files import only_one
from vla_ops_tests.lineage.conftest import Lineage

HEAVY = (
    "torch",
    "jax",
    "flax",
    "lerobot",
    "transformers",
    "av",
    "tensorflow",
    "ray",
    "dagster_ray",
    "h5py",
    "zarr",
    "rerun",
    "huggingface_hub",
)


def graph_of(definitions: dg.Definitions) -> dict[str, Any]:
    graph = definitions.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        assets[key.to_user_string()] = {
            "from": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "partitions": str(node.partitions_def.name) if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition) else None,
            "checks": sorted(c.name for c in graph.asset_check_keys if c.asset_key == key),
        }
    return {
        "assets": assets,
        "jobs": sorted(j.name for j in definitions.resolve_all_job_defs() if not j.name.startswith("__")),
        "sensors": sorted(s.name for s in definitions.sensors or []),
        "schedules": sorted(f"{s.name} {s.cron_schedule}" for s in definitions.schedules or [] if isinstance(s, dg.ScheduleDefinition)),
    }


def staleness(lineage: Lineage, asset: str, partition: str | None = None) -> StaleStatus:
    graph = lineage.definitions().resolve_asset_graph()
    resolver = CachingStaleStatusResolver(lineage.instance, graph, LoadingContextForTest(lineage.instance))
    return resolver.get_status(lineage.key(asset), partition)


def checks_of(result: dg.ExecuteInProcessResult) -> Mapping[str, dg.AssetCheckEvaluation]:
    return {check.check_name: check for check in result.get_asset_check_evaluations()}


def observe(lineage: Lineage) -> None:
    """Press *Observe* on the recordings."""
    asset = next(a for a in lineage.definitions().assets or [] if isinstance(a, dg.SourceAsset))
    job = dg.define_asset_job("observe", dg.AssetSelection.assets(asset.key))
    result = dg.Definitions(assets=[asset], jobs=[job]).resolve_job_def("observe").execute_in_process(instance=lineage.instance)
    assert result.success


def test_the_asset_graph_is_as_drawn(snapshot: SnapshotAssertion) -> None:
    assert graph_of(defs()) == snapshot


def test_loading_the_code_location_imports_nothing_heavy() -> None:
    code = f"import sys, vla_ops.definitions as d; d.defs().get_repository_def(); print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.strip() == "[]"


def test_a_run_without_a_partition_converts_everything_new_and_marks_each_recording(lineage: Lineage) -> None:
    result = lineage.run()
    assert result.success
    assert lineage.materialized() == {"a.mcap": 1, "b.mcap": 1}
    assert sorted(lineage.instance.get_dynamic_partitions("arm_recordings")) == ["a.mcap", "b.mcap"]
    assert all(check.passed for check in checks_of(result).values()), checks_of(result)
    for asset, partition in (("episodes", "a.mcap"), ("episodes", "b.mcap"), ("lerobot_v3", None), ("norm_stats", None)):
        assert staleness(lineage, asset, partition) is StaleStatus.FRESH, asset


def test_a_partition_shows_what_a_person_wants_to_see(lineage: Lineage) -> None:
    lineage.run()
    shown = dg.AssetRecordsFilter(lineage.key("episodes"), asset_partitions=["a.mcap"])
    record = lineage.instance.fetch_materializations(shown, limit=1).records[0]
    assert record.asset_materialization is not None
    metadata = record.asset_materialization.metadata
    assert metadata["task"].value == "Transfer the red cube from the right arm to the left arm"
    assert metadata["frames"].value == 159
    assert str(metadata["contact_sheet"].value).startswith("![contact_sheet](data:image/jpeg;base64,")
    assert str(metadata["vectors"].value).startswith("![vectors](data:image/png;base64,")
    streams = metadata["streams"].value
    assert isinstance(streams, dg.TableMetadataValue)
    assert "/cam_high/image_raw/compressed" in {record.data["stream"] for record in streams.records}


def test_a_second_run_converts_nothing_and_leaves_no_event_on_a_partition(lineage: Lineage) -> None:
    lineage.run()
    before = lineage.materialized()
    assert lineage.run().success
    assert lineage.materialized() == before


def test_only_a_changed_recording_is_stale_and_converted_again(lineage: Lineage) -> None:
    lineage.run()
    lineage.add("a.mcap", of="transfer_cube_002.mcap")
    observe(lineage)
    assert staleness(lineage, "episodes", "a.mcap") is StaleStatus.STALE
    assert staleness(lineage, "episodes", "b.mcap") is StaleStatus.FRESH
    lineage.run()
    assert lineage.materialized() == {"a.mcap": 2, "b.mcap": 1}
    assert staleness(lineage, "episodes", "a.mcap") is StaleStatus.FRESH


def test_a_new_horizon_converts_nothing_again_but_makes_other_norm_stats(lineage: Lineage) -> None:
    def norm_stats_version(result: dg.ExecuteInProcessResult) -> str:
        event = result.asset_materializations_for_node("arm__norm_stats")[0]
        return str((event.tags or {})["dagster/data_version"])

    first = norm_stats_version(lineage.run())
    lineage.edit("action_horizon: 50", "action_horizon: 10")
    second = norm_stats_version(lineage.run())
    assert lineage.materialized() == {"a.mcap": 1, "b.mcap": 1}
    assert first != second


def test_one_bad_recording_is_named_and_does_not_stop_the_others(lineage: Lineage) -> None:
    (lineage.recordings / "broken.mcap").write_bytes((lineage.recordings / "a.mcap").read_bytes()[:200_000])
    result = lineage.run()
    assert result.success
    assert lineage.materialized() == {"a.mcap": 1, "b.mcap": 1}
    usable = checks_of(result)["every_recording_is_usable"]
    assert not usable.passed
    assert usable.severity is dg.AssetCheckSeverity.WARN
    assert "broken.mcap" in str(usable.description)
    shown = dg.AssetRecordsFilter(lineage.key("episodes"), asset_partitions=["broken.mcap"])
    observed = lineage.instance.fetch_observations(shown, limit=1)
    reason = observed.records[0].asset_observation
    assert reason is not None
    assert "cut off" in str(reason.metadata["quarantined"].value)


def test_chosen_partitions_are_converted_again_and_no_others(lineage: Lineage) -> None:
    lineage.run()
    assert run_range(lineage, "b.mcap", "b.mcap").success
    assert lineage.materialized() == {"a.mcap": 1, "b.mcap": 2}


def run_alone(lineage: Lineage, partition: str, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
    job = lineage.definitions().resolve_job_def("arm_ingest")
    return job.execute_in_process(instance=lineage.instance, partition_key=partition, raise_on_error=raise_on_error)


def test_a_single_chosen_partition_has_one_event_with_its_own_data_version_and_the_dataset_follows(lineage: Lineage) -> None:
    lineage.run()
    before = partition_versions(lineage)
    assert run_alone(lineage, "b.mcap").success
    assert lineage.materialized() == {"a.mcap": 1, "b.mcap": 2}
    assert partition_versions(lineage) == before
    assert staleness(lineage, "norm_stats") is StaleStatus.FRESH


def run_range(lineage: Lineage, first: str, last: str) -> dg.ExecuteInProcessResult:
    """As the UI does for several chosen partitions."""
    job = lineage.definitions().resolve_job_def("arm_ingest")
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return job.execute_in_process(instance=lineage.instance, tags=tags, asset_selection=[lineage.key("episodes")])


def test_all_partitions_chosen_convert_only_what_is_new_or_changed_and_every_good_one_has_an_event(lineage: Lineage) -> None:
    lineage.run()
    lineage.add("b.mcap", of="transfer_cube_002.mcap")
    (lineage.recordings / "broken.mcap").write_bytes(b"")
    observe(lineage)
    converted = {key: lineage.episode_folder(key).stat().st_mtime_ns for key in ("a.mcap", "b.mcap")}
    assert run_range(lineage, "a.mcap", "broken.mcap").success
    assert lineage.materialized() == {"a.mcap": 2, "b.mcap": 2}
    assert lineage.episode_folder("a.mcap").stat().st_mtime_ns == converted["a.mcap"]
    assert lineage.episode_folder("b.mcap").stat().st_mtime_ns > converted["b.mcap"]
    assert staleness(lineage, "episodes", "a.mcap") is StaleStatus.FRESH


def partition_versions(lineage: Lineage) -> dict[str, str]:
    """Partition -> data version of its latest event."""
    records = lineage.instance.fetch_materializations(lineage.key("episodes"), limit=1000).records
    events = [(r.partition_key, r.asset_materialization) for r in reversed(records) if r.partition_key is not None]
    return {key: (event.tags or {})["dagster/data_version"] for key, event in events if key is not None and event is not None}


def test_a_chosen_partition_that_cannot_be_used_fails_the_run_with_the_reason_and_is_not_marked_as_made(lineage: Lineage) -> None:
    (lineage.recordings / "broken.mcap").write_bytes((lineage.recordings / "a.mcap").read_bytes()[:200_000])
    lineage.run()
    result = run_alone(lineage, "broken.mcap", raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("arm__episodes")
    assert failure is not None
    assert failure.error is not None
    assert "cut off" in str(failure.error)
    assert "broken.mcap" not in lineage.materialized()


@pytest.mark.parametrize(
    ("old", "new", "asset", "partition"),
    [
        ("action_horizon: 50", "action_horizon: 10", "norm_stats", None),
        ("licence: apache-2.0", "licence: mit", "lerobot_v3", None),
        ("images: nearest", "images: hold", "episodes", "a.mcap"),
    ],
)
def test_an_edit_of_the_yaml_shows_as_stale_before_anything_runs(
    lineage: Lineage, old: str, new: str, asset: str, partition: str | None
) -> None:
    lineage.run()
    lineage.edit(old, new)
    assert staleness(lineage, asset, partition) is StaleStatus.STALE
    lineage.run()
    assert staleness(lineage, asset, partition) is StaleStatus.FRESH


def test_a_recording_that_is_being_rewritten_keeps_its_partition(lineage: Lineage) -> None:
    lineage.run()
    lineage.edit("settle_s: 0", "settle_s: 1000000000")
    observe(lineage)
    assert sorted(lineage.instance.get_dynamic_partitions("arm_recordings")) == ["a.mcap", "b.mcap"]
    assert lineage.run().success
    assert sorted(lineage.instance.get_dynamic_partitions("arm_recordings")) == ["a.mcap", "b.mcap"]


def test_a_recording_with_the_bytes_of_another_says_so_on_its_own_partition(lineage: Lineage) -> None:
    lineage.add("twin.mcap")
    lineage.run()
    shown = dg.AssetRecordsFilter(lineage.key("episodes"), asset_partitions=["twin.mcap"])
    (record,) = lineage.instance.fetch_observations(shown, limit=1).records
    assert record.asset_observation is not None
    assert "the same bytes as a.mcap" in str(record.asset_observation.metadata["quarantined"].value)


def test_a_removed_recording_leaves_the_dataset(lineage: Lineage) -> None:
    lineage.run()
    (lineage.recordings / "b.mcap").unlink()
    result = lineage.run()
    assert lineage.instance.get_dynamic_partitions("arm_recordings") == ["a.mcap"]
    metadata = result.asset_materializations_for_node("arm__lerobot_v3")[0].metadata
    assert (metadata["episodes"].value, metadata["removed"].value) == (1, 1)


def test_a_robot_without_usable_recordings_fails_with_the_reasons(lineage: Lineage) -> None:
    for name in ("a.mcap", "b.mcap"):
        (lineage.recordings / name).write_bytes(b"")
    result = lineage.run(raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("arm__lerobot_v3")
    assert failure is not None
    assert failure.error is not None
    assert "no episode of arm is usable" in str(failure.error.cause or failure.error)
    assert "a.mcap" in str(failure.error.cause or failure.error)


def sensor_tick(lineage: Lineage, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    sensor = next(iter(lineage.definitions().sensors or []))
    assert isinstance(sensor, dg.SensorDefinition)
    context = dg.build_sensor_context(instance=lineage.instance, cursor=cursor)
    return sensor(context)  # pyright: ignore[reportReturnType]


def test_the_sensor_asks_for_one_run_for_all_new_recordings_and_for_none_without_news(lineage: Lineage) -> None:
    first = sensor_tick(lineage, None)
    assert isinstance(first, dg.SensorResult)
    assert len(first.run_requests or []) == 1
    assert len(str(first.cursor)) < 100
    second = sensor_tick(lineage, first.cursor)
    assert isinstance(second, dg.SkipReason)
    lineage.add("c.mcap", of="transfer_cube_003.mcap")
    assert isinstance(sensor_tick(lineage, first.cursor), dg.SensorResult)


def test_the_sensor_starts_no_run_while_somebody_converts_the_recordings(lineage: Lineage) -> None:
    with only_one(RobotStore.of("arm").root, print):
        waiting = sensor_tick(lineage, None)
    assert isinstance(waiting, dg.SkipReason)
    assert f"process {os.getpid()} on" in str(waiting.skip_message)
    assert isinstance(sensor_tick(lineage, None), dg.SensorResult)


def test_a_run_that_was_killed_and_is_still_called_started_does_not_stop_the_sensor(lineage: Lineage) -> None:
    job = lineage.definitions().resolve_job_def("arm_ingest")
    lineage.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert isinstance(sensor_tick(lineage, None), dg.SensorResult)


def test_the_sensor_starts_no_second_run_while_one_is_about_to_start(lineage: Lineage) -> None:
    job = lineage.definitions().resolve_job_def("arm_ingest")
    run = lineage.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTING)
    waiting = sensor_tick(lineage, None)
    assert isinstance(waiting, dg.SkipReason)
    assert run.run_id[:8] in str(waiting.skip_message)
    lineage.instance.delete_run(run.run_id)
    assert isinstance(sensor_tick(lineage, None), dg.SensorResult)


def test_the_schedule_starts_a_run_only_where_there_is_something_to_look_at(lineage: Lineage) -> None:
    def tick() -> object:
        schedule = next(iter(lineage.definitions().schedules or []))
        assert isinstance(schedule, dg.ScheduleDefinition)
        return schedule()

    assert isinstance(tick(), dg.RunRequest)
    for path in lineage.recordings.iterdir():
        path.unlink()
    skipped = tick()
    assert isinstance(skipped, dg.SkipReason)
    assert "no recording matches *.mcap" in str(skipped.skip_message)


def test_the_sensor_leaves_a_file_alone_that_is_still_being_written(lineage: Lineage) -> None:
    first = sensor_tick(lineage, None)
    assert isinstance(first, dg.SensorResult)
    lineage.edit("settle_s: 0", "settle_s: 30")
    for path in lineage.recordings.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    settled = sensor_tick(lineage, None)
    assert isinstance(settled, dg.SensorResult)
    lineage.add("c.mcap", of="transfer_cube_003.mcap")
    os.utime(lineage.recordings / "c.mcap")
    waiting = sensor_tick(lineage, settled.cursor)
    assert isinstance(waiting, dg.SkipReason)
    assert "1 still being written" in str(waiting.skip_message)


PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project folder of its own, with a robots/ folder to edit."""
    (tmp_path / "pyproject.toml").write_text((PROJECT / "pyproject.toml").read_text().replace("vla_ops.definitions", "here"))
    code = "import dagster as dg\nfrom pathlib import Path\n"
    code += "defs = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    (tmp_path / "here.py").write_text(code)
    (tmp_path / "robots" / "arm").mkdir(parents=True)
    (tmp_path / "robots" / "arm" / "defs.yaml").write_text((PROJECT / "robots" / "aloha_sim" / "defs.yaml").read_text())
    return tmp_path


def dg_command(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "dg"), *arguments]
    environment = {**os.environ, "PYTHONPATH": f"{project}{os.pathsep}{PROJECT}", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rate_hz: 25", "rate_hertz: 25", "rate_hertz"),
        ("images: nearest", "images: nearst", "nearst"),
        ("role: left_wrist", "role: base", "both have role base"),
    ],
)
def test_dg_refuses_a_wrong_yaml_with_file_and_line(project: Path, old: str, new: str, said: str) -> None:
    path = project / "robots" / "arm" / "defs.yaml"
    path.write_text(path.read_text().replace(old, new, 1))
    checked = [dg_command(project, "check", "yaml"), dg_command(project, "check", "defs")]
    told = "\n".join(run.stdout + run.stderr for run in checked)
    assert any(run.returncode for run in checked), told
    assert said in told
    assert "defs.yaml:" in told


@pytest.mark.slow
def test_a_scaffolded_robot_checks_and_loads(project: Path) -> None:
    made = dg_command(project, "scaffold", "defs", "vla_ops.RobotPipeline", "my_arm")
    assert made.returncode == 0, made.stderr
    for kind in ("yaml", "defs"):
        checked = dg_command(project, "check", kind)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    listed = dg_command(project, "list", "defs", "--json")
    assert "my_arm/episodes" in listed.stdout, listed.stdout + listed.stderr
