"""A published version in the W&B run that trained it: an artifact of references, with the hashes of the manifest."""

from __future__ import annotations

import re
from pathlib import Path

from vla_ops.publishing.publish import Published
from vla_ops.training.run import Run
from vla_ops.training.sinks import WandbSink


def refer_in_wandb(run: Run, done: Published) -> None:
    """Log it where the training's `metrics.wandb` is on; offline it waits in the run's folder for `wandb sync`, as the curves do.

    The same version twice is one version there, too. Raise TrainingError where W&B cannot be used.
    """
    metrics = run.recipe.training.metrics
    if metrics.wandb == "off":
        return
    manifest = done.manifest
    about = {"uri": done.uri, "kind": manifest.kind, "version": manifest.version, "origin": manifest.origin, "measured": manifest.measured}
    about["sha256"] = {name: entry.sha256 for name, entry in manifest.files.items()}
    folder = done.folder if "://" in done.folder else Path(done.folder).as_uri()
    files = {name: f"{folder}/{name}" for name in manifest.files}
    sink, error = WandbSink(run.folder, metrics, name=run.title, config=run.recipe.to_json()), None
    try:
        sink.refer(re.sub(r"[^\w.-]", "-", manifest.name), "model", files, about, aliases=[manifest.version])
    except BaseException as raised:
        error = raised
        raise
    finally:
        sink.close(error)
