"""A run of the ingest job with nothing new among 1,000 converted recordings, against the same job on 10.

Run: python benchmarks/rerun.py
Target: under 10 s in the job itself.

One real recording is converted; the others are copies of it with other bytes at their end (an HDF5 file may carry a tail), whose
episode folders are hard links with their own recording.json and episode.json, as a conversion of each would have left them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import dagster as dg
import yaml

from vla_ops.episodes.ingest import ingest
from vla_ops.episodes.plan import observe
from vla_ops.episodes.store import RobotStore
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.robot_file import Robot, load_robot

FRAMES = 300


def make_robot(folder: Path) -> Robot:
    import h5py
    import numpy as np

    (folder / "recordings").mkdir(parents=True)
    with h5py.File(folder / "recordings" / "0.hdf5", "w") as file:
        file["qpos"] = np.cumsum(np.random.default_rng(0).normal(size=(FRAMES, 7)), axis=0) / 100
    attributes = {
        "recordings": {"uri": "recordings", "pattern": "*.hdf5", "format": "hdf5", "source_rate_hz": 20, "settle_s": 0},
        "timeline": {"rate_hz": 30},
        "state": [
            {"source": "qpos[0:6]", "names": [f"j{k}" for k in range(6)], "unit": "rad"},
            {"source": "qpos[6:7]", "names": ["gripper"], "unit": "m", "kind": "gripper"},
        ],
        "action": {"from": "next_state"},
        "task": {"text": "benchmark"},
        "dataset": {"repo_id": "local/benchmark"},
    }
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": "vla_ops.RobotPipeline", "attributes": attributes}))
    return load_robot(folder)


def multiply(robot: Robot, store: RobotStore, count: int) -> None:
    """Copies of the first recording and of what its conversion left."""
    first = Path(robot.recordings_uri) / "0.hdf5"
    for k in range(1, count):
        (first.parent / f"{k}.hdf5").write_bytes(first.read_bytes() + k.to_bytes(4, "little"))
    versions = {file.id: version for file, version in observe(robot, store)}
    source = store.recording_folder("0.hdf5")
    for name, version in versions.items():
        target = store.recording_folder(name)
        if not target.exists():
            shutil.copytree(source, target, copy_function=os.link)
            for path, key in ((target / "recording.json", "recording"), (target / "0" / "episode.json", "recording")):
                changed = json.loads(path.read_text()) | {key: name, "source_version": version}
                path.unlink()
                path.write_text(json.dumps(changed))


def job_seconds(robot: Robot, instance: dg.DagsterInstance) -> dict[str, float]:
    job = robot_definitions(robot).resolve_job_def(f"{robot.name}_ingest")
    started = time.perf_counter()
    result = job.execute_in_process(instance=instance)
    assert result.success
    return {"whole job": time.perf_counter() - started}


def measure(count: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as temp:
        os.environ["VLA_OPS_HOME"] = f"{temp}/home"
        robot = make_robot(Path(temp) / "arm")
        store = RobotStore.of(robot.name)
        ingest(robot, store, say=lambda _: None)
        multiply(robot, store, count)
        with dg.DagsterInstance.local_temp(temp) as instance:
            first = job_seconds(robot, instance)["whole job"]
            again = job_seconds(robot, instance)["whole job"]
    return first, again


def main() -> None:
    rows = {count: measure(count) for count in (10, 1000)}
    print(f"{'recordings':>10}{'dataset made, s':>18}{'nothing new, s':>18}")
    for count, (first, again) in rows.items():
        print(f"{count:10}{first:18.2f}{again:18.2f}")
    print(f"nothing new among 1,000: {rows[1000][1]:.2f} s (target under 10), {rows[1000][1] / rows[10][1]:.1f}x the job on 10")


if __name__ == "__main__":
    main()
