"""Upload, read back, and only then point to it.

A version is complete when its manifest is there, and that is written when every file has been compared with what the store has. Nobody
who follows the pointer sees less. A version that is there is never written to again; an interrupted upload goes on where it ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vla_ops.errors import PublishError
from vla_ops.published.manifest import MANIFEST_FILE, POINTER_FILE, VERSIONS, Entry, Manifest, version_of
from vla_ops.publishing.hashing import HashedFile, Hashes
from vla_ops.publishing.package import Package
from vla_ops.publishing.progress import Progress
from vla_ops.publishing.stores.base import Pointer, Store

_POINTER_TRIES = 5


@dataclass(frozen=True)
class Published:
    """A version that is there and verified. `bytes_sent` is 0 where all of it was there before."""

    uri: str
    # Where fsspec finds the version's own files.
    folder: str
    manifest: Manifest
    # The version that the pointer names when it is read back: another one where somebody else published meanwhile.
    pointed_to: str | None
    bytes_sent: int
    seconds: float


def publish(
    package: Package, store: Store, *, work: Path, usd_per_gb_month: float | None = None, say: Callable[[str], None] = lambda _: None
) -> Published:
    """Publish a package; `work` is a local folder that remembers hashes and rates. With a price, what it costs is said.

    Raise PublishError where the store cannot be written, a file changes meanwhile, or what was read back is not what was sent.
    """
    began_s = time.monotonic()
    store.check()
    files = hashed(package, work, say)
    progress = Progress(say, work, store.uri, usd_per_gb_month=usd_per_gb_month)
    upload = _Upload(store, manifest_of(package, files), files, progress)
    manifest = upload.run()
    _point(store, manifest, say)
    uri = f"{store.uri}/{manifest.name}"
    _, pointed_to = latest(store, manifest.name)
    return Published(uri, f"{uri}/{manifest.folder}", manifest, pointed_to, upload.sent_bytes, time.monotonic() - began_s)


def read_manifest(store: Store, folder: str) -> Manifest | None:
    """The manifest of a version by its folder in the store; None where there is none, which makes it an unfinished one."""
    content = store.read(f"{folder}/{MANIFEST_FILE}")
    return None if content is None else Manifest.from_json(content, file=f"{store.uri}/{folder}/{MANIFEST_FILE}")


def latest(store: Store, name: str) -> tuple[Pointer | None, str | None]:
    """The pointer of a publication and the version that it names. Raise PublishError where it cannot be read."""
    pointer = store.pointer(f"{name}/{POINTER_FILE}")
    if pointer is None:
        return None, None
    try:
        return pointer, str(json.loads(pointer.content)["version"])
    except (ValueError, KeyError, TypeError) as error:
        file = f"{store.uri}/{name}/{POINTER_FILE}"
        raise PublishError("the pointer cannot be read", file=file, found=repr(error), todo="Remove it, then publish again.") from error


def hashed(package: Package, work: Path, say: Callable[[str], None]) -> dict[str, HashedFile]:
    """Its files with their hashes, which are remembered below `work`."""
    say(f"hashing {len(package.files)} files of {package.name}")
    hashes = Hashes(work / "hashes" / f"{hashlib.sha256(package.name.encode()).hexdigest()[:16]}.json")
    return dict(zip(package.files, hashes.of(package.files.values()), strict=True))


def manifest_of(package: Package, files: Mapping[str, HashedFile]) -> Manifest:
    """What a version of this package is to say of itself."""
    entries = {name: Entry(file.size, file.sha256) for name, file in sorted(files.items())}
    version = version_of(package.kind, entries, package.origin)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Manifest(package.kind, package.name, version, now, entries, package.origin, package.measured)


class _Upload:
    """One version on its way."""

    def __init__(self, store: Store, manifest: Manifest, files: Mapping[str, HashedFile], progress: Progress) -> None:
        self._store, self._manifest, self._files, self._progress = store, manifest, files, progress
        self._folder = f"{manifest.name}/{manifest.folder}"

    @property
    def sent_bytes(self) -> int:
        """So far."""
        return self._progress.sent_bytes

    def run(self) -> Manifest:
        """Send what is not there, compare all of it, and write the manifest last; return the one that is there."""
        before = read_manifest(self._store, self._folder)
        if before is None:
            self._send()
            self._read_back(thoroughly=True)
            return self._finish()
        self._progress.say(f"version {self._manifest.version} is there already")
        self._read_back(thoroughly=False)
        return before

    def _send(self) -> None:
        left, like = self._store.differing(self._folder, self._files), self._previous()
        total = sum(self._files[name].size for name in left)
        to = f"{self._store.uri}/{self._folder}"
        self._progress.begin(f"sending {len(left)} of {len(self._files)} files ({total / 1e6:.1f} MB) to {to}", total)
        files = {f"{self._folder}/{name}": self._files[name] for name in left}
        there = {name: like[file.sha256] for name, file in files.items() if file.sha256 in like}
        self._store.put_all(files, like=there, sent=self._progress.sent, asked=True)
        self._progress.end()

    def _previous(self) -> dict[str, str]:
        """Where the store has content already, by its hash: in the version that was the newest so far."""
        _, version = latest(self._store, self._manifest.name)
        if version is None:
            return {}
        folder = f"{self._manifest.name}/{VERSIONS}/{version}"
        before = read_manifest(self._store, folder)
        return {} if before is None else {entry.sha256: f"{folder}/{name}" for name, entry in before.files.items()}

    def _read_back(self, *, thoroughly: bool) -> None:
        """Compare what the store has with what was to be sent: names and sizes, and `thoroughly` every file's content."""
        there = {name: size for name, size in self._store.listed(self._folder).items() if name != MANIFEST_FILE}
        wrong = dict.fromkeys(there.keys() - self._files.keys(), "does not belong to it")
        wrong |= {name: _size(there.get(name), file) for name, file in self._files.items() if there.get(name) != file.size}
        if thoroughly and not wrong:
            wrong = dict(self._store.differing(self._folder, self._files))
        if wrong:
            shown = "; ".join(f"{name} {why}" for name, why in sorted(wrong.items())[:4]) + (" ..." if len(wrong) > 4 else "")
            todo = f"It is not pointed to. Remove {self._folder} there, then publish again."
            raise PublishError("what the store has is not what was published", file=self._store.uri, found=shown, todo=todo)

    def _finish(self) -> Manifest:
        name = f"{self._folder}/{MANIFEST_FILE}"
        # Written once: of two who publish the same version at once, the first one's stays.
        self._store.point(name, self._manifest.to_json(), seen=None)
        there = read_manifest(self._store, self._folder)
        if there is None or there.files != self._manifest.files:
            todo = "Something else writes there: look at it, then publish again."
            raise PublishError("the manifest that was read back is another one", file=f"{self._store.uri}/{name}", todo=todo)
        return there


def _size(found: int | None, file: HashedFile) -> str:
    return "is missing" if found is None else f"has {found} bytes instead of {file.size}"


def _point(store: Store, manifest: Manifest, say: Callable[[str], None]) -> None:
    content = (json.dumps({"version": manifest.version, "kind": manifest.kind, "created": manifest.created}) + "\n").encode()
    for _ in range(_POINTER_TRIES):
        seen, version = latest(store, manifest.name)
        if version == manifest.version or store.point(f"{manifest.name}/{POINTER_FILE}", content, seen=seen):
            say(f"{store.uri}/{manifest.name} is now version {manifest.version}")
            return
    todo = "The version is there. Publish once more when the others are done."
    raise PublishError("others move the pointer at the same time", file=f"{store.uri}/{manifest.name}/{POINTER_FILE}", todo=todo)
