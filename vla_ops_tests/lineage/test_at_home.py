"""Assets of machines that share a home: what one made another one goes on with, and Dagster hears of it when it is at home."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from vla_ops.errors import HomeError
from vla_ops.home import home
from vla_ops.homes.robot_home import RobotHome
from vla_ops.homes.there import there_in
from vla_ops.publishing.stores import LocalStore
from vla_ops_tests.lineage.conftest import Lineage
from vla_ops_tests.lineage.trainings import FAST, add_trained_robot, make_dataset, runs_in, train


@pytest.fixture
def shared(lineage: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lineage:
    monkeypatch.setenv("VLA_OPS_HOME", f"file://{tmp_path}/share")
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "one"))
    return lineage


def there(tmp_path: Path) -> set[str]:
    return set(there_in(LocalStore(tmp_path / "share/arm")).state.units)


def test_another_machine_converts_only_what_is_new(shared: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shared.run().success
    assert {"episodes/a.mcap", "episodes/b.mcap", "lerobot_v3/current.json", "recordings.json"} <= there(tmp_path)
    before = home() / "arm/episodes/a.mcap/recording.json"
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "other"))
    shared.add("c.mcap", of="transfer_cube_002.mcap")
    assert shared.run().success
    after = home() / "arm/episodes/a.mcap/recording.json"
    assert (after.read_bytes(), after.stat().st_mtime_ns) == (before.read_bytes(), before.stat().st_mtime_ns)
    assert "episodes/c.mcap" in there(tmp_path)


def test_what_a_step_made_before_it_failed_is_at_home(shared: Lineage, tmp_path: Path) -> None:
    (shared.recordings / "broken.mcap").write_bytes(b"nothing")
    assert shared.run().success
    job = shared.definitions().resolve_job_def("arm_ingest")
    only = [shared.key("episodes")]
    ran = job.execute_in_process(instance=shared.instance, asset_selection=only, partition_key="broken.mcap", raise_on_error=False)
    assert not ran.success
    # What was found was told all the same.
    assert {each.check_name for each in ran.get_asset_check_evaluations()} >= {"every_recording_is_usable"}
    assert "quarantine/broken.mcap.json" in there(tmp_path)


def test_what_cannot_be_sent_is_no_asset(shared: Lineage, monkeypatch: pytest.MonkeyPatch) -> None:
    job, key = shared.definitions().resolve_job_def("arm_ingest"), shared.key("lerobot_v3")
    assert job.execute_in_process(instance=shared.instance, asset_selection=[shared.key("episodes")]).success

    def refused(_: RobotHome) -> None:
        raise HomeError("the link is down")

    monkeypatch.setattr(RobotHome, "send", refused)
    ran = job.execute_in_process(instance=shared.instance, asset_selection=[key], raise_on_error=False)
    assert not ran.success
    assert shared.instance.get_latest_materialization_event(key) is None
    (failed,) = [event for event in ran.all_node_events if event.is_step_failure]
    assert "the link is down" in str(failed.step_failure_data.error)


@pytest.mark.slow
def test_a_training_goes_on_on_another_machine_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VLA_OPS_HOME", f"file://{tmp_path}/share")
    folder = add_trained_robot(tmp_path / "robots")
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "one"))
    make_dataset(folder)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        assert train(folder, instance, {"steps": 3}).success
        (first,) = runs_in(home())
        # As if that machine were gone for good.
        (tmp_path / "one").rename(tmp_path / "gone")
        monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "two"))
        assert train(folder, instance).success
    (second,) = runs_in(home())
    assert second.name == first.name
    assert (second / "5/params").is_dir()
    assert "resuming after step 2" in (second / "log.txt").read_text()
