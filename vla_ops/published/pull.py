"""Published versions brought here and compared with their manifest, file by file, before anybody uses them.

A URI is that of a publication (its newest version), of one with `@VERSION` behind it, or of a version's own folder; on the Hub of a
repository, with a branch, a tag or a commit in the version's place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vla_ops.errors import FetchError, PublishError, StoreError
from vla_ops.fetching.download import CONTENT, fetch_file, trim_models
from vla_ops.fetching.remote import RemoteFile, list_files, local_path, read_text
from vla_ops.files import discard, only_one, write_json
from vla_ops.kept import hold_around, hold_until_exit
from vla_ops.published.hub_address import HubAddress
from vla_ops.published.hub_errors import is_away
from vla_ops.published.manifest import MANIFEST_FILE, POINTER_FILE, VERSIONS, Entry, Manifest
from vla_ops.recordings.remote.errors import without_secrets

# Below VLA_OPS_HOME.
PULLED, PULLED_ASSETS = "cache/published", "cache/published_assets"
# Below the cache: which folder a URI named last, at these endpoints.
_NOTES, _ENDPOINTS = "uris", ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HF_ENDPOINT")
# A URI that ends so is a file's.
_FILES = {".npz"}
_AT_ONCE = 8


@dataclass(frozen=True)
class Version:
    """A version in its place. `uri` is that of its folder."""

    uri: str
    manifest: Manifest
    # What names it to a person: the publication, whose newest version it may be or not.
    publication: str

    @property
    def name(self) -> str:
        """What names it for good: `URI@VERSION`."""
        return f"{self.publication}@{self.manifest.version}"


def published_at(uri: str) -> Version | None:
    """The version that a URI names; None where there is no publication.

    Raise PublishError for a version that is not there or whose manifest cannot be read, FetchError where the place cannot be.
    """
    if (address := HubAddress.of(uri)) is not None:
        return _on_hub(address)
    uri, asked = split(uri)
    if Path(uri).suffix in _FILES:
        return None
    if not asked and (found := _version_at(uri)) is not None:
        return found
    pointer = _json_at(f"{uri}/{POINTER_FILE}")
    if pointer is None:
        return None
    version = asked or _pointed_at(pointer, f"{uri}/{POINTER_FILE}")
    folder = f"{uri}/{VERSIONS}/{version}"
    manifest = _manifest(folder)
    if manifest is None:
        todo = "Name one that was published whole, or publish it (again)."
        raise PublishError("there is no such version, or it was never finished", file=without_secrets(folder), todo=todo)
    return Version(folder, manifest, without_secrets(uri))


def split(uri: str) -> tuple[str, str]:
    """A URI without its version, and that: empty where there is none. An @ further up is part of the place."""
    above, slash, last = uri.rstrip("/").rpartition("/")
    name, _, version = last.partition("@")
    return f"{above}{slash}{name}", version


def _version_at(uri: str) -> Version | None:
    """The version whose own folder a URI is."""
    try:
        manifest = _manifest(uri)
    except FetchError:
        # Who may not list a bucket is told that nothing may be read of it where there is nothing. With a pointer it is a publication.
        if read_text(f"{uri}/{POINTER_FILE}") is None:
            raise
        return None
    if manifest is None:
        return None
    above, _, version = uri.rpartition(f"/{VERSIONS}/")
    return Version(uri, manifest, without_secrets(above if version == manifest.version else uri))


def _on_hub(address: HubAddress) -> Version:
    from vla_ops.published.hub_reader import HubReader

    repo = HubReader(address)
    commit = next((found for name in address.revisions if (found := repo.commit_at(name)) is not None), None)
    if commit is None:
        found, todo = address.revision or "main", "Check the name, and HF_TOKEN if it is private; hub:datasets/OWNER/NAME is a dataset."
        raise PublishError("there is no such repository, or no such revision of it", file=address.uri, found=found, todo=todo)
    manifest = _manifest(address.folder(commit))
    if manifest is None:
        todo = f"Of others it may be a checkpoint by itself: {address.folder(address.revision or 'main')}."
        raise PublishError("nothing was published to this repository by vla-ops", file=address.uri, found=f"no {MANIFEST_FILE}", todo=todo)
    return Version(address.folder(commit), manifest, address.uri)


def bring(
    uri: str, cache: Path, *, only: Callable[[str], bool] = lambda _: True, say: Callable[[str], None] = lambda _: None
) -> tuple[Version, Path] | None:
    """The version that a URI names and its folder on this machine, as `pull`; None where it names no publication.

    Where the place cannot be read it is what the URI named last, if that is in the cache, else None: `published_at` says what is wrong
    with it, or whoever reads it otherwise. Raise PublishError where that is a Hub, and as `pull`.
    """
    note = cache / _NOTES / f"{_hash(uri, *map(os.environ.get, _ENDPOINTS))}.json"
    try:
        version = published_at(uri)
    except (FetchError, PublishError) as error:
        kept = _kept(note, cache, only, say) if isinstance(error, FetchError) or is_away(error) else None
        if kept is not None:
            say(f"{str(error).rstrip('.')}. Taken is {kept[0].name}, which was fetched before.")
        elif isinstance(error, PublishError):
            raise
        return kept
    if version is None:
        return None
    folder = pull(version, cache, only=only, say=say)
    if folder.is_relative_to(cache):
        told = {"uri": without_secrets(version.uri), "publication": version.publication, "folder": str(folder.relative_to(cache))}
        write_json(note, told)
    return version, folder


def require_no_publication(files: Iterable[RemoteFile], uri: str) -> None:
    """Raise PublishError for a listing that has what only a publication has: read as a plain folder it would be all of its versions."""
    if marks := sorted({POINTER_FILE, MANIFEST_FILE} & {file.name for file in files}):
        todo = "Run the same again, and see that these credentials may read it: what names its version could not be read."
        raise PublishError("this is a publication, and cannot be read as one", file=without_secrets(uri), found=", ".join(marks), todo=todo)


def _kept(note: Path, cache: Path, only: Callable[[str], bool], say: Callable[[str], None]) -> tuple[Version, Path] | None:
    """What was fetched when the note was written, compared with its manifest again."""
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
        folder = cache / told["folder"]
        if not folder.is_dir():
            return None
        hold_until_exit(folder.parent)
        manifest = Manifest.from_json((folder / MANIFEST_FILE).read_bytes(), file=str(folder / MANIFEST_FILE))
        require_same(_those(manifest, only), folder)
        return Version(told["uri"], manifest, told["publication"]), folder
    except (OSError, ValueError, KeyError, TypeError):
        return None
    except PublishError as error:
        say(f"The copy on this machine is damaged, and left alone: {error}")
        return None


def _those(manifest: Manifest, only: Callable[[str], bool]) -> dict[str, Entry]:
    return {name: entry for name, entry in manifest.files.items() if only(name)}


def pull(
    version: Version, cache: Path, *, only: Callable[[str], bool] = lambda _: True, say: Callable[[str], None] = lambda _: None
) -> Path:
    """The folder of a version on this machine, every file compared with the manifest: where it is if that is here, else in `cache`.

    Files of which `only` says no are left there; a cache is of one `only`. Several processes may ask for the same at once. Raise
    PublishError, naming the file, where it is not what was published; FetchError and StoreError where it cannot be fetched or kept.
    """
    manifest, files = version.manifest, _those(version.manifest, only)
    if (local := local_path(version.uri)) is not None:
        # Of a cache, perhaps: `vla-ops pull` prints such a folder.
        hold_around(local.absolute())
        require_same(files, local)
        return local
    # Without the commit, of which several may hold one version.
    name = without_secrets(version.uri).partition("://")[2].partition("@")[0]
    target = cache / hashlib.sha256(name.encode()).hexdigest()[:12] / manifest.version
    with only_one(target.parent, lambda who: say(f"waiting for {who}, which is fetching {manifest.name}")):
        hold_until_exit(target)
        if (target / CONTENT).is_dir():
            try:
                require_same(files, target / CONTENT)
                return target / CONTENT
            except PublishError as error:
                say(f"{error} It is fetched again.")
                discard(target / CONTENT)
        fetched = _fetched(version, files, target / CONTENT, say)
    trim_models(cache, say)
    return fetched


def _fetched(version: Version, files: Mapping[str, Entry], target: Path, say: Callable[[str], None]) -> Path:
    manifest, part = version.manifest, target.with_name(f"{target.name}.part")
    there = {file.name: file for file in list_files(f"{version.uri}/")}
    if missing := sorted(files.keys() - there.keys()):
        todo = "Publish it again, or take another version."
        raise PublishError("a file of the version is not there", file=without_secrets(version.uri), found=missing[0], todo=todo)
    total = sum(entry.bytes for entry in files.values())
    _require_space(target, total)
    say(f"fetching {manifest.name} {manifest.version}: {len(files)} files, {total / 1e6:.1f} MB")
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pull") as pool:
        # The list makes errors of the threads errors of this one.
        list(pool.map(lambda name: _fetch(there[name], files[name], part / name), files))
    part.mkdir(exist_ok=True)
    (part / MANIFEST_FILE).write_bytes(manifest.to_json())
    part.rename(target)
    return target


def _fetch(file: RemoteFile, entry: Entry, target: Path) -> None:
    if target.is_file() and _differs(entry, target) is None:
        return
    fetch_file(file, target)
    if (why := _differs(entry, target)) is not None:
        target.unlink()
        raise _not_as_published(file.name, why, file.url)


def require_same(files: Mapping[str, Entry], folder: Path) -> None:
    """Raise PublishError, naming the file, where a folder does not hold these files as they were published."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="verify") as pool:
        for name, why in zip(files, pool.map(lambda name: _differs(files[name], folder / name), files), strict=True):
            if why is not None:
                raise _not_as_published(name, why, str(folder / name))


def _differs(entry: Entry, file: Path) -> str | None:
    if not file.is_file():
        return "is missing"
    if (size := file.stat().st_size) != entry.bytes:
        return f"{size} bytes instead of {entry.bytes}"
    with open(file, "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    return None if found == entry.sha256 else f"sha256 {found} instead of {entry.sha256}"


def _not_as_published(name: str, why: str, url: str) -> PublishError:
    todo = "It was damaged or changed there: take another version, or remove this one and publish it again."
    return PublishError("a file is not what was published", file=without_secrets(url), published_as=name, found=why, todo=todo)


def _manifest(folder: str) -> Manifest | None:
    text = _json_at(f"{folder}/{MANIFEST_FILE}")
    return None if text is None else Manifest.from_json(text.encode(), file=without_secrets(f"{folder}/{MANIFEST_FILE}"))


def _json_at(url: str) -> str | None:
    """The text at a URL. None where there is none, and where a web server answers with a page to whatever it is asked for."""
    text = read_text(url)
    return None if text is not None and url.startswith("http") and not text.lstrip().startswith("{") else text


def _hash(*of: str | None) -> str:
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()[:32]


def _pointed_at(pointer: str, file: str) -> str:
    try:
        return str(json.loads(pointer)["version"])
    except (ValueError, KeyError, TypeError) as error:
        todo = "Publish again, or name a version: URI@VERSION."
        raise PublishError("the pointer cannot be read", file=without_secrets(file), found=repr(error), todo=todo) from error


def _require_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        found, expected = f"{free / 1e9:.2f} GB free", f"{needed / 1e9:.2f} GB"
        todo = "Free space there or set VLA_OPS_HOME to another disk."
        raise StoreError("the disk will not hold what is published", file=target.parent, found=found, expected=expected, todo=todo)
