"""Runs that last long enough to be caught in the middle, and what kills, stops or waits for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from vla_ops.episodes.plan import make_plan
from vla_ops.episodes.store import RobotStore
from vla_ops.robot_file import Robot
from vla_ops_tests.episodes.ingesting import ALOHA, robot_at, write_arm
from vla_ops_tests.holding import Hold, hold_workers
from vla_ops_tests.recordings.hdf5_files import write_images
from vla_ops_tests.recordings.pictures import frame_picture

CAMERA = "/observations/images/high"

# Of two dimensions: most of the time of a conversion this small goes into the plot of each.
STATE: list[dict[str, Any]] = [{**ALOHA["state"][0], "source": "/observations/qpos[0:1]", "names": ["j1"]}, ALOHA["state"][1]]

HELD = 150  # Frames of a recording whose conversion is held in the middle.


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hold]:
    """`hold("1.hdf5")` keeps every worker of this test that converts it in the middle of it, until it is released."""

    def held(*recordings: str) -> Hold:
        made = hold_workers(tmp_path / "held", *recordings)
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        return made

    return held


def states_of(robot: Robot, store: RobotStore) -> dict[str, str]:
    return {found.file.id: found.state for found in make_plan(robot, store).found}


def write_filmed(path: Path, frames: int = 12, seed: int = 0) -> None:
    """A recording with a camera, written in no time: a few pictures over and over."""
    shots = [frame_picture(k, size=(120, 160)) for k in range(8)]
    write_arm(path, frames=frames, seed=seed)
    with h5py.File(path, "r+") as file:
        write_images(file, CAMERA, [shots[(k + seed) % 8] for k in range(frames)], "jpeg_rows")


def write_held(path: Path, seed: int = 0) -> None:
    write_filmed(path, frames=HELD, seed=seed)


def long_robot(folder: Path) -> Robot:
    return robot_at(folder, "*.hdf5", "hdf5", state=STATE, cameras={"high": {"source": CAMERA, "role": "base"}})


def workers_on(store: RobotStore, recording: str) -> list[int]:
    """Processes that are in the middle of a recording, by the names of their work folders."""
    return [int(path.name.split(".tmp-")[1].split("-")[0]) for path in store.episodes.glob(f"{recording}.tmp-*")]


def wait_for[T](look: Callable[[], T], seconds: float = 240.0) -> T:
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


PARENT = """
import sys
from pathlib import Path
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.episodes.killing import long_robot

if __name__ == "__main__":
    run(long_robot(Path(sys.argv[1]) / "raw"), Path(sys.argv[1]), workers=2)
"""


def start_parent(folder: Path) -> subprocess.Popen[bytes]:
    repo = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], cwd=repo)
