"""Bytes of one remote file, and of that file alone: asked for with the token it had when it was opened, and asked again where it failed.

S3 and HTTP refuse themselves when the file has become another one (If-Match). Of other stores the token is asked for after every part.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from vla_ops.errors import VlaOpsError
from vla_ops.recordings.remote.errors import ChangedError, NoRangesError, ShortError, changed, is_missing, passes, unreachable
from vla_ops.recordings.store_listing import remote_file

# Together some 15 s; the clients try again by themselves, too.
_TRIES = 6
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 8.0
_CONNECT_S, _SILENT_S = 15.0, 60.0
_PRECONDITION = 412


@dataclass(frozen=True)
class Found:
    """A remote file as its store showed it. `token` changes with the content."""

    uri: str
    path: str
    size: int | None
    token: str
    info: Mapping[str, Any]


class Store:
    """One remote file system, with tries. `stopped` ends the waiting between them."""

    def __init__(self, fs: Any, stopped: threading.Event | None = None) -> None:
        self.fs = fs
        self._stopped = stopped or threading.Event()
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        self.is_s3, self.is_http = bool(protocols & {"s3", "s3a"}), bool(protocols & {"http", "https"})

    def find(self, uri: str, path: str, listed: Mapping[str, Any] | None = None) -> Found:
        """Ask what is at `path` now, unless a listing has said it. Raise OutOfReachError if it cannot be asked or is not there."""
        info = listed or self.trying(lambda: self._info(path), uri)
        entry = self.trying(lambda: remote_file(self.fs, info, ""), uri)
        size = info.get("size")
        return Found(uri, path, None if size is None else int(size), entry.stamp, info)

    def read(self, found: Found, start: int, stop: int) -> bytes:
        """Bytes start..stop of the file. Raise OutOfReachError, or NoRangesError where the server has only whole files."""
        return self.trying(lambda: self._read(found, start, stop), found.uri, found)

    def download(self, found: Found, target: Path) -> None:
        """Fetch the whole file at once, for servers that have no ranges."""

        def get() -> None:
            self.fs.get_file(found.path, str(target))
            self._check(found)
            if found.size is not None and target.stat().st_size != found.size:
                raise ShortError(f"{target.stat().st_size:,} of {found.size:,} bytes came")

        self.trying(get, found.uri, found)

    def trying[T](self, ask: Callable[[], T], uri: str, found: Found | None = None) -> T:
        """Ask, and again after a while where the error is one that passes. Raise OutOfReachError where it does not."""
        for number in range(1, _TRIES + 1):
            try:
                return ask()
            except (NoRangesError, VlaOpsError):
                raise
            except ChangedError as error:
                raise changed(uri) from error
            except Exception as error:  # Every client has errors of its own.
                if found is not None and not passes(error) and self._is_another(found):
                    raise changed(uri) from error
                if number == _TRIES or not passes(error) or self._wait(number):
                    raise unreachable(error, uri, tries=number) from error
        raise AssertionError  # Not reached: the last try returns or raises.

    def _wait(self, number: int) -> bool:
        """Wait longer from time to time, each client another while; True where it is not worth the wait any more."""
        longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**number)
        return self._stopped.wait(random.uniform(longest / 2, longest))  # noqa: S311 - no secret

    def _info(self, path: str) -> Mapping[str, Any]:
        self.fs.invalidate_cache()
        return self.fs.info(path)

    def _is_another(self, found: Found) -> bool:
        """True where there is another file now; of one that cannot be asked for, False."""
        try:
            now = remote_file(self.fs, self._info(found.path), "")
        except Exception as error:
            return is_missing(error)
        return now.stamp != found.token

    def _check(self, found: Found) -> None:
        if remote_file(self.fs, self._info(found.path), "").stamp != found.token:
            raise ChangedError

    def _read(self, found: Found, start: int, stop: int) -> bytes:
        etag = _strong_etag(found.info)
        if self.is_s3 and etag:
            data = self._read_s3(found, start, stop, etag)
        elif self.is_http:
            data = self._read_http(found, start, stop, etag)
        else:
            data = self.fs.cat_file(found.path, start=start, end=stop)
        if len(data) != stop - start:
            raise ShortError(f"{len(data):,} of {stop - start:,} bytes came")
        if not (etag and (self.is_s3 or self.is_http)):
            self._check(found)
        return data

    def _read_s3(self, found: Found, start: int, stop: int, etag: str) -> bytes:
        from fsspec.asyn import sync

        bucket, key, version = self.fs.split_path(found.path)
        named = {"VersionId": version} if version else {}
        # cat_ranges has no way to say If-Match.
        response = self.fs.call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=etag, **named)
        try:
            return cast("bytes", sync(self.fs.loop, response["Body"].read))
        finally:
            response["Body"].close()

    def _read_http(self, found: Found, start: int, stop: int, etag: str) -> bytes:
        from fsspec.asyn import sync

        given = dict(self._http_options)
        asked = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"} | ({"If-Match": etag} if etag else {})
        given["headers"] = {**given.get("headers", {}), **asked}
        return cast("bytes", sync(self.fs.loop, _get_range, self.fs, found.path, given, stop - start))

    @cached_property
    def _http_options(self) -> dict[str, Any]:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENT_S)
        return {"timeout": limit, **self.fs.kwargs}


async def _get_range(fs: Any, url: str, options: Mapping[str, Any], size: int) -> bytes:
    session = await fs.set_session()
    async with session.get(fs.encode_url(url), **options) as response:
        if response.status == _PRECONDITION:
            raise ChangedError
        if response.status == 404:
            raise FileNotFoundError(url)
        response.raise_for_status()
        # The body of one that sends the whole file is not waited for.
        if response.status != 206 and int(response.headers.get("Content-Length", -1)) != size:
            raise NoRangesError
        return await response.read()


def _strong_etag(info: Mapping[str, Any]) -> str:
    """The ETag by which the file may be asked for, with its quotes; empty where there is none, or one that stands for similar files."""
    etag = str(info.get("ETag") or "")
    return "" if etag.startswith("W/") else etag
