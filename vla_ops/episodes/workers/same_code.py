"""Whether two machines make the same bytes of a recording: the versions of all that has a part in them."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

import vla_ops
from vla_ops.robot import CONVERSION_VERSION

# What decodes, computes, encodes or writes something of an episode.
_LIBRARIES = ("av", "h5py", "imagecodecs", "matplotlib", "mcap", "numpy", "pillow", "pyarrow", "scipy", "zarr")
# What of vla_ops conversion runs, as patterns below the package.
_SOURCES = ("*.py", "spec/*.py", "recordings/**/*.py", "episodes/**/*.py")
# A command or a component more changes no episode.
_NO_PART = {"__init__.py", "cli.py", "bars.py", "definitions.py"}


def made_with() -> dict[str, str]:
    """Name -> version of everything that has a part in the bytes of an episode, as installed on this machine."""
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    own = {"vla_ops": metadata.version("vla-ops"), "vla_ops conversion": str(CONVERSION_VERSION), "vla_ops sources": _sources()}
    return {"Python": platform.python_version(), **own, **libraries}


def differences(here: dict[str, str], there: dict[str, str]) -> list[str]:
    """`name: here, there` of each version that differs."""
    names = dict.fromkeys([*here, *there])
    return [f"{n} {here.get(n, 'missing')} and not {there.get(n, 'missing')}" for n in names if here.get(n) != there.get(n)]


@cache
def _sources() -> str:
    root = Path(vla_ops.__file__).parent
    paths = sorted({p for pattern in _SOURCES for p in root.glob(pattern) if p.relative_to(root).as_posix() not in _NO_PART})
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
