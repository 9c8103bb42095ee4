"""Publications as assets in a real S3 server: what a run leaves behind, and what is secret of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from vla_ops.episodes.store import RobotStore
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.robot_file import load_robot
from vla_ops.training.prepare import current_recipe
from vla_ops_tests.lineage.test_published import DATASET, POLICY, add_robot
from vla_ops_tests.lineage.trainings import make_dataset
from vla_ops_tests.services.s3 import SECRET, Bucket, s3, s3_server  # noqa: F401 - fixtures
from vla_ops_tests.training.untrained import untrained_run

pytestmark = pytest.mark.services


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """One that writes all it knows below `tmp_path`."""
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as instance:
        yield instance


def left_behind(tmp_path: Path, bucket: Bucket) -> Iterator[tuple[str, bytes]]:
    """All files and objects by name."""
    yield from ((str(path), path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    fs = bucket.server.fs()
    yield from ((name, fs.cat_file(name)) for name in fs.find(bucket.root))


def test_a_run_publishes_and_no_key_is_in_anything_that_it_leaves(
    s3: Bucket,  # noqa: F811
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("VLA_OPS_HOME", str(home))
    folder = add_robot(tmp_path, {"store": s3.uri})
    make_dataset(folder)
    untrained_run(current_recipe(load_robot(folder), RobotStore.of("arm"), "small"), home)
    job = robot_definitions(load_robot(folder)).resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(instance=instance, asset_selection=[POLICY, DATASET])
    assert done.success
    # Refused by the store: what is said of that is kept, too.
    nowhere = add_robot(tmp_path / "2", {"store": "s3://not-there-at-all/x"})
    job = robot_definitions(load_robot(nowhere)).resolve_implicit_global_asset_job_def()
    refused = job.execute_in_process(instance=instance, asset_selection=[POLICY], raise_on_error=False)
    (failure,) = [event for event in refused.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "there is no such bucket" in str(failure.step_failure_data.user_failure_data)
    found = dict(left_behind(tmp_path, s3))
    assert any(name.endswith("vla_ops_manifest.json") for name in found)
    assert any(name.endswith(".db") for name in found)
    assert [name for name, content in found.items() if SECRET.encode() in content] == []
