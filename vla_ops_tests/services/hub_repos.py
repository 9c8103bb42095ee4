"""Repositories as git keeps them: commits with a parent, trees of blobs, branches and tags."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Blob:
    """A file of a commit: in git itself, or as a pointer to a large one."""

    oid: str
    size: int
    sha256: str | None = None

    def to_json(self, path: str) -> dict[str, Any]:
        """As the tree says it."""
        told: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        return told if self.sha256 is None else told | {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 134}}


@dataclass(frozen=True)
class Commit:
    """A tree, and what it followed."""

    oid: str
    parent: str | None
    message: str
    tree: Mapping[str, Blob]


@dataclass
class Repo:
    """One repository."""

    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        """The newest commit of `main`."""
        return self.commits[self.branches["main"]]

    def at(self, revision: str) -> Commit | None:
        """The commit of a branch, a tag or an id."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def commit(self, tree: Mapping[str, Blob], branch: str, message: str) -> Commit:
        """Add a commit to a branch."""
        parent = self.branches.get(branch)
        said = json.dumps([parent, message, len(self.commits), sorted((path, blob.oid) for path, blob in tree.items())])
        made = Commit(sha1(said.encode()), parent, message, tree)
        self.commits[made.oid] = made
        self.branches[branch] = made.oid
        return made


def sha1(content: bytes) -> str:
    """As git names things."""
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
