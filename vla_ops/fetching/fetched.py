"""Single files from elsewhere, kept by content under VLA_OPS_HOME/cache (or ~/.cache/vla_ops), so that they are downloaded once.

`content/<sha256>/<name>` are the files, `uris/<hash of the URI>.json` which content a URI had when it was downloaded. What a URI holds
later is not asked: tokenizers do not change. Delete the folder to ask again. Whole checkpoints are download.py's, which asks each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from vla_ops.errors import FetchError
from vla_ops.fetching.download import fetch_file
from vla_ops.fetching.remote import file_at, local_path
from vla_ops.files import replacing, sweep, write_json
from vla_ops.home import home


def cache_folder() -> Path:
    """VLA_OPS_HOME/cache where VLA_OPS_HOME is set, else below the user's cache."""
    if os.environ.get("VLA_OPS_HOME"):
        return home() / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "vla_ops"


def fetch(uri: str, *, sha256: str | None = None) -> Path:
    """A local path of the file at `uri`: itself where it is local, else a copy in the cache.

    Raise FetchError if it cannot be had, or if its SHA-256 is not the one given.
    """
    if (local := local_path(uri)) is not None:
        if not local.is_file():
            raise FetchError("no such file", file=local, todo="Give a path, or a URL such as hf://OWNER/REPO/FILE or gs://BUCKET/FILE.")
        _check(local, _digest(local), sha256=sha256, uri=uri)
        return local
    return _cached(uri, sha256) or _downloaded(uri, sha256)


def _cached(uri: str, sha256: str | None) -> Path | None:
    """What an earlier download left: by the hash that is asked for, or the one that the URI had then."""
    index = _index(uri)
    try:
        wanted = sha256 or json.loads(index.read_text(encoding="utf-8"))["sha256"]
        files = sorted((cache_folder() / "content" / wanted.lower()).iterdir())
    except (OSError, ValueError, KeyError):
        return None
    # Damaged files are downloaded again.
    return next((file for file in files if _digest(file) == wanted.lower()), None)


def _downloaded(uri: str, sha256: str | None) -> Path:
    # Of this process alone: several may begin at once.
    incoming = cache_folder() / "incoming" / f"{_index(uri).stem}-{os.getpid()}-{secrets.token_hex(4)}"
    sweep(incoming.parent)
    file = file_at(uri)
    with replacing(incoming) as work:
        fetch_file(file, work)
        digest = _digest(work)
        _check(work, digest, sha256=sha256, uri=uri)
    kept = cache_folder() / "content" / digest / file.name
    kept.parent.mkdir(parents=True, exist_ok=True)
    incoming.replace(kept)
    write_json(_index(uri), {"uri": uri, "sha256": digest, "bytes": kept.stat().st_size})
    return kept


def _check(path: Path, digest: str, *, sha256: str | None, uri: str) -> None:
    if sha256 is not None and digest != sha256.lower():
        raise FetchError(
            "the file is not the one that was asked for",
            file=uri,
            found=f"sha256 {digest} ({path.stat().st_size} bytes)",
            expected=f"sha256 {sha256.lower()}",
            todo="It was changed there, or a page came in its place: look at it before you correct the sha256.",
        )


def _index(uri: str) -> Path:
    return cache_folder() / "uris" / f"{hashlib.sha256(uri.encode()).hexdigest()[:32]}.json"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
