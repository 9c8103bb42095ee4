"""The cache of fetched parts: up to a size, the oldest go first, and nothing that is in use."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vla_ops.errors import SpecError
from vla_ops.kept import folders_in, trim
from vla_ops.recordings.remote.cache import CacheFolder, cache_limit_bytes

SIZE = 200_000


def fill(cache: Path, uri: str, *, used_s: float) -> Path:
    with CacheFolder(cache, uri) as folder:
        folder.file("", "token").write_bytes(b"x" * SIZE)
    os.utime(folder.path / ".in_use", (used_s, used_s))
    return folder.path


def test_the_recordings_not_used_for_the_longest_time_are_removed_first(tmp_path: Path) -> None:
    folders = [fill(tmp_path, f"s3://b/{k}", used_s=1000 - k) for k in range(4)]
    assert trim(folders_in(tmp_path), int(2.5 * SIZE)) == [folders[3], folders[2]]
    assert [folder.exists() for folder in folders] == [True, True, False, False]
    assert {path.name for path in tmp_path.iterdir()} == {folder.name for folder in folders[:2]}


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    with CacheFolder(tmp_path, "s3://b/a") as used:
        used.file("", "token").write_bytes(b"x" * SIZE)
        assert trim(folders_in(tmp_path), 0) == []
        assert used.path.exists()
    assert trim(folders_in(tmp_path), 0) == [used.path]


def test_closing_brings_the_cache_down_to_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "s3://b/a", used_s=1)
    monkeypatch.setenv("VLA_OPS_CACHE_GB", "0")
    CacheFolder(tmp_path, "s3://b/b").close()
    assert list(tmp_path.iterdir()) == []


def test_another_content_of_a_file_replaces_the_one_before(tmp_path: Path) -> None:
    with CacheFolder(tmp_path, "s3://b/a") as folder:
        old, other = folder.file("", "old"), folder.file("meta", "old")
        old.write_bytes(b"old")
        other.write_bytes(b"other")
        assert folder.file("", "new") != old
        assert (old.exists(), other.exists()) == (False, True)


def test_workers_that_open_and_trim_at_once_never_lose_what_they_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_CACHE_GB", "0")

    def work(number: int) -> None:
        for _ in range(30):
            with CacheFolder(tmp_path, f"s3://b/{number % 3}") as folder:
                path = folder.file(str(number), "token")
                path.write_bytes(b"mine")
                assert path.read_bytes() == b"mine"

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


@pytest.mark.parametrize("value", ["much", "-1", "nan"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("VLA_OPS_CACHE_GB", value)
    with pytest.raises(SpecError, match="VLA_OPS_CACHE_GB"):
        cache_limit_bytes()


def test_without_a_limit_it_is_twenty_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLA_OPS_CACHE_GB", raising=False)
    assert cache_limit_bytes() == 20 * 10**9
