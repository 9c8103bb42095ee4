"""What the Hub's client raises: which of it is tried again, and how the rest is said. Nothing of a token or a signed URL is in it."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from vla_ops.errors import PublishError
from vla_ops.recordings.remote.errors import passes, without_secrets

_TRIES, _PAUSE_S, _LONGEST_PAUSE_S = 5, 1.0, 300.0
_AGAIN = "Run the same again when that is over: what is there already is kept."
_XET = re.compile(r"\((?P<status>[45]\d\d) [A-Z]")
_FULL = re.compile(r"(?i)storage limit|quota|payment required|upgrade your plan")
_SAID = {
    401: ("the Hub does not know the token", "Set HF_TOKEN, or log in (`hf auth login`), with a token that may write."),
    402: ("the Hub asks for a plan with more", "Make room there, have the plan changed, or use s3://."),
    403: ("the Hub refuses: the token may not do this", "Take a token (HF_TOKEN) that may write to the repositories of its owner."),
    404: ("there is no such repository, or the token may not see it", "Check the name, and whose HF_TOKEN is."),
    409: ("somebody else writes to the repository at the same time", _AGAIN),
    412: ("somebody else writes to the repository at the same time", _AGAIN),
    413: ("the Hub takes no commit of this size", "Use s3://, or make fewer or smaller files of it."),
    429: ("the Hub asks to slow down", "Run the same again in an hour: what is there already is kept."),
}
_BUSY = ("the Hub is too busy, or broken", _AGAIN)
_REFUSED = ("the Hub refuses what was sent", "What it says is all that is known of it.")
_UNREACHABLE = ("the Hub cannot be reached, or broke off", f"Check the network, and HF_ENDPOINT if it is set. {_AGAIN}")


def tried[T](call: Callable[[], T], place: str, say: Callable[[str], None] = lambda _: None) -> T:
    """Call, and again where it may pass: a busy Hub, a broken connection. Raise PublishError about `place` for what does not.

    `say` hears of waits.
    """
    for left in reversed(range(_TRIES)):
        try:
            return call()
        # A client of several protocols raises errors of several libraries; all are said, none is swallowed.
        except Exception as error:
            if isinstance(error, PublishError):
                raise
            if not left or not _may_pass(error):
                # Without the cause: its frames hold requests with all that is in them.
                raise _said(error, place) from None
            wait_s = _wait_s(_response(error), _TRIES - 1 - left)
            say(f"{_said(error, place).what}: once more in {wait_s:.0f} s")
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def is_away(error: PublishError) -> bool:
    """Whether an error says that the Hub cannot be asked now, and nothing of what it would answer."""
    return error.what in {_UNREACHABLE[0], _BUSY[0]}


def status_of(error: BaseException) -> int | None:
    """The status of the Hub's answer, where there was one."""
    response = _response(error)
    return _told_by_xet(error) if response is None else response.status_code


def _may_pass(error: BaseException) -> bool:
    """Xet's client tries again by itself, and what it says of an answer is no passing thing any more."""
    return _told_by_xet(error) is None and passes(error)


def _told_by_xet(error: BaseException) -> int | None:
    """Xet's client has the status only in its text: `Network error: ... (403 Forbidden) ...`."""
    if _response(error) is not None:
        return None
    found = (_XET.search(str(cause)) for cause in _chain(error))
    return next((int(match["status"]) for match in found if match is not None), None)


def _wait_s(response: Any, number: int) -> float:
    seconds = min(_asked_for_s(response) or _PAUSE_S * 2**number, _LONGEST_PAUSE_S)
    return seconds + random.uniform(0, _PAUSE_S)  # noqa: S311 - no secret


def _asked_for_s(response: Any) -> float | None:
    """How long the Hub asks to wait, where it does."""
    from huggingface_hub.utils import parse_ratelimit_headers

    if response is None:
        return None
    if (limit := parse_ratelimit_headers(response.headers)) is not None and not limit.remaining:
        return float(limit.reset_in_seconds)
    asked = str(response.headers.get("Retry-After", ""))
    return float(asked) if asked.isdecimal() else None


def _said(error: BaseException, place: str) -> PublishError:
    response, status = _response(error), status_of(error)
    if status is None:
        found = _without_secrets(": ".join(dict.fromkeys(f"{type(cause).__name__}: {cause}".strip(": ") for cause in _chain(error))))
        is_of_the_way = passes(error) or type(error).__name__ == "OfflineModeIsEnabled"
        what, todo = _UNREACHABLE if is_of_the_way else ("the Hub's client cannot do this", "What it says is all that is known of it.")
        return PublishError(what, file=place, found=found[:600], todo=todo)
    message = _message(error, response) if response is not None else ": ".join(dict.fromkeys(str(cause) for cause in _chain(error)))
    what, todo = _SAID.get(status, _BUSY if status >= 500 else _REFUSED)
    if _FULL.search(message) and 400 <= status < 429:
        what, todo = "the Hub has no room for this", "Make room there, have the plan changed, or use s3://. What is there is kept."
    return PublishError(what, file=place, found=f"{status}: {_without_secrets(message)}"[:600], todo=todo)


def _message(error: BaseException, response: Any) -> str:
    told = response.headers.get("X-Error-Message") or getattr(error, "server_message", None)
    if not told:
        try:
            told = response.json()["error"]
        except Exception:  # An answer of something between, most likely: its text says as much as there is.
            told = (response.text or response.reason_phrase)[:200]
    return str(told)


def _response(error: BaseException) -> Any:
    return next((found for cause in _chain(error) if (found := getattr(cause, "response", None)) is not None), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _without_secrets(text: str) -> str:
    from huggingface_hub import get_token

    token = get_token()
    return without_secrets(text.replace(token, "***") if token else text)


class _NoSecrets(logging.Filter):
    """Signed URLs that the client logs, as when an upload is tried again, without their signatures."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _without_secrets(record.getMessage()), ()
        return True


def keep_secrets_out_of_logs() -> None:
    """From now on nothing that the Hub's client or its HTTP library logs in this process holds a signature or the token."""
    for name in ("huggingface_hub.utils._http", "huggingface_hub._commit_api", "huggingface_hub.lfs", "httpx"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, _NoSecrets) for each in logger.filters):
            logger.addFilter(_NoSecrets())
