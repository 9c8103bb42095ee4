"""Publications as assets: where they stand, what their page shows, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from vla_ops.episodes.store import RobotStore
from vla_ops.errors import SpecError
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.policies.policy import Policy
from vla_ops.published.pull import published_at, pull
from vla_ops.robot_file import load_robot
from vla_ops.training.prepare import current_recipe
from vla_ops_tests.lineage.trainings import SMALL, add_trained_robot, make_dataset
from vla_ops_tests.training.untrained import untrained_run

PUBLISH = {"store": "published"}
POLICY, DATASET = dg.AssetKey(["arm", "small", "published_policy"]), dg.AssetKey(["arm", "published_dataset"])


def add_robot(root: Path, publish: Mapping[str, Any] = PUBLISH, **more: Any) -> Path:
    folder = add_trained_robot(root, {"small": {**SMALL, "publish": dict(publish), **more}, "plain": SMALL})
    file = folder / "defs.yaml"
    told = yaml.safe_load(file.read_text())
    told["attributes"]["dataset"] = {**told["attributes"]["dataset"], "publish": dict(publish)}
    file.write_text(yaml.safe_dump(told))
    return folder


def graph_of(folder: Path) -> Any:
    return robot_definitions(load_robot(folder)).resolve_asset_graph()


def test_they_come_after_what_they_publish_only_where_the_yaml_asks_for_it(tmp_path: Path) -> None:
    graph = graph_of(add_robot(tmp_path, export={"layouts": ["openpi"]}))
    assert graph.get(POLICY).parent_keys == {dg.AssetKey(["arm", "small", "checkpoint"])}
    assert graph.get(DATASET).parent_keys == {dg.AssetKey(["arm", "lerobot_v3"])}
    assert graph.get(dg.AssetKey(["arm", "small", "published_torch_policy"])).parent_keys == {dg.AssetKey(["arm", "small", "torch_policy"])}
    assert not graph.has(dg.AssetKey(["arm", "plain", "published_policy"]))


def test_another_place_is_another_publication_and_nothing_else(tmp_path: Path) -> None:
    before, after = (graph_of(add_robot(tmp_path, {"store": store})) for store in ("published", "s3://lab/policies"))
    differing = [key for key in before.get_all_asset_keys() if before.get(key).code_version != after.get(key).code_version]
    assert sorted(differing) == sorted([POLICY, DATASET])


@pytest.mark.parametrize(
    ("publish", "said"),
    [
        ({"store": "az://lab"}, "publications go to s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or to a folder"),
        ({"store": "s3://KEY:SECRET@lab/x"}, "without keys or a query"),
        ({"store": "here", "acl": "private"}, "acl: these are for s3://"),
        ({"store": "here", "name": "../x"}, "name '../x'"),
        ({"store": "s3://lab", "sse": "AES"}, "AES256"),
        ({}, "say where"),
        ({"hub": "pick"}, "the Hub takes `owner/name`"),
        ({"hub": "lab/pick--it"}, "the Hub refuses"),
        ({"hub": f"lab/{'p' * 90}"}, "names over 96 characters"),
        ({"store": "hub:lab/pick"}, "write `hub: lab/pick`"),
        ({"store": "here", "private": False}, "private: these are for the Hugging Face Hub"),
        ({"hub": "lab/pick", "acl": "private"}, "acl: these are for s3://, and no store is named"),
        ({"hub": "lab/pick", "licence": "mit"}, "dataset.licence"),
    ],
)
def test_a_place_that_cannot_be_is_refused_when_the_yaml_is_read(tmp_path: Path, publish: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        load_robot(add_robot(tmp_path, publish, export={"layouts": ["lerobot"]}))
    assert said in str(refused.value)
    assert "SECRET@" not in str(refused.value)


def test_a_dataset_that_is_not_published_cannot_be_referred_to(tmp_path: Path) -> None:
    folder = add_trained_robot(tmp_path, {"small": SMALL})
    told = yaml.safe_load((folder / "defs.yaml").read_text())
    told["attributes"]["dataset"]["metrics"] = {"wandb": "offline"}
    (folder / "defs.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(SpecError, match=r"metrics\.wandb refers to what is published: say where"):
        load_robot(folder)


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        ({"hub": "lab/pick"}, {"hub": "lab/pick"}, "hub:lab/pick"),
        ({"hub": "lab/pick"}, {"hub": "lab/pick_torch_lerobot"}, "hub:lab/pick_torch_lerobot"),
        ({"store": "s3://lab", "name": "pick"}, {"store": "s3://lab", "name": "pick"}, "s3://lab/pick"),
    ],
)
def test_two_trainings_with_one_place_are_refused_when_the_yaml_is_read(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], place: str
) -> None:
    export = {"layouts": ["lerobot"]}
    folder = add_trained_robot(tmp_path, {"a": {**SMALL, "publish": first, "export": export}, "b": {**SMALL, "publish": second}})
    with pytest.raises(SpecError, match=rf"a.publish and b.publish: both would be {place}"):
        load_robot(folder)


def run_assets(folder: Path, instance: dg.DagsterInstance, *keys: dg.AssetKey) -> dg.ExecuteInProcessResult:
    job = robot_definitions(load_robot(folder)).resolve_implicit_global_asset_job_def()
    return job.execute_in_process(instance=instance, asset_selection=list(keys), raise_on_error=False)


def test_without_a_checkpoint_it_fails_with_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = run_assets(add_robot(tmp_path), instance, POLICY)
    (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    assert "there is no checkpoint yet" in str(failure.step_failure_data.user_failure_data)


def test_dataset_and_policy_are_published_once_and_served_from_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("VLA_OPS_HOME", str(home))
    folder = add_robot(tmp_path)
    make_dataset(folder)
    untrained_run(current_recipe(load_robot(folder), RobotStore.of("arm"), "small"), home)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = run_assets(folder, instance, POLICY, DATASET)
        again = run_assets(folder, instance, POLICY, DATASET)
    assert result.success
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {"is_pointed_to": True}
    for name in ("arm__small__published_policy", "arm__published_dataset"):
        (first,), (second,) = (each.asset_materializations_for_node(name) for each in (result, again))
        assert (first.metadata["sent_mb"].value, second.metadata["sent_mb"].value) == (first.metadata["size_mb"].value, 0.0)
        assert first.metadata["uri"].value == second.metadata["uri"].value
        assert first.metadata["recordings"].value == 3
    version = published_at(str(home / "published/arm/small"))
    assert version is not None
    assert version.manifest.origin["dataset_version"] == json.loads((home / "arm/lerobot_v3/current.json").read_text())["version"]
    assert Policy.load(str(pull(version, tmp_path)), home=home).metadata["robot"] == "arm"
