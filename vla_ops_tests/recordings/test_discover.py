from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.errors import RecordingError
from vla_ops.files import replacing
from vla_ops.recordings.discover import (
    ContentVersions,
    RecordingFile,
    content_version,
    list_recordings,
    natural_key,
    same_names,
)
from vla_ops_tests.recordings.zarr_files import write_replay_buffer


def put(root: Path, *names: str, data: bytes = b"recording") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def ids(root: Path | str, pattern: str) -> list[str]:
    return [file.id for file in list_recordings(str(root), pattern)]


def only(root: Path | str, pattern: str = "*") -> RecordingFile:
    (file,) = list_recordings(str(root), pattern)
    return file


# Listing


def test_a_pattern_chooses_files_and_their_ids_are_relative_to_the_root(tmp_path: Path):
    put(tmp_path, "station1/a.mcap", "station2/b.mcap", "station2/b.yaml", "station2/old/c.mcap", "other/d.mcap", "e.mcap")
    assert ids(tmp_path, "station*/*.mcap") == ["station1/a.mcap", "station2/b.mcap"]
    assert ids(tmp_path, "*.mcap") == ["e.mcap"]


def test_two_stars_cross_folders_and_match_at_the_root_too(tmp_path: Path):
    put(tmp_path, "e.mcap", "x/a.mcap", "x/y/z/b.mcap")
    assert ids(tmp_path, "**/*.mcap") == ["e.mcap", "x/a.mcap", "x/y/z/b.mcap"]


def test_numbers_in_names_are_ordered_by_their_value(tmp_path: Path):
    put(tmp_path, *(f"station{s}/run_{k}.mcap" for s in (10, 9) for k in (10, 2, 1)))
    assert ids(tmp_path, "*/*.mcap") == [f"station{s}/run_{k}.mcap" for s in (9, 10) for k in (1, 2, 10)]


@given(st.lists(st.text(alphabet=st.sampled_from("ab12²①٣/._é"), max_size=8), max_size=5))
def test_any_names_can_be_ordered(names: list[str]):
    ordered = sorted(names, key=natural_key)
    assert sorted(ordered) == sorted(names)
    assert [natural_key(name) for name in ordered] == sorted(natural_key(name) for name in reversed(names))


@given(st.lists(st.integers(0, 10**12), unique=True, max_size=6))
def test_plain_numbers_are_ordered_as_numbers(numbers: list[int]):
    names = sorted((f"{n}.mcap" for n in numbers), key=natural_key)
    assert names == [f"{n}.mcap" for n in sorted(numbers)]


def test_a_zarr_folder_is_one_recording_with_the_size_of_all_its_files(tmp_path: Path):
    write_replay_buffer(tmp_path / "a.zarr", cameras=())
    put(tmp_path, "b.zarr.zip")
    folder, archive = list_recordings(str(tmp_path), "*.zarr*")
    assert (folder.id, folder.is_folder, folder.uri) == ("a.zarr", True, str(tmp_path / "a.zarr"))
    assert folder.size == sum(p.stat().st_size for p in (tmp_path / "a.zarr").rglob("*") if p.is_file())
    assert (archive.id, archive.is_folder, archive.size) == ("b.zarr.zip", False, 9)


def test_hidden_files_and_folders_are_no_recordings(tmp_path: Path):
    # As macOS, rsync and the trash of a USB disk leave them.
    put(tmp_path, "a.mcap", "._a.mcap", ".b.mcap", ".Trash-0/files/c.mcap", "x/.d.mcap", "x/e.mcap")
    assert ids(tmp_path, "*.mcap") == ["a.mcap"]
    assert ids(tmp_path, "**/*.mcap") == ["a.mcap", "x/e.mcap"]


def test_a_pattern_or_root_that_names_a_hidden_folder_means_it(tmp_path: Path):
    put(tmp_path, ".robot/logs/a.mcap")
    assert ids(tmp_path, ".robot/*/*.mcap") == [".robot/logs/a.mcap"]
    assert ids(tmp_path / ".robot", "**/*.mcap") == ["logs/a.mcap"]


def test_a_file_that_is_still_being_copied_in_is_no_recording(tmp_path: Path):
    put(tmp_path, "a.mcap")
    with replacing(tmp_path / "b.mcap") as work:
        work.write_bytes(b"half")
        assert ids(tmp_path, "*.mcap*") == ["a.mcap"]
    assert ids(tmp_path, "*.mcap*") == ["a.mcap", "b.mcap"]


def test_no_match_is_an_empty_listing_and_a_missing_root_is_named(tmp_path: Path):
    assert ids(tmp_path, "*.mcap") == []
    with pytest.raises(RecordingError, match=r"root is not there \[file .*/missing\].*recordings\.uri"):
        list_recordings(str(tmp_path / "missing"), "*")


def test_a_root_that_nothing_can_open_is_named():
    with pytest.raises(RecordingError, match=r"cannot list the recordings.*nosuchscheme.*\[file nosuchscheme://bucket/x\]"):
        list_recordings("nosuchscheme://bucket/x", "*")


def test_a_file_uri_gives_local_paths(tmp_path: Path):
    put(tmp_path, "x/a.mcap")
    file = only(f"file://{tmp_path}", "**/*.mcap")
    assert (file.id, file.uri) == ("x/a.mcap", str(tmp_path / "x/a.mcap"))


# Same names


def test_names_that_differ_only_in_case_or_unicode_form_are_the_same(tmp_path: Path):
    put(tmp_path, "A.mcap", "a.mcap", "caf\u00e9/1.mcap", "cafe\u0301/1.mcap", "b.mcap", "STRASSE.mcap", "stra\u00dfe.mcap")
    assert same_names(list_recordings(str(tmp_path), "**/*.mcap")) == {
        "a.mcap": "A.mcap",
        "caf\u00e9/1.mcap": "cafe\u0301/1.mcap",
        "stra\u00dfe.mcap": "STRASSE.mcap",
    }


def test_the_same_file_name_in_two_folders_is_two_names(tmp_path: Path):
    put(tmp_path, "x/1.mcap", "y/1.mcap")
    assert same_names(list_recordings(str(tmp_path), "*/*")) == {}


# Settling


def test_a_file_is_settled_once_it_is_old_enough(tmp_path: Path):
    put(tmp_path, "a.mcap")
    os.utime(tmp_path / "a.mcap", (1000, 1000))
    file = only(tmp_path)
    assert [file.is_settled(10, now) for now in (1000, 1009.9, 1010, 5000)] == [False, False, True, True]
    assert file.is_settled(10)


def test_a_folder_is_as_new_as_its_newest_file(tmp_path: Path):
    put(tmp_path, "a.zarr/x/0", "a.zarr/y/0")
    for name, second in (("x/0", 1000), ("y/0", 2000)):
        os.utime(tmp_path / "a.zarr" / name, (second, second))
    assert only(tmp_path).modified_s == 2000


def test_a_folder_that_was_only_just_made_is_not_settled(tmp_path: Path):
    (tmp_path / "a.zarr").mkdir()
    assert not only(tmp_path).is_settled(10)
    assert only(tmp_path).is_settled(10, time.time() + 11)


# Content versions


def version(memory: Path, root: Path) -> str:
    """As one run sees it: load, ask, save."""
    versions, file = ContentVersions.load(memory), only(root)
    found = versions.of(file)
    versions.save([file.id])
    return found


def test_a_version_changes_with_the_content_and_only_with_it(tmp_path: Path):
    root, memory = tmp_path / "raw", tmp_path / "store/recordings.json"
    put(root, "a.mcap", data=b"one")
    first = version(memory, root)
    os.utime(root / "a.mcap", (1000, 1000))
    assert version(memory, root) == first
    put(root, "a.mcap", data=b"two")
    second = version(memory, root)
    assert second != first
    put(root, "a.mcap", data=b"one")
    assert version(memory, root) == first


def test_what_was_read_once_is_not_read_again_until_it_is_touched(tmp_path: Path):
    root, memory, read = tmp_path / "raw", tmp_path / "recordings.json", []
    put(root, "a.mcap", data=b"12345")
    for _ in range(2):
        versions = ContentVersions.load(memory)
        versions.of(only(root), read.append)
        versions.save(["a.mcap"])
    assert read == [5]
    os.utime(root / "a.mcap", (1000, 1000))
    ContentVersions.load(memory).of(only(root), read.append)
    assert read == [5, 5]


def test_a_folders_version_changes_with_a_byte_a_name_and_a_file_more(tmp_path: Path):
    put(tmp_path, "a.zarr/x/0", "a.zarr/x/1")
    versions = [content_version(only(tmp_path))]
    put(tmp_path, "a.zarr/x/1", data=b"Recording")
    versions.append(content_version(only(tmp_path)))
    (tmp_path / "a.zarr/x/1").rename(tmp_path / "a.zarr/x/2")
    versions.append(content_version(only(tmp_path)))
    put(tmp_path, "a.zarr/x/3")
    versions.append(content_version(only(tmp_path)))
    assert len(set(versions)) == 4
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    assert content_version(only(tmp_path)) == versions[-1]


def test_what_is_gone_is_forgotten(tmp_path: Path):
    root, memory = tmp_path / "raw", tmp_path / "recordings.json"
    put(root, "a.mcap", "b.mcap")
    versions = ContentVersions.load(memory)
    for file in list_recordings(str(root), "*"):
        versions.of(file)
    versions.save(["a.mcap", "b.mcap"])
    assert set(ContentVersions.load(memory).known) == {"a.mcap", "b.mcap"}
    versions.save(["b.mcap"])
    assert set(ContentVersions.load(memory).known) == {"b.mcap"}


def test_nothing_new_writes_nothing(tmp_path: Path):
    root, memory = tmp_path / "raw", tmp_path / "recordings.json"
    put(root, "a.mcap")
    version(memory, root)
    before = memory.stat()
    version(memory, root)
    assert (memory.stat().st_ino, memory.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("text", ["", "{half", None])
def test_a_memory_that_cannot_be_read_is_made_again(tmp_path: Path, text: str | None):
    root, memory = tmp_path / "raw", tmp_path / "recordings.json"
    put(root, "a.mcap")
    if text is not None:
        memory.write_text(text)
    assert version(memory, root) == content_version(only(root))
    assert set(ContentVersions.load(memory).known) == {"a.mcap"}


def test_a_file_that_disappears_between_listing_and_reading_is_named(tmp_path: Path):
    put(tmp_path, "a.mcap")
    file = only(tmp_path)
    (tmp_path / "a.mcap").unlink()
    with pytest.raises(RecordingError, match=r"cannot read the recording: No such file.*a\.mcap"):
        content_version(file)


# Remote stores


@pytest.fixture
def bucket() -> Iterator[str]:
    name = f"memory://{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    fs.pipe(f"{name}/station1/10.mcap", b"ten")
    fs.pipe(f"{name}/station1/2.mcap", b"two!")
    fs.pipe(f"{name}/a.zarr/data/0", b"chunk")
    fs.pipe(f"{name}/a.zarr/.zgroup", b"{}")
    yield name
    fs.rm(name, recursive=True)


def test_a_remote_store_is_listed_like_a_folder(bucket: str):
    first, second = list_recordings(bucket, "**/*.mcap")
    assert [(first.id, first.size), (second.id, second.size)] == [("station1/2.mcap", 4), ("station1/10.mcap", 3)]
    assert first.uri.startswith("memory://")
    folder = only(bucket, "*.zarr")
    assert (folder.id, folder.is_folder, folder.size) == ("a.zarr", True, 7)


def test_a_remote_file_written_again_has_another_version_even_at_the_same_size(bucket: str):
    before = content_version(only(bucket, "*/2.mcap"))
    assert content_version(only(bucket, "*/2.mcap")) == before
    fsspec.filesystem("memory").pipe(f"{bucket}/station1/2.mcap", b"2222")
    assert content_version(only(bucket, "*/2.mcap")) != before


def test_a_remote_file_written_just_now_is_not_settled(bucket: str):
    file = only(bucket, "*/2.mcap")
    assert not file.is_settled(10)
    assert file.is_settled(10, time.time() + 11)


def test_versions_of_different_remote_files_differ(bucket: str):
    versions = [content_version(f) for f in itertools.chain(list_recordings(bucket, "**/*.mcap"), list_recordings(bucket, "*.zarr"))]
    assert len(set(versions)) == 3
