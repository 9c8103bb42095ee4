"""Small objects, put without most of what boto3 does for each: it takes longer to make such a request than a store does to answer it.

They are signed by botocore and go through its HTTP session. What is not answered by a plain yes is left to boto3, which asks again and
says what is wrong.
"""

from __future__ import annotations

import io
import os
import re
import socket
from typing import Any

from vla_ops.publishing.stores.s3_client import S3Options

# As boto3's parameters are called in the request.
_HEADERS = {
    "ACL": "x-amz-acl",
    "StorageClass": "x-amz-storage-class",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
}
# Access points and directory buckets, which have ways of signing of their own.
_SIGNED_OTHERWISE = re.compile(r"arn:.*|.*--x-s3")
_NAME = "x"
# To connect, and to read.
_TIMEOUT_S = (30, 120)
# Without it a request waits 40 ms for the answer to its headers.
_NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


class SmallPuts:
    """Puts into one bucket. `session` and `client` are boto3's; the options' pace is not kept. May be called from threads."""

    def __init__(self, session: Any, client: Any, bucket: str, options: S3Options) -> None:
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        self._credentials, self._region = session.get_credentials(), client.meta.region_name
        is_signed = self._credentials is not None and client.meta.config.signature_version in {"s3", "s3v4"}
        is_plain = _SIGNED_OTHERWISE.fullmatch(bucket) is None and options.max_bandwidth_mb_s is None
        # After the first answer that is no plain yes all is left to boto3, which knows how to wait and whom else to ask.
        self._is_on = is_signed and is_plain
        if self._is_on:
            self._root = _url_of(client, bucket).removesuffix(_NAME)
            self._given = {_HEADERS[name]: value for name, value in options.given.items()}
            # What a profile says of certificates is boto3's to know.
            verify: Any = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
            proxies, at_once = get_environ_proxies(self._root), options.at_once
            self._http = URLLib3Session(
                verify=verify, proxies=proxies, timeout=_TIMEOUT_S, max_pool_connections=2 * at_once, socket_options=_NO_DELAY
            )

    def put(self, key: str, content: bytes, md5: str) -> bool:
        """Make the object, whose Content-MD5 is `md5`. False where that is to be done by boto3."""
        from botocore.exceptions import BotoCoreError

        if not self._is_on:
            return False
        try:
            is_done = self._http.send(self._signed(key, content, md5)).status_code == 200
        except BotoCoreError:  # boto3 asks again, and says what it is.
            is_done = False
        self._is_on = self._is_on and is_done
        return is_done

    def _signed(self, key: str, content: bytes, md5: str) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.utils import percent_encode

        url = f"{self._root}{percent_encode(key, safe='/~')}"
        request = AWSRequest("PUT", url, headers={"Content-MD5": md5, **self._given}, data=content)
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return request.prepare()


def _url_of(client: Any, bucket: str) -> str:
    """Where boto3 would put the object `_NAME`: below a path, or on a host of its own. Nothing is sent."""
    from botocore.awsrequest import AWSResponse

    urls = list[str]()

    def answered(request: Any, **_: Any) -> AWSResponse:
        urls.append(request.url)
        return AWSResponse(request.url, 200, {}, _Nothing())

    client.meta.events.register_first("before-send.s3.PutObject", answered)
    try:
        client.put_object(Bucket=bucket, Key=_NAME, Body=b"")
    finally:
        client.meta.events.unregister("before-send.s3.PutObject", answered)
    return urls[0]


class _Nothing(io.BytesIO):
    """The body of an answer, as botocore reads one."""

    def stream(self, **_: Any) -> list[bytes]:
        return []
