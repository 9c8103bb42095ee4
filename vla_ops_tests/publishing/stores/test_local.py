"""Publications in a folder: the contract, and what is its own."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vla_ops.errors import PublishError
from vla_ops.publishing.stores import LocalStore, store_at
from vla_ops_tests.publishing.stores.contract import PrunableContract, made, put


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


class TestLocal(PrunableContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "store")


def test_what_is_published_does_not_change_with_the_original(store: LocalStore, tmp_path: Path) -> None:
    file = made(tmp_path / "file", b"content")
    put(store, "v1/file", file)
    with file.path.open("r+b") as handle:
        handle.write(b"CONTENT")
    assert store.read("v1/file") == b"content"


def test_what_a_killed_process_left_is_removed(store: LocalStore, tmp_path: Path) -> None:
    file = made(tmp_path / "file", b"content")
    # A process of this host that is gone.
    left = store.folder / f"v1/file.tmp-{2**22 + 1}-0123-{os.uname().nodename}"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"con")
    assert store.listed("v1") == {}
    put(store, "v1/file", file)
    assert [path.name for path in left.parent.iterdir()] == ["file"]


def test_what_killed_processes_left_long_ago_is_cleared_away(store: LocalStore, tmp_path: Path) -> None:
    put(store, "v1/file", made(tmp_path / "file", b"content"))
    old, new = (store.folder / f"v1/{name}.tmp-1-0123-elsewhere" for name in ("old", "new"))
    for left in (old, new):
        left.write_bytes(b"con")
    os.utime(old, (1e9, 1e9))
    assert store.clear_unfinished(datetime.now(UTC) - timedelta(days=1)) == 1
    assert sorted(path.name for path in (store.folder / "v1").iterdir()) == ["file", new.name]


def test_what_cannot_be_removed_is_said(store: LocalStore, tmp_path: Path) -> None:
    put(store, "v1/folder/file", made(tmp_path / "file", b"content"))
    with pytest.raises(PublishError, match=r"a file cannot be removed.*v1/folder"):
        store.remove(["v1/folder"])


def test_a_place_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match=r"the folder cannot be made.*file/store"):
        store_at(str(tmp_path / "file/store")).check()
