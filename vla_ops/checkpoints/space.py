"""Bytes of the next checkpoint against the disk, known before a training starts."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import steps_in
from vla_ops.checkpoints.trees import TrainState, leaves_of, train_state_item
from vla_ops.errors import StoreError

# Metadata, checksums, norm stats, and what a file system rounds up.
_SMALL_FILES = 16 << 20


@dataclass(frozen=True)
class Keep:
    """Which checkpoints of a run stay: the last ones, every `period` steps, and the best one by a metric."""

    latest: int = 1
    # None keeps none for their step.
    period: int | None = None
    # A name among the metrics given to `save`; None keeps none for its value.
    metric: str | None = None
    lower_is_better: bool = True

    def of(self, values: Mapping[int, float | None]) -> set[int]:
        """Those to keep of steps with their values of the metric."""
        steps = sorted(values)
        keep = set(steps[-max(self.latest, 1) :])
        if self.period:
            keep |= {step for step in steps if step % self.period == 0}
        best = self.best(values)
        return keep if best is None else keep | {best}

    def best(self, values: Mapping[int, float | None]) -> int | None:
        """The step with the best value; the earliest of equals, None where none has one."""
        sign = 1.0 if self.lower_is_better else -1.0
        known = {step: sign * value for step, value in values.items() if value is not None and math.isfinite(value)}
        return min(known, key=lambda step: (known[step], step), default=None) if self.metric else None

    def most(self, *, steps: int, save_every: int) -> int:
        """The most checkpoints that are on disk at once in a run of `steps` steps, the one being written included."""
        saves = math.ceil(steps / save_every)
        periodic = steps // math.lcm(self.period, save_every) if self.period else 0
        return min(saves, max(self.latest, 1) + periodic + (self.metric is not None)) + 1


def checkpoint_bytes(state: TrainState) -> int:
    """Bytes of a checkpoint of this state (arrays, or shapes with dtypes), from above: numbers of a trained model hardly compress."""
    leaves = [leaf for _, leaf in leaves_of(train_state_item(state))]
    return _bytes(state.served.values()) + _bytes(leaves) + _SMALL_FILES


def require_space(run: Path, needed: int, *, checkpoints: int = 1) -> None:
    """Raise StoreError, saying how much is missing, if the disk will not hold `checkpoints` of `needed` bytes.

    What the run has on disk already counts: of `Keep.most` checkpoints only those still to come need space.
    """
    place = next(p for p in (run.absolute(), *run.absolute().parents) if p.exists())
    free = shutil.disk_usage(place).free
    coming = max(checkpoints - (len(steps_in(run)) if checkpoints > 1 else 0), 1)
    if coming * needed <= free:
        return
    raise StoreError(
        "the disk will not hold the next checkpoint" if coming == 1 else f"the disk will not hold the run's {coming} checkpoints",
        file=run,
        found=f"{free / 1e9:.2f} GB free",
        expected=f"{coming * needed / 1e9:.2f} GB, {needed / 1e9:.2f} GB a checkpoint",
        todo="Free space there, set VLA_OPS_HOME to another disk, or keep fewer checkpoints.",
    )


def _bytes(leaves: Iterable[Any]) -> int:
    return sum(math.prod(leaf.shape) * _itemsize(leaf) for leaf in leaves)


def _itemsize(leaf: Any) -> int:
    return leaf.dtype.itemsize
