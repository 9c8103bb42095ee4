"""A training step and `sample_actions` of openpi's model and of ours: the same sizes, parameters, batch and noise, on the CPU.

    OPENPI_ROOT=~/openpi python -m benchmarks.pi0 [--sizes tiny small] [--families pi0 pi05] [--dtypes float32 bfloat16] [--rounds 5]

OPENPI_ROOT is openpi's checkout, with what it needs in OPENPI_ROOT/.venv or in the environment of the interpreter OPENPI_PYTHON;
without it nothing is measured. Each side is a process of its own, both on the same cores, and they take turns: one round of ours, one of
openpi's, the other way round in the next. A step is loss (images augmented), gradients, clipping, AdamW and EMA, as each side's own
trainer does them; sampling is ten steps for one observation. Activations are computed again in the backward pass on both sides, as
openpi always does (`--remat none` shows ours without).

A ratio is ours to openpi's, the median of all rounds, by the clock and by seconds of CPU, which mean the same on a machine that is
busy with something else. Target: at most 1.0. Both sides must first give the same loss, gradient norm and samples, else it ends with 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.pi0_cases import SIZES, Case, batch, case_of, parameters
from benchmarks.pi0_process import Worker, WorkerError, openpi_worker

SEED, SAMPLING_STEPS, TARGET = 5, 10, 1.0
# Seconds that one side measures in one round.
_ROUND_S = 1.5
# Largest relative difference of loss and gradient norm, and largest difference of an action, by the type of the computation.
ALLOWED = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 0.1)}


@dataclass(frozen=True)
class Measured:
    """One of the two things measured, of one case: seconds a call and ratios, a round each."""

    case: Case
    what: str
    ours_s: float
    openpi_s: float
    ratio: float
    cpu_ratio: float
    ratios: list[float]


@dataclass(frozen=True)
class Pair:
    """Both sides of a case."""

    ours: Worker
    openpi: Worker
    versions: tuple[str, str] = ("", "")

    def ask(self, do: str, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask both the same."""
        return self.ours.ask(do, **arguments), self.openpi.ask(do, **arguments)


def main() -> None:
    options = parsed()
    theirs = openpi_worker()
    if isinstance(theirs, str):
        print(f"skipped: {theirs}")
        return
    # Both processes inherit it.
    os.sched_setaffinity(0, set(options.cores) or os.sched_getaffinity(0))
    cases = [
        case_of(size, family, dtype, remat=options.remat)
        for size in options.sizes
        for family in options.families
        for dtype in options.dtypes
    ]
    load, measured = os.getloadavg()[0], []
    for case in cases:
        with opened(case) as pair:
            measured += [of_case(pair, case, what, options.rounds) for what in ("train", "sample")]
    print(f"ours: jax {pair.versions[0]}; openpi: jax {pair.versions[1]}")
    show(measured, loads=(load, os.getloadavg()[0]))
    if options.json:
        options.json.write_text(json.dumps([vars(each) | {"case": each.case.name} for each in measured], indent=1))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--families", nargs="+", choices=["pi0", "pi05"], default=["pi0", "pi05"])
    parser.add_argument("--dtypes", nargs="+", choices=list(ALLOWED), default=list(ALLOWED))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--remat", choices=["full", "dots", "none"], default="full", help="of our side; openpi's is full")
    parser.add_argument("--cores", nargs="+", type=int, default=[], help="default: all that this process may use")
    parser.add_argument("--json", type=Path, help="write what was measured there too")
    return parser.parse_args()


@contextmanager
def opened(case: Case) -> Iterator[Pair]:
    """Both processes with the case open in them."""
    theirs = openpi_worker()
    assert isinstance(theirs, Worker), theirs
    mine = Worker(Path(sys.executable), "benchmarks.pi0_ours")
    with tempfile.TemporaryDirectory() as folder, mine as ours, theirs as openpi:
        pair = Pair(ours, openpi)
        files = write(case, Path(folder))
        answers = pair.ask("open", **files)
        yield dataclasses.replace(pair, versions=(answers[0]["jax"], answers[1]["jax"]))


def write(case: Case, folder: Path) -> dict[str, str]:
    """The case, its parameters and its batch as files; their names."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from benchmarks.pi0_ours import shapes_of

    case.write(folder / "case.json")
    np.savez(folder / "params.npz", allow_pickle=False, **parameters(shapes_of(case)))
    np.savez(folder / "batch.npz", allow_pickle=False, **batch(case, rows=case.batch_size))
    return {"case": str(folder / "case.json"), "params": str(folder / "params.npz"), "batch": str(folder / "batch.npz")}


def of_case(pair: Pair, case: Case, what: str, rounds: int) -> Measured:
    """Compile on both sides, compare what comes out, measure in turns."""
    check, do, number = {"train": (same_step, "train", "steps"), "sample": (same_samples, "sample", "times")}[what]
    check(pair, case)
    once = [side.ask(do, **{number: 1})["wall"][0] for side in (pair.ours, pair.openpi)]
    times = min(max(math.ceil(_ROUND_S / max(once)), 1), 30)
    ratios, cpu_ratios, seconds = [], [], ([], [])
    for k in range(rounds):
        turns = (pair.ours, pair.openpi) if k % 2 == 0 else (pair.openpi, pair.ours)
        answers = [side.ask(do, **{number: times}) for side in turns]
        mine, theirs = answers if k % 2 == 0 else answers[::-1]
        walls = [statistics.median(side["wall"]) for side in (mine, theirs)]
        ratios.append(walls[0] / walls[1])
        cpu_ratios.append(mine["cpu"] / theirs["cpu"])
        for side, wall in zip(seconds, walls, strict=True):
            side.append(wall)
    result = Measured(
        case, what, *(statistics.median(side) for side in seconds), statistics.median(ratios), statistics.median(cpu_ratios), ratios
    )
    print(f"{case.name} {what}: {result.ratio:.3f} (CPU {result.cpu_ratio:.3f}), load {os.getloadavg()[0]:.1f}", flush=True)
    return result


def same_step(pair: Pair, case: Case) -> None:
    """End the program unless two steps from the same state with the same key give the same loss and gradient norm."""
    for ours, openpi in (pair.ask("compile_step", seed=SEED), pair.ask("step")):
        for name in ("loss", "grad_norm", "param_norm"):
            if not math.isclose(ours[name], openpi[name], rel_tol=ALLOWED[case.dtype][0]):
                sys.exit(f"{case.name}: {name} is {ours[name]} here and {openpi[name]} in openpi: nothing to compare")


def same_samples(pair: Pair, case: Case) -> None:
    """End the program unless the same noise gives the same actions."""
    ours, openpi = (np.array(answer["actions"]) for answer in pair.ask("compile_sampling", steps=SAMPLING_STEPS))
    apart = float(np.abs(ours - openpi).max())
    if not apart <= ALLOWED[case.dtype][1]:
        sys.exit(f"{case.name}: sampled actions differ by {apart}: nothing to compare")


def show(measured: list[Measured], *, loads: tuple[float, float]) -> None:
    remat = measured[0].case.remat
    cores = len(os.sched_getaffinity(0))
    title = f"ours and openpi's on {cores} cores; load before {loads[0]:.1f}, after {loads[1]:.1f}; remat of ours: {remat}"
    table = Table(title=title)
    for name in ("case", "batch", "what", "ours, ms", "openpi, ms", "ratio", "ratio in CPU", "lowest", "highest"):
        table.add_column(name, justify="left" if name in ("case", "what") else "right")
    for each in measured:
        rows, what = (each.case.batch_size, "training step") if each.what == "train" else (1, f"sample, {SAMPLING_STEPS} steps")
        numbers = (each.ratio, each.cpu_ratio, min(each.ratios), max(each.ratios))
        times = (f"{1e3 * each.ours_s:.1f}", f"{1e3 * each.openpi_s:.1f}")
        table.add_row(each.case.name, str(rows), what, *times, *(f"{number:.3f}" for number in numbers))
    console = Console(width=140)
    console.print(table)
    worst = max(measured, key=lambda each: each.ratio)
    met = "met" if worst.ratio <= TARGET else "NOT met"
    console.print(f"target: at most {TARGET}: {met}; the highest is {worst.ratio:.3f}, {worst.case.name}, {worst.what}")


if __name__ == "__main__":
    try:
        main()
    except WorkerError as error:
        sys.exit(str(error))
