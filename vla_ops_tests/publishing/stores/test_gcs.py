"""Publications in Google Cloud Storage, as its emulator has it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed: uv sync --extra gcs")

from vla_ops.errors import PublishError
from vla_ops.published.pull import published_at, pull
from vla_ops.publishing.package import Package
from vla_ops.publishing.publish import publish
from vla_ops.publishing.stores import S3Options, store_at
from vla_ops.publishing.stores.base import Store
from vla_ops.publishing.stores.gcs import GcsStore
from vla_ops_tests.homes.contract import HomeContract
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.publishing.stores.contract import PART, PrunableContract, content_of, made, put
from vla_ops_tests.services.gcs import GcsFolder

pytestmark = pytest.mark.services


class TestInGoogleCloudStorage(PrunableContract):
    @pytest.fixture
    def store(self, gs: GcsFolder) -> Store:
        return store_at(gs.uri)


class TestAHomeInGoogleCloudStorage(HomeContract):
    @pytest.fixture
    def store(self, gs: GcsFolder) -> Store:
        return store_at(f"{gs.uri}/arm")


def test_of_a_large_file_only_the_parts_that_are_missing_are_sent(gs: GcsFolder, tmp_path: Path) -> None:
    store = GcsStore(gs.uri)
    file = made(tmp_path / "file", content_of(2 * PART + 5))
    fs, parts = gs.fs(), f"{gs.uri.removeprefix('gs://')}/.parts/{file.sha256}"
    fs.pipe_file(f"{parts}/00000", content_of(2 * PART + 5)[:PART])
    # One that another attempt left damaged.
    fs.pipe_file(f"{parts}/00001", b"x" * PART)
    assert put(store, "pi0/v1/file", file) == PART + 5
    assert store.read("pi0/v1/file") == content_of(2 * PART + 5)
    # Nothing of it is left, and nothing of it was ever listed.
    assert fs.find(parts.rpartition("/")[0]) == []
    assert store.listed("") == {"pi0/v1/file": 2 * PART + 5}


def test_parts_that_a_killed_call_left_are_cleared_away_when_they_are_old(gs: GcsFolder) -> None:
    store = GcsStore(gs.uri)
    gs.fs().pipe_file(f"{gs.uri.removeprefix('gs://')}/.parts/ab/00000", b"x")
    assert store.clear_unfinished(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert store.clear_unfinished(datetime.now(UTC) + timedelta(hours=1)) == 1
    assert store.clear_unfinished(datetime.now(UTC) + timedelta(hours=1)) == 0


def test_a_file_of_more_parts_than_one_request_composes_is_whole(gs: GcsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ops.publishing.stores.gcs._AT_MOST", 2)
    store, content = GcsStore(gs.uri), content_of(4 * PART + 1)
    put(store, "file", made(tmp_path / "file", content))
    assert store.read("file") == content
    assert store.listed("") == {"file": len(content)}


def test_what_is_published_there_is_pulled_from_there(gs: GcsFolder, tmp_path: Path) -> None:
    package = Package("policy", "arm/pi0", {"large": tmp_path / "large", "small": tmp_path / "small"}, {}, {})
    made(tmp_path / "large", content_of(PART + 5))
    made(tmp_path / "small", b"small")
    done = publish(package, store_at(gs.uri), work=tmp_path)
    assert (done.pointed_to, done.bytes_sent) == (done.manifest.version, PART + 10)
    assert publish(package, store_at(gs.uri), work=tmp_path).bytes_sent == 0
    version = published_at(f"{gs.uri}/arm/pi0")
    assert version is not None
    folder = pull(version, tmp_path / "cache")
    assert (folder / "large").read_bytes() == content_of(PART + 5)


def test_a_large_file_of_a_home_comes_along(gs: GcsFolder, tmp_path: Path) -> None:
    one, other = (Machine(store_at(f"{gs.uri}/arm"), tmp_path / name) for name in ("one", "other"))
    made(one.write("episodes/a.mcap/0/cam_high.mp4"), content_of(PART + 5))
    one.send()
    other.fetch()
    assert (other.root / "episodes/a.mcap/0/cam_high.mp4").read_bytes() == content_of(PART + 5)


def test_a_bucket_that_is_not_there_is_named(gs: GcsFolder) -> None:
    with pytest.raises(PublishError, match=r"gs://no-such-bucket/x.*GOOGLE_APPLICATION_CREDENTIALS"):
        store_at("gs://no-such-bucket/x").check()


def test_what_is_no_place_there_is_refused(gs: GcsFolder) -> None:
    for uri in ("gs://", "gs://key:secret@lab/x"):
        with pytest.raises(PublishError, match="this is no place in Google Cloud Storage") as refused:
            GcsStore(uri)
        assert "secret" not in str(refused.value)
    with pytest.raises(PublishError, match="no such options"):
        store_at(gs.uri, S3Options(acl="private"))
