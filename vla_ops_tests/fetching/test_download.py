"""Remote checkpoints: fetched once, verified, cached, gone on with; and runs of the project."""

from __future__ import annotations

import json
import shutil
import threading
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params
from vla_ops.errors import CheckpointError, FetchError
from vla_ops.fetching import download as downloading
from vla_ops.fetching.download import download
from vla_ops_tests.checkpoints.serving import serving
from vla_ops_tests.fetching.in_memory import same, saved_run, upload


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_run(tmp_path_factory.mktemp("published"))


def test_a_step_is_fetched_without_its_train_state_and_only_once(run: Path, tmp_path: Path) -> None:
    url = f"{upload(run)}/10"
    first = download(url, tmp_path)
    assert {inner.name for inner in first.iterdir()} == {"params", "assets", "_CHECKPOINT_METADATA", "commit_success.txt"}
    assert same(first, run / "10")
    assert open_checkpoint(first).norm_stats.keys() == {"trossen"}
    stamp = (first / "params" / "_METADATA").stat().st_mtime_ns
    assert download(url, tmp_path) == first
    assert (first / "params" / "_METADATA").stat().st_mtime_ns == stamp
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_of_a_run_the_last_step_is_fetched_and_of_params_all(run: Path, tmp_path: Path) -> None:
    url = upload(run)
    assert same(download(url, tmp_path), run / "10")
    assert same(download(f"{url}/5/params", tmp_path), run / "5")


def test_beyond_its_size_the_cache_keeps_what_is_used(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process fetched, and has no use for any more, goes; what this one asked for stays."""
    first, second = (download(f"{upload(run)}/{step}", tmp_path) for step in ("5", "10"))
    forgotten = first.parent.with_name("of-another-process")
    shutil.copytree(first.parent, forgotten)
    monkeypatch.setenv("VLA_OPS_MODEL_CACHE_GB", "0")
    said: list[str] = []
    third = download(f"{upload(run)}/10", tmp_path, say=said.append)
    assert [path.exists() for path in (first, second, third, forgotten)] == [True, True, True, False]
    assert [line.split()[1] for line in said if line.startswith("removed")] == [str(forgotten)]


def test_what_changed_there_is_fetched_anew(run: Path, tmp_path: Path) -> None:
    url = upload(run / "5")
    first = download(url, tmp_path)
    memory = fsspec.filesystem("memory")
    memory.rm(url, recursive=True)
    memory.put(str(run / "10"), url, recursive=True)
    second = download(url, tmp_path)
    assert second != first
    assert same(second, run / "10")


def test_a_copy_is_taken_where_the_store_cannot_be_reached(run: Path, tmp_path: Path) -> None:
    with serving(run) as served:
        url = f"{served.url}/10/"
        first = download(url, tmp_path)
    said: list[str] = []
    assert download(url, tmp_path, say=said.append) == first
    assert "Taken is the copy of 20" in said[0]
    with pytest.raises(FetchError, match="the checkpoint cannot be listed"):
        download(f"{served.url}/5/", tmp_path)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_gone_on_with(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ranges: bool) -> None:
    monkeypatch.setattr(downloading, "_BLOCK", 1000)
    with serving(run, ranges=ranges, break_after=2000) as served:
        fetched = download(f"{served.url}/10/", tmp_path)
    assert served.broken >= 2
    assert same(fetched, run / "10")
    sizes: Counter[str] = Counter()
    for file in fetched.rglob("*"):
        sizes[file.name] += file.stat().st_size * file.is_file()
    again = {name: sent - sizes[name] for name, sent in served.of_file.items() if sent != sizes[name]}
    if ranges:
        # A server that sends parts of files sends nothing twice.
        assert again == {}
    else:
        # Another begins again, and once more if it was seen to break before it was seen that it sends no parts.
        assert len(again) == served.broken
        assert all(more in (2000, 2000 + sizes[name]) for name, more in again.items())


def test_a_killed_download_goes_on_with_the_files_it_has(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = downloading._verified
    done: list[str] = []

    def killed(file: object, target: Path) -> str:
        if len(done) >= 3:
            raise KeyboardInterrupt
        done.append(target.name)
        return verified(file, target)  # type: ignore[arg-type]

    monkeypatch.setattr(downloading, "_verified", killed)
    with serving(run) as served:
        with pytest.raises(KeyboardInterrupt):
            download(f"{served.url}/10/", tmp_path)
        monkeypatch.undo()
        fetched = download(f"{served.url}/10/", tmp_path)
    size = sum(file.stat().st_size for file in fetched.rglob("*") if file.is_file())
    assert served.sent == size
    assert same(fetched, run / "10")


def test_several_that_ask_at_once_get_one_copy(run: Path, tmp_path: Path) -> None:
    with serving(run) as served:
        found: list[Path] = []
        threads = [threading.Thread(target=lambda: found.append(download(f"{served.url}/10/", tmp_path))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert served.sent == sum(file.stat().st_size for file in found[0].rglob("*") if file.is_file())


def test_a_damaged_copy_in_the_cache_is_found_when_it_is_read(run: Path, tmp_path: Path) -> None:
    fetched = download(f"{upload(run)}/10", tmp_path)
    file = max((file for file in fetched.rglob("*") if file.parent.name == "d"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the checkpoint is damaged .*array params/"):
        read_params(open_checkpoint(fetched))


def test_what_is_not_what_its_store_says_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = downloading.list_files
    monkeypatch.setattr(downloading, "list_files", lambda uri: [replace(file, md5="0" * 32) for file in listed(uri)])
    monkeypatch.setattr(downloading, "_PAUSE_S", 0.01)
    with serving(run) as served, pytest.raises(FetchError, match=r"the file is not what its store says .*expected 0{32}"):
        download(f"{served.url}/10/", tmp_path)
    assert not list(tmp_path.rglob("download.json"))


def test_nothing_there_and_unknown_protocols_are_said(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"the checkpoint cannot be listed .*nothing below it"):
        download(f"memory://{uuid.uuid4().hex}", tmp_path)
    with pytest.raises(FetchError, match=r"this kind of URL cannot be read here .*Protocol not known: nosuch"):
        download("nosuch://bucket/a", tmp_path)


def test_what_was_fetched_is_written_down(run: Path, tmp_path: Path) -> None:
    url = f"{upload(run)}/10"
    listed = json.loads((download(url, tmp_path).parent / "download.json").read_text())
    assert listed["uri"] == url
    assert {"params/_METADATA", "assets/trossen/norm_stats.json"} <= listed["files"].keys()
    assert (run / "10" / "params" / "_METADATA").stat().st_size == listed["files"]["params/_METADATA"]["bytes"]
