"""Write LeRobot v3.0 datasets of small episodes and look into their folders."""

from __future__ import annotations

import pyarrow.parquet as pq

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops_tests.datasets.episode_folders import Kind, spec

KIND = Kind(codec="mjpeg", cameras=("cam_high", "cam_wrist"))

HIGH = "videos/observation.images.cam_high"


def write(root, episodes, **options):
    return write_lerobot_v3(root / "lerobot_v3", episodes, spec=spec(KIND), robot="arm", **options)


def files(folder):
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}


def contents(folder):
    return {name: path.read_bytes() for name, path in files(folder).items()}


def rows(folder):
    return [row for path in sorted((folder / "meta/episodes").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def shared(first, second):
    a, b = files(first), files(second)
    return {name for name in a.keys() & b.keys() if a[name].stat().st_ino == b[name].stat().st_ino}


def small_files(monkeypatch, episodes_a_file=2):
    """Make files full after a few episodes, so that small datasets have many."""
    from vla_ops.datasets import lerobot_version as module
    from vla_ops.datasets.file_runs import Limits, Weight

    limits = Limits(full=Weight(1 << 62, 1 << 62, episodes_a_file), small=Weight())
    monkeypatch.setattr(module, "file_limits", lambda stream, rate_hz: limits)
