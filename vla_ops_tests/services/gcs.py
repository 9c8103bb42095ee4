"""A Google Cloud Storage emulator (gcp-storage-emulator) on the loopback; `gs://BUCKET/...` reaches it by STORAGE_EMULATOR_HOST alone.

It serves what gcsfs and google-cloud-storage ask for: ranges, listings with prefixes, sums, generations, composed objects. The conditions
of a write (`ifGenerationMatch`), which it does not know, are looked at before it. Tests ask for the fixture `gs`, marked `services`.
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
# As docs/json_api/v1/objects/insert says: 0 is that there is none. The emulator does one request after another.
_PROGRAM = """
import http.server, sys
from gcp_storage_emulator import __main__ as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

def generation(storage, bucket, name):
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"

def conditional(handle):
    def handled(request, response, storage, *args, **kwargs):
        asked = request.query.get("ifGenerationMatch")
        name = request.params.get("object_id") or (request.query.get("name") or [None])[0] or (
            request.data["meta"]["name"] if isinstance(request.data, dict) and "meta" in request.data else None)
        if asked and name and generation(storage, request.params["bucket_name"], name) != asked[0]:
            response.status = http.HTTPStatus.PRECONDITION_FAILED
            response.json({"error": {"code": 412, "message": "conditionNotMet"}})
            return None
        return handle(request, response, storage, *args, **kwargs)
    return handled

from gcp_storage_emulator import server
server.HANDLERS = tuple(
    (path, {method: conditional(handle) for method, handle in handlers.items()}) if "/o" in path else (path, handlers)
    for path, handlers in server.HANDLERS)
http.server.HTTPServer.request_queue_size = 128
sys.exit(emulator.main())
"""


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
    python = Path(program("gcp-storage-emulator", "gcp-storage-emulator", folder / "program")).with_name("python")
    command = [
        str(python),
        "-c",
        _PROGRAM,
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
