"""The S3 server that other tests use is one: ranges, pages, conditional reads, refused credentials."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from vla_ops_tests.services.s3 import Bucket

pytestmark = pytest.mark.services


def test_objects_are_reached_by_uri_and_environment_alone(s3: Bucket, tmp_path: Path) -> None:
    (tmp_path / "a.zarr/x").mkdir(parents=True)
    (tmp_path / "a.zarr/x/0").write_bytes(b"zero")
    s3.put("robot/a.zarr", tmp_path / "a.zarr")
    uri = s3.put("robot/a.mcap", bytes(range(256)))
    fs, path = fsspec.core.url_to_fs(uri)
    assert fs.cat_file(path, start=10, end=13) == bytes([10, 11, 12])
    assert sorted(fs.find(f"{s3.root}/robot")) == [f"{s3.root}/robot/a.mcap", f"{s3.root}/robot/a.zarr/x/0"]
    assert fs.info(path)["ETag"]


def test_a_range_of_an_object_that_changed_is_refused_where_the_old_one_is_asked_for(s3: Bucket) -> None:
    uri = s3.put("a.mcap", b"old content")
    fs, path = fsspec.core.url_to_fs(uri)
    etag = fs.info(path)["ETag"]
    s3.put("a.mcap", b"new content")
    with pytest.raises(OSError, match="pre-conditions"):
        fs.call_s3("get_object", Bucket=s3.name, Key=f"{s3.prefix}/a.mcap", Range="bytes=0-2", IfMatch=etag)


def test_wrong_credentials_are_refused(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.put("a.mcap", b"secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fs, path = fsspec.core.url_to_fs(uri, skip_instance_cache=True)
    with pytest.raises(PermissionError):
        fs.cat_file(path)
