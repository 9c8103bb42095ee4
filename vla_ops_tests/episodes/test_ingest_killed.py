"""Runs and workers that are killed, hang or fail: what they cost, and what the next run makes of it."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import make_plan, quarantine_reasons
from vla_ops.episodes.pool import Lost, _start_worker, convert_many
from vla_ops.episodes.store import RobotStore
from vla_ops_tests.episodes.ingesting import robot_at, run
from vla_ops_tests.episodes.killing import (
    LONG,
    Meddler,
    is_over,
    long_robot,
    send,
    start_parent,
    states_of,
    wait_for,
    workers_on,
    write_filmed,
    write_long,
)


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


def test_a_worker_whose_events_nobody_reads_ends_itself_and_blames_no_recording(tmp_path: Path):
    # Long after the first of its reports every half second it is still converting.
    write_filmed(tmp_path / "raw/a.hdf5", frames=2 * LONG)
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    ((file, version),) = make_plan(robot, store).todo
    spec = robot.spec.model_dump(mode="json", by_alias=True)
    with _start_worker() as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        job = {"file": asdict(file), "source_version": version, "trims": {}, "spec": spec, "store": str(store.root), "cores": 1}
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        wait_for(lambda: worker.pid in workers_on(store, "a.hdf5"))
        worker.stdout.close()
        assert worker.wait(timeout=20) == 1
    assert store.read_quarantine("a.hdf5") is None
    assert not store.recording_folder("a.hdf5").exists()
    assert states_of(robot, store) == {"a.hdf5": "new"}


def assert_only_whole_episodes(store: RobotStore) -> None:
    for path in store.episodes.iterdir():
        if ".tmp-" not in path.name:
            (episode,) = store.read_episodes(path.name)
            assert episode.frames.exists()
            assert episode.video("high").exists()


def test_a_run_killed_in_the_middle_ends_its_workers_and_the_next_run_finishes(tmp_path: Path):
    write_filmed(tmp_path / "raw/0.hdf5")
    for k in (1, 2):
        write_filmed(tmp_path / f"raw/{k}.hdf5", frames=4 * LONG, seed=k)
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    parent = start_parent(tmp_path)
    workers = wait_for(lambda: store.read_recording("0.hdf5") and workers_on(store, "2.hdf5")) + workers_on(store, "1.hdf5")
    assert parent.pid not in workers
    # Held still meanwhile: on a busy machine they would be done before their parent is gone.
    send(signal.SIGSTOP, workers)
    parent.kill()
    parent.wait()
    send(signal.SIGCONT, workers)
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
