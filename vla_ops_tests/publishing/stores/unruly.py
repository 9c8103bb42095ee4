"""A way to a real S3 server on which things happen: answers that are lost or cut off, a server that is busy, or that lacks something."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Literal

# The answer itself, one in its place (an error's code, or a body), its beginning, or none although the server did what was asked.
Fate = Literal["pass", "lose", "cut"] | tuple[int, str]


@dataclass
class Way:
    """`fate` decides of a request by its method, path and headers. `asked` are those that came."""

    endpoint: str
    fate: Callable[[str, str, Any], Fate] = lambda *_: "pass"
    asked: list[str] = field(default_factory=list)
    # What error answers say besides their code.
    message: str = "it is so"


@contextmanager
def way_to(endpoint: str) -> Iterator[Way]:
    """A server that hands requests on to another."""
    way = Way("")
    target = endpoint.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            way.asked.append(f"{self.command} {self.path}")
            fate = way.fate(self.command, self.path, self.headers)
            if isinstance(fate, tuple):
                self._answer(fate[0], {"x-amz-bucket-region": "eu-north-1"}, _error(fate[1], way.message))
                return
            status, headers, answer = self._handed_on(body)
            if fate == "pass":
                self._answer(status, headers, answer)
                return
            self.close_connection = True
            if fate == "cut":
                self._answer(status, headers, answer, cut=len(answer) // 2)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one  # noqa: N815 - names of the standard library

        def _handed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            connection = http.client.HTTPConnection(target, timeout=60)
            # With the Host that was asked for, which is signed.
            headers = {name: value for name, value in self.headers.items() if name.lower() not in {"expect", "connection"}}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            answer = response.read()
            connection.close()
            return response.status, dict(response.getheaders()), answer

        def _answer(self, status: int, headers: dict[str, str], body: bytes, cut: int | None = None) -> None:
            self.send_response(status)
            length = headers.get("Content-Length") if self.command == "HEAD" else len(body)
            for name, value in headers.items():
                if name.lower() not in {"content-length", "date", "server", "connection", "transfer-encoding"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body[:cut])

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        way.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield way
        finally:
            server.shutdown()
            thread.join()


def _error(code: str, message: str) -> bytes:
    if code.startswith("<"):
        return code.encode()
    said = f"<Code>{code}</Code><Message>{message}</Message>"
    return f'<?xml version="1.0" encoding="UTF-8"?><Error>{said}<RequestId>1</RequestId></Error>'.encode()
