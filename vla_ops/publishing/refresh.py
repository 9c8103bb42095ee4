"""What the YAML says is to be published, published: the one path behind the assets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vla_ops.errors import PublishError
from vla_ops.export.refresh import best_of_last_run, refresh_exports
from vla_ops.home import HF, remote_home
from vla_ops.publishing.hub.options import HubOptions
from vla_ops.publishing.in_wandb import refer_dataset_in_wandb, refer_in_wandb, require_wandb
from vla_ops.publishing.package import package_at
from vla_ops.publishing.places import chosen, publish_at
from vla_ops.publishing.publish import Published
from vla_ops.publishing.stores import S3Options
from vla_ops.spec.metrics import MetricsSpec
from vla_ops.spec.publishing import PublishSpec, export_name
from vla_ops.spec.training import ExportSpec

# Raise when the same would now be published otherwise.
PUBLISH_VERSION = 1


def publish_policy(home: Path, robot: str, training: str, asked: PublishSpec, *, say: Callable[[str], None]) -> Published:
    """Publish the best checkpoint of the training's last run, and refer to it in its W&B run.

    Raise CheckpointError where nothing is trained yet, PublishError, and TrainingError where W&B is asked for and cannot be used.
    """
    run, step = best_of_last_run(home, robot, training)
    require_wandb(run.recipe.training.metrics)
    done = publish_folder(home, run.folder / str(step), asked, say=say)
    refer_in_wandb(run, done)
    return done


def publish_dataset(home: Path, folder: Path, asked: PublishSpec, metrics: MetricsSpec, *, say: Callable[[str], None]) -> Published:
    """Publish a dataset version, and refer to it in W&B. Raise PublishError, and TrainingError where W&B cannot be used."""
    require_wandb(metrics)
    done = publish_folder(home, folder, asked, say=say)
    refer_dataset_in_wandb(home / "publications", metrics, done)
    return done


def publish_exports(
    home: Path, robot: str, training: str, exported: ExportSpec, asked: PublishSpec, *, say: Callable[[str], None]
) -> list[Published]:
    """Publish the exports of that checkpoint, one after another under names of their own."""
    found, (run, _) = list[Published](), best_of_last_run(home, robot, training)
    for export in refresh_exports(home, robot, training, exported, say=say):
        own = {"name": asked.name and f"{asked.name}_torch_{export.layout}", "hub": asked.hub and export_name(asked.hub, export.layout)}
        found.append(publish_folder(home, export.folder, asked.model_copy(update=own), say=say))
        refer_in_wandb(run, found[-1])
    return found


def publish_folder(home: Path, folder: Path, asked: PublishSpec, *, say: Callable[[str], None]) -> Published:
    """Publish a checkpoint, an export or a dataset version."""
    package = package_at(folder, name=asked.name)
    place = chosen(asked, package, say)
    options = HubOptions(public=not asked.private, licence=asked.licence)
    return publish_at(package, _where(place, home), work=home / "publications", s3=S3Options(**asked.options), hub=options, say=say)


def _where(place: str, home: Path) -> str:
    """A folder is below the home. Raise PublishError where that is on the Hub: publications have repositories of their own there."""
    if ":" in place:
        return place
    remote = remote_home() or str(home)
    if remote.startswith(HF):
        todo = "Write `publish: {hub: OWNER/NAME}`, or a store: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX."
        raise PublishError("a home on the Hub holds no publications", file=remote, found=f"publish: {{store: {place}}}", todo=todo)
    return f"{remote}/{place}"
