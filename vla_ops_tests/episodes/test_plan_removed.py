"""Recordings that are gone are forgotten, and what killed runs left is swept."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vla_ops.episodes.plan import (
    forget,
    sweep_store,
    usable_episodes,
)
from vla_ops.episodes.store_walk import stored_ids
from vla_ops.files import replacing
from vla_ops_tests.episodes.planning import Arm


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    return Arm(tmp_path)


# Removed recordings


def test_a_recording_that_is_gone_is_removed_and_not_found(arm: Arm):
    arm.record("x/a.hdf5", "x/b.hdf5")
    (arm.raw / "x/c.hdf5").write_bytes(b"not an HDF5 file")
    arm.convert()
    (arm.raw / "x/a.hdf5").unlink()
    (arm.raw / "x/c.hdf5").unlink()
    plan = arm.plan()
    assert plan.removed == ["x/a.hdf5", "x/c.hdf5"]
    assert plan.counts() == {"converted": 1, "removed": 2}
    assert [e.meta.recording for e in usable_episodes(arm.store, plan)] == ["x/b.hdf5"]


def test_recordings_in_a_folder_that_is_called_like_a_dataset_are_found(arm: Arm):
    arm.record("lerobot_v3/x/a.hdf5")
    arm.convert()
    assert stored_ids(arm.store) == ["lerobot_v3/x/a.hdf5"]


def test_stored_ids_are_those_of_episodes_and_quarantine_at_any_depth(arm: Arm):
    arm.record("a.hdf5", "x/b.hdf5", "x/y/z/c.hdf5")
    (arm.raw / "x/bad.hdf5").write_bytes(b"not an HDF5 file")
    arm.convert()
    with replacing(arm.store.recording_folder("x/half.hdf5")) as work:
        work.mkdir()
        (work / "recording.json").write_text("{}")
        assert stored_ids(arm.store) == ["a.hdf5", "x/b.hdf5", "x/bad.hdf5", "x/y/z/c.hdf5"]
        shutil.rmtree(work)
        work.mkdir()


def test_an_empty_store_has_no_ids(arm: Arm):
    assert stored_ids(arm.store) == []
    assert arm.plan().removed == []


def test_forgetting_leaves_neighbours_and_no_empty_folders(arm: Arm):
    arm.record("x/a.hdf5", "x/y/b.hdf5", "z/c.hdf5")
    (arm.raw / "z/bad.hdf5").write_bytes(b"not an HDF5 file")
    arm.convert()
    forget(arm.store, ["x/y/b.hdf5", "z/c.hdf5", "z/bad.hdf5", "never/there.hdf5"])
    assert stored_ids(arm.store) == ["x/a.hdf5"]
    assert [p.name for p in arm.store.episodes.iterdir()] == ["x"]
    assert [p.name for p in (arm.store.episodes / "x").iterdir()] == ["a.hdf5"]
    assert list(arm.store.quarantine.iterdir()) == []
    assert len(arm.store.read_episodes("x/a.hdf5")) == 1


def test_a_recording_whose_name_is_now_a_folder_of_recordings_leaves_no_trace(arm: Arm):
    arm.record("run")
    arm.with_spec(pattern="*")
    arm.convert()
    assert arm.states() == {"run": "converted"}
    (arm.raw / "run").unlink()
    arm.record("run/a.hdf5")
    arm.with_spec(pattern="*/*")
    assert arm.plan().removed == ["run"]
    arm.convert()
    assert arm.states() == {"run/a.hdf5": "converted"}
    assert arm.plan().removed == []
    assert [p.name for p in (arm.store.episodes / "run").iterdir()] == ["a.hdf5"]


# Sweeping

LEAVE = """
import os, sys
from pathlib import Path
from vla_ops.files import replacing
for place in sys.argv[1:]:
    work = replacing(Path(place)).__enter__()
    work.mkdir()
    (work / "half").write_text("x")
os._exit(9)
"""


def test_what_a_killed_process_left_is_swept_at_any_depth_and_nothing_else(arm: Arm):
    arm.record("x/a.hdf5")
    arm.convert()
    places = [arm.store.episodes / "x/y/b.hdf5", arm.store.root / "cache/c.hdf5", arm.store.root / "lerobot_v3"]
    subprocess.run([sys.executable, "-c", LEAVE, *map(str, places)], check=False)
    assert len(list(arm.store.root.rglob("half"))) == 3
    with replacing(arm.store.episodes / "x/living.hdf5") as living:
        living.mkdir()
        (living / "0").mkdir()
        swept = sweep_store(arm.store)
        assert sorted(path.name.split(".tmp-")[0] for path in swept) == ["b.hdf5", "c.hdf5", "lerobot_v3"]
        assert (living / "0").is_dir()
    assert list(arm.store.root.rglob("half")) == []
    assert arm.states() == {"x/a.hdf5": "converted"}
    assert len(arm.store.read_episodes("x/a.hdf5")) == 1
