"""Publications as assets on the Hub: by size, and what is secret of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from vla_ops.episodes.store import RobotStore
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.published.pull import published_at
from vla_ops.robot_file import load_robot
from vla_ops.training.prepare import current_recipe
from vla_ops_tests.lineage.test_published import DATASET, POLICY, add_robot
from vla_ops_tests.lineage.trainings import make_dataset
from vla_ops_tests.services.hub import WRITE, HubServer
from vla_ops_tests.training.untrained import untrained_run


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """One that writes all it knows below `tmp_path`."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def run(folder: Path, instance: dg.DagsterInstance, *keys: dg.AssetKey) -> dg.ExecuteInProcessResult:
    job = robot_definitions(load_robot(folder)).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=list(keys), raise_on_error=False)


def add_run(folder: Path, home: Path) -> None:
    make_dataset(folder)
    untrained_run(current_recipe(load_robot(folder), RobotStore.of("arm"), "small"), home)


def test_a_run_publishes_and_no_token_is_in_anything_that_it_leaves(
    hub: HubServer,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    folder = add_robot(tmp_path, {"hub": "lab/pick"})
    add_run(folder, tmp_path / "home")
    done = run(folder, instance, POLICY, DATASET)
    assert done.success
    assert {check.check_name: check.passed for check in done.get_asset_check_evaluations()} == {"is_pointed_to": True}
    for uri in ("hub:lab/pick", "hub:datasets/lab/pick"):
        assert published_at(uri) is not None
    # Refused by the Hub: what is said of that is kept, too.
    refused = run(add_robot(tmp_path / "2", {"hub": "others/pick"}), instance, POLICY)
    (failure,) = [event for event in refused.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "the token may not do this" in str(failure.step_failure_data.user_failure_data)
    left = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    left |= {
        f"{repo.name}/{name}": hub.content(repo, name) for repo in hub.repos.values() for name in repo.commits[repo.branches["main"]].tree
    }
    assert any(name.endswith(".db") for name in left)
    assert any(name.endswith("README.md") for name in left)
    assert [name for name, content in left.items() if WRITE.encode() in content] == []


@pytest.mark.parametrize(("up_to_gb", "place"), [(300, "hub:lab/pick"), (1e-9, "published")])
def test_of_two_places_the_size_chooses(
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    up_to_gb: float,
    place: str,
) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    folder = add_robot(tmp_path, {"hub": "lab/pick", "store": "published", "hub_up_to_gb": up_to_gb})
    add_run(folder, tmp_path / "home")
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        done = run(folder, instance, POLICY)
    (made,) = done.asset_materializations_for_node("arm__small__published_policy")
    assert (place == "hub:lab/pick") == str(made.metadata["uri"].value).startswith("hub:lab/pick@") == bool(hub.repos)
