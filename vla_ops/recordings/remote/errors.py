"""What the clients of remote stores raise: which of it passes by itself, and how it is said to the person who has to act."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from vla_ops.errors import OutOfReachError

_PASSING_STATUS = {408, 425, 429}
_PASSING_ERRNO = {
    errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, getattr(errno, "EREMOTEIO", errno.EBUSY),
}  # fmt: skip
# By name, so that no client is imported: aiohttp, botocore, httpx, requests and urllib3 each have a tree of their own.
_PASSING_NAMES = {
    "ConnectionError", "ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ResponseParserError", "ResponseStreamingError",
    "TransportError", "ChunkedEncodingError", "ProtocolError", "IncompleteRead", "IncompleteReadError", "FSTimeoutError", "Timeout",
    "TransferEncodingError",
}  # fmt: skip
# What is secret in a URL that a client's message shows: a password, and the signature in a query.
_SECRETS = re.compile(r"(?<=://)[^/@\s'\"]+@|\?[^\s'\")]+")
_LASTING = (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, NotImplementedError)


class ShortError(Exception):
    """The store sent fewer bytes than were asked for."""


class ChangedError(Exception):
    """The file is another one than when it was opened."""


class NoRangesError(Exception):
    """The server sends a file only as a whole."""


def without_secrets(text: str) -> str:
    """A text with URLs in it, or a URL, without passwords and signatures."""
    return _SECRETS.sub("", text)


def passes(error: BaseException) -> bool:
    """True for what may be gone at the next try: timeouts, broken connections, a server that is too busy."""
    # The outermost that says something decides: clients wrap what they met, and a broken body may have a status of its own inside.
    return next((said for said in map(_passes, _chain(error)) if said is not None), False)


def is_missing(error: BaseException) -> bool:
    """True where the store says that there is no such file."""
    chain = list(_chain(error))
    status = next((found for found in map(_status, chain) if found is not None), None)
    if status is not None:
        return status in {404, 410}
    return any(isinstance(cause, FileNotFoundError) for cause in chain) and not passes(error)


def _passes(error: BaseException) -> bool | None:
    """What this one of a chain says; None if it says nothing."""
    if isinstance(error, _LASTING):
        return False
    if isinstance(error, ShortError | TimeoutError | ConnectionError) or any(
        kind.__name__ in _PASSING_NAMES for kind in type(error).__mro__
    ):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNO:
        return True
    status = _status(error)
    return None if status is None else status in _PASSING_STATUS or (status >= 500 and status != 501)


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status: in `status` (aiohttp), `code` (gcsfs), `response` (httpx), or a dict there (botocore)."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(response, "status_code", None) or getattr(error, "code", None)
    number = int(found) if isinstance(found, int | str) and str(found).isdecimal() else 0
    return number if 400 <= number < 600 else None


def shown(uri: str) -> str:
    """The URI without what is secret in it: a password, and the query of a signed URL."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", "")) if parts.scheme.startswith("http") else uri.replace(parts.netloc, host, 1)


def unreachable(error: BaseException, uri: str, *, tries: int = 1) -> OutOfReachError:
    """The error that names the URI, what the store said, and what to do."""
    what, todo = _said(error)
    said = without_secrets(next((str(cause) for cause in _chain(error) if str(cause).strip()), ""))
    found = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return OutOfReachError(what, uri=shown(uri), found=found + (f" ({tries} tries)" if tries > 1 else ""), todo=todo)


def changed(uri: str) -> OutOfReachError:
    """The error for a recording that was written again while it was read."""
    todo = "Nothing of it was used. The next run reads it anew; let recorders upload under another name and rename when they are done."
    return OutOfReachError("the recording changed while it was being read", uri=shown(uri), todo=todo)


def _said(error: BaseException) -> tuple[str, str]:
    chain = list(_chain(error))
    text = " ".join(map(str, chain)).lower()
    if is_missing(error):
        return "the recording is not in its store any more", "Look whether it was moved or removed, or correct recordings.uri."
    if "expired" in text or "tokenrefresh" in text:
        return "the store refuses: the credentials have expired", "Get new ones, then run the same command again."
    named = {type(cause).__name__ for cause in chain}
    if named & {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"} or "unable to locate credentials" in text:
        return "there are no credentials for the store", "Set them in the environment (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
    if any(_status(cause) in {401, 403} or isinstance(cause, PermissionError) for cause in chain):
        return "the store refuses to give the recording", "Check the credentials in the environment, and that they may read this path."
    if passes(error):
        return "the store cannot be reached, or broke off", "What was fetched is kept: run the same command again when the network is back."
    return "the recording cannot be fetched", "Check recordings.uri, the credentials in the environment, and the store."
