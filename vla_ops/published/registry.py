"""What is published somewhere, and what a version was made of: read from manifests alone, without a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from vla_ops.errors import FetchError, PublishError
from vla_ops.fetching.remote import list_folders
from vla_ops.published.hub_address import owner_of
from vla_ops.published.hub_reader import repositories
from vla_ops.published.manifest import VERSIONS, Manifest
from vla_ops.published.pull import Version, published_at
from vla_ops.spec.publishing import HUB

# `<robot>/<training>`, and a folder or two above.
_DEPTH = 4


def publications(uri: str, *, depth: int = _DEPTH) -> Iterator[Version | PublishError]:
    """The newest version of every publication below a URI, or why it cannot be read. Raise FetchError where the place cannot be listed.

    On the Hub that is a repository, or all of an owner: `hub:OWNER`.
    """
    if uri.startswith(HUB):
        yield from map(_published, repositories(owner) if (owner := owner_of(uri)) else [uri])
        return
    inner = list_folders(uri)
    if VERSIONS in inner:
        try:
            found = published_at(uri)
        except PublishError as error:
            yield error
        else:
            # Without a pointer its first version was never finished.
            yield from [found] if found is not None else []
    elif depth:
        for name in inner:
            yield from publications(f"{uri.rstrip('/')}/{name}", depth=depth - 1)


def _published(uri: str) -> Version | PublishError:
    try:
        version = published_at(uri)
    except PublishError as error:
        return error
    except FetchError as error:  # One of many: the others are listed.
        return PublishError(error.what, file=uri, found=error.found, todo=error.todo)
    return version or PublishError("nothing is published there", file=uri)


def versions_of(uri: str) -> list[str]:
    """The versions of a publication that are there, finished or not."""
    return list_folders(f"{uri.rstrip('/')}/{VERSIONS}")


def age(manifest: Manifest, now: datetime | None = None) -> str:
    """How long ago it was published: `3 days ago`."""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(manifest.created)).total_seconds()
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def changed_since(manifest: Manifest, home: Path) -> list[str]:
    """What this machine has otherwise than when the version was made: its recordings and its dataset. Empty where nothing changed."""
    robot = home / str(manifest.origin["robot"])
    if not robot.is_dir():
        return [f"{robot} is not on this machine: nothing to compare with"]
    return [*_recordings(manifest, robot), *_dataset(manifest, robot)]


def _recordings(manifest: Manifest, robot: Path) -> Iterator[str]:
    then = manifest.origin.get("recordings")
    known = robot / "recordings.json"
    if then is None or not known.is_file():
        return
    now = {name: each["version"] for name, each in json.loads(known.read_text(encoding="utf-8")).items()}
    for name in sorted(then.keys() | now.keys()):
        if name not in then:
            yield f"recording {name} is new ({now[name]})"
        elif name not in now:
            yield f"recording {name} is gone (was {then[name]})"
        elif now[name] != then[name]:
            yield f"recording {name} is another one ({then[name]} -> {now[name]})"


def _dataset(manifest: Manifest, robot: Path) -> Iterator[str]:
    current = robot / "lerobot_v3" / "current.json"
    if current.is_file():
        now = json.loads(current.read_text(encoding="utf-8"))["version"]
        if now != manifest.origin["dataset_version"]:
            yield f"the dataset is now version {now} (was {manifest.origin['dataset_version']})"
