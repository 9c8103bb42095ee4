"""Runs and workers that are killed, hang or fail: what they cost, and what the next run makes of it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import make_plan, quarantine_reasons
from vla_ops.episodes.pool import Frames, Lost
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers.local import LocalWorkers, _start_worker
from vla_ops_tests.episodes.ingesting import robot_at, run
from vla_ops_tests.episodes.killing import (
    HELD,
    Meddler,
    hold,  # noqa: F401 - a fixture
    is_over,
    long_robot,
    start_parent,
    states_of,
    wait_for,
    workers_on,
    write_filmed,
    write_held,
)
from vla_ops_tests.holding import Hold

type Holding = Callable[..., Hold]


@pytest.mark.slow
def test_a_worker_that_hangs_does_not_silence_the_progress_and_ends_with_the_run(tmp_path: Path, hold: Holding):  # noqa: F811
    write_held(tmp_path / "raw/a.hdf5")
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    hold("a.hdf5")
    todo = make_plan(robot, store).todo
    with closing(LocalWorkers(1).convert(todo, spec=robot.spec, store=store.root)) as events:
        hanging = Meddler(store, "a.hdf5", signal.SIGSTOP)
        hanging.start()
        while hanging.is_alive():
            next(events)
        # What it told before it was stopped, and from then on heartbeats.
        heartbeat = Frames("", 0)
        assert list(islice((event for event in events if event == heartbeat), 3)) == [heartbeat] * 3
    hanging.join()
    assert is_over(hanging.pid)


def test_a_worker_killed_in_the_middle_costs_its_recording_alone_and_the_next_run_converts_it(tmp_path: Path, hold: Holding):  # noqa: F811
    for k in (0, 2):
        write_filmed(tmp_path / f"raw/{k}.hdf5", seed=k)
    write_held(tmp_path / "raw/1.hdf5")
    robot, held = long_robot(tmp_path / "raw"), hold("1.hdf5")
    killing = Meddler(RobotStore.of("arm", tmp_path), "1.hdf5", signal.SIGKILL)
    killing.start()
    killed = run(robot, tmp_path, workers=1)
    killing.join()
    assert killed.states == {"0.hdf5": "converted", "1.hdf5": "lost", "2.hdf5": "converted"}
    (line,) = [line for line in killed.said if line.startswith("LOST")]
    assert all(word in line for word in ("1.hdf5", "exit code -9", "memory", "next run tries it again"))
    assert quarantine_reasons(killed.store) == []
    assert killed.left_behind == []
    assert not killed.store.recording_folder("1.hdf5").exists()
    held.release()
    after = run(robot, tmp_path, workers=1)
    assert after.states == {"1.hdf5": "converted"}
    assert [e.meta.length for e in after.store.read_episodes("1.hdf5")] == [HELD - 1]


def test_a_worker_whose_events_nobody_reads_ends_itself_and_blames_no_recording(tmp_path: Path, hold: Holding):  # noqa: F811
    write_held(tmp_path / "raw/a.hdf5")
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    # It is still converting when it reports, which it does every half second.
    hold("a.hdf5")
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
        assert worker.wait(timeout=120) == 1
    assert store.read_quarantine("a.hdf5") is None
    assert not store.recording_folder("a.hdf5").exists()
    assert states_of(robot, store) == {"a.hdf5": "new"}


def assert_only_whole_episodes(store: RobotStore) -> None:
    for path in store.episodes.iterdir():
        if ".tmp-" not in path.name:
            (episode,) = store.read_episodes(path.name)
            assert episode.frames.exists()
            assert episode.video("high").exists()


def test_a_run_killed_in_the_middle_ends_its_workers_and_the_next_run_finishes(tmp_path: Path, hold: Holding):  # noqa: F811
    write_filmed(tmp_path / "raw/0.hdf5")
    for k in (1, 2):
        write_held(tmp_path / f"raw/{k}.hdf5", seed=k)
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    held = hold("1.hdf5", "2.hdf5")
    parent = start_parent(tmp_path)
    wait_for(lambda: store.read_recording("0.hdf5"))
    workers = [pid for k in (1, 2) for pid in wait_for(lambda k=k: workers_on(store, f"{k}.hdf5"))]
    assert parent.pid not in workers
    parent.kill()
    parent.wait()
    wait_for(lambda: all(is_over(pid) for pid in workers))
    assert_only_whole_episodes(store)
    assert states_of(robot, store) == {"0.hdf5": "converted", "1.hdf5": "new", "2.hdf5": "new"}
    left = {path.name.split(".tmp-")[0] for path in store.episodes.iterdir() if ".tmp-" in path.name}
    assert left == {"1.hdf5", "2.hdf5"}
    held.release()
    after = run(robot, tmp_path, workers=2)
    assert {line.split(": ")[1].split(".tmp-")[0] for line in after.said if line.startswith("removed")} == left
    assert after.states == dict.fromkeys(left, "converted")
    assert set(states_of(robot, store).values()) == {"converted"}
    assert after.left_behind == []
    assert_only_whole_episodes(store)


@pytest.mark.slow
def test_a_second_run_waits_for_the_first_and_then_has_nothing_to_do(tmp_path: Path, hold: Holding):  # noqa: F811
    write_held(tmp_path / "raw/1.hdf5")
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    held = hold("1.hdf5")
    first = start_parent(tmp_path)
    wait_for(lambda: workers_on(store, "1.hdf5"))
    # It is not done before the second has said that it waits.
    second = run(robot, tmp_path, workers=1, say=lambda _: held.release())
    assert first.wait() == 0
    *waiting, found = second.said
    # Said again while it takes long.
    assert waiting
    assert all(line.startswith(f"arm: waiting, process {first.pid} on ") for line in waiting)
    assert found == "arm: nothing new or changed among 1 recordings (1 converted)"
    assert second.states == {}


def test_an_error_while_outcomes_are_handled_ends_the_workers_and_leaves_nothing_half_written(tmp_path: Path, hold: Holding):  # noqa: F811
    write_filmed(tmp_path / "raw/0.hdf5")
    write_held(tmp_path / "raw/1.hdf5")
    robot, store = long_robot(tmp_path / "raw"), RobotStore.of("arm", tmp_path)
    hold("1.hdf5")

    def each(outcome: Conversion | Lost) -> None:
        wait_for(lambda: workers_on(store, "1.hdf5"))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(robot, tmp_path, workers=1, each=each)
    assert not [path for path in store.root.rglob("*") if ".tmp-" in path.name]
    assert states_of(robot, store) == {"0.hdf5": "converted", "1.hdf5": "new"}


def test_nothing_to_convert_starts_no_worker(tmp_path: Path):
    robot = robot_at(tmp_path, "*.hdf5", "hdf5")
    assert list(LocalWorkers().convert([], spec=robot.spec, store=tmp_path / "store")) == []
