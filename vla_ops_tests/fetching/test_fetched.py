"""Files from elsewhere, over real HTTP and from a file system of fsspec's: downloaded once, checked, and never half there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from vla_ops.errors import FetchError
from vla_ops.fetching.fetched import cache_folder, fetch

CONTENT = b"a tokenizer" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    url: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site("")

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            found = self.path.startswith("/tokenizer.model")
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(CONTENT) if found else 0))
            self.end_headers()
            if found and self.command == "GET":
                self.wfile.write(CONTENT)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def remote(name: str, content: bytes = CONTENT) -> str:
    fsspec.filesystem("memory").pipe_file(f"/{name}", content)
    return f"memory://{name}"


def test_a_file_is_downloaded_once_and_kept_by_its_content(site: Site, home: Path) -> None:
    first = fetch(f"{site.url}/tokenizer.model", sha256=DIGEST)
    assert first.read_bytes() == CONTENT
    assert first == home / "cache" / "content" / DIGEST / "tokenizer.model"
    asked = len(site.asked)
    assert fetch(f"{site.url}/tokenizer.model") == first
    assert len(site.asked) == asked > 0
    assert not list((home / "cache" / "incoming").iterdir())


def test_what_is_known_by_its_hash_is_not_asked_for_at_all(home: Path) -> None:
    kept = fetch(remote("a.model"))
    assert fetch("https://nowhere.invalid/b.model", sha256=DIGEST.upper()) == kept


def test_many_may_ask_at_once(site: Site, home: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(lambda _: fetch(f"{site.url}/tokenizer.model"), range(8)))
    assert [path.read_bytes() for path in paths] == [CONTENT]
    assert not list((home / "cache" / "incoming").iterdir())


def test_a_page_that_is_not_there_is_said_so(site: Site, home: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot be downloaded \[file http.*other.*found FileNotFoundError"):
        fetch(f"{site.url}/other")
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_file_of_another_hash_is_not_kept(home: Path) -> None:
    with pytest.raises(
        FetchError, match=rf"not the one that was asked for.*found sha256 {DIGEST} \(11000 bytes\); expected sha256 0{{64}}"
    ):
        fetch(remote("changed.model"), sha256="0" * 64)
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_a_damaged_copy_is_downloaded_again() -> None:
    uri = remote("damaged.model")
    kept = fetch(uri)
    kept.write_bytes(CONTENT[:-1])
    assert fetch(uri).read_bytes() == CONTENT


def test_local_files_are_used_where_they_are(tmp_path: Path, home: Path) -> None:
    (tmp_path / "here.model").write_bytes(CONTENT)
    assert fetch(str(tmp_path / "here.model"), sha256=DIGEST) == fetch(f"file://{tmp_path}/here.model") == tmp_path / "here.model"
    assert not home.exists()


def test_a_kind_of_url_that_nobody_reads_is_refused() -> None:
    with pytest.raises(FetchError, match=r"cannot be read here.*gopher"):
        fetch("gopher://old/tokenizer.model")


def test_without_a_home_the_users_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLA_OPS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "vla_ops"
