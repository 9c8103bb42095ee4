"""A published policy in the W&B run that trained it, and a dataset in one of its own, as they wait to be synced."""

from __future__ import annotations

import importlib.util
import struct
import time
from pathlib import Path

import pytest

from vla_ops.publishing.in_wandb import refer_dataset_in_wandb, refer_in_wandb
from vla_ops.publishing.package import Package, package_at
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import LocalStore
from vla_ops.spec.metrics import MetricsSpec
from vla_ops.training.run import Run
from vla_ops.training.sinks import WANDB_ID_FILE
from vla_ops_tests.policies.small_run import make_run

# Of the file, before its first record.
_HEADER = 7
pytestmark = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed: uv sync --extra wandb")


def published(run: Run, tmp_path: Path) -> Published:
    return publish(package_at(run.folder / "7"), LocalStore(tmp_path / "store"), work=tmp_path)


def logged(folder: Path) -> bytes:
    """What waits in a folder: W&B's log, without the headers (CRC, length, type) of LevelDB's log format, which it is in."""
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    until_s = time.monotonic() + 60
    # W&B's own process ends the file, which may be after the run is told that it is over.
    while file.stat().st_size <= _HEADER and time.monotonic() < until_s:
        time.sleep(0.1)
    data, at, found = file.read_bytes(), _HEADER, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, _ = struct.unpack("<IHB", data[at : at + 7])
        found += data[at + 7 : at + 7 + length]
        at += 7 + length
    return found


def test_it_refers_to_where_it_is_published_with_the_hashes_of_the_manifest(tmp_path: Path) -> None:
    run = make_run(tmp_path / "made", metrics={"wandb": "offline"})
    done = published(run, tmp_path)
    refer_in_wandb(run, done)
    assert_refers(logged(run.folder), done)


def test_a_dataset_is_an_artifact_of_a_run_of_its_own_which_stays_the_same(tmp_path: Path) -> None:
    file = tmp_path / "made/meta/info.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    origin = {"robot": "arm", "dataset_version": "d1", "recordings": {"a.mcap": "11"}}
    package = Package("dataset", "arm/lerobot_v3", {"meta/info.json": file}, origin, {})
    done = publish(package, LocalStore(tmp_path / "store"), work=tmp_path)
    refer_dataset_in_wandb(tmp_path / "work", MetricsSpec(wandb="offline"), done)
    folder = tmp_path / "work/wandb/arm-lerobot_v3"
    said = logged(folder)
    assert_refers(said, done)
    assert b"a.mcap" in said
    first = (folder / WANDB_ID_FILE).read_text()
    refer_dataset_in_wandb(tmp_path / "work", MetricsSpec(wandb="offline"), done)
    assert (folder / WANDB_ID_FILE).read_text() == first


def assert_refers(said: bytes, done: Published) -> None:
    assert done.manifest.name.replace("/", "-").encode() in said
    for name, entry in done.manifest.files.items():
        assert f"file://{done.folder}/{name}".encode() in said, name
        assert entry.sha256.encode() in said, name


def test_who_has_not_asked_for_it_has_nothing_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "made")
    refer_in_wandb(run, published(run, tmp_path))
    assert not (run.folder / "wandb").exists()
