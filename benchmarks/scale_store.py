"""Make a robot with many converted recordings cheaply: one is converted, the others have its videos and numbers of their own."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from vla_ops.episodes.ingest import ingest
from vla_ops.episodes.store import EPISODE, FRAMES, RECORDING, EpisodeMeta, RobotStore, load_episode
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.files import link_or_copy
from vla_ops.recordings.discover import list_recordings
from vla_ops.robot_file import Robot, load_robot
from vla_ops_tests.episodes.ingesting import ALOHA
from vla_ops_tests.recordings.hdf5_files import write_aloha

# So many a robot and day, of so many robots: 1,000 recordings a day.
A_FOLDER, ROBOTS = 50, 20
LENGTH = 60
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def name_of(k: int) -> str:
    """`robot07/2026-01-02/001234.hdf5`."""
    day = np.datetime64("2026-01-01") + k // (A_FOLDER * ROBOTS)
    return f"robot{k // A_FOLDER % ROBOTS:02d}/{day}/{k:06d}.hdf5"


def make_robot(folder: Path, *, by: str) -> Robot:
    """The robot's YAML, written anew."""
    (folder / "recordings").mkdir(parents=True, exist_ok=True)
    read = {"uri": "recordings", "pattern": "*/*/*.hdf5", "format": "hdf5", "source_rate_hz": 20, "settle_s": 0, "partition_by": by}
    cameras = {name: {"source": f"/observations/images/{name}"} for name in CAMERAS}
    document = {"type": "vla_ops.RobotPipeline", "attributes": {**ALOHA, "recordings": read, "cameras": cameras}}
    (folder / "defs.yaml").write_text(yaml.safe_dump(document))
    return load_robot(folder)


def fill(robot: Robot, store: RobotStore, count: int) -> None:
    """Make it `count` recordings, all of them converted; those that are there stay."""
    root = Path(robot.recordings_uri)
    first = root / name_of(0)
    if not first.exists():
        first.parent.mkdir(parents=True)
        write_aloha(first, frames=LENGTH + 1, cameras=CAMERAS, size=(48, 64), images="jpeg_rows", width=7)
        ingest(robot, store, say=lambda _: None, workers=1)
    source = load_episode(store.recording_folder(name_of(0)) / "0").meta
    record = json.loads((store.recording_folder(name_of(0)) / RECORDING).read_text())
    for k in range(1, count):
        if not (root / name_of(k)).exists():
            _put(root / name_of(k), str(k).encode())
            _link_converted(store, k, source, record)
    _remember_contents(robot, store, record)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _link_converted(store: RobotStore, k: int, source: EpisodeMeta, record: dict[str, object]) -> None:
    """What the conversion of recording `k` would have left: its own numbers, the first one's videos."""
    target, original = store.recording_folder(name_of(k)), store.recording_folder(name_of(0))
    (target / "0").mkdir(parents=True)
    for camera in CAMERAS:
        # Copied from where the inode has all the names it may have: 65,000 on ext4.
        link_or_copy(original / "0" / f"{camera}.mp4", target / "0" / f"{camera}.mp4")
    values = {name: _motion(k, salt) for salt, name in enumerate(("observation.state", "action"))}
    table = pq.read_table(original / "0" / FRAMES)
    for name, rows in values.items():
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, target / "0" / FRAMES)
    stats = source.stats | {name: vector_stats(rows) for name, rows in values.items()}
    meta = replace(source, recording=name_of(k), source_version=f"{k:016x}", stats=stats)
    (target / "0" / EPISODE).write_text(json.dumps(asdict(meta)))
    (target / RECORDING).write_text(json.dumps(record | {"recording": name_of(k), "source_version": f"{k:016x}"}))


def _motion(k: int, salt: int) -> np.ndarray:
    """A smooth motion, float32 [frames, 7], the gripper within 0 to 1."""
    seconds, draw = np.linspace(0, 1, LENGTH)[:, None], np.random.default_rng(k)
    size, turns, phase = draw.uniform(0.2, 1.2, 7), draw.uniform(0.5, 2, 7), draw.uniform(0, 6, 7)
    values = size * np.sin(2 * np.pi * turns * (seconds + 0.05 * salt) + phase)
    values[:, 6] = (1 + np.tanh(4 * values[:, 6])) / 2
    return values.astype(np.float32)


def _remember_contents(robot: Robot, store: RobotStore, record: dict[str, object]) -> None:
    """As if every recording had been read once: nobody waits for 100,000 files to be hashed."""
    known = {}
    for file in list_recordings(robot.recordings_uri, robot.spec.recordings.pattern):
        number = int(Path(file.id).stem)
        version = f"{number:016x}" if number else record["source_version"]
        known[file.id] = {"size": file.size, "stamp": file.stamp, "version": version}
    (store.root / "recordings.json").write_text(json.dumps(known))
