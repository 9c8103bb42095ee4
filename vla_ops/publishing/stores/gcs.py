"""Publications in a bucket of Google Cloud Storage.

Contents are compared by their CRC32C, which Google computes of what it has, and small files by their MD5 as well. A file of several parts
goes there as an object a part, below `.parts/`, and is composed of them: what a killed call left of them is not sent again.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from vla_ops.errors import PublishError
from vla_ops.fetching.remote import RemoteFile, file_at
from vla_ops.publishing.hashing import HashedFile, changed
from vla_ops.publishing.stores.base import OneByOne, Pointer, Stored

_URI = re.compile(r"gs://(?P<bucket>[^/@?#\s]+)(?:/(?P<prefix>[^?#]*))?")
_PARTS, _PROBE = ".parts", ".vla-ops-probe"
# Objects that one request may compose.
_AT_MOST = 32
_TRIES = 3
_TODO = "Check the bucket's name, and the credentials: GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`."


class GcsStore(OneByOne):
    """`gs://BUCKET/PREFIX`. Credentials are Google's default ones. Raise PublishError for a URI that is none, and without the library."""

    def __init__(self, uri: str, *, at_once: int = 8) -> None:
        match = _URI.fullmatch(uri)
        if match is None:
            raise PublishError("this is no place in Google Cloud Storage", expected="gs://BUCKET/PREFIX, without a password or a query")
        self._name, self._prefix, self.at_once = match["bucket"], (match["prefix"] or "").strip("/"), at_once
        self._client, self._again = _client_of(self.uri)
        self._bucket = self._client.bucket(self._name)
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="gcs")
        self._crc32cs: dict[str, str] = {}

    @property
    def uri(self) -> str:
        """`gs://BUCKET/PREFIX`."""
        return f"gs://{self._name}/{self._prefix}".rstrip("/")

    def check(self) -> None:
        """See Store.check: list, write and remove a small object."""
        with self._saying():
            next(iter(self._client.list_blobs(self._name, prefix=self._key(""), max_results=1)), None)
            self._bucket.blob(self._key(_PROBE)).upload_from_string(b"", retry=self._again)
            self._remove([_PROBE])

    def listed(self, folder: str) -> Mapping[str, int]:
        """See Store.listed."""
        return {name: blob.size for name, blob in self._entries(folder).items()}

    def put(self, name: str, file: HashedFile, *, like: str | None, sent: Callable[[int], None], asked: bool = False) -> None:
        """See Store.put."""
        from google.api_core.exceptions import NotFound

        with self._saying(name):
            if not asked and self.differs(name, file) is None:
                return
            if like is not None and self.differs(like, file) is None:
                self._copy(like, name)
                return
            file.require_unchanged()
            if len(file.md5s) == 1:
                self._send(name, file, 0, sent)
                return
            for left in reversed(range(_TRIES)):
                try:
                    self._compose(name, file, sent)
                    return
                # Another call that sent the same at once has composed it, and removed the parts.
                except NotFound:
                    if self.differs(name, file) is None:
                        return
                    if not left:
                        raise

    def differs(self, name: str, file: HashedFile) -> str | None:
        """See Store.differs."""
        with self._saying(name):
            return self._compared(self._bucket.get_blob(self._key(name)), file)

    def differing(self, folder: str, files: Mapping[str, HashedFile]) -> Mapping[str, str]:
        """See Store.differing: a listing has the sums of a thousand objects."""
        there = self._entries(folder)
        found = self._pool.map(lambda name: self._compared(there.get(name), files[name]), files)
        return {name: why for name, why in zip(files, found, strict=True) if why is not None}

    def read(self, name: str) -> bytes | None:
        """See Store.read."""
        pointer = self.pointer(name)
        return None if pointer is None else pointer.content

    def remote_file(self, name: str) -> RemoteFile:
        """See Store.remote_file."""
        return file_at(f"{self.uri}/{name}")

    def pointer(self, name: str) -> Pointer | None:
        """See Store.pointer. The mark is the object's generation."""
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with self._saying(name):
            while (blob := self._bucket.get_blob(self._key(name))) is not None:
                # What a download says of it takes the place of what is known.
                mark = blob.generation
                try:
                    content = blob.download_as_bytes(if_generation_match=mark)
                except (NotFound, PreconditionFailed):
                    continue  # It became another one in between.
                return Pointer(content, str(mark))
        return None

    def point(self, name: str, content: bytes, *, seen: Pointer | None) -> bool:
        """See Store.point."""
        from google.api_core.exceptions import PreconditionFailed

        if self.pointer(name) != seen:
            return False
        with self._saying(name):
            try:
                blob = self._bucket.blob(self._key(name))
                blob.upload_from_string(content, if_generation_match=0 if seen is None else int(seen.mark))
            except PreconditionFailed:
                # Asked again because the first answer was lost, what it finds may be its own.
                return self.read(name) == content
        return True

    def folders(self) -> list[str]:
        """See Store.folders."""
        root = self._key("")
        with self._saying():
            listing = self._client.list_blobs(self._name, prefix=root, delimiter="/")
            # It knows of folders only when it has been read.
            list(listing)
        return sorted(prefix.removeprefix(root).rstrip("/") for prefix in listing.prefixes)

    def stored(self, folder: str) -> Mapping[str, Stored]:
        """See Store.stored."""
        return {name: Stored(blob.size, blob.updated) for name, blob in self._entries(folder).items()}

    def remove(self, names: Iterable[str]) -> None:
        """See Store.remove."""
        list(self._pool.map(self._remove_one, names))

    def clear_unfinished(self, before: datetime) -> int:
        """See Store.clear_unfinished: parts that were not composed."""
        left = [f"{_PARTS}/{name}" for name, blob in self._entries(_PARTS).items() if blob.updated < before]
        self.remove(left)
        return len(left)

    def _remove_one(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        with self._saying(name), suppress(NotFound):
            self._bucket.blob(self._key(name)).delete(retry=self._again)

    def _compared(self, blob: Any, file: HashedFile) -> str | None:
        if blob is None:
            return "is missing"
        if blob.size != file.size:
            return f"has {blob.size} bytes instead of {file.size}"
        if len(file.md5s) == 1 and blob.md5_hash:
            return None if base64.b64decode(blob.md5_hash).hex() == file.md5s[0] else "has other bytes"
        return None if blob.crc32c == self._crc32c(file) else "has other bytes"

    def _crc32c(self, file: HashedFile) -> str:
        """Of the file as it was when it was hashed. Raise PublishError if it is not that any more."""
        if file.sha256 not in self._crc32cs:
            import google_crc32c

            with open(file.path, "rb") as handle:
                digest = google_crc32c.Checksum()
                while block := handle.read(1 << 20):
                    digest.update(block)
            file.require_unchanged()
            self._crc32cs[file.sha256] = base64.b64encode(digest.digest()).decode()
        return self._crc32cs[file.sha256]

    def _send(self, name: str, file: HashedFile, number: int, sent: Callable[[int], None]) -> None:
        """Send a part as an object. Google compares its MD5, and what it has is compared with what was hashed."""
        with open(file.path, "rb") as handle:
            handle.seek(number * file.part_size)
            content = handle.read(file.part_size)
        blob = self._bucket.blob(self._key(name))
        blob.upload_from_string(content, content_type="application/octet-stream", checksum="md5", retry=self._again)
        if (found := base64.b64decode(blob.md5_hash).hex()) != file.md5s[number]:
            blob.delete()
            raise changed(file.path, f"MD5 {found} of part {number}", f"MD5 {file.md5s[number]}")
        sent(len(content))

    def _compose(self, name: str, file: HashedFile, sent: Callable[[int], None]) -> None:
        folder = f"{_PARTS}/{file.sha256}"
        there = {part: blob.md5_hash for part, blob in self._entries(folder).items()}
        names = [f"{number:05d}" for number in range(len(file.md5s))]
        missing = [k for k, part in enumerate(names) if base64.b64decode(there.get(part) or "").hex() != file.md5s[k]]
        list(self._pool.map(lambda k: self._send(f"{folder}/{names[k]}", file, k, sent), missing))
        level, made = [f"{folder}/{part}" for part in names], [f"{folder}/{part}" for part in names]
        while len(level) > _AT_MOST:
            bunches = [level[start : start + _AT_MOST] for start in range(0, len(level), _AT_MOST)]
            level = [f"{bunch[0]}+{len(made)}" for bunch in bunches]
            for bunch, into in zip(bunches, level, strict=True):
                self._join(bunch, into)
            made += level
        self._join(level, name)
        self._remove(made)

    def _join(self, parts: list[str], into: str) -> None:
        blob = self._bucket.blob(self._key(into))
        blob.content_type = "application/octet-stream"
        blob.compose([self._bucket.blob(self._key(part)) for part in parts], retry=self._again)

    def _copy(self, source: str, target: str) -> None:
        blob, token = self._bucket.blob(self._key(source)), None
        while True:
            token, _, _ = self._bucket.blob(self._key(target)).rewrite(blob, token=token, retry=self._again)
            if token is None:
                return

    def _remove(self, names: list[str]) -> None:
        from google.api_core.exceptions import Forbidden, NotFound

        for name in names:
            try:
                self._bucket.blob(self._key(name)).delete(retry=self._again)
            # Who may not remove may publish; what two sent at once is removed by one of them.
            except (Forbidden, NotFound):
                continue

    def _entries(self, folder: str) -> dict[str, Any]:
        """Every object below a folder, by name relative to it."""
        root = self._key(f"{folder.strip('/')}/".lstrip("/"))
        with self._saying(folder):
            found = {blob.name.removeprefix(root): blob for blob in self._client.list_blobs(self._name, prefix=root)}
        return {name: blob for name, blob in found.items() if name and not name.endswith("/") and not name.startswith(f"{_PARTS}/")}

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextmanager
    def _saying(self, name: str = "") -> Iterator[None]:
        """Errors of Google's library as PublishError, naming the place."""
        from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, Unauthorized
        from google.auth.exceptions import GoogleAuthError

        place = f"{self.uri}/{name}".rstrip("/")
        try:
            yield
        except (NotFound, Forbidden, Unauthorized) as error:
            raise PublishError(
                "the bucket is not there, or not for these credentials", file=place, found=_said(error), todo=_TODO
            ) from error
        except GoogleAuthError as error:
            raise PublishError("there are no credentials for it", file=place, found=_said(error), todo=_TODO) from error
        except (GoogleAPIError, OSError) as error:
            if isinstance(error, OSError) and error.filename is not None:
                raise
            todo = "Check the network and run the same again: what is there is kept."
            raise PublishError("it cannot be reached, or refuses", file=place, found=_said(error), todo=todo) from error


def _client_of(place: str) -> tuple[Any, Any]:
    """A client, and how it asks again where that does no harm: what is written twice is the same."""
    try:
        from google.auth.exceptions import GoogleAuthError
        from google.cloud import storage
        from google.cloud.storage.retry import DEFAULT_RETRY
    except ImportError as error:
        todo = "Install it: uv sync --extra gcs (pip install 'vla-ops[gcs]')."
        raise PublishError("gs:// needs google-cloud-storage, which is not installed", file=place, todo=todo) from error
    try:
        # An emulator takes anybody.
        is_emulated = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
        return (storage.Client.create_anonymous_client() if is_emulated else storage.Client()), DEFAULT_RETRY
    except (GoogleAuthError, OSError) as error:
        raise PublishError("there are no credentials for it", file=place, found=_said(error), todo=_TODO) from error


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
