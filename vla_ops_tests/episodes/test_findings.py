"""Warnings of the quality report are read once an episode, and again when it was converted again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla_ops.episodes.findings import warnings_of
from vla_ops_tests.episodes.planning import Arm
from vla_ops_tests.work import watched


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    """Two recordings; the second has a warning and a note."""
    made = Arm(tmp_path)
    made.record("a.hdf5", "b.hdf5")
    made.convert()
    warn(made, "still")
    return made


def warn(arm: Arm, check: str) -> None:
    path = arm.store.recording_folder("b.hdf5") / "0/episode.json"
    found = {"check": check, "where": "j1", "value": 1.0, "limit": 0.5, "message": "j1 rests"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"findings": [{**found, "level": "warn"}, {**found, "level": "note"}]}))


def made(arm: Arm) -> dict[str, str]:
    return {found.file.id: found.made for found in arm.plan().found}


def test_warnings_are_named_and_notes_are_not(arm: Arm) -> None:
    assert warnings_of(arm.store, made(arm)) == [{"episode": "b.hdf5/0", "where": "j1", "check": "still", "message": "j1 rests"}]


def test_an_episode_is_read_once_and_again_when_its_version_is_another(arm: Arm) -> None:
    versions = made(arm)
    warnings_of(arm.store, versions)
    with watched(arm.store.root) as work:
        assert len(warnings_of(arm.store, versions)) == 1
    assert work.named("episode.json") == 0
    warn(arm, "jump")
    with watched(arm.store.root) as work:
        (row,) = warnings_of(arm.store, {**versions, "b.hdf5": "another"})
    assert (row["check"], work.named("episode.json")) == ("jump", 1)


def test_what_is_gone_is_forgotten_and_a_damaged_memory_is_made_again(arm: Arm) -> None:
    versions = made(arm)
    warnings_of(arm.store, versions)
    assert warnings_of(arm.store, {"a.hdf5": versions["a.hdf5"]}) == []
    assert list(json.loads((arm.store.root / "findings.json").read_text())) == ["a.hdf5"]
    (arm.store.root / "findings.json").write_text("{half")
    assert len(warnings_of(arm.store, versions)) == 1
