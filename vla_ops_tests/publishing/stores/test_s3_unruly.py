"""A real S3 server on a bad day: what passes is tried again, what does not is said, and nothing is told of keys."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vla_ops.errors import PublishError
from vla_ops.publishing.stores.s3 import S3Store
from vla_ops.publishing.stores.s3_client import S3Options
from vla_ops_tests.publishing.stores.contract import PART, content_of, made, put
from vla_ops_tests.publishing.stores.unruly import Fate, Way, way_to
from vla_ops_tests.services.s3 import KEY, SECRET, Bucket

pytestmark = pytest.mark.services


@pytest.fixture
def way(s3: Bucket) -> Iterator[Way]:
    with way_to(s3.server.endpoint) as way:
        yield way


@pytest.fixture
def store(s3: Bucket, way: Way) -> S3Store:
    return S3Store(s3.uri, options=S3Options(endpoint=way.endpoint, at_once=2))


def once(fate: Fate, which: Callable[[str, str, Any], bool]) -> Callable[[str, str, Any], Fate]:
    """A fate of the first request that is so."""
    left = [fate]
    return lambda *request: left.pop() if left and which(*request) else "pass"


def always(fate: Fate, which: Callable[[str, str, Any], bool] = lambda *_: True) -> Callable[[str, str, Any], Fate]:
    return lambda *request: fate if which(*request) else "pass"


def is_put(method: str, _path: str, _headers: Any) -> bool:
    return method == "PUT"


def has_condition(_method: str, _path: str, headers: Any) -> bool:
    return "If-Match" in headers or "If-None-Match" in headers


def is_copy(_method: str, _path: str, headers: Any) -> bool:
    return "x-amz-copy-source" in headers


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1", "eu-south-2"])
@pytest.mark.parametrize("style", ["path", "virtual"])
def test_small_files_go_where_boto3_would_put_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, region: str, style: str) -> None:
    (tmp_path / "config").write_text(f"[default]\nregion = {region}\ns3 =\n  addressing_style = {style}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    host = f"s3.{region}.amazonaws.com" if region != "us-east-1" else "s3.amazonaws.com"
    expected = f"https://{host}/lab-bucket/" if style == "path" else f"https://lab-bucket.{host}/"
    assert S3Store("s3://lab-bucket/x")._small._root == expected


def test_a_small_file_waits_for_a_server_that_is_started_again(s3: Bucket, way: Way, tmp_path: Path) -> None:
    store = S3Store(s3.uri, options=S3Options(endpoint="http://127.0.0.1:9", at_once=2))
    refused = store._small
    assert not refused.put("v1/a", b"content", "mgNkuembtIDdJeHwKEyFVQ==")
    store = S3Store(s3.uri, options=S3Options(endpoint=way.endpoint, at_once=2))
    store._small = refused
    store.put("v1/a", made(tmp_path / "a", b"content"), like=None, sent=lambda _: None, asked=True)
    assert store.listed("v1") == {"a": 7}


def is_of_many(method: str, path: str, _headers: Any) -> bool:
    return method == "POST" and path.endswith("?delete")


def test_many_are_removed_by_one_request(store: S3Store, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_ops.publishing.stores.s3._REMOVED_AT_ONCE", 5)
    names = [f"v1/{k}" for k in range(12)]
    for name in names:
        put(store, name, made(tmp_path / "file", b"content"))
    way.asked.clear()
    store.remove(names)
    assert [request.split()[0] for request in way.asked] == ["POST"] * 3
    assert store.listed("v1") == {}


@pytest.mark.parametrize(("answer", "puts"), [((403, "AccessDenied"), 3), ((503, "SlowDown"), 3), ("lose", 3)])
def test_a_small_file_that_is_refused_at_first_is_put_by_boto3(store: S3Store, way: Way, tmp_path: Path, answer: Fate, puts: int) -> None:
    way.fate = once(answer, is_put)
    for k in range(2):
        store.put(f"v1/{k}", made(tmp_path / f"{k}", content_of(100, seed=k)), like=None, sent=lambda _: None, asked=True)
    assert store.listed("v1") == {"0": 100, "1": 100}
    assert sum(request.startswith("PUT") for request in way.asked) == puts


def test_small_files_take_one_request_each_and_a_listing_for_all(store: S3Store, way: Way, tmp_path: Path) -> None:
    files = {f"{k}": made(tmp_path / f"{k}", content_of(100, seed=k)) for k in range(9)}
    for name in store.differing("v1", files):
        store.put(f"v1/{name}", files[name], like=None, sent=lambda _: None, asked=True)
    assert store.differing("v1", files) == {}
    assert [request.split()[0] for request in way.asked] == ["GET", *["PUT"] * 9, "GET"]


class TestThatPasses:
    @pytest.mark.parametrize("fate", ["lose", (503, "SlowDown"), (500, "InternalError")])
    @pytest.mark.parametrize("size", [1000, PART + 1])
    def test_an_upload_is_tried_again(self, store: S3Store, way: Way, tmp_path: Path, fate: Fate, size: int) -> None:
        file = made(tmp_path / "file", content_of(size))
        way.fate = once(fate, is_put)
        assert put(store, "file", file) == size
        assert store.differs("file", file) is None

    def test_parts_that_are_joined_with_the_answer_lost_are_a_file(self, store: S3Store, way: Way, tmp_path: Path) -> None:
        file = made(tmp_path / "file", content_of(PART + 1))
        way.fate = once("lose", lambda method, path, _: method == "POST" and "uploadId=" in path)
        assert put(store, "file", file) == PART + 1
        assert store.differs("file", file) is None

    def test_what_arrives_garbled_is_sent_again(self, store: S3Store, way: Way, tmp_path: Path) -> None:
        file = made(tmp_path / "file", content_of(1000))
        way.fate = once((400, "BadDigest"), is_put)
        assert put(store, "file", file) == 1000

    def test_what_is_read_is_whole_where_the_connection_breaks(self, s3: Bucket, store: S3Store, way: Way, tmp_path: Path) -> None:
        s3.put("file", content_of(1000))
        way.fate = once("cut", lambda method, *_: method == "GET")
        assert store.read("file") == content_of(1000)

    def test_what_is_compared_is_read_on_where_the_connection_breaks(self, s3: Bucket, store: S3Store, way: Way, tmp_path: Path) -> None:
        s3.put("file", content_of(PART + 1))
        # Its ETag is of one part.
        assert s3.server.fs().info(f"{s3.root}/file")["ETag"].strip('"') != made(tmp_path / "file", content_of(PART + 1)).etag
        way.fate = once("cut", lambda method, *_: method == "GET")
        assert store.differs("file", made(tmp_path / "file", content_of(PART + 1))) is None

    @pytest.mark.parametrize("before", [None, b"before"])
    def test_a_pointer_that_was_written_with_the_answer_lost_is_written(self, store: S3Store, way: Way, before: bytes | None) -> None:
        assert before is None or store.point("latest", before, seen=None)
        seen = store.pointer("latest")
        way.fate = once("lose", is_put)
        assert store.point("latest", b"now", seen=seen)
        assert store.read("latest") == b"now"


class TestThatIsLacking:
    def test_copies_are_uploads_where_the_store_makes_none(self, store: S3Store, way: Way, tmp_path: Path) -> None:
        for size in (1000, PART + 1):
            file = made(tmp_path / "file", content_of(size))
            put(store, f"{size}", file)
            way.fate = always((501, "NotImplemented"), is_copy)
            assert put(store, f"{size}-too", file, like=f"{size}") == size
            assert store.differs(f"{size}-too", file) is None

    @pytest.mark.parametrize("code", [(501, "NotImplemented"), (403, "AccessDenied")])
    def test_uploads_that_cannot_be_listed_begin_anew(self, store: S3Store, way: Way, tmp_path: Path, code: tuple[int, str]) -> None:
        file = made(tmp_path / "file", content_of(PART + 1))
        way.fate = always(code, lambda method, path, _: method == "GET" and "uploads" in path)
        assert put(store, "file", file) == PART + 1
        assert store.differs("file", file) is None

    def test_pointers_are_compared_where_the_store_knows_no_conditions(self, store: S3Store, way: Way) -> None:
        way.fate = always((501, "NotImplemented"), has_condition)
        assert store.point("latest", b"v1", seen=None)
        first = store.pointer("latest")
        assert store.point("latest", b"v2", seen=first)
        assert not store.point("latest", b"v3", seen=first)
        assert not store.point("latest", b"v3", seen=None)
        assert store.read("latest") == b"v2"

    @pytest.mark.parametrize("code", [(501, "NotImplemented"), (400, "MissingContentMD5"), (405, "MethodNotAllowed")])
    def test_files_are_removed_one_by_one_where_that_cannot_be_asked_of_many(
        self, store: S3Store, way: Way, tmp_path: Path, code: tuple[int, str]
    ) -> None:
        names = [f"v1/{k}" for k in range(5)]
        for name in names:
            put(store, name, made(tmp_path / "file", b"content"))
        way.fate = always(code, is_of_many)
        store.remove([*names, "v1/never"])
        assert store.listed("v1") == {}

    def test_who_may_not_remove_may_publish(self, store: S3Store, way: Way) -> None:
        way.fate = always((403, "AccessDenied"), lambda method, *_: method == "DELETE")
        store.check()


class TestThatIsSaid:
    def test_what_may_not_be_removed(self, store: S3Store, way: Way) -> None:
        refused = "<Error><Key>home/v1/1</Key><Code>AccessDenied</Code><Message>locked</Message></Error>"
        missing = "<Error><Key>home/v1/2</Key><Code>NoSuchKey</Code></Error>"
        way.fate = always((200, f"<DeleteResult>{refused}{missing}</DeleteResult>"), is_of_many)
        with pytest.raises(PublishError, match=r"does not remove .*home/v1/1.*1 of 3, AccessDenied: locked.*s3:DeleteObject"):
            store.remove(["v1/1", "v1/2", "v1/3"])
        way.fate = always((403, "AccessDenied"), lambda method, *_: method in ("POST", "DELETE"))
        with pytest.raises(PublishError, match=r"not allowed to these credentials.*s3:DeleteObject"):
            store.remove(["v1/1"])

    @pytest.mark.parametrize(
        ("fate", "what", "todo"),
        [
            ((403, "AccessDenied"), "the store refuses: this is not allowed to these credentials", "s3:PutObject"),
            ((400, "ExpiredToken"), "the store refuses: the credentials have expired", "Get new ones"),
            ((400, "AccessControlListNotSupported"), "the bucket takes no ACLs", "Leave `acl` out"),
            ((403, "QuotaExceeded"), "the store is full", "have the quota raised"),
            ((507, "XMinioStorageFull"), "the store is full", "Make room"),
            ((503, "SlowDown"), "the store is too busy, or broken", "Run the same again when that is over"),
            ((404, "404"), "what answers there does not speak S3", "Check the endpoint"),
            ((400, "Something"), "the store refuses", "the store's log"),
        ],
    )
    def test_a_store_that_cannot_be_written(self, store: S3Store, way: Way, fate: Fate, what: str, todo: str) -> None:
        way.fate = always(fate, is_put)
        said = _said(store)
        assert said.startswith(f"{what} [file {store.uri}]; found {fate[1]} ({fate[0]}): it is so")
        assert todo in said

    @pytest.mark.parametrize("code", ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"])
    def test_a_bucket_of_another_region(self, store: S3Store, way: Way, code: str) -> None:
        way.fate = always((400, code))
        said = _said(store)
        assert said.startswith("the bucket is in another region")
        assert "expected eu-north-1. Set the region" in said

    def test_nothing_that_a_server_says_tells_a_key(self, store: S3Store, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
        way.fate = always((403, "SignatureDoesNotMatch"))
        way.message = f"{KEY} with {SECRET} asked for http://{KEY}:{SECRET}@host/key?X-Amz-Signature=PLANTED"
        assert "found SignatureDoesNotMatch (403): *** with *** asked for http://host/key. Check AWS_SECRET_ACCESS_KEY" in _said(store)

    def test_what_fails_later_is_said_with_the_file(self, store: S3Store, way: Way, tmp_path: Path) -> None:
        way.fate = always((403, "AccessDenied"))
        file = made(tmp_path / "file", b"content")
        calls: dict[str, Callable[[], object]] = {
            "v1/put": lambda: put(store, "v1/put", file),
            "v1/differs": lambda: store.differs("v1/differs", file),
            "v1/read": lambda: store.read("v1/read"),
            "v1/pointer": lambda: store.pointer("v1/pointer"),
            "v1/point": lambda: store.point("v1/point", b"", seen=None),
            "v1": lambda: store.listed("v1"),
        }
        for name, call in calls.items():
            with pytest.raises(PublishError) as caught:
                call()
            assert str(caught.value).startswith(f"the store refuses: this is not allowed to these credentials [file {store.uri}/{name}]")


def _said(store: S3Store) -> str:
    with pytest.raises(PublishError) as caught:
        store.check()
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in (SECRET, KEY, "PLANTED", "AWS4-HMAC") if secret in shown]
    return str(caught.value)
