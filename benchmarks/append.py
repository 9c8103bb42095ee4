"""Time to add one new recording to a LeRobot v3.0 dataset of many episodes, against adding it to an empty one.

    python benchmarks/append.py [--episodes 1000] [--appends 20]

The episodes are hard links of one encoded episode with different episode.json, so that only the dataset's own cost is seen.
Target: at most 3x.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vla_ops.datasets.lerobot_v3 import DatasetVersion, current_version, order_episodes, write_lerobot_v3
from vla_ops.episodes.store import EPISODE, Episode, load_episode
from vla_ops_tests.datasets.episode_folders import Kind, save, spec, write_episode

KIND = Kind(codec="av1", cameras=("cam_high", "cam_left", "cam_right"), names=tuple(f"j{k}" for k in range(14)), height=240, width=320)
FRAMES = 300


@dataclass(frozen=True)
class Timed:
    """A written version and how long it took."""

    seconds: float
    version: DatasetVersion


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--appends", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.episodes, arguments.appends)


def measure(folder: Path, count: int, appends: int) -> None:
    source = write_episode(folder / "source", "rec", FRAMES, kind=KIND)
    episodes = [link(source, folder / "episodes", k) for k in range(count + appends)]
    write(folder / "warm", episodes[:1])
    empty = [write(folder / f"empty_{k}", [episodes[count + k]]) for k in range(min(appends, 10))]
    whole = write(folder / "big", episodes[:count])
    added = [write(folder / "big", episodes[: count + k + 1]) for k in range(appends)]
    again = write(folder / "big", episodes)
    start = time.perf_counter()
    for episode in episodes[:count]:
        load_episode(episode.folder)
    loaded = time.perf_counter() - start
    assert all(step.version.added == 1 for step in added)
    assert not again.version.created

    base = statistics.median(step.seconds for step in empty)
    table = Table(title=f"{FRAMES} frames x {len(KIND.cameras)} cameras a recording, {KIND.codec}")
    for name in ("what", "time", "of an empty one", "written", "shared"):
        table.add_column(name, justify="left" if name == "what" else "right")
    rows = [
        (f"one into an empty dataset (median of {len(empty)})", base, empty[0].version),
        (f"one into {count}: the first", added[0].seconds, added[0].version),
        (f"one into {count}: median of {appends} in a row", statistics.median(s.seconds for s in added), added[appends // 2].version),
        (f"one into {count}: slowest of {appends} in a row", max(s.seconds for s in added), max(added, key=lambda s: s.seconds).version),
        ("nothing new", again.seconds, again.version),
        (f"all {count} at once", whole.seconds, whole.version),
    ]
    for name, seconds, version in rows:
        written, shared = (f"{size / 1e6:.1f} MB" for size in (version.bytes_written, version.bytes_linked))
        table.add_row(name, f"{1e3 * seconds:.1f} ms", f"{seconds / base:.2f}x", written, shared)
    console = Console(width=120)
    console.print(table)
    console.print(f"Not included: reading {count} episode.json takes {1e3 * loaded:.0f} ms.")


def link(source: Episode, root: Path, k: int) -> Episode:
    folder = root / f"rec_{k}" / "0"
    folder.mkdir(parents=True)
    for file in source.folder.iterdir():
        if file.name != EPISODE:
            os.link(file, folder / file.name)
    return save(Episode(folder, replace(source.meta, recording=f"rec_{k}", source_version=f"{k:016x}")))


def write(root: Path, episodes: list[Episode]) -> Timed:
    start = time.perf_counter()
    current = current_version(root)
    ordered = order_episodes(episodes, current.folder if current else None)
    version = write_lerobot_v3(root, ordered, spec=spec(KIND), robot="arm")
    return Timed(time.perf_counter() - start, version)


if __name__ == "__main__":
    main()
