"""Finished recordings on their way from a node to the store: files below a URI that both can reach, with a manifest written last.

A recording is taken when its manifest is there and every file has the SHA-256 that the manifest says, never before.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vla_ops.errors import StoreError
from vla_ops.files import replacing

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Staging:
    """One run's folder in a staging area, such as `s3://bucket/prefix/arm-1f2e3d4c`."""

    uri: str

    def upload(self, folder: Path, name: str) -> None:
        """Copy all files of `folder` to `<uri>/<name>/`, then the manifest."""
        fs, root = self._open(name)
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        for path in files:
            fs.put_file(str(path), posixpath.join(root, path.relative_to(folder).as_posix()))
        manifest = {path.relative_to(folder).as_posix(): _sha256(path) for path in files}
        fs.pipe_file(posixpath.join(root, _MANIFEST), json.dumps(manifest).encode())

    def take(self, name: str, target: Path) -> None:
        """Make `target` from what was uploaded as `name`, in one step, and remove it here.

        Raise IncompleteError if the upload is not whole, StoreError if `target` cannot be written; then nothing is at `target`.
        """
        fs, root = self._open(name)
        with replacing(target) as work:
            work.mkdir()
            for key, expected in self._manifest(fs, root).items():
                path = work / key
                path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    fs.get_file(posixpath.join(root, key), str(path))
                except FileNotFoundError as error:
                    raise IncompleteError(f"{root}/{key} is missing") from error
                if (found := _sha256(path)) != expected:
                    raise IncompleteError(f"{root}/{key}: SHA-256 found {found}, expected {expected}")
        fs.rm(root, recursive=True)

    def clear(self) -> None:
        """Remove all that was uploaded and not taken."""
        fs, root = self._open()
        fs.invalidate_cache()
        if fs.exists(root):
            fs.rm(root, recursive=True)

    def check(self) -> None:
        """Write, read and remove a small file. Raise StoreError if that cannot be done from here."""
        try:
            fs, root = self._open("check")
            fs.pipe_file(root, b"vla_ops")
            found = fs.cat_file(root)
            fs.rm_file(root)
        except Exception as error:  # Every file system has errors of its own.
            raise StoreError(
                f"the staging folder cannot be used: {type(error).__name__}: {error}",
                file=self.uri,
                todo="Correct conversion.ray.store in the robot's YAML, or the credentials in the environment.",
            ) from error
        if found != b"vla_ops":
            raise StoreError("the staging folder does not give back what is written to it", file=self.uri, found=found)

    def _manifest(self, fs: Any, root: str) -> dict[str, str]:
        fs.invalidate_cache()
        try:
            manifest: dict[str, str] = json.loads(fs.cat_file(posixpath.join(root, _MANIFEST)))
        except FileNotFoundError as error:
            raise IncompleteError(f"{root} has no manifest") from error
        except ValueError as error:
            raise IncompleteError(f"the manifest of {root} is cut off: {error}") from error
        for key in manifest:
            if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
                raise IncompleteError(f"the manifest of {root} names {key!r}, which leads out of the recording's folder")
        return manifest

    def _open(self, name: str = "") -> tuple[Any, str]:
        import fsspec

        # On a disk folders have to be made; an object store has none.
        options: dict[str, Any] = {"auto_mkdir": True} if self.uri.startswith("file:") else {}
        fs, root = fsspec.core.url_to_fs(self.uri, **options)
        return fs, posixpath.join(root, name) if name else root


class IncompleteError(Exception):
    """What was uploaded is not what was made."""


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
