"""pi0 and pi0.5 in full size on one GPU: training steps a second, sampling latency, memory, and model FLOPs utilisation.

    python -m benchmarks.gpu_pi0 [--models pi0 pi05] [--what lora full sample] [--batch-size 32] [--steps 20] [--write FILE.json]
    python -m benchmarks.gpu_pi0 --remat dots --xla-flags="--xla_gpu_enable_latency_hiding_scheduler=true"
    python -m benchmarks.gpu_pi0 --tiny              the same of tiny models, to see that it runs: any machine, a minute

Made for one NVIDIA H200 (141 GB) and the extra `cuda`; weights are random, batches synthetic, nothing is downloaded. Training is openpi's
default: batches of 32, three cameras, chunks of 50, images augmented, AdamW, EMA in full fine-tuning. Sampling is one observation of
three cameras, ten steps, bfloat16 parameters, images up and actions down included. Each row is a process of its own.

MFU is the operations that the sizes ask for (pi0_flops.py) over the time and the device's dense bfloat16 peak. XLA's own count stands
beside them; it counts the body of a loop once, and layers are a loop. Memory is the most that was in use since the process began,
what XLA planned for the compiled function, and what `vla_ops.training.memory_estimate` says before anything runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gpu_pi0_job import Job

_REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    options = parsed()
    results = []
    for job in jobs(options):
        print(f"{job.name} ...", file=sys.stderr, flush=True)
        results.append({"job": asdict(job), "name": job.name, **run(job, xla_flags=options.xla_flags)})
    Console(width=180).print(table(results, title=title(options, results)))
    for result in results:
        if "error" in result:
            print(f"{result['name']}: {result['error']}")
    if options.write:
        told = {"load": os.getloadavg()[0], "xla_flags": options.xla_flags, "python": platform.python_version(), "results": results}
        options.write.write_text(json.dumps(told, indent=1) + "\n")
    if all("error" in result for result in results):
        sys.exit(1)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["pi0", "pi05"], default=["pi0", "pi05"])
    parser.add_argument("--what", nargs="+", choices=["lora", "full", "sample"], default=["lora", "full", "sample"])
    parser.add_argument("--batch-size", type=int, help="of training; default 32, with --tiny 2")
    parser.add_argument("--steps", type=int, help="training steps and samples that are measured; default 20, with --tiny 2")
    parser.add_argument("--sampling-steps", type=int, default=10)
    parser.add_argument("--remat", choices=["full", "dots", "none"], default="full", help="what is computed again in the backward pass")
    parser.add_argument("--xla-flags", default="", help="put behind what XLA_FLAGS holds")
    parser.add_argument("--peak", type=float, default=0.0, help="dense bfloat16 TFLOP/s of the device, where it is not a known one")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--write", type=Path, help="write everything there as JSON")
    return parser.parse_args()


def jobs(options: argparse.Namespace) -> list[Job]:
    """One for each row."""
    size = "_tiny" if options.tiny else ""
    batch_size, times = options.batch_size or (2 if options.tiny else 32), options.steps or (2 if options.tiny else 20)

    def job(model: str, what: str) -> Job:
        training, lora = what != "sample", "_lora" if what == "lora" else ""
        rows = batch_size if training else 1
        kind = "train" if training else "sample"
        return Job(f"{model}{size}{lora}", kind, rows, times, options.sampling_steps, options.remat, options.peak)

    return [job(model, what) for model in options.models for what in options.what]


def run(job: Job, *, xla_flags: str) -> dict[str, Any]:
    """Measure in a process of its own; where that fails, `error` is the last it said."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_pi0_job", json.dumps(asdict(job))],
        check=False, capture_output=True, text=True, cwd=_REPOSITORY, env=os.environ | {"XLA_FLAGS": flags},
    )  # fmt: skip
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if re.search(r"\w(Error|Exception)\b|RESOURCE_EXHAUSTED", line)]
        return {"error": said[-1][:400] if said else f"ended with {done.returncode}: {done.stderr[-400:]}"}
    return json.loads(done.stdout.splitlines()[-1])


def title(options: argparse.Namespace, results: list[dict[str, Any]]) -> str:
    device = next((result["device"] for result in results if "device" in result), "no device")
    flags = f"; {options.xla_flags}" if options.xla_flags else ""
    return f"{device}; remat {options.remat}{flags}; load {os.getloadavg()[0]:.1f}"


def table(results: list[dict[str, Any]], *, title: str) -> Table:
    made = Table(title=title)
    columns = (
        "steps/s",
        "samples/s",
        "ms",
        "ms, p95",
        "MFU",
        "TFLOP",
        "TFLOP, XLA",
        "peak GB",
        "planned GB",
        "estimated GB",
        "compiled in s",
    )
    for name in ("what", "batch", *columns):
        made.add_column(name, justify="left" if name == "what" else "right")
    for result in results:
        made.add_row(result["name"], str(result["job"]["batch_size"]), *_cells(result))
    return made


def _cells(result: dict[str, Any]) -> list[str]:
    if "error" in result:
        return ["failed"]
    rows, seconds = result["job"]["batch_size"], result["seconds"]
    numbers: list[tuple[float | None, float, str]] = [
        (1 / seconds, 1, ".3g"),
        (rows / seconds, 1, ".3g"),
        (seconds, 1e-3, ".1f"),
        (result["seconds_p95"] if result["job"]["what"] == "sample" else None, 1e-3, ".1f"),
        (result["mfu"], 0.01, ".1f"),
        (result["flops"], 1e12, ".3g"),
        (result["xla_flops"], 1e12, ".3g"),
        (result["peak_bytes"], 1e9, ".1f"),
        (result["planned_bytes"], 1e9, ".3g"),
        (result["estimated_bytes"], 1e9, ".3g"),
        (result["compile_s"], 1, ".0f"),
    ]
    cells = ["-" if number is None else format(number / unit, form) for number, unit, form in numbers]
    cells[4] += "" if result["mfu"] is None else " %"
    return cells


if __name__ == "__main__":
    main()
