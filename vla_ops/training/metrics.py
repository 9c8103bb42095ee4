"""Where a run's curves and pictures go: metrics.jsonl and PNG files in the run folder always, W&B and Dagster where they are asked for.

    with Metrics(run, first_step=resumed_at, sinks=open_sinks(run, spec.metrics, name=..., config=...)) as metrics:
        metrics.log(step, {"loss": 0.1, "grad_norm": 2.0} | meter.lap(step=step + 1, waited_s=loader.waited_s) | memory_use())
        metrics.picture(step, "cameras", camera_views(loaded.inputs))

Only the first process of several writes. A line that was being written at a kill -9 is not read, and dropped by the run that is resumed,
as are the lines of the steps that it takes again.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from vla_ops.errors import StoreError
from vla_ops.files import replacing
from vla_ops.training.pictures import curves

METRICS_FILE, PICTURES = "metrics.jsonl", "pictures"
CURVES = ("loss", "validation/loss", "validation/action_error", "steps_per_s")


class Sink(Protocol):
    """Somewhere else that curves and pictures go while the run goes on."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take a line of metrics; a value may be NaN."""
        ...

    def picture(self, step: int, name: str, file: Path) -> None:
        """Take a PNG file."""
        ...

    def close(self, error: BaseException | None) -> None:
        """End, with the error that ended the run if one did."""
        ...


class Metrics:
    """The metrics of one run; a context. `first_step` is the first step that is still to be taken."""

    def __init__(self, run: Path, *, first_step: int = 0, sinks: Sequence[Sink] = (), writes: bool = True) -> None:
        """`writes` is False in all processes of a run but the first. Raise StoreError where the run folder cannot be written."""
        self.run, self._sinks, self._writes = Path(run), tuple(sinks), writes
        self._file: int | None = None
        if writes:
            _drop_from(self.run / METRICS_FILE, first_step)
            self._file = os.open(self.run / METRICS_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return self._writes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line: what the step measured, under its names. Numbers that are not finite are null in the file."""
        if self._file is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        kept = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        line = json.dumps({"step": step, "time": round(time.time(), 3)} | kept, allow_nan=False)
        _append(self._file, self.run, line)
        for sink in self._sinks:
            sink.scalars(step, numbers)

    def picture(self, step: int, name: str, png: bytes) -> Path | None:
        """Write `pictures/<name>_<step>.png` and hand it on; return its path."""
        if not self._writes:
            return None
        file = self.run / PICTURES / f"{name}_{step:08d}.png"
        with replacing(file) as work:
            work.write_bytes(png)
        for sink in self._sinks:
            sink.picture(step, name, file)
        return file

    def curves(self, step: int, names: Sequence[str] = CURVES) -> Path | None:
        """Draw those of `names` that the run has logged so far."""
        lines = read_metrics(self.run) if self._writes else []
        there = [name for name in names if any(line.get(name) is not None for line in lines)]
        return self.picture(step, "curves", curves(lines, there)) if there else None

    def close(self, error: BaseException | None = None) -> None:
        """Close the file and every sink."""
        with ExitStack() as closing:
            for sink in self._sinks:
                closing.callback(sink.close, error)
            if self._file is not None:
                os.close(self._file)
            self._file, self._sinks, self._writes = None, (), False


class Meter:
    """Steps and samples a second, and the share of the time that was spent waiting for data, from one line to the next."""

    def __init__(self, *, batch_size: int, step: int, waited_s: float = 0.0) -> None:
        """`step` is the number of steps taken so far; `waited_s` the loader's clock."""
        self._batch_size, self._step, self._waited_s, self._began = batch_size, step, waited_s, time.perf_counter()

    def lap(self, *, step: int, waited_s: float) -> dict[str, float]:
        """Return steps_per_s, samples_per_s and data_wait since the last lap; nothing where no step was taken."""
        now = time.perf_counter()
        steps, passed, waited = step - self._step, now - self._began, waited_s - self._waited_s
        self._step, self._began, self._waited_s = step, now, waited_s
        if steps <= 0 or passed <= 0:
            return {}
        rate = steps / passed
        return {"steps_per_s": rate, "samples_per_s": rate * self._batch_size, "data_wait": min(max(waited / passed, 0.0), 1.0)}

    def skip(self, *, step: int, waited_s: float) -> None:
        """Begin a lap without the time since the last one: what validation and compilation took is not the training's speed."""
        self._step, self._began, self._waited_s = step, time.perf_counter(), waited_s


def memory_use() -> dict[str, float]:
    """Return device_gb and device_peak_gb of the fullest local device (a CPU does not tell), and host_peak_gb of this process."""
    import jax

    told = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
    names = {"device_gb": "bytes_in_use", "device_peak_gb": "peak_bytes_in_use"}
    used = {name: max(stats[key] for stats in told) / 1e9 for name, key in names.items() if told and all(key in stats for stats in told)}
    # kB on Linux, bytes on a Mac.
    unit = 1 if sys.platform == "darwin" else 1024
    return used | {"host_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run in order; empty where it has none yet. A last line that is being written is left out."""
    return list(_lines(Path(run) / METRICS_FILE))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return
    *whole, _torn = text.split(b"\n")
    for number, line in enumerate(whole, 1):
        try:
            said = json.loads(line)
            yield {"step": int(said["step"]), **said}
        except (ValueError, KeyError, TypeError) as error:
            todo = "Delete the line; nothing else depends on it."
            raise StoreError(f"line {number} is not a line of metrics", file=file, found=repr(line[:60]), todo=todo) from error


def _drop_from(file: Path, first_step: int) -> None:
    """Keep the lines of the steps before, and none that a power cut has torn."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        return
    kept = [line for line in _lines(file) if line["step"] < first_step]
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in kept)
    if text.encode() != file.read_bytes():
        with replacing(file) as work:
            work.write_text(text, encoding="utf-8")


def _append(file: int, run: Path, line: str) -> None:
    data = (line + "\n").encode()
    try:
        # One call: only a kill in the middle of it, between two pages of the file, leaves a part.
        written = os.write(file, data)
    except OSError as error:
        raise _not_written(run, error.strerror or str(error)) from error
    if written != len(data):
        raise _not_written(run, "the disk is full")


def _not_written(run: Path, why: str) -> StoreError:
    return StoreError(f"metrics cannot be written: {why}", file=run / METRICS_FILE, todo="Free space there, and resume.")
