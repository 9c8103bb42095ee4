"""A run in numbers, from the files in its folder: for the asset, the terminal and `vla-ops status`, also while it goes on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import latest_step, marked_best, read_state
from vla_ops.training.launched import launches
from vla_ops.training.metrics import PICTURES, read_metrics
from vla_ops.training.run import Run

_PREFIX = "validation/"


@dataclass(frozen=True)
class Summary:
    """What a run has come to."""

    folder: Path
    # `finished`, `stopped early`, `stopped by a signal`; None while it goes on, and where it was killed or failed.
    how: str | None
    # The last checkpoint and the best one by its validation.
    step: int | None
    best: int | None
    # The last line of metrics, and the mean loss of the first line and of the last tenth of them.
    logged_step: int | None
    first_loss: float | None
    last_loss: float | None
    # loss, action_error, hold_error, mae/<dimension> of the best checkpoint, or of the last where none is marked.
    validation: Mapping[str, float] = field(default_factory=dict)
    # Medians and peaks over the lines: steps_per_s, samples_per_s, data_wait, device_peak_gb, host_peak_gb.
    speed: Mapping[str, float] = field(default_factory=dict)
    # All launches together, and how many devices the last one had.
    seconds: float = 0.0
    devices: int = 1

    @classmethod
    def of(cls, run: Run) -> Summary:
        """Read it. Raise StoreError for metrics that are damaged."""
        lines, result = read_metrics(run.folder), run.result or {}
        step, best = latest_step(run.folder), marked_best(run.folder)
        losses = [line["loss"] for line in lines if line.get("loss") is not None]
        shown = best if best is not None else step
        return cls(
            folder=run.folder,
            how=result.get("how"),
            step=step,
            best=best,
            logged_step=lines[-1]["step"] if lines else None,
            first_loss=losses[0] if losses else None,
            last_loss=statistics.fmean(losses[-math.ceil(len(losses) / 10) :]) if losses else None,
            validation={} if shown is None else _validated(read_state(run.folder / str(shown)).get("metrics", {})),
            speed=_speed(lines),
            seconds=sum(launched["seconds"] for launched in launches(run.folder)) or result.get("seconds", 0.0),
            devices=result.get("devices", 1),
        )

    @property
    def device_hours(self) -> float:
        """Hours of all devices together."""
        return self.seconds * self.devices / 3600

    @property
    def is_on_gpu(self) -> bool:
        """Whether its devices told their memory, which a CPU does not."""
        return "device_peak_gb" in self.speed

    @property
    def loss_fell(self) -> bool | None:
        """Whether the loss ended below where it began; None where one line says too little."""
        if self.first_loss is None or self.last_loss is None or self.logged_step == 0:
            return None
        return self.last_loss < self.first_loss

    def pictures(self) -> dict[str, Path]:
        """The last picture of each name."""
        found = sorted((self.folder / PICTURES).glob("*.png"))
        return {path.stem.rpartition("_")[0]: path for path in found}

    def __str__(self) -> str:
        """One line for a terminal."""
        if self.step is None and self.logged_step is None:
            return f"{self.folder.name}: no step yet"
        parts = [f"{self.how or 'unfinished'} at step {self.step if self.step is not None else self.logged_step}"]
        if self.last_loss is not None:
            parts.append(f"loss {self.last_loss:.4g}")
        if self.best is not None:
            error, hold = (self.validation.get(name, math.nan) for name in ("action_error", "hold_error"))
            parts.append(f"best {self.best} (action error {error:.3g}, of repeating the last action {hold:.3g})")
        return f"{self.folder.name}: {', '.join(parts)}"


def _validated(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(_PREFIX): value for name, value in metrics.items() if name.startswith(_PREFIX)}


def _speed(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for names, of in ((("steps_per_s", "samples_per_s", "data_wait"), statistics.median), (("device_peak_gb", "host_peak_gb"), max)):
        for name in names:
            if values := [line[name] for line in lines if line.get(name) is not None]:
                found[name] = of(values)
    return found
