"""What is published below a place, and what has changed since."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from vla_ops.errors import PublishError
from vla_ops.published.registry import age, changed_since, publications, versions_of
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import LocalStore
from vla_ops_tests.publishing.packages import NAME, package_of, published


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.fixture
def done(store: LocalStore, tmp_path: Path) -> Published:
    return published(store, tmp_path / "made", a="one")


def test_all_publications_are_found_and_what_was_never_finished_is_not(store: LocalStore, done: Published, tmp_path: Path) -> None:
    package = package_of(tmp_path / "other", a="two")
    publish(type(package)(package.kind, "lab/arm/fold", package.files, package.origin, {}), store, work=tmp_path)
    (store.folder / "arm/never/versions/0123").mkdir(parents=True)
    found = [each.manifest.name for each in publications(store.uri) if not isinstance(each, PublishError)]
    assert sorted(found) == [NAME, "lab/arm/fold"]
    assert versions_of(f"{store.uri}/{NAME}") == [done.manifest.version]


def test_one_that_cannot_be_read_does_not_hide_the_others(store: LocalStore, done: Published, tmp_path: Path) -> None:
    package = package_of(tmp_path / "other", a="two")
    publish(type(package)(package.kind, "arm/fold", package.files, package.origin, {}), store, work=tmp_path)
    (store.folder / NAME / done.manifest.folder / "vla_ops_manifest.json").write_text("{")
    broken, whole = sorted(publications(store.uri), key=lambda each: not isinstance(each, PublishError))
    assert "the manifest cannot be read" in str(broken)
    assert not isinstance(whole, PublishError)
    assert whole.manifest.name == "arm/fold"


@pytest.mark.parametrize(("past", "said"), [(30, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (86400 * 3, "3 days ago")])
def test_ages_are_said_in_words(done: Published, past: int, said: str) -> None:
    assert age(done.manifest, datetime.fromisoformat(done.manifest.created) + timedelta(seconds=past)) == said


def test_what_has_changed_since_is_said_by_name(done: Published, tmp_path: Path) -> None:
    robot = tmp_path / "home/arm"
    assert "nothing to compare with" in changed_since(done.manifest, tmp_path / "home")[0]
    (robot / "lerobot_v3").mkdir(parents=True)
    (robot / "lerobot_v3/current.json").write_text(json.dumps({"version": "d1"}))
    write_recordings(robot, {"a.mcap": "11", "b.mcap": "22"})
    assert changed_since(done.manifest, tmp_path / "home") == []
    write_recordings(robot, {"a.mcap": "12", "c.mcap": "33"})
    (robot / "lerobot_v3/current.json").write_text(json.dumps({"version": "d2"}))
    assert changed_since(done.manifest, tmp_path / "home") == [
        "recording a.mcap is another one (11 -> 12)",
        "recording b.mcap is gone (was 22)",
        "recording c.mcap is new (33)",
        "the dataset is now version d2 (was d1)",
    ]


def write_recordings(robot: Path, versions: dict[str, str]) -> None:
    (robot / "recordings.json").write_text(json.dumps({name: {"version": version} for name, version in versions.items()}))
