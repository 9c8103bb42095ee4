"""`vla-ops` on machines that share a home, and `vla-ops home`."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ops_tests.services.hub import HubServer
from vla_ops_tests.terminal import Ran, Terminal, add_robot, assert_refused

type On = Callable[..., Ran]


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> On:
    """Run a command on a machine of this name."""
    add_robot(tmp_path)
    share = f"file://{tmp_path}/share"

    def ran(machine: str, *words: str | Path) -> Ran:
        monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / machine))
        return Terminal(tmp_path, monkeypatch, capsys, home=share)(*words)

    return ran


def test_what_one_machine_converts_another_one_goes_on_with(on: On, tmp_path: Path) -> None:
    converted = on("station", "convert", "arm")
    assert converted.code == 0, converted.err
    assert f"to {tmp_path}/share/arm" in converted.err
    stats = on("trainer", "norm-stats", "arm")
    assert stats.code == 0, stats.err
    assert str(tmp_path / "trainer/arm/norm_stats") in stats.out
    # Without the videos and images of the episodes.
    status = on("laptop", "status", "arm")
    assert "2 converted" in status.out
    assert str(tmp_path / "laptop/arm/norm_stats") in status.out
    again = on("station", "convert", "arm")
    assert "nothing new or changed" in again.out
    assert "sending" not in again.err


def test_an_episode_is_looked_at_where_it_was_not_converted(on: On, tmp_path: Path) -> None:
    on("station", "convert", "arm")
    looked = on("laptop", "inspect", "arm", "--episode", "1.hdf5/0")
    assert looked.code == 0, looked.err
    assert (tmp_path / "laptop/arm/looks/1.hdf5/0").is_dir()
    assert not (tmp_path / "laptop/arm/episodes/0.hdf5/vectors.png").exists()
    assert (tmp_path / "laptop/arm/episodes/1.hdf5/vectors.png").exists()


def test_the_home_is_told_fetched_and_sent_by_hand(on: On, tmp_path: Path) -> None:
    assert_refused(on("station", "home", "status", "arm"), "neither at home nor here", "robots/")
    assert not (tmp_path / "station/arm").exists()
    on("station", "convert", "arm")
    assert on("station", "home", "status", tmp_path / "robots/arm").out == on("station", "home", "status", "arm").out
    told = on("laptop", "home", "status", "arm").out
    assert f"{tmp_path}/share/arm: state" in told
    assert "episodes/0.hdf5, episodes/1.hdf5" in told
    assert on("laptop", "home", "fetch", "arm").out.startswith("fetched: ")
    (tmp_path / "laptop/arm/quarantine").mkdir()
    (tmp_path / "laptop/arm/quarantine/2.hdf5.json").write_text("{}")
    assert "to send    1 units, 0.0 MB: quarantine/2.hdf5.json" in on("laptop", "home", "status", "arm").out
    assert on("laptop", "home", "send", "arm").out.startswith("sent: 1 units")
    assert on("station", "home", "fetch", "arm").out.startswith("fetched: 1 units")
    assert on("station", "home", "join", "arm").out == "to send: 0 units; to fetch: 0; on both sides: 0\n"


def test_what_is_damaged_there_is_named_and_mended_from_a_machine_that_has_it(on: On, tmp_path: Path) -> None:
    on("station", "convert", "arm")
    damaged, lost = sorted((tmp_path / "share/arm/blobs").rglob("*/*"))[:2]
    damaged.write_bytes(b"x" * damaged.stat().st_size)
    lost.unlink()
    refused = on("laptop", "home", "fetch", "arm")
    assert (refused.code, "vla-ops home mend" in refused.err, "Traceback" in refused.err) == (2, True, False)
    mended = on("station", "home", "mend", "arm")
    assert (mended.code, mended.out.split(",")[0]) == (0, "2 contents sent again")
    assert on("laptop", "home", "fetch", "arm").code == 0
    # Nobody who has not got it can mend it.
    lost.unlink()
    bare = on("bare", "home", "mend", "arm")
    assert (bare.code, bare.err.count("LOST")) == (2, 1)


def converted_again(on: On, tmp_path: Path) -> None:
    """A home with the episodes of two conversions, the first of them forty days old."""
    on("station", "convert", "arm")
    for path in (tmp_path / "share").rglob("*"):
        os.utime(path, (time.time() - 40 * 86_400,) * 2)
    shutil.rmtree(tmp_path / "station/arm/episodes/0.hdf5")
    on("station", "home", "send", "arm")
    # It was the home's until a moment ago.
    pointer = json.loads((tmp_path / "share/arm/state.json").read_text())
    os.utime(tmp_path / "share/arm/states" / pointer["state"], (time.time() - 35 * 86_400,) * 2)


def test_what_is_old_is_told_and_then_removed_from_the_home(on: On, tmp_path: Path) -> None:
    converted_again(on, tmp_path)
    blobs = sorted((tmp_path / "share/arm/blobs").rglob("*/*"))
    (tmp_path / "share/publications").mkdir()
    assert "to remove  0 contents" in on("station", "home", "prune", "arm", "--keep-days", "60", "--dry-run").out
    told = on("station", "home", "prune", "--dry-run").out
    assert told.startswith("arm\n  to remove  ")
    assert "1 old states" in told
    assert "of         episodes/0.hdf5 (0.00 GB)" in told
    assert sorted((tmp_path / "share/arm/blobs").rglob("*/*")) == blobs
    # From a machine that has nothing of it.
    done = on("laptop", "home", "prune")
    assert done.code == 0, done.err
    assert done.out.replace("removed  ", "to remove") == told.replace("1 old states", "1 old states, 0 unfinished uploads")
    assert 0 < len(sorted((tmp_path / "share/arm/blobs").rglob("*/*"))) < len(blobs)
    assert on("laptop", "home", "fetch", "arm").code == 0
    assert "nothing new or changed" not in on("station", "convert", "arm").out


def test_what_cannot_be_pruned_is_said_and_the_other_robots_are(on: On, tmp_path: Path) -> None:
    converted_again(on, tmp_path)
    shutil.copytree(tmp_path / "share/arm", tmp_path / "share/hand")
    (tmp_path / "share/arm/state.json").write_text("{}")
    done = on("laptop", "home", "prune")
    assert done.code == 2
    assert "arm: the pointer of a home cannot be read" in done.err
    assert "hand\n  removed" in done.out
    assert_refused(on("laptop", "home", "prune", "arm"), "the pointer of a home cannot be read")
    assert_refused(on("laptop", "home", "prune", "--keep-days", "0"), "--keep-days 1 or more")
    assert_refused(on("laptop", "home", "prune", "leg"), "neither at home nor here")


def test_without_a_home_in_a_store_there_is_nothing_to_fetch_or_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["status"], ["fetch"], ["send"], ["mend"], ["prune"]):
        assert_refused(Terminal(tmp_path, monkeypatch, capsys)("home", *words, "arm"), "VLA_OPS_HOME is a folder", "docs/homes.md")
    assert_refused(Terminal(tmp_path, monkeypatch, capsys)("home", "prune"), "VLA_OPS_HOME is a folder", "docs/homes.md")
    elsewhere = Terminal(tmp_path, monkeypatch, capsys, home="gopher://lab")("home", "status", "arm")
    assert_refused(elsewhere, "VLA_OPS_HOME cannot be this", "gopher://lab")


def test_machines_share_a_home_on_the_hub(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_robot(tmp_path)

    def on(machine: str, *words: str | Path) -> Ran:
        monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / machine))
        return Terminal(tmp_path, monkeypatch, capsys, home="hf://datasets/lab/home")(*words)

    converted = on("station", "convert", "arm")
    assert converted.code == 0, converted.err
    assert "to hf://datasets/lab/home/arm" in converted.err
    assert hub.repo("lab/home", "dataset").private
    stats = on("trainer", "norm-stats", "arm")
    assert stats.code == 0, stats.err
    assert "2 converted" in on("laptop", "status", "arm").out
    status = on("station", "home", "status", "arm")
    assert "hf://datasets/lab/home/arm: state" in status.out
    for words in (("arm",), ()):
        assert_refused(on("station", "home", "prune", *words), "stays in its history", "hf://datasets/lab/home")
    hub.repo("lab/home", "dataset").private = False
    assert_refused(on("station", "home", "status", "arm"), "the repository is public", "hf://datasets/lab/home/arm")
