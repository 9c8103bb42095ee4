"""Loading the code location with 20 robots against loading an empty Dagster project, each in a fresh process.

Run: python benchmarks/load_definitions.py
Target: at most 1.5 s more than the empty project, and none of torch, jax, lerobot, av imported.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
ROBOTS, ROUNDS = 20, 5
HEAVY = ("torch", "jax", "lerobot", "av")

LOAD = """
import sys, time
from pathlib import Path
started = time.perf_counter()
import dagster as dg
repository = dg.load_from_defs_folder(path_within_project=Path(sys.argv[1])).get_repository_def()
print(time.perf_counter() - started, len(repository.assets_defs_by_key), *(m for m in sys.argv[2:] if m in sys.modules))
"""


def project(folder: Path, robots: int) -> Path:
    settings = (PROJECT / "pyproject.toml").read_text()
    assert "tool" in tomllib.loads(settings)
    (folder / "robots").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(settings)
    # Dagster refuses a defs folder with nothing in it.
    (folder / "robots" / "nothing.py").write_text("")
    for k in range(robots):
        (folder / "robots" / f"robot_{k}").mkdir()
        shutil.copy(PROJECT / "robots" / "aloha_sim" / "defs.yaml", folder / "robots" / f"robot_{k}")
    return folder


def load(folder: Path) -> tuple[float, int, list[str]]:
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(folder), *HEAVY]
    seconds, assets, *heavy = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.split()
    return float(seconds), int(assets), heavy


def main() -> None:
    with tempfile.TemporaryDirectory() as temp:
        folders = {"empty project": project(Path(temp) / "empty", 0), f"{ROBOTS} robots": project(Path(temp) / "full", ROBOTS)}
        seconds: dict[str, list[float]] = {name: [] for name in folders}
        seen: dict[str, tuple[int, list[str]]] = {}
        for _ in range(ROUNDS):
            # Alternating, so that both see the same noise of a shared machine.
            for name, folder in folders.items():
                took, *rest = load(folder)
                seconds[name].append(took)
                seen[name] = (rest[0], rest[1])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{'':16}{'median s':>10}{'best s':>10}{'assets':>8}  heavy modules")
    for name, times in seconds.items():
        print(f"{name:16}{medians[name]:10.2f}{min(times):10.2f}{seen[name][0]:8}  {', '.join(seen[name][1]) or 'none'}")
    empty, full = medians.values()
    print(f"difference {full - empty:.2f} s (target at most 1.5), ratio {full / empty:.2f}")


if __name__ == "__main__":
    main()
