"""Norm stats from parquet columns against the way that decodes every image to get at them.

    .venv/bin/python benchmarks/norm_stats.py [--frames 1000000] [--peer-frames 150]

The peer goes through a LeRobot dataset with three 480x640 video cameras, batch by batch, as openpi's compute_norm_stats does:
LeRobotDataset with an action chunk a frame, a torch DataLoader, running moments and 5,000-bin histograms. Ours reads the same kind
of folder. Every step runs in a process of its own, so that its peak memory is its own; imports are not counted on either side. CPU
seconds are printed beside wall seconds, because they mean the same on a machine that is busy with something else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vla_ops.norm_stats import compute_norm_stats
from vla_ops.robot import RobotSpec

DIMS, HORIZON, RATE_HZ, BATCH = 14, 50, 50, 32
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
NAMES = [f"{side}_{name}" for side in ("left", "right") for name in ("j1", "j2", "j3", "j4", "j5", "j6", "gripper")]
GRIPPERS = [k for k, name in enumerate(NAMES) if "gripper" in name]


@dataclass(frozen=True)
class Measured:
    """One run over one dataset."""

    frames: int
    seconds: float
    cpu_seconds: float
    peak_mb: float
    q99_of_first_action: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000, help="frames of the large dataset, without images")
    parser.add_argument("--peer-frames", type=int, default=150, help="frames of the dataset with three cameras")
    parser.add_argument("--step", choices=["large", "small", "ours", "decode"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    match options.step:
        case "large":
            write_numbers(options.folder, options.frames)
        case "small":
            write_with_cameras(options.folder, options.peer_frames)
        case "ours":
            print(json.dumps(asdict(measure_ours(options.folder))))
        case "decode":
            print(json.dumps(asdict(measure_decoding(options.folder))))
        case _:
            compare(options.frames, options.peer_frames)


def compare(frames: int, peer_frames: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large", Path(folder) / "small"
        run_step("large", large, frames=frames)
        ours = Measured(**json.loads(run_step("ours", large)))
        run_step("small", small, peer_frames=peer_frames)
        ours_small = Measured(**json.loads(run_step("ours", small)))
        peer = Measured(**json.loads(run_step("decode", small)))
    print_table(ours=ours, ours_small=ours_small, peer=peer)


def run_step(step: str, folder: Path, **options: int) -> str:
    """Run one step in a process of its own and return the last line it printed."""
    more = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), *more]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"step {step} failed:\n{done.stderr}")
    return (done.stdout.splitlines() or [""])[-1]


def make_spec() -> RobotSpec:
    def parts(stream: str) -> list[dict[str, object]]:
        kinds = [("ratio", "gripper") if k in GRIPPERS else ("rad", "joint") for k in range(DIMS)]
        return [
            {"source": f"{stream}[{k}:{k + 1}]", "names": [NAMES[k]], "unit": unit, "kind": kind} for k, (unit, kind) in enumerate(kinds)
        ]

    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "unused", "pattern": "*", "format": "mcap"},
            "timeline": {"rate_hz": RATE_HZ},
            "state": parts("/qpos"),
            "action": parts("/action"),
            "task": {"text": "benchmark"},
            "dataset": {"repo_id": "vla-ops/benchmark"},
            "norm_stats": {"action_space": "delta", "action_horizon": HORIZON},
        }
    )


def make_motion(frames: int) -> np.ndarray:
    """Joint angles [frames + 1, 14]: slow sines with sensor noise."""
    rng = np.random.default_rng(0)
    seconds = np.arange(frames + 1)[:, None] / RATE_HZ
    return (np.sin(seconds * (0.3 + 0.1 * np.arange(DIMS))) + rng.normal(scale=0.01, size=(frames + 1, DIMS))).astype(np.float32)


def write_numbers(folder: Path, frames: int, *, episode: int = 500) -> None:
    """A LeRobot v3.0 folder of number columns, 100,000 frames a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    motion = make_motion(frames)
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    for number, first in enumerate(range(0, frames, 100_000)):
        rows = np.arange(first, min(first + 100_000, frames))
        columns = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(motion[rows + ahead].ravel()), DIMS)
            for name, ahead in (("observation.state", 0), ("action", 1))
        }
        table = pa.table({**columns, "timestamp": (rows % episode / RATE_HZ).astype(np.float32), "episode_index": rows // episode})
        pq.write_table(table, folder / "data" / "chunk-000" / f"file-{number:03d}.parquet", row_group_size=episode)
    vector = {"dtype": "float32", "shape": [DIMS], "names": NAMES}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "benchmark",
        "total_frames": frames,
        "total_episodes": -(-frames // episode),
        "features": {"observation.state": vector, "action": vector},
    }
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def write_with_cameras(folder: Path, frames: int) -> None:
    """The same kind of motion with three cameras, written by LeRobot itself."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (DIMS,), "names": NAMES}
    image = {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, **{f"observation.images.{camera}": image for camera in CAMERAS}}
    made = LeRobotDataset.create("vla-ops/benchmark", RATE_HZ, features, root=folder, robot_type="benchmark", streaming_encoding=True)
    motion = make_motion(frames)
    y, x = np.mgrid[0:480, 0:640]
    for k in range(frames):
        picture = np.stack([(x + 3 * k) % 256, (y + 2 * k) % 256, (x + y + k) % 256], axis=2).astype(np.uint8)
        images = {f"observation.images.{camera}": np.roll(picture, 50 * c, axis=1) for c, camera in enumerate(CAMERAS)}
        made.add_frame({"observation.state": motion[k], "action": motion[k + 1], **images, "task": "benchmark"})
    made.save_episode()
    made.finalize()


class Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self, frames: int, q99: float) -> Measured:
        """Return what was measured."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        # Linux counts ru_maxrss in KB, macOS in bytes.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        return Measured(frames, wall, cpu, peak, q99)


def measure_ours(folder: Path) -> Measured:
    import pyarrow.parquet  # noqa: F401

    spec = make_spec()
    clock = Clock()
    stats = compute_norm_stats(folder, spec=spec)
    measured = clock.stop(stats.frames, float(stats.actions.q99[0]))
    assert stats.actions.count == stats.frames * HORIZON
    return measured


class RunningStats:
    """Moments and 5,000-bin histograms, updated a batch at a time: the least that the peer has to compute."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.edges = [np.linspace(a, b, 5001) for a, b in zip(low, high, strict=True)]
        self.counts = np.zeros((len(low), 5000))
        self.total, self.squares, self.seen = np.zeros(len(low)), np.zeros(len(low)), 0

    def update(self, rows: np.ndarray) -> None:
        """Count `rows` [n, d]."""
        self.seen += len(rows)
        self.total += rows.sum(axis=0)
        self.squares += (rows**2).sum(axis=0)
        for k, edges in enumerate(self.edges):
            self.counts[k] += np.histogram(rows[:, k], edges)[0]

    def quantile(self, k: int, q: float) -> float:
        """The left edge of the bin that holds quantile `q` of dimension `k`."""
        return float(self.edges[k][np.searchsorted(self.counts[k].cumsum(), q * self.seen)])


def measure_decoding(folder: Path) -> Measured:
    """The peer. Opening the dataset is not counted."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torch.utils.data import DataLoader

    ahead = {"action": [h / RATE_HZ for h in range(HORIZON)]}
    dataset = LeRobotDataset("vla-ops/benchmark", root=folder, delta_timestamps=ahead, video_backend="pyav")
    stats = {
        "state": RunningStats(np.full(DIMS, -3.0), np.full(DIMS, 3.0)),
        "actions": RunningStats(np.full(DIMS, -3.0), np.full(DIMS, 3.0)),
    }
    delta = np.array([k not in GRIPPERS for k in range(DIMS)])
    clock = Clock()
    for batch in DataLoader(dataset, batch_size=BATCH):
        state, actions = batch["observation.state"].numpy(), batch["action"].numpy()
        stats["state"].update(state)
        stats["actions"].update((actions - np.where(delta, state, 0)[:, None]).reshape(-1, DIMS))
    return clock.stop(len(dataset), stats["actions"].quantile(0, 0.99))


def print_table(*, ours: Measured, ours_small: Measured, peer: Measured) -> None:
    assert abs(ours_small.q99_of_first_action - peer.q99_of_first_action) < 2 * 6 / 5000, "the two ways disagree"
    rows = [
        ("decode every image (LeRobotDataset, pyav, 3 x 480x640)", peer),
        ("columns only, the same dataset", ours_small),
        ("columns only, no video in the folder", ours),
    ]
    print(f"norm stats, {DIMS} dims, horizon {HORIZON}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'way':<56}{'frames':>10}{'seconds':>9}{'CPU s':>8}{'frames/s':>11}{'x':>8}{'x by CPU':>10}{'peak MB':>9}")
    for name, run in rows:
        speed, by_cpu = (
            (run.frames / run.seconds) / (peer.frames / peer.seconds),
            (run.frames / run.cpu_seconds) / (peer.frames / peer.cpu_seconds),
        )
        numbers = f"{run.frames:>10,}{run.seconds:>9.3f}{run.cpu_seconds:>8.2f}{run.frames / run.seconds:>11,.0f}"
        print(f"{name:<56}{numbers}{speed:>8,.0f}{by_cpu:>10,.0f}{run.peak_mb:>9,.0f}")
    print("goals: at least 1,000 x; 1,000,000 frames in under 15 s and 2,000 MB")


if __name__ == "__main__":
    main()
