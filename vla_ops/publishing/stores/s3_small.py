"""Small objects, put without most of what boto3 does for each: it takes longer to make such a request than a store does to answer it.

They are signed by botocore and go through its HTTP session. What is not answered by a plain yes is left to boto3, which asks again and
says what is wrong.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any

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
_AT_ONCE = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


class SmallPuts:
    """Puts into one bucket. `session` and `client` are boto3's, `given` what every object gets besides. May be called from threads."""

    def __init__(self, session: Any, client: Any, bucket: str, given: Mapping[str, str], *, at_once: int) -> None:
        from botocore.httpsession import URLLib3Session
        from botocore.utils import get_environ_proxies

        self._credentials, self._region = session.get_credentials(), client.meta.region_name
        is_signed = self._credentials is not None and client.meta.config.signature_version in {"s3", "s3v4"}
        # A store that answered in another way than boto3 expects of it is left to boto3 from then on.
        self._is_on = is_signed and _SIGNED_OTHERWISE.fullmatch(bucket) is None
        if self._is_on:
            # Where its objects are: below a path, or on a host of its own.
            url = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": _NAME})
            self._root = url.partition("?")[0].removesuffix(_NAME)
            self._given = {_HEADERS[name]: value for name, value in given.items()}
            verify: Any = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
            proxies = get_environ_proxies(self._root)
            self._http = URLLib3Session(
                verify=verify, proxies=proxies, timeout=_TIMEOUT_S, max_pool_connections=2 * at_once, socket_options=_AT_ONCE
            )

    def put(self, key: str, content: bytes, md5: str) -> bool:
        """Make the object, whose Content-MD5 is `md5`. False where that is to be done by boto3."""
        from botocore.exceptions import HTTPClientError

        if not self._is_on:
            return False
        try:
            status = self._http.send(self._signed(key, content, md5)).status_code
        except HTTPClientError:
            return False
        self._is_on = self._is_on and (status == 200 or status >= 500)
        return status == 200

    def _signed(self, key: str, content: bytes, md5: str) -> Any:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.utils import percent_encode

        url = f"{self._root}{percent_encode(key, safe='/~')}"
        request = AWSRequest("PUT", url, headers={"Content-MD5": md5, **self._given}, data=content)
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return request.prepare()
