"""The episodes asset on a Ray cluster that a Dagster resource of the team's own is connected to."""

from __future__ import annotations

import dagster as dg
import pytest

from vla_ops.episodes.store import RobotStore
from vla_ops_tests.episodes.workers.contract import files_of
from vla_ops_tests.lineage.conftest import Lineage
from vla_ops_tests.services.ray_nodes import RayNodes, two_nodes  # noqa: F401 - a fixture


def on(lineage: Lineage, resource: str) -> None:
    """Say in the robot's YAML that conversion is on the cluster of this resource."""
    lineage.edit("dataset:", f"conversion: {{ray: {{resource: {resource}}}}}\n  dataset:")


def test_the_resource_that_the_yaml_names_is_asked_for(lineage: Lineage) -> None:
    on(lineage, "fleet_cluster")
    definitions = dg.Definitions.merge(lineage.definitions(), dg.Definitions(resources={"other": object()}))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="fleet_cluster"):
        definitions.resolve_job_def("arm_ingest")


@pytest.mark.services
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_recordings_are_converted_where_the_resource_is_connected_to(
    lineage: Lineage,
    two_nodes: RayNodes,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dagster_ray import LocalRay

    assert lineage.run().success
    here = files_of(RobotStore.of("arm"))
    monkeypatch.setenv("VLA_OPS_HOME", str(lineage.recordings.parent / "there"))
    monkeypatch.setenv("RAY_ADDRESS", two_nodes.address)
    on(lineage, "fleet_cluster")
    definitions = dg.Definitions.merge(lineage.definitions(), dg.Definitions(resources={"fleet_cluster": LocalRay()}))
    result = definitions.resolve_job_def("arm_ingest").execute_in_process(instance=lineage.instance)
    assert result.success
    assert files_of(RobotStore.of("arm")) == here
    assert len(here) == 2 * 8
