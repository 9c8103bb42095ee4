"""A mixture of two robots in Dagster: its graph, what its page shows, and when it is out of date."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from syrupy.assertion import SnapshotAssertion

import vla_ops
from vla_ops.home import home
from vla_ops.lineage.mixture import mixture_definitions
from vla_ops.lineage.mixture_scaffold import MixtureScaffolder
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.mixture_file import load_mixture
from vla_ops.robot_file import load_robot
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, SOURCES, Lab
from vla_ops_tests.lineage.trainings import FAST, SMALL


@dataclass
class Mixing:
    """Two robots, a mixture of them, and a Dagster instance."""

    lab: Lab
    instance: dg.DagsterInstance

    def definitions(self) -> dg.Definitions:
        robots = self.lab.robots
        parts = [robot_definitions(load_robot(robots / name)) for name in ("left", "right")]
        return dg.Definitions.merge(*parts, mixture_definitions(load_mixture(robots / "both")))

    def run(self, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        job = self.definitions().resolve_job_def("both_all")
        return job.execute_in_process(instance=self.instance, raise_on_error=raise_on_error)

    def materialize(self, robot: str, asset: str, version: str) -> None:
        """Say of a robot's asset what its own job would say."""
        tags = {"dagster/data_version": version, "dagster/data_version_is_user_provided": "true"}
        self.instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey([robot, asset]), tags=tags))

    def status(self, asset: str) -> StaleStatus:
        graph = self.definitions().resolve_asset_graph()
        resolver = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        return resolver.get_status(dg.AssetKey(["both", *asset.split("/")]))

    def metadata(self, asset: str) -> dict[str, dg.MetadataValue]:
        event = self.instance.get_latest_materialization_event(dg.AssetKey(["both", asset]))
        assert event is not None
        assert event.asset_materialization is not None
        return dict(event.asset_materialization.metadata)


@pytest.fixture
def mixing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mixing]:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    lab = Lab(tmp_path)
    lab.add("left", LEFT, stats=True)
    lab.add("right", RIGHT, stats=True)
    lab.mix("both", *SOURCES)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        made = Mixing(lab, instance)
        for robot in ("left", "right"):
            for asset in ("lerobot_v3", "norm_stats"):
                made.materialize(robot, asset, "1")
        yield made


def test_the_graph_shows_each_source(mixing: Mixing, snapshot: SnapshotAssertion) -> None:
    mixing.lab.mix("both", *SOURCES, trainings={"small": SMALL})
    graph = mixing.definitions().resolve_asset_graph()
    keys = [key for key in sorted(graph.get_all_asset_keys()) if key.path[0] == "both"]
    assets = {
        key.to_user_string(): {
            "from": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "group": graph.get(key).group_name,
            "checks": sorted(check.name for check in graph.asset_check_keys if check.asset_key == key),
        }
        for key in keys
    }
    jobs = sorted(job.name for job in mixing.definitions().resolve_all_job_defs() if job.name.startswith("both"))
    assert {"assets": assets, "jobs": jobs} == snapshot


def test_a_source_that_the_yaml_names_is_exported_after_its_checkpoint(mixing: Mixing) -> None:
    mixing.lab.mix("both", *SOURCES, trainings={"small": SMALL | {"export": {"source": "left"}}})
    graph = mixing.definitions().resolve_asset_graph()
    assert graph.get(dg.AssetKey(["both", "small", "torch_policy"])).parent_keys == {dg.AssetKey(["both", "small", "checkpoint"])}


def test_its_job_makes_the_dataset_and_norm_stats_and_every_check_passes(mixing: Mixing) -> None:
    result = mixing.run()
    assert result.success
    assert all(check.passed for check in result.get_asset_check_evaluations()), result.get_asset_check_evaluations()
    assert len(result.get_asset_check_evaluations()) == 2
    assert (home() / "both" / "lerobot_v3" / "current.json").is_file()
    assert mixing.status("lerobot_v3") is mixing.status("norm_stats") is StaleStatus.FRESH


def test_its_page_shows_the_sources(mixing: Mixing) -> None:
    mixing.run()
    sources = mixing.metadata("lerobot_v3")["sources"]
    assert isinstance(sources, dg.TableMetadataValue)
    rows = {str(record.data["source"]): record.data for record in sources.records}
    assert rows["left"]["probability"] == pytest.approx(2 / 3, abs=1e-6)
    assert (rows["left"]["episodes"], rows["left"]["frames"], rows["left"]["training frames"]) == (2, 14, 8)
    assert (rows["right"]["missing dimensions"], rows["right"]["missing cameras"]) == ("j1", "cam_left")
    assert len(str(rows["right"]["version"])) == 16


def test_a_second_run_makes_nothing_new(mixing: Mixing) -> None:
    mixing.run()
    mixing.run()
    assert mixing.metadata("lerobot_v3")["added"].value == 0
    assert mixing.status("lerobot_v3") is StaleStatus.FRESH


def test_another_version_of_a_source_makes_it_stale(mixing: Mixing) -> None:
    mixing.run()
    mixing.lab.add("right", replace(RIGHT, episodes=(*RIGHT.episodes, (4, "push"))), stats=True)
    mixing.materialize("right", "lerobot_v3", "2")
    mixing.materialize("right", "norm_stats", "2")
    assert mixing.status("lerobot_v3") is mixing.status("norm_stats") is StaleStatus.STALE
    mixing.run()
    assert mixing.status("lerobot_v3") is mixing.status("norm_stats") is StaleStatus.FRESH
    assert mixing.metadata("lerobot_v3")["added"].value == 1


def test_another_weight_makes_the_dataset_stale_before_anything_runs(mixing: Mixing) -> None:
    mixing.run()
    mixing.lab.mix("both", {**SOURCES[0], "weight": 5.0}, SOURCES[1])
    assert mixing.status("lerobot_v3") is StaleStatus.STALE


def test_a_source_without_a_dataset_fails_the_run_with_what_to_do(mixing: Mixing) -> None:
    mixing.lab.write_yaml("new", RIGHT.document)
    mixing.lab.mix("both", *SOURCES, {"robot": "new", "weight": 1.0, "cameras": {"cam_top": "cam_high"}})
    result = mixing.run(raise_on_error=False)
    assert not result.success
    said = [event.step_failure_data.error_display_string for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "new has no dataset yet" in said[0]
    assert "vla-ops convert new" in said[0]


def test_the_component_is_found_by_its_type() -> None:
    from vla_ops.lineage.mixture import Mixture

    assert vla_ops.Mixture is Mixture
    assert "sources" in Mixture.get_model_cls().model_json_schema()["properties"]


def test_a_scaffolded_mixture_loads_as_it_is(mixing: Mixing) -> None:
    folder = mixing.lab.robots / "mine"
    folder.mkdir()
    request = SimpleNamespace(target_path=folder)
    MixtureScaffolder().scaffold(request)  # type: ignore[arg-type]
    assert [source.robot.name for source in load_mixture(folder).sources] == ["left"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_job_trains_on_all_sources_and_a_second_run_trains_nothing(mixing: Mixing, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    mixing.lab.mix("both", *SOURCES, trainings={"small": SMALL})
    result = mixing.run()
    (made,) = result.asset_materializations_for_node("both__small__checkpoint")
    assert made.metadata["steps"].value == SMALL["steps"]
    assert "beats_repeating_the_last_action" in {check.check_name for check in result.get_asset_check_evaluations()}
    assets = (home() / "both/trainings/small").glob("*/5/assets/*/norm_stats.json")
    assert sorted(path.parent.name for path in assets) == ["left", "right"]
    (again,) = mixing.run().asset_materializations_for_node("both__small__checkpoint")
    assert again.metadata["run"] == made.metadata["run"]
    assert mixing.status("small/checkpoint") is StaleStatus.FRESH
