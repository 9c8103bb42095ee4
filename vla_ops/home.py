"""VLA_OPS_HOME: where everything that is made lies. A folder, or a place in a store of which this machine has a copy.

::

    VLA_OPS_HOME=/data/vla_ops          a folder
    VLA_OPS_HOME=s3://bucket/vla_ops    a place that several machines share, gs://bucket/..., hf://datasets/owner/name/... and
                                        file:///mnt/share/... as well: all work is done in a copy, VLA_OPS_HOME_COPY or
                                        ~/.local/share/vla_ops/homes/..., see vla_ops/homes
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from vla_ops.errors import SpecError

HF = "hf://"
_SCHEMES = ("s3", "gs", "hf", "file")
_PLACES = "a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, hf://datasets/OWNER/NAME/PREFIX, or file:///PATH of a share"
# Folders of a robot whose paths are written down in what is made of them.
_PARTS = {"lerobot_v3", "lerobot_v21", "rlds", "norm_stats", "trainings", "exports", "episodes"}


def home() -> Path:
    """The folder that VLA_OPS_HOME is, default ./data; of a place in a store this machine's copy of it. Raise SpecError."""
    remote = remote_home()
    if remote is None:
        return Path(os.environ.get("VLA_OPS_HOME") or "data").expanduser().resolve()
    copy, store = _copy_of(remote), Path(remote.removeprefix("file://")).resolve()
    if remote.startswith("file://") and (copy.is_relative_to(store) or store.is_relative_to(copy)):
        todo = "Set VLA_OPS_HOME_COPY to a folder outside of it, or VLA_OPS_HOME to the path without file://, to work in it."
        raise SpecError("the copy of the home and the home lie in one another", found=str(copy), expected=f"none of {store}", todo=todo)
    return copy


def _copy_of(remote: str) -> Path:
    if asked := os.environ.get("VLA_OPS_HOME_COPY"):
        return Path(asked).expanduser().resolve()
    shared = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", remote.partition("://")[2]).strip("-")[-40:]
    return shared.resolve() / "vla_ops/homes" / f"{name}-{hashlib.sha256(remote.encode()).hexdigest()[:8]}"


def remote_home() -> str | None:
    """The URI that VLA_OPS_HOME is, without a slash at its end; None where it is a folder. Raise SpecError for one that cannot be."""
    asked = os.environ.get("VLA_OPS_HOME", "").strip()
    if asked.startswith("hub:"):
        todo = "The Hugging Face Hub as a home is a dataset repository: hf://datasets/OWNER/NAME. To publish there: `publish: {hub: ...}`."
        raise SpecError("VLA_OPS_HOME cannot be this", found=asked.partition("@")[0], expected=_PLACES, todo=todo)
    if not re.match(r"[A-Za-z0-9+]{2,}:/", asked):
        return None
    scheme, _, rest = asked.partition("://")
    place, is_share = rest.rstrip("/"), scheme == "file"
    if scheme not in _SCHEMES or not place or place.startswith("/") != is_share or (not is_share and re.search(r"[@?#]", place)):
        # It may hold a password.
        found = f"{scheme.partition(':')[0]}://..." if re.search(r"[@?#]", asked) else asked
        raise SpecError("VLA_OPS_HOME cannot be this", found=found, expected=_PLACES, todo="Keys belong in the environment, not in it.")
    if scheme == "hf":
        _require_hub_folder(f"{HF}{place}")
    return f"{scheme}://{place}"


def _require_hub_folder(uri: str) -> None:
    # Not where the home is a folder, as it is for most: the specification's classes take a while to be made.
    from vla_ops.spec.publishing import hub_folder

    try:
        hub_folder(uri)
    except ValueError as error:
        todo = f"{str(error)[:1].upper()}{str(error)[1:]}."
        raise SpecError("VLA_OPS_HOME cannot be this", found=uri, expected=_PLACES, todo=todo) from None


def moved_here(path: Path) -> Path:
    """A path that was written down in another copy of the home, or before the home was moved, in this one; as it is where it is there.

    What is found by it is checked by who reads it: versions and fingerprints are written down beside such paths.
    """
    if _is_there(path):
        return path
    parts = path.parts
    places = [home().joinpath(*parts[k - 1 :]) for k in range(1, len(parts)) if parts[k] in _PARTS]
    return next((place for place in places if _is_there(place)), path)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # Another user's.
