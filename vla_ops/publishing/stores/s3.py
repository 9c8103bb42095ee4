"""Publications in a bucket: of AWS, or of any store that speaks S3 (Ceph, MinIO, SeaweedFS, ...).

Contents are compared by their ETags, which S3 makes of the MD5s of a file's parts. Where an ETag says something else (objects encrypted
by KMS, or copied or joined by a store with rules of its own) the object is read back.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from itertools import batched
from typing import Any

from vla_ops.errors import PublishError
from vla_ops.fetching.remote import RemoteFile, file_at
from vla_ops.publishing.hashing import HashedFile
from vla_ops.publishing.stores.base import OneByOne, Pointer, Stored
from vla_ops.publishing.stores.s3_client import PATIENT, QUICK, S3Options, client_of, session_of
from vla_ops.publishing.stores.s3_errors import code_of, said
from vla_ops.publishing.stores.s3_parts import Upload, abort_unfinished, content_md5
from vla_ops.publishing.stores.s3_small import SmallPuts

_URI = re.compile(r"s3://(?P<bucket>[^/@?#\s]+)(?:/(?P<prefix>[^?#]*))?")
_AS_IT_IS = S3Options()
_PROBE = ".vla-ops-probe"
_MISSING = {"NoSuchKey", "NotFound", "404"}
# The pointer is another one by now, or just becomes one.
_NOT_AS_SEEN = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412"}
# An upload that another call has ended, parts that a server has lost, bytes that the way has changed.
_BEGIN_ANEW = {"NoSuchUpload", "InvalidPart", "BadDigest", "XAmzContentSHA256Mismatch"}
_TRIES = 4
# As many as one request may name.
_REMOVED_AT_ONCE = 1000


class S3Store(OneByOne):
    """`s3://BUCKET/PREFIX`. Raise PublishError for a URI that is none, without boto3, and for options that cannot be used.

    `point` relies on conditional writes (If-Match, If-None-Match). Of a store that does not know them, and there are some that say
    nothing of it (as `rclone serve s3`), two who replace a pointer in the same moment may both be told that they did.
    """

    def __init__(self, uri: str, *, options: S3Options = _AS_IT_IS) -> None:
        match = _URI.fullmatch(uri)
        if match is None:
            raise PublishError("this is no place in S3", expected="s3://BUCKET/PREFIX, without a password or a query")
        self._bucket, self._prefix = match["bucket"], (match["prefix"] or "").strip("/")
        self._options, self._session = options, session_of(options, self.uri)
        with self._saying():
            self._client = client_of(self._session, options, tries=PATIENT)
            self._small = SmallPuts(self._session, self._client, self._bucket, options)
        # Of all files together: more at once than the store is best used with make nothing faster.
        self._pool = ThreadPoolExecutor(options.at_once, thread_name_prefix="s3")

    @property
    def uri(self) -> str:
        """`s3://BUCKET/PREFIX`."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def at_once(self) -> int:
        """See S3Options."""
        return self._options.at_once

    def check(self) -> None:
        """See Store.check: list, write and remove a small object."""
        from botocore.exceptions import ClientError

        with self._saying():
            client = client_of(self._session, self._options, tries=QUICK)
            client.list_objects_v2(Bucket=self._bucket, Prefix=self._key(""), MaxKeys=1)
            self._write(_PROBE, b"", by=client)
            with suppress(ClientError):  # Who may not remove may publish; it is empty, and always the same.
                client.delete_object(**self._at(_PROBE))

    def listed(self, folder: str) -> Mapping[str, int]:
        """See Store.listed."""
        return {name: entry["Size"] for name, entry in self._entries(folder).items()}

    def put(self, name: str, file: HashedFile, *, like: str | None, sent: Callable[[int], None], asked: bool = False) -> None:
        """See Store.put. `sent` hears of a part when it is there."""
        from botocore.exceptions import ClientError

        source = self._key(like) if like is not None and self.differs(like, file) is None else None
        upload = Upload(self._client, self._pool, self._bucket, self._key(name), self._options.given, file, source, sent, self._small)
        with self._saying(name):
            # To ask for a small file takes as long as to send it.
            is_known = asked and len(file.md5s) == 1
            for left in reversed(range(_TRIES)):
                if not is_known and self.differs(name, file) is None:
                    return
                is_known = False
                file.require_unchanged()
                try:
                    upload.run()
                    return
                except ClientError as error:
                    if not left or code_of(error) not in _BEGIN_ANEW:
                        raise

    def differs(self, name: str, file: HashedFile) -> str | None:
        """See Store.differs."""
        with self._saying(name):
            head = self._head(name)
            if head is None:
                return "is missing"
            if head["ContentLength"] != file.size:
                return f"has {head['ContentLength']} bytes instead of {file.size}"
            if head["ETag"].strip('"') == file.etag:
                return None
            return None if self._sha256(name, file) == file.sha256 else "has other bytes"

    def differing(self, folder: str, files: Mapping[str, HashedFile]) -> Mapping[str, str]:
        """See Store.differing. A listing has the ETags of a thousand files; asked of one by one are those of which that is not enough."""
        there = self._entries(folder)
        found = {name: "is missing" for name in files if name not in there}
        unsettled = [name for name, file in files.items() if name in there and not _is(there[name], file)]
        answers = self._pool.map(lambda name: self.differs(f"{folder}/{name}", files[name]), unsettled)
        return found | {name: why for name, why in zip(unsettled, answers, strict=True) if why is not None}

    def read(self, name: str) -> bytes | None:
        """See Store.read."""
        pointer = self.pointer(name)
        return None if pointer is None else pointer.content

    def remote_file(self, name: str) -> RemoteFile:
        """See Store.remote_file."""
        return file_at(f"{self.uri}/{name}")

    def pointer(self, name: str) -> Pointer | None:
        """See Store.pointer. The mark is the ETag."""
        from botocore.exceptions import ClientError

        with self._saying(name):
            try:
                return _trying(lambda: self._got(name))
            except ClientError as error:
                if code_of(error) not in _MISSING:
                    raise
                return None

    def point(self, name: str, content: bytes, *, seen: Pointer | None) -> bool:
        """See Store.point."""
        if self.pointer(name) != seen:  # All that holds where a store takes conditions and ignores them.
            return False
        if seen is None:
            return self._written_only(name, content, IfNoneMatch="*")
        # Ceph compares without the quotes that belong to an ETag: what was not written with them may be written without.
        marks = dict.fromkeys((seen.mark, seen.mark.strip('"')))
        return any(self.pointer(name) == seen and self._written_only(name, content, IfMatch=mark) for mark in marks)

    def folders(self) -> list[str]:
        """See Store.folders."""
        root = self._key("")
        with self._saying():
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root, Delimiter="/")
            return [entry["Prefix"].removeprefix(root).rstrip("/") for page in pages for entry in page.get("CommonPrefixes", [])]

    def stored(self, folder: str) -> Mapping[str, Stored]:
        """See Store.stored."""
        return {name: Stored(entry["Size"], entry["LastModified"]) for name, entry in self._entries(folder).items()}

    def remove(self, names: Iterable[str]) -> None:
        """See Store.remove. With versions of objects switched on in a bucket, they stay there as earlier ones."""
        for batch in batched(names, _REMOVED_AT_ONCE):
            self._remove(batch)

    def clear_unfinished(self, before: datetime) -> int:
        """See Store.clear_unfinished: uploads in parts. 0 where the store does not tell which there are."""
        with self._saying():
            return abort_unfinished(self._client, self._bucket, self._key(""), before)

    def _remove(self, names: tuple[str, ...]) -> None:
        from botocore.exceptions import ClientError

        objects = [{"Key": self._key(name)} for name in names]
        with self._saying():
            try:
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
            # A store that has no such request, or wants it with another sum than this boto3 sends.
            except ClientError:
                list(self._pool.map(self._remove_one, names))
                return
        if refused := [error for error in answer.get("Errors", []) if error.get("Code") not in _MISSING]:
            found, first = f"{len(refused)} of {len(names)}", refused[0]
            why, todo = f"{first.get('Code')}: {first.get('Message')}", "Ask the owner of the bucket for s3:DeleteObject."
            raise PublishError("the store does not remove", file=f"s3://{self._bucket}/{first['Key']}", found=f"{found}, {why}", todo=todo)

    def _remove_one(self, name: str) -> None:
        from botocore.exceptions import ClientError

        with self._saying(name):
            try:
                self._client.delete_object(**self._at(name))
            except ClientError as error:
                if code_of(error) not in _MISSING:
                    raise

    def _written_only(self, name: str, content: bytes, **only: str) -> bool:
        """Write under a condition; False where it does not hold. Without one in a store that knows none."""
        from botocore.exceptions import ClientError

        with self._saying(name):
            try:
                self._write(name, content, **only)
                return True
            except ClientError as error:
                if code_of(error) in _NOT_AS_SEEN:
                    # Asked again because the first answer was lost, what it finds may be its own.
                    return error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0 and self.read(name) == content
                if code_of(error) != "NotImplemented":
                    raise
            self._write(name, content)
            return self.read(name) == content

    def _entries(self, folder: str) -> dict[str, Any]:
        """What a listing says of every object below a folder, by name relative to it."""
        root = self._key(f"{folder.strip('/')}/".lstrip("/"))
        with self._saying(folder):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root)
            found = {entry["Key"].removeprefix(root): entry for page in pages for entry in page.get("Contents", [])}
        # What ends with a slash stands for a folder in some programs.
        return {name: entry for name, entry in found.items() if name and not name.endswith("/")}

    def _write(self, name: str, content: bytes, *, by: Any = None, **only: str) -> None:
        md5 = content_md5(hashlib.md5(content, usedforsecurity=False).hexdigest())
        (by or self._client).put_object(**self._at(name), **self._options.given, **only, Body=content, ContentMD5=md5)

    def _got(self, name: str) -> Pointer:
        answer = self._client.get_object(**self._at(name))
        return Pointer(answer["Body"].read(), answer["ETag"])

    def _head(self, name: str) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(**self._at(name))
        except ClientError as error:
            if code_of(error) not in _MISSING:
                raise
            return None

    def _sha256(self, name: str, file: HashedFile) -> str:
        """Of an object as large as the file, read part by part, so that little is read again where a connection breaks."""
        digest = hashlib.sha256()
        for start in range(0, file.size, file.part_size):
            digest.update(_trying(lambda start=start: self._span(name, start, min(start + file.part_size, file.size))))
        return digest.hexdigest()

    def _span(self, name: str, start: int, stop: int) -> bytes:
        return self._client.get_object(**self._at(name), Range=f"bytes={start}-{stop - 1}")["Body"].read()

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _saying(self, name: str = "") -> AbstractContextManager[None]:
        return said(f"{self.uri}/{name}".rstrip("/"), self._session)


def _is(entry: Any, file: HashedFile) -> bool:
    """Whether what a listing says of an object is enough to know that it is the file."""
    return entry["Size"] == file.size and entry.get("ETag", "").strip('"') == file.etag


def _trying[T](read: Callable[[], T]) -> T:
    """Read a body, and again where the connection breaks in it: boto3 tries again only until it has the headers."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    for number in range(_TRIES):
        try:
            return read()
        except (HTTPClientError, IncompleteReadError):
            time.sleep(random.uniform(0.5, 1) * 2**number)  # noqa: S311 - no secret
    return read()
