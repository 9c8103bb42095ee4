"""What a version holds, file by file, and what all of it was made of. Whoever has it can tell whether the rest is there, and whole.

The name is not vla_ops.json, which an export has already: there it says what the PyTorch policy was made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from vla_ops.errors import PublishError

MANIFEST_FILE, POINTER_FILE, VERSIONS = "vla_ops_manifest.json", "latest.json", "versions"
FORMAT = 1
# What is published: `policy` is a checkpoint in openpi's layout, `torch_policy` an export of one.
Kind = Literal["policy", "torch_policy", "dataset"]


@dataclass(frozen=True)
class Entry:
    """What a file must be. `sha256` is in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """One version of a publication. `origin` and `measured` are told, `files` decide whether it is whole."""

    kind: Kind
    name: str
    version: str
    # UTC, ISO 8601.
    created: str
    files: Mapping[str, Entry]
    # Robot, training, run, step, versions, fingerprints, code revision, and the hashes of the recordings.
    origin: Mapping[str, Any]
    # Numbers that were measured of it.
    measured: Mapping[str, Any]

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(entry.bytes for entry in self.files.values())

    @property
    def folder(self) -> str:
        """Where its files are, relative to the publication."""
        return f"{VERSIONS}/{self.version}"

    def to_json(self) -> bytes:
        """The content of its file."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes, *, file: str) -> Manifest:
        """Read what `to_json` wrote. Raise PublishError for what is damaged, or of a newer version of this project."""
        try:
            told = json.loads(text)
            if told["format"] > FORMAT:
                raise _newer(file, told["format"])
            files = {_safe(name, file): Entry(int(each["bytes"]), str(each["sha256"])) for name, each in told["files"].items()}
            made = cls(**{key: told[key] for key in ("kind", "name", "version", "created", "origin", "measured")}, files=files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PublishError("the manifest cannot be read", file=file, found=repr(error), todo="Publish this version again.") from error
        if made.version != (expected := version_of(made.kind, made.files, made.origin)):
            todo = "Somebody edited it, or it is another version's: publish this version again."
            raise PublishError("the manifest is not that of its version", file=file, found=expected, expected=made.version, todo=todo)
        return made


def version_of(kind: Kind, files: Mapping[str, Entry], origin: Mapping[str, Any]) -> str:
    """The name of a version: a hash of what it holds and was made of, so that the same published twice is one version."""
    decides = [kind, sorted((name, entry.sha256) for name, entry in files.items()), origin]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _safe(name: str, file: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or name == MANIFEST_FILE:
        todo = "Do not use what is there: whoever can write to that place made it."
        raise PublishError("the manifest names a file outside of its version", file=file, found=name, todo=todo)
    return name


def _newer(file: str, found: int) -> PublishError:
    what, todo = "the manifest is of a newer version of vla-ops", "Install the newest vla-ops to read it."
    return PublishError(what, file=file, found=f"format {found}", expected=f"format {FORMAT}", todo=todo)
