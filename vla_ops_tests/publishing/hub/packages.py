"""Packages for the Hub: a small dataset of a text and a large file, and ways to publish it."""

from __future__ import annotations

from pathlib import Path

from vla_ops.published.hub_address import HubAddress
from vla_ops.publishing.hub.options import HubOptions
from vla_ops.publishing.hub.publish import publish_to_hub
from vla_ops.publishing.package import Package
from vla_ops.publishing.publish import Published

URI = "hub:datasets/lab/pick"
AS_IT_IS = HubOptions()


def package_of(folder: Path, *, name: str = "arm/lerobot_v3", **files: str | bytes) -> Package:
    """A dataset of these files, written into `folder`: `a=...` is `data/a`. Bytes are what the Hub keeps apart from git."""
    paths = {f"data/{key}": folder / "data" / key for key in files}
    for path, content in zip(paths.values(), files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else b"\0" + content)
    origin = {"robot": "arm", "dataset_version": "d1", "episodes": 2, "recordings": {"a.mcap": "11", "b.mcap": "22"}}
    return Package("dataset", name, paths, origin, {"total_episodes": 2})


def published(package: Package, work: Path, *, uri: str = URI, options: HubOptions = AS_IT_IS, said: list[str] | None = None) -> Published:
    """Publish it."""
    address = HubAddress.of(uri)
    assert address is not None
    return publish_to_hub(package, address, work=work, options=options, say=(said if said is not None else []).append)
