"""A web server of a folder: with an index, parts of files, ETags, and connections that break."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Served:
    """What a server was asked, and how it is to behave."""

    def __init__(self, folder: Path, *, ranges: bool, break_after: int | None) -> None:
        self.folder, self.ranges, self.break_after = folder, ranges, break_after
        self.sent, self.broken, self.url = 0, 0, ""
        # Bytes sent by file; each file is broken off once.
        self.of_file: dict[str, int] = {}
        self.whole_now: set[str] = set()


class _Handler(http.server.SimpleHTTPRequestHandler):
    served: Served

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if not self._answer(body=False):
            super().do_HEAD()

    def do_GET(self) -> None:
        if not self._answer(body=True):
            super().do_GET()

    def _answer(self, *, body: bool) -> bool:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return False
        content = path.read_bytes()
        start, end = self._range(len(content))
        part = (start, end) != (0, len(content))
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()[:16]}"')
        self.send_header("Accept-Ranges", "bytes" if self.served.ranges else "none")
        if part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if body:
            self._send(path.name, content[start:end])
        return True

    def _range(self, size: int) -> tuple[int, int]:
        asked = self.headers.get("Range")
        if not asked or not self.served.ranges:
            return 0, size
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1 if last else size, size)

    def _send(self, name: str, content: bytes) -> None:
        served = self.served
        sent = served.of_file.get(name, 0)
        if served.break_after is not None and sent + len(content) > served.break_after and name not in served.whole_now:
            served.whole_now.add(name)
            served.broken += 1
            content = content[: max(served.break_after - sent, 0)]
            self.close_connection = True
        served.of_file[name] = sent + len(content)
        served.sent += len(content)
        self.wfile.write(content)


@contextmanager
def serving(folder: Path, *, ranges: bool = True, break_after: int | None = None) -> Iterator[Served]:
    """Serve `folder`; with `break_after` the connection breaks, once for each file, when so many bytes of it were sent."""
    served = Served(folder, ranges=ranges, break_after=break_after)
    handler = type("Handler", (_Handler,), {"served": served})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder))) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
