"""Packages of a few files, and stores to put them in."""

from __future__ import annotations

from pathlib import Path

from vla_ops.publishing.package import Package
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import Store

NAME = "arm/pick"


def package_of(folder: Path, **files: str) -> Package:
    """A package of text files, written into `folder`: `a="..."` is `params/a`."""
    paths = {f"params/{name}": folder / "params" / name for name in files}
    for (name, path), text in zip(paths.items(), files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        assert name.startswith("params/")
    origin = {"robot": "arm", "dataset_version": "d1", "episodes": 2, "recordings": {"a.mcap": "11", "b.mcap": "22"}}
    return Package("policy", NAME, paths, origin, {"validation/loss": 0.25})


def published(store: Store, folder: Path, **files: str) -> Published:
    """Publish such a package."""
    return publish(package_of(folder, **files), store, work=folder / "work")
