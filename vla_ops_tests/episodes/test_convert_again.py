"""What becomes of the episodes of a recording that is converted again, cannot be, or is interrupted."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_ops_tests.episodes.workshop import (
    DEMOS,
    JSON_STATE,
    QPOS,
    STEP_NS,
    Workshop,
    put,
)
from vla_ops_tests.recordings.hdf5_files import write_robomimic
from vla_ops_tests.recordings.mcap_files import START_NS, Sample, write_samples


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_recording_that_is_no_longer_usable_loses_its_episodes(shop: Workshop):
    shop.aloha()
    shop.convert()
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        put(file, QPOS, (2, 0), np.nan)
    shop.convert(version="v2")
    assert shop.store.read_episodes("a.hdf5") == []
    assert not shop.store.recording_folder("a.hdf5").exists()
    assert "state j1" in shop.reason()


def test_a_recording_that_was_repaired_leaves_quarantine(shop: Workshop):
    shop.aloha()
    shop.convert(state=[{"source": "/observations/qpsition", "names": ["x"], "unit": "rad"}])
    assert "no stream '/observations/qpsition'" in shop.reason()
    shop.convert(version="v2")
    assert shop.store.read_quarantine("a.hdf5") is None
    assert [e.meta.source_version for e in shop.store.read_episodes("a.hdf5")] == ["v2"]


def test_fewer_episodes_than_before_leave_none_of_the_old_ones(shop: Workshop):
    write_robomimic(shop.raw / "a.hdf5", demos=(1, 2, 3))
    shop.convert(**DEMOS)
    write_robomimic(shop.raw / "a.hdf5", demos=(7,))
    shop.convert(version="v2", **DEMOS)
    assert [e.meta.name for e in shop.store.read_episodes("a.hdf5")] == ["demo_7"]
    assert sorted(p.name for p in shop.store.recording_folder("a.hdf5").iterdir() if p.is_dir()) == ["0"]


def test_what_nobody_foresaw_is_quarantined_with_its_traceback_and_nothing_is_left(shop: Workshop):
    def breaks(done: int, _: float) -> None:
        raise ZeroDivisionError(f"after {done} frames")

    shop.aloha()
    conversion = shop.convert(progress=breaks)
    assert conversion.quarantined == shop.reason()
    assert "unexpected ZeroDivisionError: after 19 frames [file a.hdf5]" in shop.reason()
    entry = shop.store.read_quarantine("a.hdf5")
    assert entry is not None
    assert "Traceback (most recent call last)" in entry["traceback"]
    assert "in breaks" in entry["traceback"]
    assert not shop.store.recording_folder("a.hdf5").exists()
    assert shop.left_behind() == []


def test_being_interrupted_leaves_what_was_there_as_it_was(shop: Workshop):
    def interrupt(*_: float) -> None:
        raise KeyboardInterrupt

    shop.aloha()
    shop.convert()
    with pytest.raises(KeyboardInterrupt):
        shop.convert(version="v2", progress=interrupt)
    assert [e.meta.source_version for e in shop.store.read_episodes("a.hdf5")] == ["v1"]
    assert shop.left_behind() == []


def test_a_recording_without_an_episode_is_refused(shop: Workshop):
    write_samples(shop.raw / "a.mcap", "json", [])
    shop.convert("a.mcap", "mcap", **JSON_STATE)
    assert "the recording is empty [file a.mcap]; found no episode" in shop.reason("a.mcap")


def test_a_number_too_large_for_a_float_is_a_damaged_message(shop: Workshop):
    samples = [Sample("/arm", "JointState", START_NS + k * STEP_NS, {"position": [0.0, 1.0, 10**400 if k == 7 else k]}) for k in range(20)]
    write_samples(shop.raw / "a.mcap", "json", samples)
    conversion = shop.convert("a.mcap", "mcap", **JSON_STATE)
    assert conversion.traceback is None
    assert "stream /arm, message 7" in shop.reason("a.mcap")
