"""Listings of object stores, where keys are any text and the client remembers what it listed; and how far versions have come."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from fsspec.registry import _registry

from vla_ops.errors import RecordingError
from vla_ops.recordings.discover import ContentVersions, content_version, list_recordings

ROBOT = "s3://bucket/robot"


class Bucket(MemoryFileSystem):
    """An object store as s3fs shows S3: keys are any text, an ETag is the MD5 of the content, and listings are remembered."""

    protocol = ("s3", "s3a")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("s3://").strip("/")

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:  # noqa: FBT001
        path = self._strip_protocol(path)
        if path not in self.dircache:
            found: Any = super().ls(path, detail=True, **kwargs)
            self.dircache[path] = [info | self._token(info) for info in found]
        return self.dircache[path] if detail else [info["name"] for info in self.dircache[path]]

    def _token(self, info: dict[str, Any]) -> dict[str, Any]:
        if info["type"] == "directory":
            return {}
        return {"ETag": f'"{hashlib.md5(self.store[info["name"]].getvalue(), usedforsecurity=False).hexdigest()}"'}

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


@pytest.fixture
def s3() -> Iterator[dict[str, Any]]:
    """The objects of an S3 by path; writing here is what another machine does."""
    fsspec.register_implementation("s3", Bucket, clobber=True)
    yield Bucket.store
    Bucket.store.clear()
    Bucket.clear_instance_cache()
    del _registry["s3"]


def upload(s3: dict[str, Any], key: str, data: bytes) -> None:
    s3[f"/bucket/robot/{key}"] = MemoryFile(None, f"/bucket/robot/{key}", data)


def test_what_was_uploaded_since_the_last_listing_is_listed(s3: dict[str, Any]) -> None:
    upload(s3, "a.mcap", b"1")
    assert [f.id for f in list_recordings(ROBOT, "*.mcap")] == ["a.mcap"]
    upload(s3, "a.mcap", b"longer")
    upload(s3, "b.mcap", b"2")
    assert [(f.id, f.size) for f in list_recordings(ROBOT, "*.mcap")] == [("a.mcap", 6), ("b.mcap", 1)]


def test_the_same_bytes_have_the_same_version_under_any_name_where_the_store_has_a_hash(s3: dict[str, Any]) -> None:
    for key, data in (("a.mcap", b"same"), ("b.mcap", b"same"), ("c.mcap", b"else")):
        upload(s3, key, data)
    a, b, c = (content_version(file) for file in list_recordings(ROBOT, "*.mcap"))
    assert a == b != c


def test_folders_of_the_same_files_have_the_same_version_and_others_have_not(s3: dict[str, Any]) -> None:
    for folder, last in (("a", "1"), ("b", "1"), ("c", "2")):
        upload(s3, f"{folder}.zarr/x/0", b"zero")
        upload(s3, f"{folder}.zarr/x/{last}", b"last")
    a, b, c = (content_version(file) for file in list_recordings(ROBOT, "*.zarr"))
    assert a == b != c


@pytest.mark.parametrize(("key", "pattern"), [("x/../../evil.mcap", "**/*.mcap"), ("a.zarr/../../../evil", "*.zarr")])
def test_a_key_that_leaves_its_folder_is_refused(s3: dict[str, Any], key: str, pattern: str) -> None:
    upload(s3, key, b"evil")
    with pytest.raises(RecordingError, match=r"leads out of its folder \[file /bucket/robot/"):
        list_recordings(ROBOT, pattern)


@pytest.mark.parametrize("name", ["run[1]", "what?", "all*"])
def test_a_root_with_characters_of_globs_is_that_root(tmp_path: Path, name: str) -> None:
    for folder in (name, "run1", "whatx", "all2"):
        (tmp_path / folder / "x").mkdir(parents=True)
        (tmp_path / folder / "x/a.mcap").write_bytes(b"a")
    remote = f"memory://{uuid.uuid4().hex}/{name}"
    fsspec.filesystem("memory").pipe(f"{remote}/x/a.mcap", b"a")
    for root in (str(tmp_path / name), remote):
        for pattern in ("*/*.mcap", "**/*.mcap"):
            assert [f.id for f in list_recordings(root, pattern)] == ["x/a.mcap"]


def test_a_file_that_nothing_touched_is_not_read_again(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a.mcap").write_bytes(b"x" * 2_500_000)
    versions, read = ContentVersions(tmp_path / "recordings.json", {}), list[int]()
    found = [versions.of(*list_recordings(str(tmp_path / "raw"), "*"), progress=read.append) for _ in range(2)]
    assert found[0] == found[1]
    assert sum(read) == 2_500_000
    assert len(read) == 3


def test_what_was_read_is_remembered_before_all_is_read(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name in ("a.mcap", "b.mcap"):
        (tmp_path / "raw" / name).write_bytes(name.encode())
    versions = ContentVersions(tmp_path / "recordings.json", {}, save_every_s=0)
    first, _ = list_recordings(str(tmp_path / "raw"), "*")
    found = versions.of(first)
    assert ContentVersions.load(tmp_path / "recordings.json").known["a.mcap"]["version"] == found
