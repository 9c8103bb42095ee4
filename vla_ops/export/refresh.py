"""The exports of a training's last run, kept where they are: the one path behind the asset.

`<home>/<robot>/exports/<training>/<run>-<step>-<layout>-<dtype>[-adapter][-<source>]/`: what is there has passed the gate,
and is not made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import EXPORT_FILE, latest_step, marked_best
from vla_ops.errors import CheckpointError
from vla_ops.export.plan import Layout
from vla_ops.export.run import PARITY_FILE, PARITY_PLOT, export
from vla_ops.export.source import Given, open_source
from vla_ops.files import sweep
from vla_ops.robot import fingerprint
from vla_ops.spec.training import ExportSpec
from vla_ops.training.run import Run, last_run

# Raise when the same checkpoint would now give another export.
EXPORT_VERSION = 1


@dataclass(frozen=True)
class Export:
    """One export that passed the gate."""

    folder: Path
    checkpoint: Path
    layout: Layout
    # Of what was exported, and how.
    version: str

    @property
    def parity(self) -> dict[str, Any]:
        """See ParityReport.to_json."""
        return json.loads((self.folder / PARITY_FILE).read_text(encoding="utf-8"))

    @property
    def picture(self) -> Path:
        """Its plot."""
        return self.folder / PARITY_PLOT

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def refresh_exports(home: Path, robot: str, training: str, asked: ExportSpec, *, say: Callable[[str], None]) -> list[Export]:
    """Export the best checkpoint of the training's last run in each layout, unless that is done.

    Raise CheckpointError where nothing is trained yet, ParityError, and what `open_source` raises.
    """
    run, step = best_of_last_run(home, robot, training)
    return [_export(home, run, step, layout, asked, say=say) for layout in asked.layouts]


def best_of_last_run(home: Path, robot: str, training: str) -> tuple[Run, int]:
    """The last run of a training, and its best step, or its last where none is marked. Raise CheckpointError where there is none yet."""
    run = last_run(home, robot, training)
    step = None if run is None else _best(run)
    if run is None or step is None:
        todo = f"Run the job {robot}_train, or `vla-ops train {robot} {training}`."
        raise CheckpointError("there is no checkpoint yet", file=home / robot / "trainings" / training, todo=todo)
    return run, step


def _best(run: Run) -> int | None:
    """The step that is marked as the best, else the last one."""
    best = marked_best(run.folder)
    return latest_step(run.folder) if best is None else best


def _export(home: Path, run: Run, step: int, layout: Layout, asked: ExportSpec, *, say: Callable[[str], None]) -> Export:
    recipe = run.recipe
    root = home.absolute() / recipe.robot / "exports" / recipe.name
    # In the names of exports that were made before there were choices, these are not.
    chosen = [*([] if asked.lora == "merge" else [asked.lora]), *([] if asked.source is None else [asked.source])]
    folder, checkpoint = root / "-".join([run.folder.name, str(step), layout, asked.dtype, *chosen]), run.folder / str(step)
    made = Export(folder, checkpoint, layout, fingerprint([EXPORT_VERSION, recipe.fingerprint, step, layout, asked.dtype, *chosen]))
    if (folder / EXPORT_FILE).is_file():
        say(f"nothing to do: {folder} is there and has passed the gate")
        return made
    sweep(root)
    source = open_source(str(checkpoint), home, given=Given(asset_id=asked.source), say=say)
    export(source, folder, layout=layout, precision=asked.dtype, lora=asked.lora, say=say)
    return made
