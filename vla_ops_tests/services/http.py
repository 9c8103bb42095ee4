"""A real HTTP server (aiohttp) of a folder, in a thread: ranges, ETags and If-Match as aiohttp has them, index pages, and troubles.

It counts what it sends. `server.trouble` decides what happens to a request before it is answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from aiohttp import web

from vla_ops_tests.services.aio import served

# What to do with a request: answer it, refuse it with a status, break off in the middle of the body, or say nothing for a while.
type Trouble = Literal["none", "break", "no_ranges"] | int


@dataclass
class HttpServer:
    """A running server of `folder`."""

    folder: Path
    uri: str = ""
    sent_bytes: int = 0
    # Requests by method and path.
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    trouble: Callable[[web.Request, int], Trouble] = lambda _request, _number: "none"
    # Seconds before each answer.
    delay_s: float = 0.0
    # Whether a request is not answered yet.
    held: Callable[[web.Request], bool] = lambda _request: False

    @property
    def count(self) -> int:
        """All requests so far."""
        return sum(self.requests.values())

    def forget(self) -> None:
        """Count from now on."""
        self.sent_bytes = 0
        self.requests.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.requests[request.method, request.path] += 1
        await asyncio.sleep(self.delay_s)
        while self.held(request):
            await asyncio.sleep(0.005)
        trouble = self.trouble(request, self.count)
        if isinstance(trouble, int):
            return web.Response(status=trouble, text=f"trouble {trouble}")
        path = self.folder / request.path.strip("/")
        if path.is_dir():
            return self._index(path)
        if not path.is_file():
            raise web.HTTPNotFound
        if trouble == "break":
            return await self._broken(request, path)
        if trouble == "no_ranges":
            self.sent_bytes += path.stat().st_size
            return web.Response(body=path.read_bytes() if request.method == "GET" else b"", headers={"Last-Modified": "x"})
        return self._counted(request, web.FileResponse(path))

    def _counted(self, request: web.Request, response: web.FileResponse) -> web.FileResponse:
        if request.method == "GET":
            asked = request.http_range
            size = (self.folder / request.path.strip("/")).stat().st_size
            self.sent_bytes += len(range(size)[asked])
        return response

    async def _broken(self, request: web.Request, path: Path) -> web.StreamResponse:
        data = path.read_bytes()[request.http_range]
        response = web.StreamResponse(status=206, headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        self.sent_bytes += len(data) // 2
        if request.transport is not None:
            request.transport.abort()
        return response

    def _index(self, folder: Path) -> web.Response:
        names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
        links = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
        return web.Response(text=f"<html><body>\n{links}</body></html>", content_type="text/html")


@contextmanager
def serve_http(folder: Path) -> Iterator[HttpServer]:
    """Serve a folder until the end of the block."""
    server, app = HttpServer(folder), web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    with served(app) as server.uri:
        try:
            yield server
        finally:
            server.held = lambda _request: False


@pytest.fixture
def http(tmp_path: Path) -> Iterator[HttpServer]:
    """A server of an empty folder; its URIs are new to every client."""
    folder = tmp_path / "served"
    folder.mkdir()
    with serve_http(folder) as server:
        yield server
