"""What grows with the number of recordings, and how fast: every step that sees all of them, at 1,000, 10,000 and 100,000.

Run: python -m benchmarks.scale [--counts 1000 10000] [--write docs/scale_table.md]
Target: no step grows faster than n log n, and a sensor tick with nothing new costs what a directory listing costs.

One recording is converted; the others have links of its videos, numbers of their own, and tiny files as recordings. Each step runs
in a process of its own, and its peak memory is that process's. Times are seconds of CPU, so that whoever else uses the machine does
not count. By file, so many partitions get the event of a real one copied row by row: real ones, which are measured for up to 1,000,
would take hours.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import scale_ui
from benchmarks.scale_store import CAMERAS, LENGTH, fill, make_robot, name_of
from vla_ops.episodes.store import RobotStore

# Above these a step takes longer than it tells anything more.
_MOST_BY_FILE, _MOST_OF_DATASET = 1000, 10_000

# Row of the table -> the number measured, what it is in, and whether it should grow with the recordings at all.
ROWS = {
    "list the recordings": ("listing_s", "s"),
    "the same by walk and stat alone": ("walk_and_stat_s", "s"),
    "sensor tick, nothing new": ("tick_s", "s"),
    "its cursor": ("cursor_bytes", "B"),
    "its peak memory": ("tick_mb", "MB"),
    "add all partitions, by file": ("add_partitions_s", "s"),
    "list the partitions": ("list_partitions_s", "s"),
    "find that none is new or gone": ("sync_partitions_s", "s"),
    "plan, nothing new": ("plan_s", "s"),
    "its peak memory ": ("plan_mb", "MB"),
    "partitions by file": ("partitions_file", ""),
    "events of all partitions, by file": ("say_all_file_s", "s"),
    "the same with waiting for the disk and for others": ("say_all_file_waited_s", "s"),
    "partitions by folder": ("partitions_folder", ""),
    "events of all partitions, by folder": ("say_all_folder_s", "s"),
    "partitions by day": ("partitions_day", ""),
    "events of all partitions, by day": ("say_all_day_s", "s"),
    "run of the episodes, nothing new, by day": ("nothing_new_day_s", "s"),
    "its peak memory  ": ("events_day_mb", "MB"),
    "dataset version of all": ("dataset_all_s", "s"),
    "dataset version with one more": ("dataset_one_more_s", "s"),
    "written for it": ("dataset_one_more_mb", "MB"),
    "dataset, nothing new": ("dataset_same_s", "s"),
    "files of a dataset version": ("dataset_files", ""),
    "peak memory of the dataset": ("dataset_mb", "MB"),
    "page of the episodes, by file, first": ("asset_page_first_s", "s"),
    "page of the episodes, by file, again": ("asset_page_s", "s"),
    "its answer": ("asset_page_bytes", "B"),
    "page of all assets, by file": ("assets_page_s", "s"),
    "memory of the web server": ("ui_mb", "MB"),
    "page of the episodes, by day, again": ("day_asset_page_s", "s"),
    "its answer ": ("day_asset_page_bytes", "B"),
}


@dataclass
class Scale:
    """What was measured with so many recordings."""

    count: int
    numbers: dict[str, float] = field(default_factory=dict)


def measured(count: int, folder: Path) -> Scale:
    """What was measured in this folder before, or `measure`."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "numbers.json"
    if kept.exists():
        return Scale(count, json.loads(kept.read_text()))
    scale = measure(count, folder)
    kept.write_text(json.dumps(scale.numbers, indent=1))
    return scale


def measure(count: int, folder: Path) -> Scale:
    """Make the store and measure every step that is feasible with it."""
    os.environ |= {"VLA_OPS_HOME": str(folder / "home"), "DAGSTER_HOME": str(folder / "dagster")}
    (folder / "dagster").mkdir(exist_ok=True)
    (folder / "dagster/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    fill(make_robot(folder / "arm", by="day"), RobotStore.of("arm"), count)
    (folder / "count").write_text(str(count))
    found = Scale(count)
    steps = ["listing", "tick", "partitions", "plan"]
    steps += ["events:file"] if count <= _MOST_BY_FILE else []
    for step in [*steps, "events:folder", "events:day"]:
        found.numbers |= _step(step, folder)
    found.numbers |= {f"day_{name}": value for name, value in scale_ui.measure(folder).items()}
    _step("partitions", folder)
    scale_ui.copy_event_to([name_of(k) for k in range(count)])
    found.numbers |= scale_ui.measure(folder)
    if count <= _MOST_OF_DATASET:
        found.numbers |= _step("dataset", folder)
    return found


def _step(step: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale_steps", step, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{step} failed:\n{done.stderr[-4000:]}")
    print(f"{step}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows(scales: list[Scale]) -> list[list[str]]:
    """For each number: its name, its value at each count, and how much it grew from one to the next."""
    table = []
    for name, (key, unit) in ROWS.items():
        values = [scale.numbers.get(key) for scale in scales]
        grew = [f"{after / before:.1f}x" if before and after is not None else "" for before, after in pairwise(values)]
        table.append([name.strip(), *(_said(value, unit) for value in values), *grew])
    return table


def _said(value: float | None, unit: str) -> str:
    if value is None:
        return "not run"
    if unit == "s":
        return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s"
    if unit == "B":
        return f"{value:.0f} B" if value < 1e4 else f"{value / 1e6:.2f} MB"
    return f"{value:,.0f}" if not unit else f"{value:,.1f} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def header(counts: list[int]) -> list[str]:
    """The columns: ratios per tenfold beside the absolute numbers."""
    return ["", *(f"{count:,}" for count in counts), *(f"{b:,} / {a:,}" for a, b in pairwise(counts))]


def machine() -> str:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, SQLite, load {os.getloadavg()[1]:.1f}"


def main(
    counts: tuple[int, ...] = (1000, 10_000),
    folder: Annotated[Path | None, tyro.conf.arg(help="keep stores and numbers here, and use those that are there")] = None,
    write: Annotated[Path | None, tyro.conf.arg(help="also write the table to this file, in Markdown")] = None,
) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as temporary:
        scales = [measured(count, (folder or Path(temporary)) / str(count)) for count in counts]
    found, names = rows(scales), header(list(counts))
    note = f"Times are seconds of CPU. {LENGTH} frames and {len(CAMERAS)} cameras a recording, 50 a folder, 1,000 a day. {machine()}."
    table = Table(title=note)
    for name in names:
        table.add_column(name, justify="right" if name else "left")
    for row in found:
        table.add_row(*row)
    Console(width=150).print(table)
    if write is not None:
        lines = [_line(names), _line(["---", *["---:"] * (len(names) - 1)]), *map(_line, found), "", note]
        write.write_text("\n".join(lines) + "\n")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    tyro.cli(main)
