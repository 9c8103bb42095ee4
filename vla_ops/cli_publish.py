"""`vla-ops publish`, `pull`, `policies` and `lineage`: what is uploaded, fetched, there, and what it was made of."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

import tyro

from vla_ops.cli_named import say
from vla_ops.errors import PublishError
from vla_ops.publishing.hub.options import HubOptions
from vla_ops.publishing.stores.s3_client import S3Options

if TYPE_CHECKING:
    from vla_ops.published.manifest import Manifest
    from vla_ops.published.pull import Version


@dataclass(frozen=True)
class Publish:
    """Upload a checkpoint, an export or a dataset version, read it back, and only then point to it.

    What is published twice is uploaded once, an interrupted upload goes on where it ended, and no version is ever written to again.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_OR_FOLDER")]
    """ROBOT/TRAINING (its last checkpoint; @best or @STEP behind it for another), the folder of a checkpoint, export or dataset, or what
    was published elsewhere."""
    to: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STORE")]
    """Where to: hub:OWNER/NAME on the Hugging Face Hub, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or a folder."""
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Below it. Default: ROBOT/TRAINING, with `_torch_LAYOUT` for an export, or ROBOT/VIEW for a dataset."""
    to_resume: bool = False
    """Of a checkpoint also what is needed to go on training from it, which is twice its size."""
    hub: Annotated[HubOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=HubOptions)
    s3: Annotated[S3Options, tyro.conf.OmitArgPrefixes] = field(default_factory=S3Options)

    def run(self) -> int:
        """Publish, and say where it is."""
        from vla_ops.checkpoints.sources import locate
        from vla_ops.home import home
        from vla_ops.homes.at_home import fetched, needs_of_run
        from vla_ops.homes.needs import training
        from vla_ops.publishing.package import package_at
        from vla_ops.publishing.places import publish_at

        fetched(needs_of_run(self.source, partial(training, to_resume=self.to_resume)), say)
        package = package_at(locate(self.source, home(), say=say), name=self.name, to_resume=self.to_resume)
        done = publish_at(package, self.to, work=home() / "publications", s3=self.s3, hub=self.hub, say=say)
        sent = f"{done.bytes_sent / 1e6:.1f} MB sent" if done.bytes_sent else "nothing had to be sent"
        sys.stdout.write(f"{done.uri}@{done.manifest.version}\n")
        say(f"{len(done.manifest.files)} files, {done.manifest.total_bytes / 1e6:.1f} MB, {sent} in {done.seconds:.1f} s")
        return 0


@dataclass(frozen=True)
class Pull:
    """Bring a published version here, compare every file with its manifest, and print its folder: for `init:`, LeRobot, or a copy."""

    uri: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URI")]
    """A publication, or one of its versions: URI@VERSION."""

    def run(self) -> int:
        """Fetch what is not here yet."""
        from vla_ops.home import home
        from vla_ops.published.pull import PULLED, bring

        found = bring(self.uri, home() / PULLED, say=say)
        if found is None:
            _published(self.uri)  # Says why.
            raise _nothing(self.uri)
        sys.stdout.write(f"{found[1]}\n")
        return 0


@dataclass(frozen=True)
class Policies:
    """List what is published below a place: what it is, its numbers, and how old it is. Exit code 2 if something cannot be read."""

    uri: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URI")]
    """hub:OWNER or hub:OWNER/NAME, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, or a folder."""

    def run(self) -> int:
        """Print a table."""
        from rich.console import Console

        from vla_ops.published.registry import publications

        found = list(publications(self.uri))
        if not found:
            raise PublishError("nothing is published below it", file=self.uri, todo="Check the address, or publish: vla-ops publish.")
        broken = [each for each in found if isinstance(each, PublishError)]
        Console(width=None if sys.stdout.isatty() else 200).print(_table([each for each in found if not isinstance(each, PublishError)]))
        for error in broken:
            say(f"vla-ops: {error}")
        return 2 if broken else 0


@dataclass(frozen=True)
class Lineage:
    """Print what a published version was made of, back to the hashes of the recordings, and what has changed since on this machine."""

    uri: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URI")]
    """A publication, or one of its versions: URI@VERSION."""

    def run(self) -> int:
        """Print it."""
        from vla_ops.home import home
        from vla_ops.homes.at_home import fetched
        from vla_ops.homes.needs import said
        from vla_ops.published.registry import changed_since

        version = _published(self.uri)
        fetched({str(version.manifest.origin["robot"]): said}, say)
        changed = changed_since(version.manifest, home())
        sys.stdout.write(
            "\n".join([*_told(version.manifest), "", "since then", *(f"  {line}" for line in changed or ["nothing changed"]), ""])
        )
        return 0


def _published(uri: str) -> Version:
    from vla_ops.published.pull import published_at

    version = published_at(uri)
    if version is None:
        raise _nothing(uri)
    return version


def _nothing(uri: str) -> PublishError:
    return PublishError("nothing is published there", file=uri, todo="`vla-ops policies URI` lists what is below a place.")


def _table(versions: list[Version]) -> object:
    from rich.table import Table

    from vla_ops.published.registry import age

    table = Table(box=None)
    table.add_column("publication", overflow="fold")  # To be copied: all of it, on two lines if need be.
    for name in ("kind", "version", "published", "MB", "robot", "dataset", "episodes", "measured"):
        table.add_column(name)
    for each in versions:
        it = each.manifest
        size, episodes = f"{it.total_bytes / 1e6:.1f}", str(it.origin.get("episodes") or "?")
        of = (it.origin["robot"], it.origin["dataset_version"], episodes)
        table.add_row(each.publication, it.kind, it.version, age(it), size, *of, _numbers(it))
    return table


def _numbers(manifest: Manifest) -> str:
    """The numbers that a person compares policies by, not those of every joint."""
    shown = {key.removeprefix("validation/"): value for key, value in manifest.measured.items() if "/mae/" not in key}
    return ", ".join(f"{key} {value:.4g}" for key, value in shown.items())


def _told(manifest: Manifest) -> list[str]:
    origin = dict(manifest.origin)
    recordings = origin.pop("recordings", None)
    lines = [f"{manifest.name} {manifest.version}: {manifest.kind}, {len(manifest.files)} files, {manifest.total_bytes / 1e6:.1f} MB"]
    lines += [f"  {key:<22} {value}" for key, value in {"published": manifest.created, **origin}.items() if value is not None]
    if recordings is None:
        return [*lines, "  recordings             unknown: the dataset was not on the machine that published it"]
    return [*lines, f"  recordings ({len(recordings)})", *(f"    {version}  {name}" for name, version in sorted(recordings.items()))]
