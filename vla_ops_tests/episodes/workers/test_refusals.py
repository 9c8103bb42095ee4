"""Clusters and staging folders that cannot be used, without a cluster."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from vla_ops.episodes.plan import make_plan
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers import LocalWorkers, workers_of
from vla_ops.episodes.workers.on_node import convert_on_node
from vla_ops.episodes.workers.ray_workers import RayWorkers
from vla_ops.episodes.workers.same_code import differences, made_with
from vla_ops.episodes.workers.staging import IncompleteError, Staging
from vla_ops.errors import ClusterError, StoreError
from vla_ops.spec import ConversionSpec, RayConversion
from vla_ops_tests.episodes.ingesting import robot_at, run, write_arm


def staged(tmp_path: Path) -> tuple[Staging, Path]:
    """An uploaded folder `x` of two files, and where it lies."""
    folder = tmp_path / "made"
    (folder / "0").mkdir(parents=True)
    (folder / "0/frames.parquet").write_bytes(b"numbers")
    (folder / "recording.json").write_text("{}")
    staging = Staging(f"file://{tmp_path}/staging/arm")
    staging.upload(folder, "x")
    return staging, tmp_path / "staging/arm/x"


def test_what_is_uploaded_is_taken_whole_and_removed(tmp_path: Path):
    staging, _ = staged(tmp_path)
    staging.take("x", tmp_path / "store/x")
    assert (tmp_path / "store/x/0/frames.parquet").read_bytes() == b"numbers"
    assert sorted(p.name for p in (tmp_path / "store/x").iterdir()) == ["0", "recording.json"]
    assert not (tmp_path / "staging/arm/x").exists()


@pytest.mark.parametrize("spoiled", ["no manifest", "half a manifest", "a file less", "a file cut off", "a name that leads out"])
def test_half_an_upload_is_never_taken(tmp_path: Path, spoiled: str):
    staging, there = staged(tmp_path)
    manifest = there / "manifest.json"
    if spoiled == "no manifest":
        manifest.unlink()
    elif spoiled == "half a manifest":
        manifest.write_text(manifest.read_text()[:30])
    elif spoiled == "a file less":
        (there / "0/frames.parquet").unlink()
    elif spoiled == "a file cut off":
        (there / "0/frames.parquet").write_bytes(b"num")
    else:
        manifest.write_text(json.dumps({"../../outside": "0" * 64}))
    (tmp_path / "store/x").mkdir(parents=True)
    (tmp_path / "store/x/before").touch()
    with pytest.raises(IncompleteError):
        staging.take("x", tmp_path / "store/x")
    assert [p.name for p in (tmp_path / "store").rglob("*")] == ["x", "before"]
    staging.clear()
    assert not there.exists()


def test_a_staging_folder_that_cannot_be_written_is_refused_before_anything_is_converted(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"staging folder cannot be used.*conversion.ray.store"):
        Staging(f"file://{tmp_path}/file/arm").check()


def job_of(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    write_arm(tmp_path / "raw/0.hdf5")
    robot, store = robot_at(tmp_path / "raw", "*.hdf5", "hdf5"), RobotStore.of("arm", tmp_path)
    ((file, version),) = make_plan(robot, store).todo
    store.root.mkdir(exist_ok=True)
    (store.root / "mark").touch()
    job = {"file": asdict(file), "source_version": version, "trims": {}, "name": "x", "store": str(store.root), "cores": 1}
    common = {"spec": robot.spec.model_dump(mode="json", by_alias=True), "made_with": made_with(), "staging": None}
    return {**job, **common, "mark": str(store.root / "mark"), **changes}


def test_a_node_that_sees_another_store_converts_nothing(tmp_path: Path):
    answer = convert_on_node(job_of(tmp_path, mark=str(tmp_path / "arm/other")), lambda *_: None)
    assert answer["event"] == "refused"
    assert "does not see the store" in answer["what"]
    assert str(tmp_path / "arm") in answer["found"]
    assert not (tmp_path / "arm/episodes").exists()


def test_a_node_of_another_version_names_both(tmp_path: Path):
    answer = convert_on_node(job_of(tmp_path, made_with={**made_with(), "Python": "3.9.1"}), lambda *_: None)
    assert answer["event"] == "refused"
    assert answer["found"] == f"Python {sys.version.split()[0]} and not 3.9.1"
    assert socket.gethostname() in answer["what"]
    assert differences({"a": "1"}, {"b": "2"}) == ["a 1 and not missing", "b missing and not 2"]


def test_a_node_hands_a_recording_over_by_way_of_the_staging_folder(tmp_path: Path):
    staging = f"file://{tmp_path}/staging"
    answer = convert_on_node(job_of(tmp_path, mark=None, staging=staging), lambda *_: None)
    assert answer["event"] == "done"
    assert not (tmp_path / "arm/episodes").exists()
    Staging(staging).take("x", tmp_path / "arm/episodes/0.hdf5")
    assert [e.meta.length for e in RobotStore.of("arm", tmp_path).read_episodes("0.hdf5")] == [11]


def test_a_node_that_cannot_upload_loses_the_recording(tmp_path: Path):
    (tmp_path / "file").touch()
    answer = convert_on_node(job_of(tmp_path, mark=None, staging=f"file://{tmp_path}/file/x"), lambda *_: None)
    assert answer["event"] == "lost"
    assert "could not upload" in answer["said"]


def test_a_cluster_that_is_not_there_is_refused_with_its_address(tmp_path: Path):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    write_arm(tmp_path / "raw/0.hdf5")
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    for address in (f"127.0.0.1:{free}", f"ray://127.0.0.1:{free}", "head-of-nothing"):
        with pytest.raises(ClusterError) as refused:
            run(robot_at(tmp_path / "raw", "*.hdf5", "hdf5"), tmp_path, workers=RayWorkers(RayConversion(address=address)))
        assert all(word in str(refused.value) for word in ("no Ray cluster", address, "conversion.ray.address"))


def test_without_ray_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_arm(tmp_path / "raw/0.hdf5")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"uv sync --extra ray"):
        run(robot_at(tmp_path / "raw", "*.hdf5", "hdf5"), tmp_path, workers=RayWorkers(RayConversion(address="auto")))


def test_the_yaml_says_where_and_how_many():
    assert workers_of(ConversionSpec()) == LocalWorkers(None)
    assert workers_of(ConversionSpec.model_validate({"local": {"workers": 4}})) == LocalWorkers(4)
    assert workers_of(ConversionSpec.model_validate({"local": {"workers": 4}}), at_once=2) == LocalWorkers(2)
    ray = ConversionSpec.model_validate({"ray": {"address": "auto", "store": "s3://b/p/"}})
    assert workers_of(ray) == RayWorkers(RayConversion(address="auto", store="s3://b/p"))
    assert workers_of(ray, at_once=3) == RayWorkers(RayConversion(address="auto", store="s3://b/p", max_in_flight=3))


def test_where_conversion_runs_makes_no_episode_stale():
    here, there = (robot_at(Path("/"), "*.hdf5", "hdf5", conversion=c).spec for c in ({}, {"ray": {"address": "auto"}}))
    assert here.conversion_fingerprint == there.conversion_fingerprint


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"local": {}, "ray": {}}, "either {local: ...} or {ray: ...}"),
        ({"ray": {"address": "auto", "resource": "kuberay"}}, "either `address` or `resource`"),
        ({"ray": {"address": "local"}}, "that of a running cluster"),
        ({"ray": {"store": "/mnt/x"}}, "file:///mnt/staging"),
        ({"ray": {"adress": "auto"}}, "did you mean 'address'"),
    ],
)
def test_a_wrong_section_is_refused(section: dict[str, Any], said: str):
    with pytest.raises(ValidationError) as refused:
        ConversionSpec.model_validate(section)
    assert said in str(refused.value)
