"""A checkpoint for PyTorch as an asset: what its page shows, what it repeats, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.robot_file import load_robot
from vla_ops_tests.lineage.trainings import FAST, SMALL, add_trained_robot, make_dataset

EXPORT = {"layouts": ["openpi"], "dtype": "float32"}
KEY = dg.AssetKey(["arm", "small", "torch_policy"])


def definitions(folder: Path) -> dg.Definitions:
    return robot_definitions(load_robot(folder))


def test_it_comes_after_its_checkpoint_only_where_the_yaml_asks_for_it(tmp_path: Path) -> None:
    folder = add_trained_robot(tmp_path, {"small": {**SMALL, "export": EXPORT}, "plain": SMALL})
    graph = definitions(folder).resolve_asset_graph()
    assert graph.get(KEY).parent_keys == {dg.AssetKey(["arm", "small", "checkpoint"])}
    assert not graph.has(dg.AssetKey(["arm", "plain", "torch_policy"]))
    before = graph.get(KEY).code_version
    other = add_trained_robot(tmp_path, {"small": {**SMALL, "export": {**EXPORT, "dtype": "bfloat16"}}})
    after = definitions(other).resolve_asset_graph()
    assert after.get(KEY).code_version != before
    checkpoint = dg.AssetKey(["arm", "small", "checkpoint"])
    assert after.get(checkpoint).code_version == graph.get(checkpoint).code_version


def test_without_a_checkpoint_it_fails_with_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    folder = add_trained_robot(tmp_path, {"small": {**SMALL, "export": EXPORT}})
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        job = definitions(folder).resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=[KEY], raise_on_error=False)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "there is no checkpoint yet" in str(failure.step_failure_data.user_failure_data)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trained_and_exported_its_page_has_the_numbers_of_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    folder = add_trained_robot(tmp_path, {"small": {**SMALL, "export": EXPORT}})
    make_dataset(folder)
    keys = [dg.AssetKey(["arm", "small", "checkpoint"]), KEY]
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        job = definitions(folder).resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=instance, asset_selection=keys)
        (made,) = result.asset_materializations_for_node("arm__small__torch_policy")
        (parity,) = [check for check in result.get_asset_check_evaluations() if check.check_name == "parity"]
        again = job.execute_in_process(instance=instance, asset_selection=[KEY])
    assert parity.passed
    assert "of the numbers' size, the limit is" in (parity.description or "")
    rows = made.metadata["parity"]
    assert isinstance(rows, dg.TableMetadataValue)
    assert {"prefix embeddings", "v_t", "sampled chunk"} <= {str(record.data["comparison"]) for record in rows.records}
    joints = made.metadata["largest_difference_of_an_action"]
    assert isinstance(joints, dg.TableMetadataValue)
    assert {str(record.data["dimension"]) for record in joints.records} == {"j1", "gripper"}
    assert Path(str(made.metadata["openpi_folder"].value), "model.safetensors").is_file()
    assert "data:image/png" in str(made.metadata["openpi_parity"].value)
    (second,) = again.asset_materializations_for_node("arm__small__torch_policy")
    assert second.tags == made.tags
