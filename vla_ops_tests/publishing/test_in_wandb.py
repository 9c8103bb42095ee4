"""A published policy in the W&B run that trained it, as it waits to be synced."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest

from vla_ops.publishing.in_wandb import refer_in_wandb
from vla_ops.publishing.package import package_at
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import LocalStore
from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import make_run

pytestmark = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed: uv sync --extra wandb")


def published(run: Run, tmp_path: Path) -> Published:
    return publish(package_at(run.folder / "7"), LocalStore(tmp_path / "store"), work=tmp_path)


def logged(run: Run) -> bytes:
    """What waits in the run's folder: W&B's log, without the headers (CRC, length, type) of LevelDB's log format, which it is in."""
    (file,) = (run.folder / "wandb").glob("offline-run-*/*.wandb")
    data, at, found = file.read_bytes(), 7, b""
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
    said = logged(run)
    assert done.manifest.name.replace("/", "-").encode() in said
    for name, entry in done.manifest.files.items():
        assert f"file://{done.folder}/{name}".encode() in said, name
        assert entry.sha256.encode() in said, name


def test_who_has_not_asked_for_it_has_nothing_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "made")
    refer_in_wandb(run, published(run, tmp_path))
    assert not (run.folder / "wandb").exists()
