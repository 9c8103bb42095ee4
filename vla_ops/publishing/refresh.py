"""What the YAML says is to be published, published: the one path behind the assets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vla_ops.export.refresh import best_of_last_run, refresh_exports
from vla_ops.publishing.package import package_at
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import S3Options, store_at
from vla_ops.spec.publishing import PublishSpec
from vla_ops.spec.training import ExportSpec

# Raise when the same would now be published otherwise.
PUBLISH_VERSION = 1


def publish_policy(home: Path, robot: str, training: str, asked: PublishSpec, *, say: Callable[[str], None]) -> Published:
    """Publish the best checkpoint of the training's last run. Raise CheckpointError where nothing is trained yet, PublishError."""
    run, step = best_of_last_run(home, robot, training)
    return publish_folder(home, run.folder / str(step), asked, say=say)


def publish_exports(
    home: Path, robot: str, training: str, exported: ExportSpec, asked: PublishSpec, *, say: Callable[[str], None]
) -> list[Published]:
    """Publish the exports of that checkpoint, one after another under names of their own."""
    found = []
    for export in refresh_exports(home, robot, training, exported, say=say):
        name = asked.name and f"{asked.name}_torch_{export.layout}"
        found.append(publish_folder(home, export.folder, asked.model_copy(update={"name": name}), say=say))
    return found


def publish_folder(home: Path, folder: Path, asked: PublishSpec, *, say: Callable[[str], None]) -> Published:
    """Publish a checkpoint, an export or a dataset version."""
    store = asked.store if "://" in asked.store else str(home / asked.store)
    package = package_at(folder, name=asked.name)
    return publish(package, store_at(store, S3Options(**asked.options)), work=home / "publications", say=say)
