"""The steps that benchmarks/scale.py measures, each in a process of its own so that its peak memory is its own.

Run by it as `python -m benchmarks.scale_steps STEP FOLDER`; prints one line of JSON: name -> number.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from benchmarks.scale_memory import peak_mb
from benchmarks.scale_store import fill, make_robot, name_of
from vla_ops.datasets.refresh import refresh_lerobot_v3
from vla_ops.episodes.plan import make_plan
from vla_ops.episodes.store import RobotStore
from vla_ops.lineage.names import Stage
from vla_ops.lineage.partitions import sync_partitions
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.recordings.discover import list_recordings
from vla_ops.robot_file import Robot

type Numbers = dict[str, float]


def listing(folder: Path) -> Numbers:
    """All recordings, against a bare walk with a stat of each file."""
    robot = make_robot(folder / "arm", by="day")
    root = Path(robot.recordings_uri)
    ours, count = timed(lambda: len(list_recordings(robot.recordings_uri, robot.spec.recordings.pattern)))
    walk, _ = timed(lambda: [entry.stat() for entry in _files(root)])
    return {"recordings": count, "listing_s": ours, "walk_and_stat_s": walk}


def _files(root: Path) -> Iterator[os.DirEntry[str]]:
    for entry in os.scandir(root):
        if entry.is_dir():
            yield from _files(Path(entry.path))
        else:
            yield entry


def tick(folder: Path) -> Numbers:
    """A tick with nothing new."""
    robot = make_robot(folder / "arm", by="day")
    sensor = next(iter(robot_definitions(robot).sensors or []))
    assert isinstance(sensor, dg.SensorDefinition)
    with dg.DagsterInstance.get() as instance:
        first = sensor(dg.build_sensor_context(instance=instance, cursor=None))
        assert isinstance(first, dg.SensorResult)
        seconds, again = timed(lambda: sensor(dg.build_sensor_context(instance=instance, cursor=first.cursor)))
    assert isinstance(again, dg.SkipReason), again
    return {"tick_s": seconds, "cursor_bytes": len(str(first.cursor))}


def partitions(folder: Path) -> Numbers:
    """Adding all partitions, listing them, and a look that changes nothing, by file."""
    ids = [name_of(k) for k in range(count_of(folder))]
    stage = Stage.of(make_robot(folder / "arm", by="file"))
    with dg.DagsterInstance.get() as instance:
        add, _ = once(lambda: sync_partitions(instance, stage, ids))
        listed, found = timed(lambda: instance.get_dynamic_partitions(str(stage.partitions.name)))
        same, _ = timed(lambda: sync_partitions(instance, stage, ids))
    assert len(found) == len(ids)
    return {"add_partitions_s": add, "list_partitions_s": listed, "sync_partitions_s": same}


def plan(folder: Path) -> Numbers:
    """A plan with nothing new."""
    robot, store = make_robot(folder / "arm", by="day"), RobotStore.of("arm")
    seconds, made = once(lambda: make_plan(robot, store))
    assert made.counts() == {"converted": count_of(folder)}, made.counts()
    return {"plan_s": seconds}


def events(folder: Path, by: str) -> Numbers:
    """A run of the episodes that says all partitions, and one that has nothing to say."""
    robot = make_robot(folder / "arm", by=by)
    job = robot_definitions(robot).resolve_job_def("arm_ingest")
    key = dg.AssetKey(["arm", "episodes"])

    def run() -> dg.ExecuteInProcessResult:
        return job.execute_in_process(instance=instance, asset_selection=[key])

    with dg.DagsterInstance.get() as instance:
        sync_partitions(instance, Stage.of(robot), [name_of(k) for k in range(count_of(folder))])
        start = time.perf_counter()
        first, _ = once(run)
        waited = time.perf_counter() - start
        again, _ = once(run)
        said = len(instance.get_materialized_partitions(key) & set(instance.get_dynamic_partitions("arm_recordings")))
    return {f"partitions_{by}": said, f"say_all_{by}_s": first, f"say_all_{by}_waited_s": waited, f"nothing_new_{by}_s": again}


def dataset(folder: Path) -> Numbers:
    """A first dataset version of all, one with one recording more, and one with nothing new. The recording added is a link of the first."""
    robot, store, count = make_robot(folder / "arm", by="day"), RobotStore.of("arm"), count_of(folder)
    whole, first = once(lambda: refresh_lerobot_v3(robot, store, say=_quiet))
    fill(robot, store, count + 1)
    one, more = once(lambda: refresh_lerobot_v3(robot, store, say=_quiet))
    assert (first.made.episodes, more.made.episodes, more.made.added) == (count, count + 1, 1)
    again, same = once(lambda: refresh_lerobot_v3(robot, store, say=_quiet))
    assert not same.made.created
    _remove(robot, store, name_of(count))
    return {
        "dataset_all_s": whole,
        "dataset_one_more_s": one,
        "dataset_same_s": again,
        "dataset_one_more_mb": more.made.bytes_written / 1e6,
        "dataset_files": sum(len(files) for _, _, files in os.walk(more.made.folder)),
    }


def _remove(robot: Robot, store: RobotStore, recording: str) -> None:
    (Path(robot.recordings_uri) / recording).unlink()
    shutil.rmtree(store.recording_folder(recording))


def _quiet(_: str) -> None:
    pass


def count_of(folder: Path) -> int:
    """How many recordings the store was made with."""
    return int((folder / "count").read_text())


def timed[T](act: Callable[[], T], times: int = 3) -> tuple[float, T]:
    """`once`, the lowest of a few, and the last result."""
    best, result = once(act)
    for _ in range(times - 1):
        seconds, result = once(act)
        best = min(best, seconds)
    return best, result


def once[T](act: Callable[[], T]) -> tuple[float, T]:
    """Seconds of CPU, of all threads, and result of one call: who else uses the machine does not count."""
    start = time.process_time()
    result = act()
    return time.process_time() - start, result


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Dagster and libraries print; the last line of stdout is the result."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)


def main(step: str, folder: Path) -> None:
    """Measure one step."""
    name, _, by = step.partition(":")
    steps = {"listing": listing, "tick": tick, "partitions": partitions, "plan": plan, "dataset": dataset}
    with _stdout_to_stderr():
        found = events(folder, by) if name == "events" else steps[name](folder)
    print(json.dumps({**found, f"{step.replace(':', '_')}_mb": peak_mb(os.getpid())}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
