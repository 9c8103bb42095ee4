"""A folder of recordings and a store to convert them into, and what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq

from vla_ops.episodes.convert import Conversion, ConversionJob, convert_recording
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops_tests.episodes.ingesting import RATE_HZ, robot_at
from vla_ops_tests.episodes.mp4s import shown
from vla_ops_tests.recordings.hdf5_files import write_aloha
from vla_ops_tests.recordings.pictures import frame_number

QPOS, TIMES, HIGH = "/observations/qpos", "/observations/timestamps/robot", "/observations/images/high"

CAMERAS = {"high": {"source": HIGH, "role": "base"}}

NAMES = ["j1", "j2", "j3", "j4", "j5", "j6", "gripper"]

STEP_NS = 10**9 // RATE_HZ

# Few dimensions: most of the time of a small conversion goes into their plots.
TWO_JOINTS = [{"source": QPOS, "names": ["j1", "j2"], "unit": "rad"}]


class Workshop:
    """A folder of recordings and a store to convert them into."""

    def __init__(self, root: Path) -> None:
        self.raw, self.store = root / "raw", RobotStore.of("arm", root / "home")
        self.raw.mkdir()

    def aloha(self, key: str = "a.hdf5", *, frames: int = 20, cameras: tuple[str, ...] = (), **options: Any) -> np.ndarray:
        """Write an ALOHA recording; return its qpos [frames, 2]."""
        (self.raw / key).parent.mkdir(parents=True, exist_ok=True)
        written = write_aloha(
            self.raw / key, **{"frames": frames, "cameras": cameras, "size": (48, 80), "images": "jpeg_rows", "width": 2} | options
        )
        return np.asarray(written.numbers[QPOS])

    def convert(
        self, key: str = "a.hdf5", format: str = "hdf5", *, version: str = "v1", progress: Any = None, **sections: Any
    ) -> Conversion:
        robot = robot_at(self.raw, "*", format, **{"state": TWO_JOINTS, **sections})
        return convert_recording(ConversionJob(key, str(self.raw / key), version, robot.spec, self.store.root), progress)

    def reason(self, key: str = "a.hdf5") -> str:
        entry = self.store.read_quarantine(key)
        assert entry is not None
        return entry["quarantined"]

    def left_behind(self) -> list[Path]:
        return [path for path in self.store.root.rglob("*") if ".tmp-" in path.name]


def column(episode: Episode, name: str) -> np.ndarray:
    return np.array(pq.read_table(episode.frames)[name].to_pylist())


def states(episode: Episode) -> np.ndarray:
    return column(episode, "observation.state").astype(np.float32)


def put(file: h5py.File, name: str, at: tuple[int, int], value: float) -> None:
    dataset = file[name]
    assert isinstance(dataset, h5py.Dataset)
    dataset[at] = value


def numbers_shown(episode: Episode, camera: str = "high") -> list[int]:
    return [frame_number(image) for image in shown(episode.video(camera))]


JSON_STATE = {"state": [{"source": "/arm.position", "names": ["a", "b", "c"], "unit": "rad"}], "task": {"text": "wave"}}

DEMOS = {
    "state": [{"source": "obs/robot0_joint_pos", "names": [*NAMES[:6], "j7"], "unit": "rad"}],
    "action": [{"source": "actions", "names": [*NAMES[:6], "j7"], "unit": "1", "kind": "other"}],
    "norm_stats": {"action_space": "absolute"},
    "cameras": {"front": {"source": "obs/agentview_rgb"}},
    "task": {"from": "recording"},
}
