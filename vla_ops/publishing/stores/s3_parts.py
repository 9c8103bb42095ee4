"""A file on its way to S3: whole, or in parts of which those stay that a killed upload has left there.

Every part goes with its hash, with which the store compares it, and the parts are joined by the store only when all are there and what
it calls them is known. So an object is what was hashed, or it is not there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, wait
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vla_ops.publishing.hashing import HashedFile, changed
from vla_ops.publishing.stores.s3_errors import code_of
from vla_ops.publishing.stores.s3_small import SmallPuts

# Going on is only cheaper than beginning anew: a store that has no such request, or does not allow it, is no reason to stop.
_NO_SUCH_REQUEST = {"AccessDenied", "NotImplemented", "MethodNotAllowed", "NoSuchUpload"}


def part_of(file: HashedFile, number: int) -> bytes:
    """Part `number` (from 0) of the file, of which only the length is known to be what was hashed. Raise PublishError if it is not."""
    try:
        with open(file.path, "rb") as handle:
            handle.seek(number * file.part_size)
            content = handle.read(file.part_size)
    except OSError as error:
        raise changed(file.path, error.strerror, "a file that can be read") from error
    if len(content) != (expected := min(file.part_size, file.size - number * file.part_size)):
        raise changed(file.path, f"{len(content)} bytes in part {number + 1}", f"{expected} bytes")
    return content


def require_part(file: HashedFile, number: int, content: bytes) -> None:
    """Raise PublishError if a part is not what was hashed."""
    if (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != file.md5s[number]:
        raise changed(file.path, f"MD5 {found} in part {number + 1}", file.md5s[number])


def content_md5(md5: str) -> str:
    """As the header Content-MD5 has it: a store refuses a body that is not of it."""
    return base64.b64encode(bytes.fromhex(md5)).decode()


def abort_unfinished(client: Any, bucket: str, prefix: str, before: datetime) -> int:
    """Abort uploads below a prefix that were begun before a time; return how many. 0 where the store has no such request."""
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    listed = _allowed(lambda: [entry for page in pages for entry in page.get("Uploads", [])]) or []
    old = [{"Key": entry["Key"], "UploadId": entry["UploadId"]} for entry in listed if entry["Initiated"] < before]
    # One may have ended meanwhile.
    return sum(_allowed(lambda each=each: client.abort_multipart_upload(Bucket=bucket, **each)) is not None for each in old)


def _allowed[T](ask: Callable[[], T]) -> T | None:
    """What a store answers; None where it has no such request, or nothing that it is about, or does not allow it."""
    from botocore.exceptions import ClientError

    try:
        return ask()
    except ClientError as error:
        if code_of(error) not in _NO_SUCH_REQUEST:
            raise
        return None


@dataclass(frozen=True)
class Upload:
    """One file for one key. `given` is what the object gets besides, `like` the key of an object in the bucket with the same content."""

    client: Any
    pool: Executor
    bucket: str
    key: str
    given: Mapping[str, str]
    file: HashedFile
    like: str | None
    sent: Callable[[int], None]
    small: SmallPuts

    def run(self) -> None:
        """Make the object. Raise PublishError for a file that changed; what boto3 raises, it raises."""
        if len(self.file.md5s) > 1:
            self._in_parts()
        elif self.like is None or not self._copy():
            self._whole()

    def _whole(self) -> None:
        content, md5 = part_of(self.file, 0), content_md5(self.file.md5s[0])
        require_part(self.file, 0, content)
        if not self.small.put(self.key, content, md5):
            self.client.put_object(**self._at, **self.given, Body=content, ContentMD5=md5)
        self.sent(len(content))

    def _copy(self) -> bool:
        """Have the store copy; False if it does not."""
        from botocore.exceptions import ClientError

        try:
            self.client.copy_object(**self._at, **self.given, CopySource=self._source)
        except ClientError:
            return False  # Then it is sent, and what is wrong with that is said.
        return True

    def _in_parts(self) -> None:
        upload, there = self._unfinished()
        upload = upload or self.client.create_multipart_upload(**self._at, **self.given)["UploadId"]
        missing = [number for number in range(len(self.file.md5s)) if number not in there]
        etags = there | self._each(missing, lambda number: self._part(upload, number))
        self.file.require_unchanged()
        parts = [{"PartNumber": number + 1, "ETag": etag} for number, etag in sorted(etags.items())]
        self.client.complete_multipart_upload(**self._at, UploadId=upload, MultipartUpload={"Parts": parts})

    def _each(self, numbers: Sequence[int], do: Callable[[int], str]) -> dict[int, str]:
        futures = [self.pool.submit(do, number) for number in numbers]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
        return {number: future.result() for number, future in zip(numbers, futures, strict=True)}

    def _part(self, upload: str, number: int) -> str:
        """Make one part; its ETag."""
        if self.like is not None and (etag := self._copied_part(upload, number)):
            return etag
        content = part_of(self.file, number)
        etag = self._sent(upload, number, content)
        # Most stores say what they got. To hash all of it here once more takes as long as to send it through a quick network.
        if etag.strip('"') != self.file.md5s[number]:
            require_part(self.file, number, content)
        self.sent(len(content))
        return etag

    def _sent(self, upload: str, number: int, content: bytes) -> str:
        from botocore.exceptions import ClientError

        part = {"UploadId": upload, "PartNumber": number + 1, "Body": content, "ContentMD5": content_md5(self.file.md5s[number])}
        try:
            return self.client.upload_part(**self._at, **part)["ETag"]
        except ClientError:
            require_part(self.file, number, content)  # What the store refuses may be what has changed here.
            raise

    def _copied_part(self, upload: str, number: int) -> str | None:
        """Have the store copy a part; None if it does not, or (as rclone's) took the request for another one."""
        from botocore.exceptions import ClientError

        start = number * self.file.part_size
        span = f"bytes={start}-{min(start + self.file.part_size, self.file.size) - 1}"
        part = {"UploadId": upload, "PartNumber": number + 1, "CopySource": self._source, "CopySourceRange": span}
        try:
            return self.client.upload_part_copy(**self._at, **part).get("CopyPartResult", {}).get("ETag")
        except ClientError as error:
            if code_of(error) == "NoSuchUpload":
                raise
            return None

    def _unfinished(self) -> tuple[str | None, dict[int, str]]:
        """The upload of this key that has most of the file's parts, and the ETags of those. Others are of other content: they go."""
        found = {upload: self._parts_of(upload) for upload in self._uploads()}
        best = max(found, key=lambda upload: len(found[upload]), default=None)
        best = best if best is not None and found[best] else None
        for upload in found.keys() - {best}:
            self._asked(lambda upload=upload: [self.client.abort_multipart_upload(**self._at, UploadId=upload)])
        return best, {} if best is None else found[best]

    def _uploads(self) -> list[str]:
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.key)
        listed = self._asked(lambda: [entry for page in pages for entry in page.get("Uploads", [])])
        return [entry["UploadId"] for entry in listed if entry["Key"] == self.key]

    def _parts_of(self, upload: str) -> dict[int, str]:
        """ETags of those parts of an upload that are the file's, by number from 0; none of an upload that has more parts than the file.

        Ceph ends an upload only with all parts that it has (InvalidPart).
        """
        pages = self.client.get_paginator("list_parts").paginate(**self._at, UploadId=upload)
        listed = self._asked(lambda: [part for page in pages for part in page.get("Parts", [])])
        etags = {part["PartNumber"] - 1: part["ETag"] for part in listed}
        if max(etags, default=0) >= len(self.file.md5s):
            return {}
        return {number: etags[number] for number, md5 in enumerate(self.file.md5s) if etags.get(number, "").strip('"') == md5}

    @staticmethod
    def _asked(ask: Callable[[], list[Any]]) -> list[Any]:
        return _allowed(ask) or []

    @property
    def _at(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.key}

    @property
    def _source(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": str(self.like)}
