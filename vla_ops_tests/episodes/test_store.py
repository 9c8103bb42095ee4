"""Reading the store: what is not there, and records that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.episodes.store import RobotStore, load_episode
from vla_ops.errors import StoreError
from vla_ops_tests.episodes.workshop import (
    Workshop,
)


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_what_was_never_converted_is_none_and_no_episodes(shop: Workshop):
    assert shop.store.read_recording("a.hdf5") is None
    assert shop.store.read_quarantine("a.hdf5") is None
    assert (shop.store.read_episodes("a.hdf5"), list(shop.store.quarantined())) == ([], [])


def test_a_folder_without_episode_json_is_named(tmp_path: Path):
    with pytest.raises(StoreError, match=r"episode.json is missing.*file .*the next run converts that recording again"):
        load_episode(tmp_path)


def test_a_record_that_is_no_json_is_named(shop: Workshop):
    shop.aloha()
    shop.convert()
    path = shop.store.recording_folder("a.hdf5") / "recording.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(StoreError, match=r"not valid JSON.*recording.json"):
        shop.store.read_episodes("a.hdf5")


def test_quarantine_entries_are_listed_with_their_recordings_also_in_folders(shop: Workshop):
    for key in ("b/c.hdf5", "a.hdf5"):
        shop.store.write_quarantine(key, {"quarantined": f"why {key}"})
    assert [(e["recording"], e["quarantined"]) for e in shop.store.quarantined()] == [
        ("a.hdf5", "why a.hdf5"),
        ("b/c.hdf5", "why b/c.hdf5"),
    ]


def test_the_store_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "x"))
    assert RobotStore.of("arm").recording_folder("s/a.mcap") == tmp_path / "x/arm/episodes/s/a.mcap"
