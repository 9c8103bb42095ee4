"""Where something is published, and by what: `hub:OWNER/NAME`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, or a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vla_ops.published.hub_address import HubAddress
from vla_ops.publishing.hub.options import HubOptions
from vla_ops.publishing.package import Package
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import S3Options, store_at
from vla_ops.spec.publishing import PublishSpec

_S3, _HUB = S3Options(), HubOptions()


def publish_at(
    package: Package,
    place: str,
    *,
    work: Path,
    s3: S3Options = _S3,
    hub: HubOptions = _HUB,
    say: Callable[[str], None] = lambda _: None,
) -> Published:
    """Publish a package to a place that a URI names; `work` is a local folder that remembers hashes and rates. Raise PublishError."""
    if (address := HubAddress.of(place)) is not None:
        from vla_ops.publishing.hub.publish import publish_to_hub

        return publish_to_hub(package, address, work=work, options=hub, say=say)
    return publish(package, store_at(place, s3), work=work, usd_per_gb_month=s3.usd_per_gb_month, say=say)


def chosen(asked: PublishSpec, package: Package, say: Callable[[str], None]) -> str:
    """Of the places that the YAML names the one for a package of its size."""
    if asked.hub is None or asked.store is None:
        return asked.places[0]
    size_gb = sum(path.stat().st_size for path in package.files.values()) / 1e9
    hub, store = asked.places
    if size_gb > asked.hub_up_to_gb:
        say(f"{package.name} goes to {store}: it is {size_gb:.1f} GB, and hub_up_to_gb is {asked.hub_up_to_gb:g}")
        return store
    say(f"{package.name} goes to {hub}: it is {size_gb:.3g} GB, and up to {asked.hub_up_to_gb:g} GB (hub_up_to_gb) go there")
    return hub
