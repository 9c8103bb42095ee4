"""Ask a Python process for one thing after another, a line of JSON each: both ends, for any Python from 3.11 on."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

Answer = dict[str, Any]
_REPOSITORY = Path(__file__).resolve().parent.parent
ROOT_VARIABLE, PYTHON_VARIABLE = "OPENPI_ROOT", "OPENPI_PYTHON"


class WorkerError(RuntimeError):
    """What went wrong in a worker, with its traceback."""


class Worker:
    """A process that answers; a context that ends it. JAX computes on the CPU there, without a compilation cache."""

    def __init__(self, python: Path, module: str, *, environment: dict[str, str] | None = None) -> None:
        self._command = [str(python), "-m", module]
        self._environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            # Of jax 0.5.3 on a CPU, what comes out of the cache computes wrong numbers.
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            **(environment or {}),
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment, cwd=_REPOSITORY
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        process = self._process
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                # What is still to be written has nobody to read it where the process is gone.
                with contextlib.suppress(BrokenPipeError):
                    if pipe is not None:
                        pipe.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def ask(self, do: str, **arguments: Any) -> Answer:
        """Have it done and wait for the answer. Raise WorkerError for what goes wrong there."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise WorkerError("the worker was not started")
        try:
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
        except BrokenPipeError as gone:
            raise WorkerError(f"{' '.join(self._command)} ended with {process.wait()}") from gone
        line = process.stdout.readline()
        if not line:
            raise WorkerError(f"{' '.join(self._command)} ended with {process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer


def openpi_worker(**environment: str) -> Worker | str:
    """Return a worker in openpi, or why there is none."""
    root = os.environ.get(ROOT_VARIABLE)
    if not root:
        return f"{ROOT_VARIABLE} is not set: clone openpi, run `uv sync` there, and set it to that folder"
    checkout = Path(root).absolute()
    if not (checkout / "src" / "openpi").is_dir():
        return f"{ROOT_VARIABLE} is {root}, where there is no src/openpi"
    python = Path(os.environ.get(PYTHON_VARIABLE, checkout / ".venv" / "bin" / "python")).absolute()
    if not python.is_file():
        return (
            f"there is no {python}: run `uv sync` in openpi's checkout, or set {PYTHON_VARIABLE} to an interpreter that has what it needs"
        )
    path = [checkout, checkout / "src", checkout / "packages" / "openpi-client" / "src", os.environ.get("PYTHONPATH")]
    return Worker(
        python, "benchmarks.pi0_openpi", environment=environment | {"PYTHONPATH": os.pathsep.join(str(each) for each in path if each)}
    )


def serve(commands: dict[str, Callable[..., Answer]]) -> None:
    """Answer on what was standard output until there are no more questions; what is printed meanwhile goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = commands[asked.pop("do")](**asked)
        except Exception:
            answer = {"error": traceback.format_exc()}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def timed(do: Callable[[], object], times: int) -> Answer:
    """Seconds of each call, and seconds of CPU of this process in all calls; `do` returns when everything is computed."""
    wall, before = [], _cpu_s()
    for _ in range(times):
        began = time.perf_counter()
        do()
        wall.append(time.perf_counter() - began)
    return {"wall": wall, "cpu": _cpu_s() - before}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
