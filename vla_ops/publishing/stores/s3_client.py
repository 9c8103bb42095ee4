"""A client for any store that speaks S3. Credentials come from boto3's own chain (environment, profile, machine), from nowhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from vla_ops.errors import PublishError
from vla_ops.publishing.stores.s3_errors import said

# Longest for a link that drops, or a server that is started again: waits of up to 20 s, a minute and more together.
PATIENT, QUICK = 10, 2


@dataclass(frozen=True)
class S3Options:
    """How to reach a store, and what it is told of every object. An unfinished upload goes on with what it was begun with."""

    # As `http://10.0.0.5:9000`; without it AWS_ENDPOINT_URL, and without that AWS itself.
    endpoint: str | None = None
    # A section of ~/.aws/config; without it AWS_PROFILE.
    profile: str | None = None
    # Other stores than AWS take any.
    region: str | None = None
    # As `bucket-owner-full-control`, for a bucket of somebody else.
    acl: str | None = None
    # As `STANDARD_IA`.
    storage_class: str | None = None
    # `AES256` or `aws:kms`. With `aws:kms` an ETag says nothing of the content: files are read back to be compared, and unfinished
    # uploads begin anew.
    sse: str | None = None
    # With `aws:kms`: the id of a key that is not the bucket's own.
    sse_kms_key: str | None = None
    # Requests at once; each has a part of a file in memory (16 MiB, more for files above 140 GB).
    at_once: int = 8
    # Of all requests together, in 10^6 bytes per second, for a robot whose link is needed for more than this. None: as fast as it goes.
    max_bandwidth_mb_s: float | None = None
    # What the store takes for keeping: then it is said before an upload what it adds to the bill.
    usd_per_gb_month: float | None = None

    def __post_init__(self) -> None:
        if self.at_once < 1 or (self.max_bandwidth_mb_s is not None and self.max_bandwidth_mb_s <= 0):
            found = f"at_once {self.at_once}, max_bandwidth_mb_s {self.max_bandwidth_mb_s}"
            raise PublishError("these options of S3 cannot be used", found=found, expected="numbers above 0")
        if self.endpoint is not None and (urlsplit(self.endpoint).scheme not in {"http", "https"} or "@" in self.endpoint):
            todo = "Keys belong in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in a profile."
            raise PublishError("this is no endpoint of S3", expected="http(s)://HOST:PORT, without a password", todo=todo)

    @property
    def given(self) -> dict[str, str]:
        """What goes with every object that is made."""
        named = {"ACL": self.acl, "StorageClass": self.storage_class, "ServerSideEncryption": self.sse, "SSEKMSKeyId": self.sse_kms_key}
        return {name: value for name, value in named.items() if value is not None}


def session_of(options: S3Options, place: str) -> Any:
    """The credentials that boto3 finds for `place`. Raise PublishError without boto3, or such a profile."""
    try:
        from boto3.session import Session
        from botocore.session import Session as Core
    except ImportError as error:
        todo = "Install it: uv sync --extra s3 (pip install 'vla-ops[s3]')."
        raise PublishError("publishing to S3 needs boto3, which is not installed", todo=todo) from error
    with said(place, None):
        core = Core(profile=options.profile)
        # Half of the time of a listing goes into dates of unknown format, one for each object; as awscli, which leaves them as they are.
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_time_of)
        return Session(botocore_session=core, region_name=options.region)


def _time_of(text: Any) -> datetime:
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)


def client_of(session: Any, options: S3Options, *, tries: int) -> Any:
    """A client that several threads may use; it tries again by itself what passes by itself."""
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "total_max_attempts": tries},
        # A timeout of connecting is one of sending, too.
        connect_timeout=5 if tries == QUICK else 30,
        read_timeout=20 if tries == QUICK else 120,
        max_pool_connections=2 * options.at_once,
        # Contents go with their MD5; what boto3 adds of its own is not understood everywhere.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        client = session.client("s3", endpoint_url=options.endpoint, config=config)
    except ValueError as error:  # botocore's, of an endpoint or a region that can be none.
        raise PublishError("these options of S3 cannot be used", found=error, todo="Correct the endpoint and the region.") from None
    if options.max_bandwidth_mb_s is not None:
        bandwidth = Bandwidth(options.max_bandwidth_mb_s * 1e6)
        client.meta.events.register("before-send.s3", lambda request, **_: _pace(request, bandwidth))
    return client


class Bandwidth:
    """Bytes per second that threads share: who takes some waits until they may have gone."""

    def __init__(
        self, bytes_per_s: float, *, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._bytes_per_s, self._clock, self._sleep = bytes_per_s, clock, sleep
        self._free_at_s, self._lock = clock(), threading.Lock()

    def take(self, count: int) -> None:
        """Wait for `count` bytes."""
        with self._lock:
            now_s = self._clock()
            self._free_at_s = max(self._free_at_s, now_s) + count / self._bytes_per_s
            wait_s = self._free_at_s - now_s
        self._sleep(wait_s)


def _pace(request: Any, bandwidth: Bandwidth) -> None:
    # Only here is a body read in order to be sent; before that it was read to be signed.
    if hasattr(request.body, "read"):
        request.body = _Paced(request.body, bandwidth)


class _Paced:
    """The body of a request, read no faster than it may be sent."""

    def __init__(self, body: Any, bandwidth: Bandwidth) -> None:
        self._body, self._bandwidth = body, bandwidth

    def read(self, size: int = -1) -> bytes:
        block = self._body.read(size)
        self._bandwidth.take(len(block))
        return block

    def seek(self, place: int) -> None:
        self._body.seek(place)

    def tell(self) -> int:
        return self._body.tell()
