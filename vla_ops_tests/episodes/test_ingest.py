from __future__ import annotations

import functools
import http.server
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import make_plan, quarantine_reasons, stored_ids
from vla_ops.episodes.pool import Event, Frames, Lost, convert_many
from vla_ops.episodes.progress import Meter
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import RecordingError
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot_file import Robot
from vla_ops_tests.episodes.ingesting import ALOHA, Run, robot_at, run, write_arm
from vla_ops_tests.recordings.hdf5_files import write_images
from vla_ops_tests.recordings.pictures import frame_picture

CAMERA = "/observations/images/high"
# Of two dimensions: most of the time of a conversion this small goes into the plot of each.
STATE: list[dict[str, Any]] = [{**ALOHA["state"][0], "source": "/observations/qpos[0:1]", "names": ["j1"]}, ALOHA["state"][1]]
LONG = 600  # Frames of a recording whose conversion lasts long enough to be caught in the middle.


def say_nothing(line: str) -> None: ...


def states_of(robot: Robot, store: RobotStore) -> dict[str, str]:
    return {found.file.id: found.state for found in make_plan(robot, store).found}


def made_at(store: RobotStore) -> dict[str, int]:
    """Recording -> when its episodes were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.episodes.glob("*/recording.json")}


# What a run does and leaves alone


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


def test_recordings_on_a_server_are_converted_and_no_copy_of_them_stays(served: str, tmp_path: Path):
    pytest.importorskip("aiohttp")
    for k in range(2):
        write_arm(tmp_path / f"raw/{k}.hdf5", seed=k)
    remote = Arm(tmp_path).run(recordings={"uri": served})
    assert remote.states == {"0.hdf5": "converted", "1.hdf5": "converted"}
    assert [len(remote.store.read_episodes(f"{k}.hdf5")) for k in range(2)] == [1, 1]
    assert [path for path in (remote.store.root / "cache").rglob("*") if path.is_file()] == []


# Progress


def files(*sizes: int) -> list[RecordingFile]:
    return [RecordingFile(str(k), str(k), size, "", 0.0, is_folder=False) for k, size in enumerate(sizes)]


def passing(meter: Meter, events: Sequence[Event], seconds: float) -> Iterator[Event]:
    """The events, `seconds` between one and the next: the meter's clock is set back instead of waiting."""
    for event in events:
        meter.said_s -= seconds
        meter.started_s -= seconds
        yield event


def test_a_line_is_said_at_least_every_five_seconds_also_while_nothing_finishes():
    said: list[str] = []
    meter = Meter(files(10), said.append)
    lines_after = []
    # The pool sends a heartbeat every second.
    for _ in meter.watch(passing(meter, [Frames("", 0)] * 20, 1.0)):
        pytest.fail("a heartbeat is no outcome")
    assert len(said) == 20 // 4
    for _ in range(12):
        list(meter.watch(passing(meter, [Frames("0", 5, 0.1)], 1.0)))
        lines_after.append(len(said))
    assert max(len(list(group)) for _, group in itertools.groupby(lines_after)) <= 5


def test_many_events_in_a_moment_say_nothing():
    said: list[str] = []
    meter = Meter(files(*[1] * 500), said.append)
    outcomes: list[Event] = [Conversion(str(k), "", "") for k in range(500)]
    assert list(meter.watch(iter(outcomes))) == outcomes
    assert said == []


def test_the_line_counts_recordings_and_frames_and_estimates_the_time_left_by_bytes():
    said: list[str] = []
    meter = Meter(files(100, 300), said.append)
    assert meter.line() == "0/2 recordings, 0 camera frames, 0 frames/s"
    events: list[Event] = [Frames("0", 1000, 0.5), Frames("0", 1000, 1.0), Conversion("0", "", ""), Frames("1", 0, 0.0)]
    assert [o.recording for o in meter.watch(passing(meter, events, 10.0))] == ["0"]
    assert said[-1].startswith("1/2 recordings, 2,000 camera frames, ")
    assert "50 frames/s, about 2 min 0 s left" in said[-1]


def test_a_lost_recording_counts_as_done():
    meter = Meter(files(100), say_nothing)
    assert list(meter.watch(iter([Lost("0", "killed")]))) == [Lost("0", "killed")]
    assert meter.line().startswith("1/1 recordings")
    assert meter.line().endswith("about 0 s left")


@pytest.mark.slow
def test_a_worker_that_hangs_does_not_silence_the_progress_and_ends_with_the_run(tmp_path: Path):
    write_long(tmp_path / "raw/a.hdf5")
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    todo = make_plan(robot, store).todo
    events = convert_many(todo, spec=robot.spec, store=store.root, workers=1)
    hanging = Meddler(store, "a.hdf5", signal.SIGSTOP)
    hanging.start()
    before = time.monotonic()
    # Its start, what it did before it was stopped, and heartbeats: none is later than two seconds.
    for _ in range(3):
        next(events)
        assert time.monotonic() - before < 2
        before = time.monotonic()
    events.close()
    hanging.join()
    assert is_over(hanging.pid)


# Killed


def write_filmed(path: Path, frames: int = 12, seed: int = 0) -> None:
    """A recording with a camera, written in no time: a few pictures over and over."""
    shots = [frame_picture(k, size=(120, 160)) for k in range(8)]
    write_arm(path, frames=frames, seed=seed)
    with h5py.File(path, "r+") as file:
        write_images(file, CAMERA, [shots[(k + seed) % 8] for k in range(frames)], "jpeg_rows")


def write_long(path: Path, seed: int = 0) -> None:
    write_filmed(path, frames=LONG, seed=seed)


def long_robot(folder: Path) -> Robot:
    return robot_at(folder, "*.hdf5", "hdf5", state=STATE, cameras={"high": {"source": CAMERA, "role": "base"}})


def workers_on(store: RobotStore, recording: str) -> list[int]:
    """Processes that are in the middle of a recording, by the names of their work folders."""
    return [int(path.name.split(".tmp-")[1].split("-")[0]) for path in store.episodes.glob(f"{recording}.tmp-*")]


def wait_for[T](look: Callable[[], T], seconds: float = 20.0) -> T:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)
    return found


def is_over(pid: int) -> bool:
    """Gone, or dead and only waiting for its parent to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Meddler(threading.Thread):
    """Sends a signal to the worker that is in the middle of a recording."""

    def __init__(self, store: RobotStore, recording: str, signal_number: signal.Signals) -> None:
        super().__init__()
        self.store, self.recording, self.signal_number, self.pid = store, recording, signal_number, 0

    def run(self) -> None:
        folder = self.store.episodes
        # Its video is being written: neither the beginning nor the end.
        wait_for(lambda: [p for p in folder.glob(f"{self.recording}.tmp-*/0/*") if p.is_file()])
        (self.pid,) = workers_on(self.store, self.recording)
        os.kill(self.pid, self.signal_number)


def test_a_worker_killed_in_the_middle_costs_its_recording_alone_and_the_next_run_converts_it(tmp_path: Path):
    for k in (0, 2):
        write_filmed(tmp_path / f"raw/{k}.hdf5", seed=k)
    write_long(tmp_path / "raw/1.hdf5")
    robot = long_robot(tmp_path / "raw")
    killing = Meddler(RobotStore.of("arm", tmp_path), "1.hdf5", signal.SIGKILL)
    killing.start()
    killed = run(robot, tmp_path)
    killing.join()
    assert killed.states == {"0.hdf5": "converted", "1.hdf5": "lost", "2.hdf5": "converted"}
    (line,) = [line for line in killed.said if line.startswith("LOST")]
    assert all(word in line for word in ("1.hdf5", "exit code -9", "memory", "next run tries it again"))
    assert quarantine_reasons(killed.store) == []
    assert killed.left_behind == []
    assert not killed.store.recording_folder("1.hdf5").exists()
    after = run(robot, tmp_path)
    assert after.states == {"1.hdf5": "converted"}
    assert [e.meta.length for e in after.store.read_episodes("1.hdf5")] == [LONG - 1]


PARENT = """
import sys
from pathlib import Path
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.episodes.test_ingest import long_robot

if __name__ == "__main__":
    run(long_robot(Path(sys.argv[1]) / "raw"), Path(sys.argv[1]), workers=2)
"""


def start_parent(folder: Path) -> subprocess.Popen[bytes]:
    repo = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], cwd=repo)


def assert_only_whole_episodes(store: RobotStore) -> None:
    for path in store.episodes.iterdir():
        if ".tmp-" not in path.name:
            (episode,) = store.read_episodes(path.name)
            assert episode.frames.exists()
            assert episode.video("high").exists()


def test_a_run_killed_in_the_middle_ends_its_workers_and_the_next_run_finishes(tmp_path: Path):
    write_filmed(tmp_path / "raw/0.hdf5")
    for k in (1, 2):
        # Much longer than workers take to see that their parent is gone.
        write_filmed(tmp_path / f"raw/{k}.hdf5", frames=4 * LONG, seed=k)
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    parent = start_parent(tmp_path)
    workers = wait_for(lambda: store.read_recording("0.hdf5") and workers_on(store, "2.hdf5")) + workers_on(store, "1.hdf5")
    assert parent.pid not in workers
    parent.kill()
    parent.wait()
    wait_for(lambda: all(is_over(pid) for pid in workers), seconds=5)
    assert_only_whole_episodes(store)
    states = states_of(robot, store)
    assert (states["0.hdf5"], states["2.hdf5"]) == ("converted", "new")
    left = {path.name.split(".tmp-")[0] for path in store.episodes.iterdir() if ".tmp-" in path.name}
    assert left == {key for key, state in states.items() if state == "new"}
    after = run(robot, tmp_path, workers=2)
    assert {line.split(": ")[1].split(".tmp-")[0] for line in after.said if line.startswith("removed")} == left
    assert after.states == dict.fromkeys(left, "converted")
    assert set(states_of(robot, store).values()) == {"converted"}
    assert after.left_behind == []
    assert_only_whole_episodes(store)


@pytest.mark.slow
def test_a_second_run_waits_for_the_first_and_then_has_nothing_to_do(tmp_path: Path):
    write_long(tmp_path / "raw/1.hdf5")
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    first = start_parent(tmp_path)
    wait_for(lambda: workers_on(store, "1.hdf5"))
    second = run(robot, tmp_path)
    assert first.wait() == 0
    assert second.said[0].startswith(f"arm: waiting, process {first.pid} on ")
    assert second.said[1:] == ["arm: nothing new or changed among 1 recordings (1 converted)"]
    assert second.states == {}


def test_an_error_while_outcomes_are_handled_ends_the_workers_and_leaves_nothing_half_written(tmp_path: Path):
    write_filmed(tmp_path / "raw/0.hdf5")
    write_long(tmp_path / "raw/1.hdf5")
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)

    def each(outcome: Conversion | Lost) -> None:
        wait_for(lambda: workers_on(store, "1.hdf5"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(robot, tmp_path, each=each)
    assert not [path for path in store.root.rglob("*") if ".tmp-" in path.name]
    assert states_of(robot, store) == {"0.hdf5": "converted", "1.hdf5": "new"}


def test_nothing_to_convert_starts_no_worker(tmp_path: Path):
    robot = robot_at(tmp_path, "*.hdf5", "hdf5")
    assert list(convert_many([], spec=robot.spec, store=tmp_path / "store")) == []
