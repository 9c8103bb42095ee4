"""Recordings in a remote store are converted from what is fetched of them, and a store that fails is not the recording's fault."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla_ops.episodes.convert import Conversion, ConversionJob, convert_recording
from vla_ops.episodes.store import RobotStore
from vla_ops.recordings.discover import list_recordings
from vla_ops.recordings.remote import fetch, ranges
from vla_ops_tests.episodes.ingesting import robot_at, run, write_arm
from vla_ops_tests.episodes.killing import STATE, hold, wait_for, write_filmed  # noqa: F401 - a fixture
from vla_ops_tests.holding import Hold
from vla_ops_tests.recordings.remote.shelves import Shelf, everywhere
from vla_ops_tests.services.http import HttpServer
from vla_ops_tests.services.s3 import Bucket

CAMERAS = {"high": {"source": "/observations/images/high", "role": "base"}}


@pytest.fixture(autouse=True)
def _short_waits_and_small_files_by_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(ranges, "_SMALL_BYTES", 0)


def converted(path: str, store: Path, uri: str) -> Conversion:
    robot = robot_at(Path("/"), "*", "hdf5", state=STATE, cameras=CAMERAS)
    return convert_recording(ConversionJob("a.hdf5", path, "v1", robot.spec, store, uri=uri))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@everywhere
def test_the_episodes_are_the_same_bytes_as_those_of_the_file_here(transport: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    write_filmed(tmp_path / "a.hdf5")
    uri = Shelf(request, transport).put(tmp_path / "a.hdf5")
    here = converted(str(tmp_path / "a.hdf5"), tmp_path / "here", uri)
    there = converted(uri, tmp_path / "there", uri)
    assert here.quarantined is there.quarantined is None
    assert content(tmp_path / "here" / "episodes") == content(tmp_path / "there" / "episodes") != {}
    assert here.fetched == ""
    assert (there.remote_bytes, 0 < there.fetched_bytes <= there.remote_bytes) == ((tmp_path / "a.hdf5").stat().st_size, True)
    assert there.fetched.endswith(f"of {there.remote_bytes / 1e6:.1f} MB")
    assert converted(uri, tmp_path / "there", uri).fetched_bytes == 0


@pytest.mark.parametrize("status", [403, 503])
def test_a_store_that_fails_at_any_moment_is_out_of_reach_and_nothing_is_quarantined_for_good(
    http: HttpServer, tmp_path: Path, status: int
) -> None:
    write_filmed(http.folder / "a.hdf5", frames=60)
    uri, store = f"{http.uri}/a.hdf5", RobotStore(tmp_path / "store")
    converted(uri, tmp_path / "elsewhere", uri)
    requests = http.count
    assert requests >= 3
    for last in range(1, requests):
        shutil.rmtree(store.root / "cache", ignore_errors=True)
        http.forget()
        http.trouble = lambda _request, number, last=last: status if number > last else "none"
        result = converted(uri, store.root, uri)
        assert result.spec_fingerprint == ""
        assert result.quarantined is not None
        assert "[file a.hdf5" in result.quarantined
        assert uri in result.quarantined
        assert result.quarantined.endswith("The next run tries it again.")
        assert result.rejected == []
    http.trouble = lambda _request, _number: "none"
    assert converted(uri, store.root, uri).quarantined is None


def test_a_file_that_is_cut_off_in_the_store_is_bad_data_and_named(http: HttpServer, tmp_path: Path) -> None:
    write_filmed(http.folder / "a.hdf5", frames=60)
    data = (http.folder / "a.hdf5").read_bytes()
    (http.folder / "a.hdf5").write_bytes(data[: len(data) // 2])
    result = converted(f"{http.uri}/a.hdf5", tmp_path / "store", "")
    assert result.quarantined is not None
    assert "truncated or corrupt" in result.quarantined
    assert result.spec_fingerprint != ""


def test_index_pages_are_listed_and_a_whole_run_converts_what_is_there(http: HttpServer, tmp_path: Path) -> None:
    write_arm(http.folder / "station1/2.hdf5")
    write_arm(http.folder / "station1/10.hdf5", seed=1)
    (http.folder / "notes.txt").write_text("no recording")
    for path in http.folder.rglob("*.hdf5"):
        os.utime(path, (1_700_000_000, 1_700_000_000))  # HTTP dates have whole seconds, rounded up: now may be in the future.
    found = list_recordings(http.uri, "*/*.hdf5")
    assert [file.id for file in found] == ["station1/2.hdf5", "station1/10.hdf5"]
    assert found[0].size == (http.folder / "station1/2.hdf5").stat().st_size
    robot = robot_at(Path("/"), "*/*.hdf5", "hdf5", recordings={"uri": http.uri})
    first = run(robot, tmp_path / "home")
    assert first.states == {"station1/2.hdf5": "converted", "station1/10.hdf5": "converted"}
    assert run(robot, tmp_path / "home").states == {}
    write_arm(http.folder / "station1/2.hdf5", frames=20)
    os.utime(http.folder / "station1/2.hdf5", (1_700_000_001, 1_700_000_001))
    assert run(robot, tmp_path / "home").states == {"station1/2.hdf5": "converted"}


PARENT = """
import sys
from pathlib import Path
from vla_ops_tests.episodes.ingesting import robot_at, run
from vla_ops_tests.episodes.killing import STATE

cameras = {"high": {"source": "/observations/images/high", "role": "base"}}
run(robot_at(Path("/"), "*.hdf5", "hdf5", recordings={"uri": sys.argv[1]}, state=STATE, cameras=cameras), Path(sys.argv[2]), workers=1)
"""


def part_that_is_kept(cache: Path) -> float:
    """Of the blocks of what is fetched, those whose checksum is there."""
    sums = [np.fromfile(path, "<u4") for path in cache.rglob("*.sums")]
    return float(np.concatenate(sums).astype(bool).mean()) if sums and any(map(len, sums)) else 0.0


@pytest.mark.services
def test_killed_while_it_reads_from_s3_the_next_run_fetches_only_the_rest(
    s3: Bucket,
    tmp_path: Path,
    hold: Callable[..., Hold],  # noqa: F811
) -> None:
    write_filmed(tmp_path / "a.hdf5", frames=400)
    s3.put("robot/a.hdf5", tmp_path / "a.hdf5")
    size = (tmp_path / "a.hdf5").stat().st_size
    home = tmp_path / "home"
    repo = Path(__file__).resolve().parents[2]
    held = hold("a.hdf5")
    parent = subprocess.Popen([sys.executable, "-c", PARENT, f"{s3.uri}/robot", str(home)], cwd=repo, start_new_session=True)
    wait_for(lambda: [path for path in (home / "arm" / "episodes").glob("*.tmp-*/0/*") if path.is_file()])
    # Its video is in the middle; what was announced of it comes meanwhile.
    wait_for(lambda: part_that_is_kept(home / "arm" / "cache") > 0.8)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    held.release()
    robot = robot_at(Path("/"), "*.hdf5", "hdf5", recordings={"uri": f"{s3.uri}/robot"}, state=STATE, cameras=CAMERAS)
    again = run(robot, home)
    (outcome,) = again.ingested.outcomes
    assert isinstance(outcome, Conversion)
    assert outcome.quarantined is None
    assert outcome.fetched_bytes < 0.2 * size
    assert json.loads((home / "arm/episodes/a.hdf5/recording.json").read_text()).get("fetched_bytes") is None


@pytest.mark.services
@pytest.mark.parametrize(
    ("setting", "words"),
    [(("AWS_SECRET_ACCESS_KEY", "wrong"), "Check the credentials"), (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), "cannot be reached")],
)
def test_wrong_credentials_and_a_store_that_is_down_are_said(
    s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: tuple[str, str], words: str
) -> None:
    import s3fs

    write_arm(tmp_path / "a.hdf5")
    uri = s3.put("robot/a.hdf5", tmp_path / "a.hdf5")
    monkeypatch.setenv(*setting)
    # Ours are enough.
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    result = converted(uri, tmp_path / "store", uri)
    assert result.quarantined is not None
    assert words in result.quarantined
    assert uri in result.quarantined
    assert result.spec_fingerprint == ""


@pytest.mark.services
def test_an_object_that_is_replaced_while_it_is_converted_is_read_anew_by_the_next_run(s3: Bucket, tmp_path: Path) -> None:
    write_filmed(tmp_path / "a.hdf5", frames=60)
    uri = s3.put("robot/a.hdf5", tmp_path / "a.hdf5")
    robot = robot_at(Path("/"), "*.hdf5", "hdf5", state=STATE, cameras=CAMERAS)

    def replace(_frames: int, _fraction: float) -> None:
        s3.put("robot/a.hdf5", b"something else")

    (file,) = list_recordings(f"{s3.uri}/robot", "*.hdf5")
    job = ConversionJob("a.hdf5", uri, "v1", robot.spec, tmp_path / "store", stamp=file.stamp)
    # What was fetched by then is enough for the rest of it: it is whole, and of the object that was listed.
    first = convert_recording(job, replace)
    assert first.quarantined is None or "changed while it was being read" in first.quarantined
    second = convert_recording(job)
    assert second.quarantined is not None
    assert "changed while it was being read" in second.quarantined
