"""`vla-ops` on machines that share a home, and `vla-ops home`."""

from __future__ import annotations

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


def test_without_a_home_in_a_store_there_is_nothing_to_fetch_or_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["status"], ["fetch"], ["send"], ["mend"]):
        assert_refused(Terminal(tmp_path, monkeypatch, capsys)("home", *words, "arm"), "VLA_OPS_HOME is a folder", "docs/homes.md")
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
    hub.repo("lab/home", "dataset").private = False
    assert_refused(on("station", "home", "status", "arm"), "the repository is public", "hf://datasets/lab/home/arm")
