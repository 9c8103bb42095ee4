"""What a run of all recordings does, what it says, and what it leaves alone."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.store_walk import stored_ids
from vla_ops.errors import RecordingError
from vla_ops_tests.episodes.ingesting import Run, robot_at, run, write_arm
from vla_ops_tests.episodes.killing import (
    STATE,
)


def made_at(store: RobotStore) -> dict[str, int]:
    """Recording -> when its episodes were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.episodes.glob("*/recording.json")}


@dataclass(frozen=True)
class Arm:
    """A robot of three recordings that are converted already."""

    folder: Path

    @property
    def raw(self) -> Path:
        return self.folder / "raw"

    @property
    def store(self) -> RobotStore:
        return RobotStore.of("arm", self.folder)

    def run(self, *, recordings: dict[str, Any] | None = None, **options: Any) -> Run:
        return run(robot_at(self.raw, "*.hdf5", "hdf5", recordings=recordings, state=STATE), self.folder, **options)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arm, Run]:
    arm = Arm(tmp_path_factory.mktemp("arm"))
    for k in range(3):
        write_arm(arm.raw / f"{k}.hdf5", seed=k)
    return arm, arm.run()


@pytest.fixture
def arm(first: tuple[Arm, Run], tmp_path: Path) -> Arm:
    return Arm(shutil.copytree(first[0].folder, tmp_path / "arm"))


def test_a_first_run_converts_all_and_says_each(first: tuple[Arm, Run]):
    done = first[1]
    assert done.states == {"0.hdf5": "converted", "1.hdf5": "converted", "2.hdf5": "converted"}
    assert done.said[0] == "arm: 3 of 3 recordings to convert (3 new)"
    assert [sum(line.startswith(f"{k}.hdf5: 1 episode(s), 11 frames, ") for line in done.said) for k in range(3)] == [1, 1, 1]


def test_a_second_run_does_nothing(arm: Arm):
    before = made_at(arm.store)
    second = arm.run()
    assert second.states == {}
    assert second.said == ["arm: nothing new or changed among 3 recordings (3 converted)"]
    assert made_at(arm.store) == before


def test_a_run_converts_what_is_new_or_changed_and_nothing_else_and_hands_on_each_outcome(arm: Arm):
    before = made_at(arm.store)
    write_arm(arm.raw / "10.hdf5", seed=3)
    write_arm(arm.raw / "1.hdf5", seed=4)
    (arm.raw / "bad.hdf5").write_bytes(b"not an HDF5 file")
    got: list[str] = []
    done = arm.run(each=lambda outcome: got.append(outcome.recording))
    assert done.said[0] == "arm: 3 of 5 recordings to convert (2 converted, 1 changed, 2 new)"
    assert done.states == {"1.hdf5": "converted", "10.hdf5": "converted", "bad.hdf5": "quarantined"}
    assert got == list(done.states)
    assert sum(line.startswith("QUARANTINED bad.hdf5: ") for line in done.said) == 1
    after = made_at(arm.store)
    assert {key for key in after if after[key] != before.get(key)} == {"1.hdf5", "10.hdf5"}


def test_only_converts_exactly_what_is_named_again(arm: Arm):
    before = made_at(arm.store)
    write_arm(arm.raw / "new.hdf5", seed=9)
    again = arm.run(only=["1.hdf5"])
    assert again.states == {"1.hdf5": "converted"}
    after = made_at(arm.store)
    assert {key for key in after if after[key] != before.get(key)} == {"1.hdf5"}


def test_only_with_a_recording_that_is_not_there_converts_nothing_and_names_the_nearest(arm: Arm):
    before = made_at(arm.store)
    with pytest.raises(RecordingError, match=r"no such recording \[file 11\.hdf5\].*Did you mean '1\.hdf5'"):
        arm.run(only=["0.hdf5", "11.hdf5"])
    assert made_at(arm.store) == before


def test_a_removed_recording_is_forgotten_and_the_others_stay(arm: Arm):
    (arm.raw / "1.hdf5").unlink()
    after = arm.run()
    assert after.said == ["arm: nothing new or changed among 2 recordings (2 converted, 1 removed)"]
    assert stored_ids(arm.store) == ["0.hdf5", "2.hdf5"]
    assert not arm.store.recording_folder("1.hdf5").exists()


def test_a_run_that_finds_none_of_the_recordings_refuses_to_forget_them(arm: Arm):
    for path in arm.raw.iterdir():
        path.unlink()
    with pytest.raises(
        RecordingError, match=r"none of the recordings is there any more.*expected 3 that the store has.*Is the disk mounted"
    ):
        arm.run()
    assert stored_ids(arm.store) == ["0.hdf5", "1.hdf5", "2.hdf5"]


def test_a_root_that_is_gone_forgets_nothing(arm: Arm):
    shutil.rmtree(arm.raw)
    with pytest.raises(RecordingError, match="root is not there"):
        arm.run()
    assert stored_ids(arm.store) == ["0.hdf5", "1.hdf5", "2.hdf5"]


def test_a_robot_without_any_recording_yet_is_no_error(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    empty = Arm(tmp_path).run()
    assert empty.states == {}
    assert empty.said == ["arm: nothing new or changed among 0 recordings (none there)"]


def test_a_recording_that_may_still_be_written_is_named_and_left_alone(arm: Arm):
    for path in arm.raw.iterdir():
        os.utime(path, (time.time() - 100,) * 2)
    write_arm(arm.raw / "young.hdf5", seed=9)
    waiting = arm.run(recordings={"settle_s": 60})
    assert waiting.states == {}
    (line,) = [line for line in waiting.said if line.startswith("left alone")]
    assert "settle_s 60 s" in line
    assert line.endswith("young.hdf5")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The folder `raw` as a web server lists it."""
    (tmp_path / "raw").mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "raw")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def test_recordings_on_a_server_are_converted_and_nothing_half_written_stays(served: str, tmp_path: Path):
    pytest.importorskip("aiohttp")
    for k in range(2):
        write_arm(tmp_path / f"raw/{k}.hdf5", seed=k)
    remote = Arm(tmp_path).run(recordings={"uri": served})
    assert remote.states == {"0.hdf5": "converted", "1.hdf5": "converted"}
    assert [len(remote.store.read_episodes(f"{k}.hdf5")) for k in range(2)] == [1, 1]
    assert remote.left_behind == []
    assert [line for line in remote.said if line.startswith("0.hdf5: 1 episode(s)") and "fetched 0." in line]
