"""A remote file read by position: fetched once, tried again, kept across kills, and never two contents in one."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web

from vla_ops.errors import OutOfReachError, RecordingError, SpecError, StoreError
from vla_ops.recordings.byte_file import view
from vla_ops.recordings.remote import fetch
from vla_ops.recordings.remote.blocks import BLOCK
from vla_ops.recordings.remote.folder import RemotePlace
from vla_ops_tests.services.http import HttpServer

CONTENT = np.random.default_rng(0).bytes(3_000_001)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_FIRST_WAIT_S", 0.001)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def uri(http: HttpServer) -> str:
    (http.folder / "a.bin").write_bytes(CONTENT)
    return f"{http.uri}/a.bin"


def some_ranges(seed: int) -> Iterator[tuple[int, int]]:
    shuffled = np.random.default_rng(seed)
    for at in shuffled.integers(len(CONTENT), size=60).tolist():
        yield at, int(shuffled.choice([1, 7, BLOCK, 100_000]))


def test_any_range_is_what_is_in_the_file_and_no_byte_is_fetched_twice(uri: str, http: HttpServer) -> None:
    with closing(RemotePlace(uri)) as place:
        file = place.file()
        assert (file.size, file.read(file.size, 10), file.read(0, 0)) == (len(CONTENT), b"", b"")
        for at, size in some_ranges(0):
            assert file.read(at, size) == CONTENT[at : at + size]
        assert file.read(0, 2 * len(CONTENT)) == CONTENT
        # Blocks between two missing ones are fetched with them rather than by two requests.
        assert len(CONTENT) <= http.sent_bytes == place.fetched_bytes <= 1.3 * len(CONTENT)


def test_threads_that_read_and_prefetch_at_random_all_get_the_content(uri: str, http: HttpServer) -> None:
    http.delay_s = 0.002

    def read(seed: int) -> None:
        for at, size in some_ranges(seed):
            if seed % 2:
                file.prefetch([(at, 500_000)])
            assert file.read(at, size) == CONTENT[at : at + size]

    with closing(RemotePlace(uri)) as place, ThreadPoolExecutor(8) as pool:
        file = place.file()
        list(pool.map(read, range(8)))


def test_what_is_announced_comes_in_parallel_and_near_ranges_in_one_request(uri: str, http: HttpServer) -> None:
    with closing(RemotePlace(uri)) as place:
        file = place.file()
        http.forget()
        file.prefetch((at, 100) for at in range(0, 1_000_000, 20_000))
        assert file.read(0, 1) + file.read(980_000, 1) == CONTENT[:1] + CONTENT[980_000:980_001]
        assert http.count == 1
        http.forget()
        file.prefetch([(1_500_000, 100), (2_500_000, 100), (2_000_000, 100)])
        assert file.read(2_500_000, 100) == CONTENT[2_500_000:2_500_100]
        wait_for = time.monotonic() + 120
        while http.count < 3 and time.monotonic() < wait_for:
            time.sleep(0.01)
        assert http.count == 3


def test_a_reader_does_not_wait_behind_what_others_announced(uri: str, http: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_REMOTE_PARALLEL", "1")
    with closing(RemotePlace(uri)) as place:
        file = place.file()
        # What was announced is not answered before the reader is.
        http.held = lambda request: request.http_range.start < 2_000_000
        file.prefetch((at, 10) for at in range(0, len(CONTENT), 200_000))
        assert file.read(2_800_000, 10) == CONTENT[2_800_000:2_800_010]
        assert http.count <= 3
        http.held = lambda _request: False


def test_as_a_python_file_it_is_the_same_file(uri: str) -> None:
    with closing(RemotePlace(uri)) as place, view(place.file()) as file, view(place.file(), (1000, 500)) as part:
        file.seek(-10, os.SEEK_END)
        assert file.read() == CONTENT[-10:]
        file.seek(5)
        assert file.read(20) == CONTENT[5:25]
        assert part.read() == CONTENT[1000:1500]


@pytest.mark.parametrize("trouble", ["break", 503, 429, 500])
def test_what_passes_is_tried_again(uri: str, http: HttpServer, trouble: str | int) -> None:
    http.trouble = lambda _request, number: trouble if number % 2 else "none"  # type: ignore[return-value]
    with closing(RemotePlace(uri)) as place:
        assert place.file().read(0, len(CONTENT)) == CONTENT
        assert place.failure is None


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "Check the credentials"), (401, "Check the credentials"), (404, "moved or removed"), (400, "recordings.uri")],
)
def test_what_does_not_pass_is_said_at_once_with_the_uri_and_what_to_do(uri: str, http: HttpServer, status: int, words: str) -> None:
    http.trouble = lambda _request, _number: status
    with closing(RemotePlace(f"{uri}?X-Amz-Signature=secret")) as place, pytest.raises(OutOfReachError, match=words) as error:
        place.file()
    assert uri in str(error.value)
    assert "secret" not in str(error.value)
    assert http.count <= 4
    assert place.failure is error.value


def test_a_server_that_stays_away_is_said_to_be_after_some_tries(uri: str, http: HttpServer) -> None:
    with closing(RemotePlace(uri)) as place:
        file = place.file()
        http.trouble = lambda _request, _number: 503
        with pytest.raises(OutOfReachError, match=r"cannot be reached, or broke off .*\(6 tries\).*What was fetched is kept"):
            file.read(1_000_000, 10)
        assert place.failure is not None


def test_nobody_listening_is_out_of_reach(tmp_path: Path) -> None:
    with closing(RemotePlace("http://127.0.0.1:9/a.mcap")) as place, pytest.raises(OutOfReachError, match="cannot be reached"):
        place.file()


def test_a_failure_in_what_nobody_came_to_need_is_none(uri: str, http: HttpServer) -> None:
    with closing(RemotePlace(uri)) as place:
        file = place.file()
        http.trouble = lambda _request, _number: 403
        file.prefetch([(1_000_000, 10)])
        while http.count < 2 or file._on_the_way:  # type: ignore[attr-defined]
            time.sleep(0.01)
        assert place.failure is None
        http.trouble = lambda _request, _number: "none"
        assert file.read(1_000_000, 10) == CONTENT[1_000_000:1_000_010]


def test_a_file_that_changes_while_it_is_read_is_refused_and_never_mixed(uri: str, http: HttpServer, cache: Path) -> None:
    with closing(RemotePlace(uri, cache=cache)) as place:
        file = place.file()
        file.read(0, 10)
        (http.folder / "a.bin").write_bytes(CONTENT[::-1])
        with pytest.raises(OutOfReachError, match="changed while it was being read"):
            file.read(2_000_000, 10)
    with closing(RemotePlace(uri, cache=cache)) as place:
        assert place.file().read(0, len(CONTENT)) == CONTENT[::-1]


def test_another_file_than_was_listed_is_refused(uri: str) -> None:
    with closing(RemotePlace(uri, stamp="of another one")) as place, pytest.raises(OutOfReachError, match="changed"):
        place.file()


def test_a_second_opening_fetches_nothing_again(uri: str, http: HttpServer, cache: Path) -> None:
    for expected in (len(CONTENT), 0):
        http.forget()
        with closing(RemotePlace(uri, cache=cache)) as place:
            assert place.file().read(0, len(CONTENT)) == CONTENT
            assert http.sent_bytes == place.fetched_bytes == expected


def test_what_the_disk_lost_is_found_by_its_checksum_and_fetched_again(uri: str, http: HttpServer, cache: Path) -> None:
    with closing(RemotePlace(uri, cache=cache)) as place:
        place.file().read(0, len(CONTENT))
    (kept,) = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size == len(CONTENT)]
    with open(kept, "r+b") as file:
        file.seek(5 * BLOCK)
        file.write(b"\0" * 100)
    http.forget()
    with closing(RemotePlace(uri, cache=cache)) as place:
        assert place.file().read(0, len(CONTENT)) == CONTENT
    assert 0 < http.sent_bytes <= 8 * BLOCK


READER = """
import sys
from contextlib import closing
from pathlib import Path
from vla_ops.recordings.remote.folder import RemotePlace
with closing(RemotePlace(sys.argv[1], cache=Path(sys.argv[2]))) as place:
    for at in range(0, place.file().size, 100_000):
        place.file().read(at, 100_000)
"""


def test_killed_in_the_middle_the_next_run_fetches_only_the_rest(uri: str, http: HttpServer, cache: Path) -> None:
    stuck: list[web.Request] = []

    def hold(request: web.Request) -> bool:
        """Of the reader that is killed, what it asks for after the first third."""
        if request not in stuck and http.sent_bytes >= len(CONTENT) / 3:
            stuck.append(request)
        return request in stuck

    http.held = hold
    reader = subprocess.Popen([sys.executable, "-c", READER, uri, str(cache)])
    while not stuck:
        time.sleep(0.005)
        assert reader.poll() is None
    reader.send_signal(signal.SIGKILL)
    reader.wait()
    before, http.held = http.sent_bytes, stuck.__contains__
    assert before < len(CONTENT)
    with closing(RemotePlace(uri, cache=cache)) as place:
        assert place.file().read(0, len(CONTENT)) == CONTENT
    # One request may have been on its way when it was killed.
    assert http.sent_bytes - before <= len(CONTENT) - before + 3_000_000 * 0.4
    assert place.fetched_bytes < len(CONTENT) * 0.9


def test_a_server_without_ranges_sends_the_whole_once(uri: str, http: HttpServer) -> None:
    http.trouble = lambda _request, _number: "no_ranges"
    with closing(RemotePlace(uri)) as place:
        file = place.file()
        assert file.read(10, 10) == CONTENT[10:20]
        assert file.read(2_000_000, 10) == CONTENT[2_000_000:2_000_010]
        assert place.fetched_bytes == len(CONTENT)


def test_reading_a_closed_file_is_refused_and_is_no_failure_of_the_store(uri: str, http: HttpServer) -> None:
    http.delay_s = 0.05
    place = RemotePlace(uri)
    file = place.file()
    file.prefetch([(0, len(CONTENT))])
    threading.Timer(0.02, place.close).start()
    with pytest.raises(RecordingError, match="closed"):
        # However late it is closed.
        [file.read(at, 10) for at in itertools.cycle(range(0, len(CONTENT), 10_000))]
    place.close()
    assert place.failure is None


def test_a_full_disk_is_the_stores_error(uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with closing(RemotePlace(uri, cache=cache)) as place:
        file = place.file()
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="no room for what is fetched"):
            file.read(0, 10)


@pytest.mark.parametrize(("name", "value"), [("VLA_OPS_REMOTE_PARALLEL", "many"), ("VLA_OPS_REMOTE_PARALLEL", "0")])
def test_settings_that_are_no_numbers_are_refused(uri: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SpecError, match=name):
        RemotePlace(uri)
