"""A Hub that refuses, is busy, or breaks off: what passes is tried again, what does not is said, and nothing is told of tokens."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from vla_ops.errors import PublishError
from vla_ops.published.hub_errors import tried
from vla_ops_tests.publishing.hub.packages import package_of, published
from vla_ops_tests.services.hub import READ, WRITE, HubServer, Trouble

# What changes something there.
WRITES = ["/create", "/batch", "PUT", "/commit/publishing", "/commit/main", "POST /api/datasets/lab/pick/tag/", "/branch/"]


def answers(status: int, said: str = "no", *, times: int = 10**6, which: str = "", **headers: str) -> Callable[[str, str], Trouble]:
    """Such an answer to the first requests whose method and path hold `which`."""
    left = [times]

    def trouble(method: str, path: str) -> Trouble:
        if which not in f"{method} {path}" or not left[0]:
            return None
        left[0] -= 1
        return web.json_response({"error": said}, status=status, headers=headers)

    return trouble


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("which", ["GET", "/preupload", "/verify", "/refs", *WRITES])
def test_what_passes_is_tried_again(hub: HubServer, tmp_path: Path, status: int, which: str) -> None:
    hub.trouble = answers(status, times=2, which=which, **({"Retry-After": "2"} if status == 429 else {}))
    done = published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    assert done.pointed_to == done.manifest.version


@pytest.mark.parametrize("which", WRITES)
def test_an_answer_that_is_lost_does_no_harm(hub: HubServer, tmp_path: Path, which: str) -> None:
    left = [True]
    hub.trouble = lambda method, path: which in f"{method} {path}" and bool(left) and left.pop()
    done = published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    repo = hub.repo("lab/pick", "dataset")
    assert left == []
    assert done.pointed_to == done.manifest.version
    assert set(repo.branches) == {"main"}
    assert len(repo.tags) == 1


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (answers(429), r"the Hub asks to slow down.*Run the same again in an hour"),
        (answers(503), r"the Hub is too busy, or broken.*what is there already is kept"),
        (answers(403, "Private repository storage limit reached, upgrade your plan", which="/batch"), r"no room for this.*s3://"),
        (answers(402, "payment required", which="PUT"), r"no room for this.*storage|no room for this.*payment"),
        (answers(413, "too large", which="/commit/"), r"no commit of this size.*413: too large"),
        (answers(400, "the card is odd", which="validate-yaml"), r"the card is odd"),
    ],
    ids=["429", "503", "quota", "payment", "size", "card"],
)
def test_what_does_not_pass_is_said(hub: HubServer, tmp_path: Path, trouble: Callable[[str, str], Trouble], said: str) -> None:
    hub.make("lab/pick", "dataset")
    hub.trouble = trouble
    with pytest.raises(PublishError, match=said) as caught:
        published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    assert WRITE not in "".join(traceback.format_exception(caught.value))
    hub.trouble = lambda *_: None
    done = published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    assert done.pointed_to == done.manifest.version


@pytest.fixture
def made(hub: HubServer) -> None:
    """A repository that is there."""
    hub.make("lab/pick", "dataset")


@pytest.mark.parametrize(
    ("token", "uri", "said"),
    [
        ("hf_unknownunknown", "hub:datasets/lab/pick", r"does not know the token.*HF_TOKEN"),
        (READ, "hub:datasets/lab/pick", r"the token may not do this.*HF_TOKEN"),
        (WRITE, "hub:datasets/others/pick", r"the token may not do this.*namespace"),
    ],
)
@pytest.mark.usefixtures("made")
def test_a_token_that_may_not_is_found_before_anything_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, uri: str, said: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    heard: list[str] = []
    with pytest.raises(PublishError, match=said) as caught:
        published(package_of(tmp_path, a="one"), tmp_path, uri=uri, said=heard)
    assert not any("hashing" in line for line in heard)
    assert token not in "".join(traceback.format_exception(caught.value))


def test_no_token_is_said_without_a_request(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PublishError, match=r"there is no token for the Hub.*HF_TOKEN.*hf auth login"):
        published(package_of(tmp_path, a="one"), tmp_path)
    assert hub.asked == []


def test_a_hub_that_is_not_there_is_said(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert hub.endpoint
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishError, match=r"the Hub cannot be reached.*HF_ENDPOINT"):
        published(package_of(tmp_path, a="one"), tmp_path)


def test_a_hub_that_may_not_be_asked_is_said(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert hub.endpoint
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match=r"the Hub cannot be reached.*OfflineModeIsEnabled"):
        published(package_of(tmp_path, a="one"), tmp_path)


def test_what_xets_client_says_of_an_answer_is_read_and_not_tried_again(hub: HubServer) -> None:
    assert hub.endpoint
    calls: list[int] = []

    def refused() -> None:
        calls.append(1)
        said = "Network error: HTTP status client error (403 Forbidden) for url (x?X-Amz-Signature=abc): storage limit reached"
        raise ConnectionError(said)

    with pytest.raises(PublishError, match=r"the Hub has no room for this.*403") as caught:
        tried(refused, "hub:lab/pick")
    assert (len(calls), "abc" in str(caught.value)) == (1, False)


def test_it_waits_as_long_as_the_hub_asks_for(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_ops.published import hub_errors as errors

    slept: list[float] = []
    monkeypatch.setattr(errors.time, "sleep", slept.append)
    hub.trouble = answers(429, times=1, which="/commit/main", RateLimit='"api";r=0;t=71')
    said: list[str] = []
    published(package_of(tmp_path, a="one"), tmp_path, said=said)
    assert [round(each) in (71, 72) for each in slept] == [True]
    assert any(line.startswith("the Hub asks to slow down: once more in 7") for line in said)


def test_signed_urls_are_in_no_log(hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.sign = "?X-Amz-Signature=SECRETSIGNATURE"
    hub.trouble = answers(503, times=1, which="PUT")
    with caplog.at_level("DEBUG"):
        published(package_of(tmp_path, a=b"one"), tmp_path)
    assert "thrown while requesting PUT" in caplog.text
    assert "SECRETSIGNATURE" not in caplog.text
    assert WRITE not in caplog.text
