"""What all workers must do, wherever they are: their tests subclass `WorkersContract` and say how to make them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import make_plan, quarantine_reasons
from vla_ops.episodes.pool import Event, Frames, Lost, Workers
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import StoreError
from vla_ops.robot_file import Robot
from vla_ops_tests.episodes.ingesting import robot_at, run
from vla_ops_tests.episodes.killing import CAMERA, HELD, STATE, is_over, long_robot, states_of, wait_for, write_filmed, write_held
from vla_ops_tests.holding import Hold

FRAMES = 40


class WorkersContract:
    """Subclasses override `workers` and `held`; every test here then runs on two of them."""

    @pytest.fixture
    def held(self) -> Hold:
        """Keeps these workers in the middle of recordings."""
        raise NotImplementedError

    @pytest.fixture
    def workers(self, tmp_path: Path) -> Workers:
        raise NotImplementedError

    def test_each_recording_has_one_outcome_and_what_is_unusable_is_in_quarantine(self, workers: Workers, tmp_path: Path):
        robot = filmed_robot(tmp_path / "raw", 3)
        damaged = tmp_path / "raw/1.hdf5"
        damaged.write_bytes(damaged.read_bytes()[:2000])
        done = run(robot, tmp_path, workers=workers)
        assert done.states == {"0.hdf5": "converted", "1.hdf5": "quarantined", "2.hdf5": "converted"}
        assert [row["recording"] for row in quarantine_reasons(done.store)] == ["1.hdf5"]
        assert [e.meta.length for e in done.store.read_episodes("2.hdf5")] == [FRAMES - 1]
        assert all(outcome.seconds > 0 for outcome in done.ingested.converted)
        assert done.left_behind == []
        assert run(robot, tmp_path, workers=workers).states == {}

    def test_a_recording_that_is_mended_leaves_quarantine(self, workers: Workers, tmp_path: Path):
        robot = filmed_robot(tmp_path / "raw", 1)
        whole = (tmp_path / "raw/0.hdf5").read_bytes()
        (tmp_path / "raw/0.hdf5").write_bytes(whole[:2000])
        assert run(robot, tmp_path, workers=workers).states == {"0.hdf5": "quarantined"}
        (tmp_path / "raw/0.hdf5").write_bytes(whole)
        mended = run(robot, tmp_path, workers=workers)
        assert mended.states == {"0.hdf5": "converted"}
        assert quarantine_reasons(mended.store) == []

    @pytest.mark.parametrize("codec", ["av1", "h264", "copy"])
    def test_the_files_are_those_that_one_local_worker_makes(self, workers: Workers, tmp_path: Path, codec: str):
        robot = filmed_robot(tmp_path / "raw", 2, codec=codec)
        made = files_of(run(robot, tmp_path / "there", workers=workers).store)
        expected = files_of(run(robot, tmp_path / "here", workers=1).store)
        assert sorted(made) == sorted(expected)
        assert [name for name in made if made[name] != expected[name]] == []
        assert {Path(name).name for name in made} >= {"frames.parquet", "high.mp4", "episode.json", "recording.json", "vectors.png"}

    def test_every_camera_frame_is_counted_before_the_recording_is_done(self, workers: Workers, tmp_path: Path):
        robot, store = filmed_robot(tmp_path / "raw", 2), RobotStore.of("arm", tmp_path)
        frames, done = dict.fromkeys(("0.hdf5", "1.hdf5"), 0), []
        for event in events_of(workers, robot, store):
            assert not isinstance(event, Lost)
            if isinstance(event, Conversion):
                assert frames[event.recording] == FRAMES - 1
                done.append(event.recording)
            elif event.recording:
                frames[event.recording] += event.frames
                assert 0 <= event.fraction <= 1
        assert sorted(done) == ["0.hdf5", "1.hdf5"]

    def test_a_worker_that_is_killed_costs_its_recording_alone_and_the_next_run_converts_it(
        self, workers: Workers, held: Hold, tmp_path: Path
    ):
        robot, store = filmed_robot(tmp_path / "raw", 3), RobotStore.of("arm", tmp_path)
        write_held(tmp_path / "raw/1.hdf5")
        held.hold("1.hdf5")
        outcomes, killed = {}, 0
        for event in events_of(workers, robot, store):
            if isinstance(event, Frames) and event.recording == "1.hdf5" and event.frames and not killed:
                killed = self.worker_on("1.hdf5", store)
                os.kill(killed, signal.SIGKILL)
                held.release()
            elif not isinstance(event, Frames):
                outcomes[event.recording] = event
        assert {name for name, event in outcomes.items() if isinstance(event, Lost)} == {"1.hdf5"}
        assert sorted(outcomes) == ["0.hdf5", "1.hdf5", "2.hdf5"]
        assert all(word in outcomes["1.hdf5"].reason for word in ("died", "next run tries it again", "[file 1.hdf5]"))
        assert states_of(robot, store) == {"0.hdf5": "converted", "1.hdf5": "new", "2.hdf5": "converted"}
        assert quarantine_reasons(store) == []
        after = run(robot, tmp_path, workers=workers)
        assert after.states == {"1.hdf5": "converted"}
        assert [e.meta.length for e in after.store.read_episodes("1.hdf5")] == [HELD - 1]
        assert after.left_behind == []

    def test_closed_in_the_middle_the_work_ends_and_nothing_is_half_written(self, workers: Workers, held: Hold, tmp_path: Path):
        write_held(tmp_path / "raw/0.hdf5")
        held.hold("0.hdf5")
        robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
        with closing(events_of(workers, robot, store)) as events:
            next(event for event in events if isinstance(event, Frames) and event.frames)
            worker = self.worker_on("0.hdf5", store)
        wait_for(lambda: is_over(worker))
        held.release()
        assert states_of(robot, store) == {"0.hdf5": "new"}
        assert run(robot, tmp_path, workers=workers).left_behind == []

    def test_a_run_that_is_interrupted_leaves_nothing_half_written(self, workers: Workers, held: Hold, tmp_path: Path):
        robot, store = filmed_robot(tmp_path / "raw", 1), RobotStore.of("arm", tmp_path)
        write_held(tmp_path / "raw/1.hdf5")
        held.hold("1.hdf5")

        def each(outcome: Conversion | Lost) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(robot, tmp_path, workers=workers, each=each)
        held.release()
        assert not [path for path in store.root.rglob("*") if ".tmp-" in path.name]
        assert states_of(robot, store) == {"0.hdf5": "converted", "1.hdf5": "new"}

    def test_nothing_to_convert_needs_no_workers(self, workers: Workers, tmp_path: Path):
        robot = robot_at(tmp_path, "*.hdf5", "hdf5")
        assert list(workers.convert([], spec=robot.spec, store=tmp_path / "store")) == []

    def test_a_store_that_cannot_be_written_is_an_error_of_the_run(self, workers: Workers, tmp_path: Path):
        robot = filmed_robot(tmp_path / "raw", 1)
        todo = make_plan(robot, RobotStore.of("arm", tmp_path / "other")).todo
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="cannot write"):
            list(workers.convert(todo, spec=robot.spec, store=tmp_path / "file" / "arm"))

    def worker_on(self, recording: str, store: RobotStore) -> int:
        """The process that is in the middle of a recording, by the name of its work folder."""
        return wait_for(lambda: [int(path.name.split(".tmp-")[1].split("-")[0]) for path in self.work_on(recording, store)])[0]

    def work_on(self, recording: str, store: RobotStore) -> list[Path]:
        return list(store.episodes.glob(f"{recording}.tmp-*"))


def filmed_robot(folder: Path, count: int, *, codec: str = "h264") -> Robot:
    """A robot of so many small recordings with a camera: 0.hdf5, 1.hdf5, ..."""
    for k in range(count):
        write_filmed(folder / f"{k}.hdf5", frames=FRAMES, seed=k)
    dataset = {"repo_id": "local/arm", "video": {"codec": codec}}
    return robot_at(folder, "*.hdf5", "hdf5", state=STATE, cameras={"high": {"source": CAMERA, "role": "base"}}, dataset=dataset)


def events_of(workers: Workers, robot: Robot, store: RobotStore) -> Iterator[Event]:
    return workers.convert(make_plan(robot, store).todo, spec=robot.spec, store=store.root)


def files_of(store: RobotStore) -> dict[str, bytes]:
    """Every file of the episodes, by its path."""
    return {str(p.relative_to(store.episodes)): p.read_bytes() for p in store.episodes.rglob("*") if p.is_file()}
