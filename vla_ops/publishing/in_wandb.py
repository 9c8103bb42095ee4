"""A published version in W&B: an artifact of references, with the hashes of the manifest. W&B has no copy of the files.

Offline it waits in the run's folder for `wandb sync`, as curves do. The same version twice is one version there, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ops.errors import TrainingError
from vla_ops.publishing.publish import Published
from vla_ops.spec.metrics import MetricsSpec
from vla_ops.training.run import Run
from vla_ops.training.sinks import WandbSink, wandb_problem


def require_wandb(metrics: MetricsSpec) -> None:
    """Raise TrainingError where W&B is asked for and cannot be used: before anything is uploaded that is to be referred to."""
    if problem := wandb_problem(metrics.wandb):
        raise TrainingError(problem)


def refer_in_wandb(run: Run, done: Published) -> None:
    """Log a policy in the run that trained it, where its `metrics.wandb` is on. Raise TrainingError where W&B cannot be used."""
    _refer(run.folder, run.recipe.training.metrics, done, name=run.title, config=run.recipe.to_json())


def refer_dataset_in_wandb(work: Path, metrics: MetricsSpec, done: Published) -> None:
    """Log a dataset in a W&B run of its own, on one machine always the same: its folder is below `work`. Raise as `refer_in_wandb`."""
    config = {key: value for key, value in done.manifest.origin.items() if key != "recordings"}
    _refer(work / "wandb" / _plain(done.manifest.name), metrics, done, name=f"{done.manifest.name} published", config=config)


def _refer(folder: Path, metrics: MetricsSpec, done: Published, *, name: str, config: Mapping[str, Any]) -> None:
    if metrics.wandb == "off":
        return
    manifest, error = done.manifest, None
    about = {"uri": done.uri, "kind": manifest.kind, "version": manifest.version, "origin": manifest.origin, "measured": manifest.measured}
    about["sha256"] = {name: entry.sha256 for name, entry in manifest.files.items()}
    there = done.folder if "://" in done.folder else Path(done.folder).as_uri()
    files = {name: f"{there}/{name}" for name in manifest.files}
    folder.mkdir(parents=True, exist_ok=True)
    sink = WandbSink(folder, metrics, name=name, config=config)
    try:
        kind = "dataset" if manifest.kind == "dataset" else "model"
        sink.refer(_plain(manifest.name), kind, files, about, aliases=[manifest.version])
    except BaseException as raised:
        error = raised
        raise
    finally:
        sink.close(error)


def _plain(name: str) -> str:
    """As W&B takes names."""
    return re.sub(r"[^\w.-]", "-", name)
