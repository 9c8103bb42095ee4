"""Files at a URL, with what their store says of their content; public buckets without credentials."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from vla_ops.errors import FetchError
from vla_ops.recordings.remote.errors import without_secrets

# Google: a bucket that anyone may read is asked as anyone first; looking for credentials takes a while where there are none.
_ATTEMPTS: dict[str, tuple[dict[str, Any], ...]] = {
    "gs": ({"token": "anon"}, {}),
    "gcs": ({"token": "anon"}, {}),
    "s3": ({}, {"anon": True}),
    "s3a": ({}, {"anon": True}),
}
# Buckets that anyone may read: what is not there for anyone is not there.
_PUBLIC = ("gs://big_vision/", "gs://openpi-assets/")
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_CHANGES = ("md5Hash", "crc32c", "blob_id", "ETag", "etag", "generation", "checksum", "Content-MD5", "Digest", "sha256")
_TIMES = ("LastModified", "updated", "last_modified", "mtime", "created")
# An ETag of S3 is the MD5 of the content unless it was uploaded in parts or encrypted with a key of the user's.
_MD5 = re.compile(r"[0-9a-f]{32}")
_TODO = "Check the address, the network and the credentials (HF_TOKEN for hf://), or fetch it by hand and give the path."


@dataclass(frozen=True)
class RemoteFile:
    """A file below a URL. `stamp` changes with the content; the hashes are None where the store has none."""

    name: str
    fs: Any
    path: str
    size: int
    stamp: str
    # Hexadecimal.
    md5: str | None = None
    # Base64, as Google says it.
    crc32c: str | None = None

    @property
    def url(self) -> str:
        """The file's address, for messages."""
        return self.fs.unstrip_protocol(self.path)

    def below(self, prefix: str) -> RemoteFile:
        """The same file with its name relative to a folder."""
        return replace(self, name=self.name.removeprefix(prefix))


def local_path(uri: str) -> Path | None:
    """The path of a URI that is local."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri).expanduser()


def list_files(uri: str) -> list[RemoteFile]:
    """All files below a URL, or the one that it names. Raise FetchError where it cannot be read or there is nothing."""
    is_folder = uri.endswith("/")
    return _asked(uri, lambda fs, path: _listed(fs, path.rstrip("/"), is_folder=is_folder), "the checkpoint cannot be listed")


def file_at(uri: str) -> RemoteFile:
    """The file at a URL. Raise FetchError where it cannot be read or there is none."""
    return _asked(uri, lambda fs, path: _file(fs, path, PurePosixPath(path).name, fs.info(path)), "cannot be downloaded")


def read_text(uri: str) -> str | None:
    """The text of a small file, None where there is none. Raise FetchError where that cannot be found out."""
    if (local := local_path(uri)) is not None:
        return local.read_text(encoding="utf-8") if local.is_file() else None
    try:
        return _asked(uri, lambda fs, path: fs.cat_file(path), "cannot be read").decode("utf-8")
    except UnicodeDecodeError as error:
        raise FetchError("this is no text", file=without_secrets(uri), found=str(error)) from error
    except FetchError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def folders_in(uri: str) -> list[str]:
    """Names of the folders in a folder, as a hint: none where they cannot be listed."""
    try:
        return list_folders(uri)
    except FetchError:
        return []


def list_folders(uri: str) -> list[str]:
    """Names of the folders in a folder, none where there is no such folder. Raise FetchError where that cannot be found out."""
    if (local := local_path(uri)) is not None:
        return sorted(path.name for path in local.iterdir() if path.is_dir()) if local.is_dir() else []
    try:
        listed = _asked(uri, lambda fs, path: fs.ls(path, detail=True), "cannot be listed")
    except FetchError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in listed if entry["type"] == "directory")


def _asked[T](uri: str, ask: Callable[[Any, str], T], what: str) -> T:
    """What a store answers as somebody who may read it. Raise FetchError caused by FileNotFoundError where anyone was told so."""
    protocol = uri.partition("://")[0]
    attempts = ({"token": "anon"},) if uri.startswith(_PUBLIC) else _ATTEMPTS.get(protocol, ({},))
    failed: list[Exception] = []
    for options in attempts:
        try:
            answer = ask(*_filesystem(uri, options))
            if answer != []:
                return answer
            failed.append(FileNotFoundError("nothing below it"))
        except FetchError:
            raise
        # Each store has errors of its own, and not all of them are OSErrors.
        except Exception as error:
            failed.append(error)
    cause = next((error for error in failed if isinstance(error, FileNotFoundError)), failed[-1])
    found = "; ".join(dict.fromkeys(" ".join(f"{type(error).__name__}: {error}".split())[:300] for error in failed))
    raise FetchError(what, file=without_secrets(uri), found=without_secrets(found), todo=_TODO) from cause


def _filesystem(uri: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(uri, **options)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(uri.partition("://")[0])
        todo = f"Install it: pip install 'vla-ops[{extra}]'." if extra else "Give a path, or an https://, hf://, gs:// or s3:// URL."
        raise FetchError("this kind of URL cannot be read here", file=uri, found=str(error), todo=todo) from error
    fs.invalidate_cache()
    return fs, path


def _listed(fs: Any, root: str, *, is_folder: bool) -> list[RemoteFile]:
    if not is_folder and fs.isfile(root):
        return [_file(fs, root, PurePosixPath(root).name, fs.info(root))]
    found = fs.find(f"{root}/" if root.startswith("http") else root, detail=True)
    return [_file(fs, path, path.removeprefix(root).strip("/"), info) for path, info in sorted(found.items()) if "?" not in path]


def _file(fs: Any, path: str, name: str, info: Mapping[str, Any]) -> RemoteFile:
    if info.get("size") is None:
        info = {**info, **fs.info(path)}
    if info.get("size") is None or ".." in PurePosixPath(name).parts or name.startswith("/") or not name:
        raise FetchError("the store lists a file of no size, or outside of the folder", file=path, found=info.get("size"))
    stamp = next((str(info[key]) for key in (*_CHANGES, *_TIMES) if info.get(key)), "")
    return RemoteFile(name, fs, path, int(info["size"]), stamp, _md5(fs, info), info.get("crc32c"))


def _md5(fs: Any, info: Mapping[str, Any]) -> str | None:
    import base64

    if info.get("md5Hash"):
        return base64.b64decode(info["md5Hash"]).hex()
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    etag = str(info.get("ETag", "")).strip('"')
    plain = info.get("ServerSideEncryption") in (None, "AES256")
    return etag if protocols & {"s3", "s3a"} and plain and _MD5.fullmatch(etag) else None
