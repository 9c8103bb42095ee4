"""A checkpoint in an S3 bucket, on a server that speaks S3 and is started here."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params
from vla_ops.fetching.download import download
from vla_ops.fetching.remote import list_files
from vla_ops_tests.checkpoints.small import saved, small_state

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    if shutil.which("uv") is None:
        pytest.skip("uv is not there to make the server's environment")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = ["uv", "run", "--isolated", "--no-project", "--python", sys.executable, "--with", "moto[server]>=5", "moto_server"]
    with subprocess.Popen([*command, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.PIPE, text=True) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _wait_for(url: str, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stderr is not None
            pytest.skip(f"the server cannot be had: {server.stderr.read()[-300:]}")
        try:
            urllib.request.urlopen(url, timeout=1).close()  # noqa: S310
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
        else:
            return
    pytest.skip("the server did not start in three minutes")


@pytest.mark.parametrize("credentials", [True, False])
def test_a_checkpoint_is_fetched_from_a_bucket_with_and_without_credentials(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, credentials: bool
) -> None:
    import s3fs

    bucket = f"policies-{int(credentials)}"
    step = saved(tmp_path / "run", small_state())
    writer = s3fs.S3FileSystem(endpoint_url=endpoint, key="a", secret="a", skip_instance_cache=True)  # noqa: S106
    writer.mkdir(bucket, acl="public-read")
    writer.put(str(step), f"{bucket}/pi0/1", recursive=True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "a") if credentials else monkeypatch.delenv(name, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    # The hash of a file's content is known for files that were put in one piece.
    assert all(file.md5 for file in list_files(f"s3://{bucket}/pi0/1"))
    fetched = download(f"s3://{bucket}/pi0/1", tmp_path / "cache")
    there, here = (read_params(open_checkpoint(path)) for path in (step, fetched))
    assert all(np.array_equal(there[path], here[path]) for path in there)
    s3fs.S3FileSystem.clear_instance_cache()
