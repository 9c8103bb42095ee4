"""Where things are in a run and in a checkpoint.

::

    <run>/run.json                      recipe, versions, launcher
    <run>/best.json                     which step is the best, by which metric
    <run>/<step>/_CHECKPOINT_METADATA   Orbax's
    <run>/<step>/params/                what is served: EMA weights where there are any
    <run>/<step>/train_state/           step, optimiser state, live weights where `params` is EMA
    <run>/<step>/assets/<asset id>/norm_stats.json
    <run>/<step>/vla_ops/               state.json (data position, metrics, ...), files.json (checksums); openpi ignores it
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.errors import CheckpointError

PARAMS, TRAIN_STATE, ASSETS, OURS = "params", "train_state", "assets", "vla_ops"
# In an export for PyTorch: what it was made of.
EXPORT_FILE = "vla_ops.json"
RUN_FILE, BEST_FILE, STATE_FILE, FILES_FILE = "run.json", "best.json", "state.json", "files.json"
NORM_STATS_FILE = "norm_stats.json"
STEP_METADATA, TREE_METADATA = "_CHECKPOINT_METADATA", "_METADATA"
# In the name of a step while it is written.
UNFINISHED = ".orbax-checkpoint-tmp"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `folder` is its step folder, or the params folder where there is nothing else."""

    folder: Path
    params: Path

    @property
    def train_state(self) -> Path:
        """Where the train state is, if it has one."""
        return self.folder / TRAIN_STATE

    @property
    def can_resume(self) -> bool:
        """Whether there is a train state, and not only parameters."""
        return (self.train_state / TREE_METADATA).is_file()

    @property
    def norm_stats(self) -> dict[str, Path]:
        """The norm stats in its assets by asset id; an id may have slashes in it, as a repo id has."""
        assets = self.folder / ASSETS
        return {file.parent.relative_to(assets).as_posix(): file for file in sorted(assets.rglob(NORM_STATS_FILE))}

    def __str__(self) -> str:
        return str(self.folder)


def open_checkpoint(path: Path) -> Checkpoint:
    """Find the checkpoint at `path`: a step folder, a params folder, or a run, of which the latest step is taken.

    Raise CheckpointError for anything else, saying what lies there.
    """
    path = Path(path).absolute()
    if _has_tree(path / PARAMS):
        return Checkpoint(path, path / PARAMS)
    if _has_tree(path):
        alone = path.name != PARAMS
        return Checkpoint(path if alone else path.parent, path)
    step = latest_step(path) if path.is_dir() else None
    if step is None:
        raise _no_checkpoint(path)
    return open_checkpoint(path / str(step))


def steps_in(run: Path) -> list[int]:
    """The steps that a run has whole checkpoints of, ascending; unfinished ones have other names."""
    if not run.is_dir():
        return []
    return sorted(int(inner.name) for inner in run.iterdir() if _is_step(inner.name) and _has_tree(inner / PARAMS))


def latest_step(run: Path) -> int | None:
    """The last step that a run has a checkpoint of, or None."""
    return max(steps_in(run), default=None)


def best_step(run: Path, metric: str, *, lower_is_better: bool = True) -> int | None:
    """The step with the best value of a metric of those that were saved with one, or None; the earliest of equals."""
    values = {step: value for step in steps_in(run) if (value := metric_of(run / str(step), metric)) is not None}
    return min(values, key=lambda step: (values[step] if lower_is_better else -values[step], step), default=None)


def marked_best(run: Path) -> int | None:
    """The step that `best.json` names, where there is one that is still there."""
    try:
        step = json.loads((run / BEST_FILE).read_text(encoding="utf-8"))["step"]
    except FileNotFoundError:
        return None
    return step if step in steps_in(run) else None


def metric_of(step_folder: Path, metric: str) -> float | None:
    """A finite metric that a checkpoint was saved with, or None."""
    value = read_state(step_folder).get("metrics", {}).get(metric)
    return float(value) if value is not None and math.isfinite(value) else None


def read_state(step_folder: Path) -> dict[str, Any]:
    """What was saved beside openpi's own: {step, metrics, extra}; empty for a checkpoint that openpi wrote."""
    file = step_folder / OURS / STATE_FILE
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        todo = "Resume from an earlier checkpoint of the run."
        raise CheckpointError(f"the state of the run is unreadable: {error}", file=file, todo=todo) from error


def norm_stats_asset(asset_id: str, text: str) -> Mapping[str, bytes]:
    """The assets of a checkpoint that holds one norm_stats.json, as CheckpointStore.save takes them."""
    return {f"{asset_id}/{NORM_STATS_FILE}": text.encode()}


def _is_step(name: str) -> bool:
    return name.isascii() and name.isdecimal() and name == str(int(name))


def _has_tree(folder: Path) -> bool:
    return (folder / TREE_METADATA).is_file()


def _no_checkpoint(path: Path) -> CheckpointError:
    if not path.exists():
        found = "nothing"
    elif path.is_dir():
        found = ", ".join(sorted(inner.name for inner in path.iterdir())[:8]) or "an empty folder"
    else:
        found = "a file"
    return CheckpointError(
        "there is no checkpoint",
        file=path,
        found=found,
        expected=f"<step>/{PARAMS}, {PARAMS}, or {PARAMS}'s own {TREE_METADATA}",
        todo="Name a run, one of its step folders, or a params folder. Names with `orbax-checkpoint-tmp` were never finished.",
    )
