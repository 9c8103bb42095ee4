"""Publications in a real S3 server: the contract, uploads that are killed or whose server is, races, and what it says when it fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vla_ops.errors import PublishError
from vla_ops.publishing.hashing import HashedFile
from vla_ops.publishing.stores.s3 import S3Store
from vla_ops.publishing.stores.s3_client import Bandwidth, S3Options
from vla_ops_tests.holding import Hold
from vla_ops_tests.launchers.contract import wait_for
from vla_ops_tests.publishing.stores.contract import PART, PrunableContract, content_of, made, put
from vla_ops_tests.services.s3 import SECRET, Bucket, serve_again, serve_s3

pytestmark = pytest.mark.services

# Parts from the third on wait before they are read.
_PARTS = """
def change(parts):
    part_of = parts.part_of
    def held(file, number):
        while number >= 2 and is_held("parts"):
            time.sleep(0.005)
        return part_of(file, number)
    parts.part_of = held
"""
_PUTS = """
import sys
from pathlib import Path
from vla_ops.publishing.hashing import hash_file
from vla_ops.publishing.stores.s3 import S3Store
S3Store(sys.argv[1]).put("pi0/v1/file", hash_file(Path(sys.argv[2])), like=None, sent=lambda count: None)
"""
NAME = "pi0/v1/file"


@pytest.fixture
def store(s3: Bucket) -> S3Store:
    return S3Store(s3.uri)


def client_of(bucket: Bucket) -> Any:
    import boto3

    return boto3.session.Session().client("s3", endpoint_url=bucket.server.endpoint)


def uploads_of(bucket: Bucket, key: str = NAME) -> list[str]:
    """Unfinished uploads of a key."""
    listed = client_of(bucket).list_multipart_uploads(Bucket=bucket.name, Prefix=f"{bucket.prefix}/{key}")
    return [upload["UploadId"] for upload in listed.get("Uploads", []) if upload["Key"] == f"{bucket.prefix}/{key}"]


def parts_of(bucket: Bucket, upload: str) -> list[int]:
    listed = client_of(bucket).list_parts(Bucket=bucket.name, Key=f"{bucket.prefix}/{NAME}", UploadId=upload)
    return [part["PartNumber"] for part in listed.get("Parts", [])]


def begin(bucket: Bucket, parts: dict[int, bytes]) -> str:
    """An upload that was left with these parts, by number from 1."""
    client, at = client_of(bucket), {"Bucket": bucket.name, "Key": f"{bucket.prefix}/{NAME}"}
    upload = client.create_multipart_upload(**at)["UploadId"]
    for number, content in parts.items():
        client.upload_part(**at, UploadId=upload, PartNumber=number, Body=content)
    return upload


def message_of(uri: str, **options: Any) -> str:
    """What a store says that cannot be used."""
    with pytest.raises(PublishError) as caught:
        S3Store(uri, options=S3Options(**options)).check()
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in (SECRET, "PLANTED", "Signature=", "AWS4-HMAC") if secret in shown]
    return str(caught.value)


class TestS3(PrunableContract):
    @pytest.fixture
    def store(self, s3: Bucket) -> S3Store:
        return S3Store(s3.uri)


class TestUnfinished:
    @pytest.fixture
    def file(self, tmp_path: Path) -> HashedFile:
        """Of four parts, the last a byte."""
        return made(tmp_path / "file", content_of(3 * PART + 1))

    def test_an_upload_that_was_killed_goes_on_with_the_parts_that_are_missing(
        self, s3: Bucket, store: S3Store, file: HashedFile, tmp_path: Path
    ) -> None:
        hold = Hold(tmp_path / "hold", "vla_ops.publishing.stores.s3_parts", _PARTS, "parts")
        command = [sys.executable, "-c", _PUTS, s3.uri, str(file.path)]
        with subprocess.Popen(command, env=os.environ | hold.environment) as killed:
            wait_for(lambda: killed.poll() is not None or any(parts_of(s3, upload) == [1, 2] for upload in uploads_of(s3)))
            killed.kill()
        assert killed.returncode == -signal.SIGKILL
        assert store.differs(NAME, file) == "is missing"
        assert put(store, NAME, file) == PART + 1
        assert store.differs(NAME, file) is None
        assert uploads_of(s3) == []

    def test_of_several_uploads_the_one_with_most_of_the_file_goes_on_and_the_others_go(
        self, s3: Bucket, store: S3Store, file: HashedFile
    ) -> None:
        content = file.path.read_bytes()
        begin(s3, {1: content_of(PART, seed=1), 2: content_of(PART, seed=2)})
        begin(s3, {})
        begin(s3, {1: content[:PART]})
        begin(s3, {1: content[:PART], 2: content[PART : 2 * PART], 4: content[3 * PART :], 5: b"of a longer file"})
        begin(s3, {1: content_of(PART, seed=1), 2: content[PART : 2 * PART], 4: content[3 * PART :]})
        assert put(store, NAME, file) == 2 * PART
        assert store.read(NAME) == content
        assert uploads_of(s3) == []

    def test_uploads_of_other_names_are_left_alone(self, s3: Bucket, store: S3Store, file: HashedFile) -> None:
        at = {"Bucket": s3.name, "Key": f"{s3.prefix}/{NAME}.json"}
        other = client_of(s3).create_multipart_upload(**at)["UploadId"]
        put(store, NAME, file)
        assert uploads_of(s3, f"{NAME}.json") == [other]

    def test_those_that_were_begun_before_a_time_are_cleared_away_below_the_store_alone(
        self, s3: Bucket, store: S3Store, file: HashedFile
    ) -> None:
        begin(s3, {1: b"of one that was killed"})
        at = {"Bucket": s3.name, "Key": f"{s3.prefix}-besides/{NAME}"}
        besides = client_of(s3).create_multipart_upload(**at)["UploadId"]
        assert store.clear_unfinished(datetime.now(UTC) - timedelta(hours=1)) == 0
        assert len(uploads_of(s3)) == 1
        assert store.clear_unfinished(datetime.now(UTC) + timedelta(hours=1)) == 1
        assert uploads_of(s3) == []
        client_of(s3).abort_multipart_upload(**at, UploadId=besides)
        assert put(store, NAME, file) == file.size

    def test_an_upload_that_another_ends_meanwhile_is_begun_anew(self, s3: Bucket, file: HashedFile) -> None:
        store, aborted = S3Store(s3.uri, options=S3Options(at_once=1)), list[str]()

        def abort(_: int) -> None:
            if not aborted:
                aborted.extend(uploads_of(s3))
                client_of(s3).abort_multipart_upload(Bucket=s3.name, Key=f"{s3.prefix}/{NAME}", UploadId=aborted[0])

        store.put(NAME, file, like=None, sent=abort)
        assert len(aborted) == 1
        assert store.differs(NAME, file) is None

    def test_a_file_that_is_written_to_while_it_goes_never_gets_its_name(self, s3: Bucket, file: HashedFile) -> None:
        store = S3Store(s3.uri, options=S3Options(at_once=1))

        def write(_: int) -> None:
            with open(file.path, "r+b") as handle:
                handle.seek(3 * PART)
                handle.write(b"\0")

        with pytest.raises(PublishError, match=r"a file changed while it was sent .*found MD5 .* in part 4; expected"):
            store.put(NAME, file, like=None, sent=write)
        assert store.differs(NAME, file) == "is missing"

    def test_a_server_that_is_killed_and_started_again_gets_the_file_all_the_same(
        self, file: HashedFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with serve_s3(tmp_path / "server") as server, ExitStack() as again:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            store, done = S3Store(f"s3://{server.test_bucket}", options=S3Options(at_once=2)), list[int]()

            def kill(count: int) -> None:
                done.append(count)
                if len(done) == 2:
                    os.kill(server.pid, signal.SIGKILL)
                    again.enter_context(serve_again(server))

            store.put(NAME, file, like=None, sent=kill)
            assert store.differs(NAME, file) is None
            assert store.read(NAME) == file.path.read_bytes()


class TestCompared:
    def test_an_object_that_another_program_joined_of_other_parts_is_the_same(self, s3: Bucket, store: S3Store, tmp_path: Path) -> None:
        file = made(tmp_path / "file", content_of(PART + 1))
        upload = begin(s3, {1: content_of(PART + 1)[: PART // 2], 2: content_of(PART + 1)[PART // 2 :]})
        client, at = client_of(s3), {"Bucket": s3.name, "Key": f"{s3.prefix}/{NAME}"}
        etags = [part["ETag"] for part in client.list_parts(**at, UploadId=upload)["Parts"]]
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
        assert store.differs(NAME, file) is None
        assert put(store, NAME, file) == 0

    def test_an_object_of_one_flipped_bit_is_not(self, s3: Bucket, store: S3Store, tmp_path: Path) -> None:
        content = content_of(2 * PART + 3)
        file = made(tmp_path / "file", content)
        put(store, NAME, file)
        s3.put(NAME, content[:PART] + bytes([content[PART] ^ 1]) + content[PART + 1 :])
        assert store.differs(NAME, file) == "has other bytes"


class TestOptions:
    def test_objects_get_what_the_options_say(self, s3: Bucket, tmp_path: Path) -> None:
        store = S3Store(s3.uri, options=S3Options(storage_class="STANDARD_IA", acl="bucket-owner-full-control", sse="AES256"))
        sizes = {"whole": 10, "parts": PART + 1}
        for name, size in sizes.items():
            file = made(tmp_path / name, content_of(size))
            put(store, name, file)
            put(store, f"copied/{name}", file, like=name)
            assert store.differs(name, file) is None
        heads = [
            client_of(s3).head_object(Bucket=s3.name, Key=f"{s3.prefix}/{folder}{name}") for folder in ("", "copied/") for name in sizes
        ]
        assert {head.get("StorageClass") for head in heads} == {"STANDARD_IA"}

    def test_what_goes_at_a_limited_rate_is_whole(self, s3: Bucket, tmp_path: Path) -> None:
        store = S3Store(s3.uri, options=S3Options(max_bandwidth_mb_s=100, at_once=2))
        file = made(tmp_path / "file", content_of(PART + 1))
        assert put(store, NAME, file) == PART + 1
        assert store.differs(NAME, file) is None

    def test_small_files_keep_to_the_rate_too(self, s3: Bucket) -> None:
        small = S3Store(s3.uri, options=S3Options(max_bandwidth_mb_s=1))._small
        assert not small.put(f"{s3.prefix}/v1/file", b"", "1B2M2Y8AsgTpgAmY7PhCfg==")

    def test_threads_wait_for_the_bytes_that_all_of_them_took(self) -> None:
        slept: list[float] = []
        bandwidth = Bandwidth(1000, clock=lambda: 7.0, sleep=slept.append)
        for count in (500, 0, 1000):
            bandwidth.take(count)
        assert slept == [0.5, 0.5, 1.5]

    def test_an_endpoint_is_taken_from_the_options_before_the_environment(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        S3Store(s3.uri).check()
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        S3Store(s3.uri, options=S3Options(endpoint=s3.server.endpoint)).check()

    def test_a_profile_and_its_endpoint_are_enough(self, s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = {name: monkeypatch.delenv(name) or value for name, value in s3.server.environment.items() if name in os.environ}
        said = [f"{name.lower()} = {keys[name]}" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        (tmp_path / "config").write_text("\n".join(["[profile lab]", "region = eu-west-1", f"endpoint_url = {s3.server.endpoint}", *said]))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        S3Store(s3.uri, options=S3Options(profile="lab")).check()


class TestMessages:
    def test_a_bucket_that_is_not_there(self, s3: Bucket) -> None:
        assert message_of("s3://no-such-bucket/x").startswith(
            "there is no such bucket [file s3://no-such-bucket/x]; found NoSuchBucket (404): "
        )

    def test_a_wrong_secret(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "PLANTED")
        said = message_of(s3.uri)
        assert said.startswith(f"the secret key is wrong [file {s3.uri}]; found SignatureDoesNotMatch (403): ")
        assert said.endswith("Check AWS_SECRET_ACCESS_KEY, or the profile: it may have been cut off.")

    def test_a_key_that_the_store_does_not_know(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "PLANTED")
        assert message_of(s3.uri).startswith(f"the store does not know the access key [file {s3.uri}]; found InvalidAccessKeyId (403): ")

    def test_no_credentials(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        said = message_of(s3.uri)
        assert said.startswith(f"there are no credentials for the store [file {s3.uri}]; found ")
        assert "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile" in said
        said = message_of(s3.uri, profile="lab")
        assert said.startswith(f"there is no such profile for the store [file {s3.uri}]; found The config profile (lab) could not be found")

    def test_an_endpoint_where_nobody_listens(self, s3: Bucket) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            said = message_of(s3.uri, endpoint=endpoint)
        assert said.startswith(f"the store cannot be reached, or broke off [file {s3.uri}]; found Could not connect to the endpoint URL: ")
        assert endpoint in said
        assert "Check the endpoint (AWS_ENDPOINT_URL) and the network." in said

    def test_an_endpoint_that_speaks_no_tls(self, s3: Bucket) -> None:
        said = message_of(s3.uri, endpoint=s3.server.endpoint.replace("http:", "https:"))
        assert said.startswith(f"the store's certificate is not trusted, or it speaks no TLS [file {s3.uri}]; found SSL validation failed")

    def test_a_clock_that_is_wrong(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        import botocore.auth

        now = botocore.auth.get_current_datetime
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: now(*a, **k).replace(year=2020))
        said = message_of(s3.uri)
        assert said.startswith(f"this machine's clock and the store's differ by more than the store takes [file {s3.uri}]; found Request")
        assert "which is the store's time. Set the clock (`timedatectl set-ntp true`), then run the same again." in said

    @pytest.mark.parametrize("uri", ["/data", "s3://", "s3:///x", "s3://KEY:PLANTED@bucket/x", "s3://bucket/x?X-Amz-Signature=PLANTED"])
    def test_a_uri_that_is_none(self, uri: str) -> None:
        assert message_of(uri).startswith("this is no place in S3; expected s3://BUCKET/PREFIX")

    @pytest.mark.parametrize("endpoint", ["10.0.0.5:9000", "http://KEY:PLANTED@10.0.0.5:9000"])
    def test_an_endpoint_that_is_none(self, endpoint: str) -> None:
        assert message_of("s3://bucket", endpoint=endpoint).startswith("this is no endpoint of S3; expected http(s)://HOST:PORT")

    @pytest.mark.parametrize(
        "options", [{"at_once": 0}, {"max_bandwidth_mb_s": 0.0}, {"endpoint": "http://a b"}, {"region": "not a region"}]
    )
    def test_options_that_cannot_be(self, s3: Bucket, options: dict[str, Any]) -> None:
        assert message_of(s3.uri, **options).startswith("these options of S3 cannot be used; found ")

    def test_boto3_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "boto3", None)
        monkeypatch.delitem(sys.modules, "boto3.session", raising=False)
        said = message_of("s3://bucket/x")
        assert said == ("publishing to S3 needs boto3, which is not installed. Install it: uv sync --extra s3 (pip install 'vla-ops[s3]').")
