"""Samples a second of our loader against LeRobot's own DataLoader, on the same dataset in one run.

    .venv/bin/python benchmarks/loader.py [--frames 900] [--workers 2] [--batches 12] [--repeats 3]

Three 480x640 AV1 cameras (g = 2, as LeRobot writes them), chunks of 50 actions, random order, images brought to 224 pixels on both
sides, the same number of worker processes. Ours resizes as policies do, with Pillow, and as `resize: fast` does. The peer is
LeRobotDataset with `delta_timestamps`, its default video backend and uint8 images, torchvision's Resize as its image transform, and a
torch DataLoader. Every run is a process of its own and they take turns, in the other order every second round; starting the workers and
the first batches are not counted on either side. A ratio is of one round, and the median of all rounds counts, since the machine may be
busy with something else. CPU seconds of all processes are printed beside (on Linux), because they mean the same on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

DIMS, HORIZON, RATE_HZ, BATCH, SIZE, WARM = 14, 50, 50, 32, 224, 3
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
STEPS = ("lerobot", "exact", "fast", "kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=900, help="frames of the dataset, in three episodes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=12, help="batches that are measured")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step", choices=["write", *STEPS], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "write":
        write(options.folder, options.frames)
    elif options.step:
        print(json.dumps(measure(options.step, options.folder, workers=options.workers, count=options.batches)))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "dataset"
        run("write", made, options)
        rounds: list[dict[str, Any]] = []
        for k in range(options.repeats):
            turns = STEPS if k % 2 == 0 else STEPS[::-1]
            rounds.append({step: json.loads(run(step, made, options)) for step in turns})
            said = "  ".join(f"{step} {rounds[-1][step][0]:.1f} ({rounds[-1][step][1]:.1f})" for step in STEPS)
            print(f"round {k + 1} (load {os.getloadavg()[0]:.1f}): samples/s (by CPU second): {said}", flush=True)
    show(rounds, workers=options.workers)


def show(rounds: list[dict[str, Any]], *, workers: int) -> None:
    """Medians of samples a second and of the ratios of each round."""
    names = {
        "lerobot": "LeRobotDataset + DataLoader",
        "exact": "our loader",
        "fast": "our loader, resize: fast",
        "kept": "our loader, cache: memory",
    }

    def median(step: str, which: int, *, ratio: bool) -> float:
        return statistics.median(found[step][which] / (found["lerobot"][which] if ratio else 1) for found in rounds)

    sizes = f"{len(CAMERAS)} x 480x640, batch {BATCH}, horizon {HORIZON}, {workers} workers, {os.cpu_count()} cores"
    print(f"{sizes}; medians of {len(rounds)} rounds")
    for step, name in names.items():
        speed, by_cpu = (f"{median(step, which, ratio=False):>9.1f}" for which in (0, 1))
        times, cpu_times = (f"{median(step, which, ratio=True):>8.2f}x" for which in (0, 1))
        print(f"{name:<36}{speed} samples/s{times}{by_cpu} by CPU second{cpu_times}")
    print("target: at least 2x")


def run(step: str, folder: Path, options: argparse.Namespace) -> str:
    """Run one step in a process of its own and return the last line it printed."""
    numbers = {"frames": options.frames, "workers": options.workers, "batches": options.batches}
    more = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), *more]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"step {step} failed:\n{done.stderr}")
    return (done.stdout.splitlines() or [""])[-1]


def write(folder: Path, frames: int) -> None:
    """Three episodes written by LeRobot itself."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (DIMS,), "names": [f"j{k}" for k in range(DIMS)]}
    image = {"dtype": "video", "shape": (480, 640, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, **{f"observation.images.{camera}": image for camera in CAMERAS}}
    made = LeRobotDataset.create("vla-ops/benchmark", RATE_HZ, features, root=folder, robot_type="benchmark", streaming_encoding=True)
    rng = np.random.default_rng(0)
    motion = np.sin(np.arange(frames + 1)[:, None] / 40 + np.arange(DIMS)).astype(np.float32)
    y, x = np.mgrid[0:480, 0:640]
    grain = rng.integers(0, 12, (480, 640, 3))
    for k in range(frames):
        picture = np.stack([np.sin((x + 5 * k) / 80), np.sin((y + 3 * k) / 60), np.cos((x + y) / 90)], axis=-1)
        pixels = (120 + 90 * picture + np.roll(grain, 7 * k, axis=1)).clip(0, 255).astype(np.uint8)
        images = {f"observation.images.{camera}": np.roll(pixels, 50 * c, axis=1) for c, camera in enumerate(CAMERAS)}
        made.add_frame({"observation.state": motion[k], "action": motion[k + 1], **images, "task": "benchmark"})
        if (k + 1) % -(-frames // 3) == 0 or k + 1 == frames:
            made.save_episode()
    made.finalize()


def measure(step: str, folder: Path, *, workers: int, count: int) -> tuple[float, float]:
    """Samples a second, and by CPU second of this process and its workers."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HF_DATASETS_CACHE"] = cache
        batches = theirs(folder, workers) if step == "lerobot" else ours(folder, workers, step)
        for _ in range(WARM):
            next(batches)
        began, used = time.perf_counter(), cpu_seconds()
        for _ in range(count):
            images = next(batches)
        seconds, used = time.perf_counter() - began, cpu_seconds() - used
        assert all(tuple(image.shape[-3:]) in ((SIZE, SIZE, 3), (3, SIZE, SIZE)) for image in images)
        batches.close()
    return count * BATCH / seconds, count * BATCH / used


def cpu_seconds() -> float:
    """What this process and its children, which are all alive, have used."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == os.getpid() or int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return max(ticks, 1) / os.sysconf("SC_CLK_TCK")


def theirs(folder: Path, workers: int) -> Iterator[list[Any]]:
    """As `lerobot-train` loads, and resized to what the model takes."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2

    ahead = {"action": [h / RATE_HZ for h in range(HORIZON)]}
    dataset = LeRobotDataset(
        "vla-ops/benchmark", root=folder, delta_timestamps=ahead, image_transforms=v2.Resize((SIZE, SIZE)), return_uint8=True
    )
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    while True:
        for batch in loader:
            yield [batch[f"observation.images.{camera}"] for camera in CAMERAS]


def ours(folder: Path, workers: int, step: str) -> Iterator[list[Any]]:
    from vla_ops.training.data import Cache, Loader, Shuffled, read_frames

    frames = read_frames(folder, cameras=CAMERAS)
    kept = step == "kept"
    cache, resize = Cache("memory" if kept else "none"), "fast" if step == "fast" else "exact"
    order = Shuffled(frames.training_rows(), seed=0)
    with Loader(frames, order, batch_size=BATCH, horizon=HORIZON, size=SIZE, resize=resize, workers=workers, cache=cache) as loader:
        # Measured are the epochs after the first, for which images are kept.
        for _ in range(-(-len(frames) // BATCH) if kept else 0):
            next(loader)
        for loaded in loader:
            yield list(loaded.batch.images.values())


if __name__ == "__main__":
    main()
