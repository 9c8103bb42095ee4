"""Stores that a test can put a recording into: fsspec's memory, a local HTTP server, S3, Google's emulator, a Hub."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from vla_ops_tests.services.gcs import GcsFolder
from vla_ops_tests.services.http import HttpServer
from vla_ops_tests.services.hub import HubServer
from vla_ops_tests.services.s3 import Bucket

everywhere = pytest.mark.parametrize(
    "transport", ["memory", *(pytest.param(name, marks=pytest.mark.services) for name in ("http", "s3", "gs", "hf"))]
)
in_memory = pytest.mark.parametrize("transport", ["memory"])


class Shelf:
    """A store of one kind. `put` returns the URI of what was put there."""

    def __init__(self, request: pytest.FixtureRequest, transport: str) -> None:
        self.request, self.transport = request, transport
        self.root = f"memory://{uuid.uuid4().hex}"

    def put(self, source: Path) -> str:
        match self.transport:
            case "memory":
                fs = fsspec.filesystem("memory")
                files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
                for path in files:
                    fs.pipe_file(f"{self.root}/{path.relative_to(source.parent).as_posix()}", path.read_bytes())
                return f"{self.root}/{source.name}"
            case "http":
                server: HttpServer = self.request.getfixturevalue("http")
                target = server.folder / source.name
                shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
                return f"{server.uri}/{source.name}"
            case "hf":
                hub: HubServer = self.request.getfixturevalue("hub")
                files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
                contents = {path.relative_to(source.parent).as_posix(): path.read_bytes() for path in files}
                hub.make("lab/robot", "dataset", files=contents)
                return f"hf://datasets/lab/robot/{source.name}"
            case "gs":
                folder: GcsFolder = self.request.getfixturevalue("gs")
                return folder.put(f"robot/{source.name}", source)
            case _:
                bucket: Bucket = self.request.getfixturevalue("s3")
                return bucket.put(f"robot/{source.name}", source)
