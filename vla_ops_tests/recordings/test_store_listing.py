"""What a listing says of a file changes with the file, on disks, behind links and on every store."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from vla_ops.errors import RecordingError
from vla_ops.recordings.discover import content_version, list_recordings
from vla_ops.recordings.store_listing import Listed, local_files, remote_file


def put(root: Path, *names: str, data: bytes = b"recording") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


# Local


def test_a_file_rewritten_with_its_size_and_time_kept_has_another_stamp(tmp_path: Path) -> None:
    put(tmp_path, "a.mcap", data=b"one")
    os.utime(tmp_path / "a.mcap", (1000, 1000))
    (before,) = local_files(tmp_path / "a.mcap")
    put(tmp_path, "a.mcap", data=b"two")
    os.utime(tmp_path / "a.mcap", (1000, 1000))
    (after,) = local_files(tmp_path / "a.mcap")
    assert (before.size, before.modified_s) == (after.size, after.modified_s) == (3, 1000)
    assert before.stamp != after.stamp


def test_a_link_is_as_new_as_the_file_it_leads_to(tmp_path: Path) -> None:
    put(tmp_path, "disk/a.mcap")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.mcap").symlink_to(tmp_path / "disk/a.mcap")
    os.utime(tmp_path / "raw/a.mcap", (1000, 1000), follow_symlinks=False)
    (file,) = list_recordings(str(tmp_path / "raw"), "*")
    assert not file.is_settled(10)
    os.utime(tmp_path / "disk/a.mcap", (2000, 2000))
    (file,) = list_recordings(str(tmp_path / "raw"), "*")
    assert file.modified_s == 2000


def test_a_link_has_another_stamp_when_its_target_is_rewritten_or_is_another(tmp_path: Path) -> None:
    put(tmp_path, "disk/a.mcap", data=b"one")
    put(tmp_path, "disk/b.mcap", data=b"two")
    link = tmp_path / "a.mcap"
    link.symlink_to(tmp_path / "disk/a.mcap")
    stamps = [local_files(link)[0].stamp]
    put(tmp_path, "disk/a.mcap", data=b"six")
    stamps.append(local_files(link)[0].stamp)
    link.unlink()
    link.symlink_to(tmp_path / "disk/b.mcap")
    stamps.append(local_files(link)[0].stamp)
    assert len(set(stamps)) == 3


def test_a_linked_folder_is_a_folder_with_all_its_files(tmp_path: Path) -> None:
    put(tmp_path, "disk/a.zarr/x/0", "disk/a.zarr/x/1")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.zarr").symlink_to(tmp_path / "disk/a.zarr")
    (linked,), (itself,) = (list_recordings(str(tmp_path / folder), "*.zarr") for folder in ("raw", "disk"))
    assert (linked.is_folder, linked.size, linked.uri) == (True, 18, str(tmp_path / "raw/a.zarr"))
    assert content_version(linked) == content_version(itself)


def test_a_link_to_nothing_stops_no_listing_and_is_named_when_it_is_read(tmp_path: Path) -> None:
    put(tmp_path, "b.mcap")
    (tmp_path / "a.mcap").symlink_to(tmp_path / "gone")
    broken, whole = list_recordings(str(tmp_path), "*.mcap")
    assert (broken.id, whole.id) == ("a.mcap", "b.mcap")
    with pytest.raises(RecordingError, match=r"No such file.*a\.mcap"):
        content_version(broken)


def test_what_is_gone_by_the_time_it_is_looked_at_is_left_out(tmp_path: Path) -> None:
    assert local_files(tmp_path / "gone.mcap") == []


# Remote


def listed(**info: Any) -> Listed:
    return remote_file(fsspec.filesystem("memory"), {"name": "r/a.mcap", "size": 100, "type": "file", **info}, "")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"blob_id": "a", "lfs": {"sha256": "1"}, "last_commit": None}, {"blob_id": "b", "lfs": {"sha256": "2"}, "last_commit": None}),
        ({"etag": "1", "md5Hash": "a"}, {"etag": "2", "md5Hash": "b"}),
        ({"generation": "1"}, {"generation": "2"}),
        ({"ETag": '"1"'}, {"ETag": '"2"'}),
        ({"Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}, {"Last-Modified": "Sat, 21 Nov 2026 12:00:01 GMT"}),
        ({"created": 1.5}, {"created": 2.5}),
        ({"modify": "20261121120000"}, {"modify": "20261121120001"}),
    ],
    ids=["hugging face", "google", "google without md5", "http", "http without etag", "memory", "ftp"],
)
def test_a_remote_file_that_changed_at_the_same_size_has_another_stamp(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert listed(**before).stamp == listed(**before).stamp != listed(**after).stamp


@pytest.mark.parametrize(
    "said",
    [
        {"LastModified": datetime(2026, 11, 21, 12, tzinfo=UTC)},
        {"updated": "2026-11-21T12:00:00Z"},
        {"Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"},
        {"modify": "20261121120000"},
        {"created": datetime(2026, 11, 21, 12, tzinfo=UTC).replace(tzinfo=None)},
        {"mtime": 1795262400},
    ],
)
def test_the_time_of_the_last_change_is_read_in_every_form_that_stores_have(said: dict[str, Any]) -> None:
    assert listed(**said).modified_s == 1795262400


@pytest.mark.parametrize("said", [{"ETag": "1"}, {"updated": "tomorrow"}, {"modify": "99999999999999"}])
def test_what_is_no_time_counts_as_long_ago(said: dict[str, Any]) -> None:
    assert listed(**said).modified_s == 0


@pytest.mark.parametrize("key", ["etag", "ETag", "checksum"])
def test_a_token_that_may_be_no_hash_is_of_its_file_only(key: str) -> None:
    first, second = (listed(name=name, **{key: "1"}) for name in ("r/a.mcap", "r/b.mcap"))
    assert first.stamp != second.stamp


@pytest.mark.parametrize("key", ["md5Hash", "blob_id"])
def test_a_hash_of_the_content_is_the_same_whatever_the_file_is_called(key: str) -> None:
    first, second = (listed(name=name, **{key: "1"}) for name in ("r/a.mcap", "r/b.mcap"))
    assert first.stamp == second.stamp


def test_a_listing_that_says_nothing_is_made_up_for_by_asking_for_the_file_itself() -> None:
    class Terse(MemoryFileSystem):
        def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
            return {"name": path, "size": 3, "type": "file", "ETag": "1"}

    assert remote_file(Terse(), {"name": "r/a.mcap", "size": None, "type": "file"}, "").size == 3


def test_a_store_that_does_not_say_whether_a_file_has_changed_is_refused_by_its_name() -> None:
    class Silent(MemoryFileSystem):
        def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
            return {"name": path, "size": 3, "type": "file"}

    with pytest.raises(RecordingError, match=r"whether a file has changed \[file r/a\.mcap\]; found Silent with name, size, type"):
        remote_file(Silent(), {"name": "r/a.mcap", "size": 3, "type": "file"}, "")
