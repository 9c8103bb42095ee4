"""Our LeRobot v2.1 datasets, made by linking and copying packets, against a converter that decodes and encodes the same data again.

    .venv/bin/python benchmarks/lerobot_v21.py [--episodes 4] [--seconds 5] [--cameras 2] [--rounds 3]

The peer is LeRobot's own writer (`LeRobotDataset.create`, `add_frame`, `save_episode`, of the release installed here, which writes v3.0),
fed with the frames of the same episodes, decoded from the same mp4 files, with the same codec settings (AV1, g 2, crf 30, preset 12): with
its default way through PNG files, and with `streaming_encoding`. Ours are the v2.1 view of a v3.0 version (`write_lerobot_v21`), and
`vla-ops dataset convert` from v3.0 to v2.1 and back. What is made is flushed to disk by ours and not by the peer. Imports and the making
of the episodes are not counted; the best of the rounds counts. CPU seconds are printed beside wall seconds, because they mean the same on
a machine that is busy with something else. Target: the view at least 50x as fast as the faster peer.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from conversion import HEIGHT, RATE_HZ, WIDTH, natural_frames  # The script beside this one.
from conversion import ours as encoded
from rich.console import Console
from rich.table import Table

from vla_ops.datasets.convert import convert_dataset
from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.lerobot_v21 import write_lerobot_v21
from vla_ops.episodes.store import Episode
from vla_ops_tests.datasets.episode_folders import Kind, spec, write_episode

STREAMING, DEFAULT = "LeRobot, streaming_encoding", "LeRobot, default"
VIEW, TO_V21, TO_V30, QUANTILES = "v2.1 view", "convert v3.0 -> v2.1", "convert v2.1 -> v3.0", "convert v2.1 -> v3.0, --image-quantiles"


@dataclass(frozen=True)
class Took:
    """One run."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Given:
    """The episodes, and the v3.0 dataset of them."""

    kind: Kind
    episodes: list[Episode]
    v30: Path
    # Of the same, by our own conversion: what is converted back.
    v21: Path


def main() -> None:
    import av.logging
    import datasets

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["SVT_LOG"] = "0"
    av.logging.set_libav_level(av.logging.ERROR)
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        given = make(Path(folder) / "given", options.episodes, options.seconds, options.cameras)
        small = make(Path(folder) / "small", 1, 0.2, options.cameras)
        contenders = {
            DEFAULT: lambda given, out: lerobot(given, out, streaming=False),
            STREAMING: lambda given, out: lerobot(given, out, streaming=True),
            VIEW: view,
            TO_V21: lambda given, out: convert_dataset(given.v30, out, to="v2.1"),
            TO_V30: lambda given, out: convert_dataset(given.v21, out, to="v3.0"),
            QUANTILES: lambda given, out: convert_dataset(given.v21, out, to="v3.0", image_quantiles=True),
        }
        for run in contenders.values():
            timed(run, small)
        rounds = [{name: timed(run, given) for name, run in contenders.items()} for _ in range(options.rounds)]
    show(given, {name: min((r[name] for r in rounds), key=lambda took: took.seconds) for name in contenders})


def make(folder: Path, count: int, seconds: float, cameras: int) -> Given:
    kind = Kind(
        codec="av1", cameras=tuple(f"cam_{k}" for k in range(cameras)), names=tuple(f"j{k}" for k in range(14)),
        rate_hz=RATE_HZ, height=HEIGHT, width=WIDTH,
    )  # fmt: skip
    frames = natural_frames(seconds, cameras)
    length = len(frames["cam_0"])
    episodes = [write_episode(folder / "episodes", f"rec_{k}", length, kind=kind) for k in range(count)]
    encoded(frames, folder, codec="av1")
    for episode in episodes:
        for camera in kind.cameras:
            shutil.copy(folder / f"{camera}.mp4", episode.video(camera))
    v30 = write_lerobot_v3(folder / "lerobot_v3", episodes, spec=spec(kind), robot="arm").folder
    convert_dataset(v30, folder / "v21", to="v2.1")
    return Given(kind, episodes, v30, folder / "v21")


def lerobot(given: Given, out: Path, *, streaming: bool) -> None:
    """Decode every frame of the episodes and give it to LeRobot's writer."""
    import av
    import pyarrow.parquet as pq
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    names = {camera: f"observation.images.{camera}" for camera in given.kind.cameras}
    vectors = ("observation.state", "action")
    features = {key: {"dtype": "video", "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]} for key in names.values()}
    features |= {name: {"dtype": "float32", "shape": (14,), "names": list(given.kind.names)} for name in vectors}
    dataset = LeRobotDataset.create(
        "bench/v21", RATE_HZ, features, root=out, use_videos=True, streaming_encoding=streaming,
        rgb_encoder=RGBEncoderConfig(vcodec="libsvtav1", g=2, crf=30, preset=12),
        # A full queue makes LeRobot drop frames, which would flatter it.
        encoder_queue_maxsize=1_000_000,
    )  # fmt: skip
    for episode in given.episodes:
        table = pq.read_table(episode.frames)
        numbers = {name: np.stack(table[name].to_numpy()) for name in vectors}
        containers = {camera: av.open(str(episode.video(camera))) for camera in names}
        decoded = {camera: container.decode(video=0) for camera, container in containers.items()}
        for k in range(episode.meta.length):
            images = {key: next(decoded[camera]).to_ndarray(format="rgb24") for camera, key in names.items()}
            dataset.add_frame({**images, **{name: numbers[name][k] for name in vectors}, "task": "pick"})
        for container in containers.values():
            container.close()
        dataset.save_episode()
    dataset.finalize()


def view(given: Given, out: Path) -> None:
    write_lerobot_v21(out, given.v30, given.episodes, spec=spec(given.kind), robot="arm")


def timed(run: Callable[[Given, Path], object], given: Given) -> Took:
    """Run once, beside the given episodes so that they can be linked."""
    folder = given.v30.parent.parent / "out"
    start, cpu = time.perf_counter(), cpu_s()
    run(given, folder)
    took = Took(time.perf_counter() - start, cpu_s() - cpu)
    shutil.rmtree(folder)
    return took


def cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def show(given: Given, found: dict[str, Took]) -> None:
    count, length = len(given.episodes), given.episodes[0].meta.length
    sizes = f"{count} episodes x {length} frames x {len(given.kind.cameras)} cameras of {HEIGHT} x {WIDTH}, AV1 g 2 crf 30 preset 12"
    table = Table(title=f"{sizes}; peer: LeRobot {version('lerobot')}; {len(os.sched_getaffinity(0))} cores")
    for name in ("what", "wall s", "CPU s", "x default", "x streaming", "x streaming in CPU"):
        table.add_column(name, justify="left" if name == "what" else "right")
    default, streaming = found[DEFAULT], found[STREAMING]
    for name, took in found.items():
        ratios = (default.seconds / took.seconds, streaming.seconds / took.seconds, streaming.cpu_seconds / took.cpu_seconds)
        table.add_row(name, f"{took.seconds:.3f}", f"{took.cpu_seconds:.3f}", *(f"{ratio:.1f}" for ratio in ratios))
    console = Console(width=140)
    console.print(table)
    ratio = min(default.seconds, streaming.seconds) / found[VIEW].seconds
    console.print(f"target: the view at least 50x as fast as the faster peer: {ratio:.0f}x, {'met' if ratio >= 50 else 'NOT met'}")


if __name__ == "__main__":
    main()
