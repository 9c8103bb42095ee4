"""VLA_OPS_HOME: where everything that is made lies. A folder, or a place in a store of which this machine has a copy.

::

    VLA_OPS_HOME=/data/vla_ops          a folder
    VLA_OPS_HOME=s3://bucket/vla_ops    a place that several machines share, file:///mnt/share/vla_ops as well: all work is done in a
                                        copy, VLA_OPS_HOME_COPY or ~/.local/share/vla_ops/homes/..., see vla_ops/homes
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from vla_ops.errors import SpecError

_SCHEMES = ("s3", "file")
# Folders of a robot whose paths are written down in what is made of them.
_PARTS = {"lerobot_v3", "lerobot_v21", "rlds", "norm_stats", "trainings", "exports", "episodes"}


def home() -> Path:
    """The folder that VLA_OPS_HOME is, default ./data; of a place in a store this machine's copy of it. Raise SpecError."""
    remote = remote_home()
    if remote is None:
        return Path(os.environ.get("VLA_OPS_HOME") or "data").expanduser().resolve()
    if asked := os.environ.get("VLA_OPS_HOME_COPY"):
        return Path(asked).expanduser().resolve()
    shared = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", remote.partition("://")[2]).strip("-")[-40:]
    return shared.resolve() / "vla_ops/homes" / f"{name}-{hashlib.sha256(remote.encode()).hexdigest()[:8]}"


def remote_home() -> str | None:
    """The URI that VLA_OPS_HOME is, without a slash at its end; None where it is a folder. Raise SpecError for one that cannot be."""
    asked = os.environ.get("VLA_OPS_HOME", "").strip()
    scheme, sign, rest = asked.partition("://")
    if not sign:
        return None
    place = rest.rstrip("/")
    if scheme not in _SCHEMES or not place or re.search(r"[@?#]", place) or place.startswith("/") != (scheme == "file"):
        # It may hold a password.
        found = f"{scheme}://..." if re.search(r"[@?#]", rest) else asked
        expected = "a folder, s3://BUCKET/PREFIX, or file:///PATH of a share"
        raise SpecError("VLA_OPS_HOME cannot be this", found=found, expected=expected, todo="Keys belong in the environment, not in it.")
    return f"{scheme}://{place}"


def moved_here(path: Path) -> Path:
    """A path that was written down in another copy of the home, or before the home was moved, in this one; as it is where it is there.

    What is found by it is checked by who reads it: versions and fingerprints are written down beside such paths.
    """
    if path.exists():
        return path
    parts = path.parts
    places = [home().joinpath(*parts[k - 1 :]) for k in range(1, len(parts)) if parts[k] in _PARTS]
    return next((place for place in places if place.exists()), path)
