"""A Google Cloud Storage emulator (gcp-storage-emulator) on the loopback; `gs://BUCKET/...` reaches it by STORAGE_EMULATOR_HOST alone.

It serves what gcsfs asks for: ranges, listings with prefixes, MD5s and generations. Tests ask for the fixture `gs`, marked `services`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from vla_ops_tests.services.processes import free_ports, program, running, wait_until_ready

BUCKET = "robots"


@dataclass(frozen=True)
class GcsFolder:
    """What lies below a prefix of the emulator's bucket."""

    endpoint: str
    prefix: str

    @property
    def uri(self) -> str:
        """`gs://BUCKET/PREFIX`."""
        return f"gs://{BUCKET}/{self.prefix}"

    def fs(self) -> Any:
        """A fresh gcsfs of it."""
        import gcsfs

        return gcsfs.GCSFileSystem(token="anon", project="test", endpoint_url=self.endpoint, skip_instance_cache=True)  # noqa: S106

    def put(self, key: str, source: Path | bytes) -> str:
        """Upload a file, a folder or bytes as `key`; return its URI."""
        fs, place = self.fs(), f"{BUCKET}/{self.prefix}/{key}"
        if isinstance(source, bytes):
            fs.pipe_file(place, source)
            return f"{self.uri}/{key}"
        for path in [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file()):
            name = "" if path == source else f"/{path.relative_to(source).as_posix()}"
            fs.pipe_file(f"{place}{name}", path.read_bytes())
        return f"{self.uri}/{key}"


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one emulator for all tests of the session."""
    folder = tmp_path_factory.mktemp("gcs")
    log, (port,) = folder / "log", free_ports(1)
    command = [
        program("gcp-storage-emulator", "gcp-storage-emulator", folder / "program"),
        "start",
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with running([*command, "--default-bucket", BUCKET, "--in-memory", "--quiet"], log, {}) as process:
        wait_until_ready(process, lambda: _answers(port), log)
        yield f"http://127.0.0.1:{port}"


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


@pytest.fixture
def gs(gcs_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsFolder]:
    """A prefix of one's own, and the environment in which its `gs://` URIs work in this process and those it starts."""
    import gcsfs

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    gcsfs.GCSFileSystem.clear_instance_cache()
    yield GcsFolder(gcs_server, uuid4().hex[:12])
    gcsfs.GCSFileSystem.clear_instance_cache()
