"""Which files are published, and what is told of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from vla_ops.datasets.refresh import accepted_dataset, refresh_views
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import CheckpointError, PublishError
from vla_ops.publishing.package import package_at
from vla_ops.robot_file import load_robot
from vla_ops.training.run import Run
from vla_ops_tests.lineage.trainings import add_trained_robot, make_dataset


@pytest.fixture
def checkpoint(small_run: Run, tmp_path: Path) -> Path:
    """The checkpoint of a run, to be broken."""
    run = tmp_path / "home/arm/trainings/small/run"
    shutil.copytree(small_run.folder, run)
    return run / "7"


def test_a_checkpoint_is_published_with_what_a_server_needs_and_no_more(small_run: Run) -> None:
    package = package_at(small_run.folder / "7")
    assert (package.kind, package.name) == ("policy", f"{small_run.recipe.robot}/{small_run.recipe.name}")
    assert {name.split("/")[0] for name in package.files} <= {"params", "assets", "vla_ops", "run.json", "_CHECKPOINT_METADATA"}
    assert {"params/_METADATA", "run.json"} <= package.files.keys()
    assert any(name.startswith("assets/") and name.endswith("norm_stats.json") for name in package.files)


def test_its_origin_goes_back_to_the_recordings(small_run: Run) -> None:
    origin = package_at(small_run.folder / "7").origin
    told = json.loads(small_run.file.read_text())
    assert origin["dataset_version"] == told["recipe"]["dataset_version"]
    assert (origin["recipe"], origin["run"], origin["step"]) == (told["fingerprint"], small_run.folder.name, 7)
    dataset = json.loads((small_run.recipe.dataset / "meta/vla_ops.json").read_text())
    assert len(origin["recordings"]) == len({each["id"].rpartition("/")[0] for each in dataset["episodes"]})
    assert all(each["version"].startswith(origin["recordings"][each["id"].rpartition("/")[0]]) for each in dataset["episodes"])


def test_a_run_whose_dataset_is_elsewhere_says_that_the_recordings_are_unknown(checkpoint: Path) -> None:
    file = checkpoint.parent / "run.json"
    told = json.loads(file.read_text())
    told["recipe"]["dataset"] = "/nowhere"
    file.write_text(json.dumps(told))
    assert package_at(checkpoint).origin["recordings"] is None


@pytest.mark.parametrize(
    ("init", "loaded", "said"),
    [
        ("s3://lab/policies/arm/pi0", "s3://lab/policies/arm/pi0@12ab", "s3://lab/policies/arm/pi0@12ab"),
        ("s3://lab/policies/arm/pi0/", "s3://lab/policies/arm/pi0@12ab", "s3://lab/policies/arm/pi0@12ab"),
        ("s3://lab/arm/pi0/versions/12ab", "s3://lab/arm/pi0@12ab", "s3://lab/arm/pi0@12ab"),
        ("hub:lab/pick@main", "hub:lab/pick@12ab", "hub:lab/pick@12ab"),
        ("gs://bucket/pi05_base/params", "/home/me/data/cache/checkpoints/params-1/2/content", "gs://bucket/pi05_base/params"),
        ("arm/pi0@best", "/home/me/data/arm/trainings/pi0/a/5", "arm/pi0@best"),
        (None, None, None),
    ],
)
def test_what_it_was_started_from_is_said_with_the_version_that_was_loaded(
    checkpoint: Path, init: str | None, loaded: str | None, said: str | None
) -> None:
    file = checkpoint.parent / "run.json"
    told = json.loads(file.read_text())
    told["recipe"]["training"]["init"] = init
    told |= {} if loaded is None else {"load_report": {"source": loaded}}
    file.write_text(json.dumps(told))
    assert package_at(checkpoint).origin["init"] == said


def test_a_dataset_is_published_whole(small_run: Run) -> None:
    package = package_at(small_run.recipe.dataset)
    assert package.kind == "dataset"
    assert {"meta/info.json", "meta/vla_ops.json"} <= package.files.keys()
    assert package.measured["total_episodes"] == 2
    assert package.origin["dataset_version"] == small_run.recipe.dataset_version


def test_every_view_of_a_dataset_has_the_same_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    folder = add_trained_robot(tmp_path, {})
    told = yaml.safe_load((folder / "defs.yaml").read_text())
    told["attributes"]["dataset"]["formats"] = ["lerobot_v3.0", "lerobot_v2.1", "rlds"]
    (folder / "defs.yaml").write_text(yaml.safe_dump(told))
    make_dataset(folder)
    robot, store = load_robot(folder), RobotStore.of("arm")
    v30 = package_at(accepted_dataset(robot, store).version.folder)
    v21, rlds = (package_at(view) for view in refresh_views(robot, store, say=lambda _: None))
    assert [each.name for each in (v30, v21, rlds)] == ["arm/lerobot_v3", "arm/lerobot_v21", "arm/rlds"]
    assert "oft_dataset.json" in rlds.files
    for each in (v21, rlds):
        same = ("robot", "dataset_version", "episodes", "recordings")
        assert {key: each.origin[key] for key in same} == {key: v30.origin[key] for key in same}


def test_exports_of_a_mixtures_sources_are_publications_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint.parent / "run.json"
    told = json.loads(file.read_text())
    told["recipe"]["sources"] = [{"name": source, "stats_fingerprint": source} for source in ("left", "right")]
    file.write_text(json.dumps(told))
    exported = {"checkpoint": str(checkpoint), "layout": "lerobot", "precision": "float32"}
    names = []
    for source in ("left", "right"):
        (tmp_path / source).mkdir()
        (tmp_path / source / "vla_ops.json").write_text(json.dumps({**exported, "asset_id": source}))
        names.append(package_at(tmp_path / source).name)
    assert names == [f"{told['robot']}/{told['training']}_torch_lerobot_{source}" for source in ("left", "right")]


def test_another_vla_ops_json_is_not_taken_for_one_of_these(tmp_path: Path) -> None:
    (tmp_path / "vla_ops.json").write_text('{"robot": "arm"}')
    with pytest.raises(PublishError, match=r"neither an export nor an RLDS view.*vla_ops.json.*found robot"):
        package_at(tmp_path)


def test_a_checkpoint_without_norm_stats_or_a_run_is_refused(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "assets")
    with pytest.raises(PublishError, match=r"no norm stats.*in which units"):
        package_at(checkpoint)
    (checkpoint.parent / "run.json").unlink()
    with pytest.raises(PublishError, match=r"of no run of this project.*no run.json"):
        package_at(checkpoint)


def test_a_checkpoint_without_train_state_cannot_be_published_to_resume(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint / "train_state", ignore_errors=True)
    with pytest.raises(PublishError, match="no train state"):
        package_at(checkpoint, to_resume=True)


def test_a_folder_that_is_nothing_of_these_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        package_at(tmp_path)


@pytest.mark.parametrize(
    "uri", ["https://me:hunter2hunter2@lab.example/x", "s3://b/x?X-Amz-Signature=0123456789abcdef", "it is planted-secret-value"]
)
def test_what_holds_a_secret_is_not_published_and_the_secret_is_not_said(
    checkpoint: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_TOKEN", "planted-secret-value")
    file = checkpoint.parent / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"note": uri}))
    with pytest.raises(PublishError, match=r"holds a secret.*run.json") as refused:
        package_at(checkpoint)
    assert all(secret not in str(refused.value) for secret in ("hunter2", "0123456789abcdef", "planted-secret-value"))
