"""What clients do wrong or at once, who may come in, and how the server stops."""

# ruff: noqa: S104, S106 - what is secret in a test
from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from vla_ops.errors import PolicyError
from vla_ops.policies.pi_policy import PiPolicy
from vla_ops.policies.setup import make_setup
from vla_ops.serving.options import ServerOptions
from vla_ops.serving.server import PolicyServer, running
from vla_ops.serving.service import PolicyService
from vla_ops.serving.wire import pack, unpack
from vla_ops_tests.policies.small_run import make_run, message, seen
from vla_ops_tests.serving.talking import Echo, asked, doubling_policy, talking


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def server(echo: Echo) -> Iterator[PolicyServer]:
    with running(echo, ServerOptions(port=0, max_message_bytes=1 << 20, max_clients=8, max_waiting=2, wait_timeout_s=120)) as server:
        yield server


def eventually(holds: Callable[[], bool], *, seconds: float = 120) -> bool:
    ends = time.monotonic() + seconds
    while not holds() and time.monotonic() < ends:
        time.sleep(0.01)
    return holds()


def metrics(server: PolicyServer) -> dict[str, float]:
    """`name{label=value,...}` -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=60) as response:
        text = response.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value for sample in samples}


# What is sent wrongly


@pytest.mark.parametrize("wrong", [b"garbage", b"", "text", pack({"a": 1})[:-1]], ids=["garbage", "nothing", "text", "cut off"])
def test_what_is_no_message_is_answered_and_closed_and_others_are_served_on(server: PolicyServer, wrong: bytes | str) -> None:
    with talking(server) as other, talking(server) as client:
        assert "expected msgpack" in asked(client, wrong)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=60)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        assert asked(other, {"n": 1})["echo"] == {"n": 1}
    assert metrics(server)["vla_ops_errors_total UnreadableError"] == 1


def test_a_message_larger_than_allowed_ends_its_connection_and_is_not_held_in_memory(server: PolicyServer) -> None:
    with talking(server) as other:
        with talking(server) as client:
            with suppress(ConnectionClosed):
                client.send(bytes(100_000_000))
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(timeout=60)
        received = closed.value.rcvd
        # The kernel may drop the reason with what was never read.
        assert received is None or (received.code, "1048576" in received.reason) == (1009, True)
        assert asked(other, {"n": 1})["echo"] == {"n": 1}
    # Counted when the connection is over on this side too.
    assert eventually(lambda: metrics(server).get("vla_ops_errors_total message too big", 0) == 1)


def test_an_error_that_nobody_foresaw_ends_only_its_connection(server: PolicyServer) -> None:
    with talking(server) as other, talking(server) as client:
        said = asked(client, {"boom": True})
        assert said.startswith("Traceback (most recent call last)")
        assert said.rstrip().endswith("ValueError: intentional failure")
        assert asked(other, {"n": 1})["echo"] == {"n": 1}


def test_a_reply_that_cannot_be_sent_is_an_error_and_not_silence(server: PolicyServer, echo: Echo) -> None:
    echo.answer = lambda message: (_ for _ in ()).throw(TypeError("an object cannot be sent"))  # type: ignore[method-assign]
    with talking(server) as client:
        assert "an object cannot be sent" in asked(client, {})


def test_a_client_that_breaks_off_in_the_middle_of_a_message_leaves_nothing_behind(server: PolicyServer) -> None:
    for sent in (b"", b"GET / HTTP/1.1\r\nHost:", bytes(2000), b"\x16\x03\x01" * 30):
        with socket.create_connection(("127.0.0.1", server.port)) as stream:
            stream.sendall(sent)
    with talking(server) as client:
        client.socket.sendall(b"\x82\xfe\xff\xff" + bytes(50))
        client.socket.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: metrics(server)["vla_ops_clients"] == 0)
    with talking(server) as client:
        assert asked(client, {"n": 1})["echo"] == {"n": 1}


def test_a_client_that_goes_away_while_its_request_is_computed_disturbs_nobody(server: PolicyServer, echo: Echo) -> None:
    echo.hold.clear()
    with talking(server) as client:
        client.send(pack({"who": "gone"}))
        assert eventually(lambda: metrics(server)["vla_ops_clients"] == 1)
    echo.hold.set()
    with talking(server) as other:
        assert asked(other, {"who": "other"})["echo"]["who"] == "other"


def test_a_connection_whose_machine_has_vanished_is_found_by_its_silence(echo: Echo) -> None:
    with running(echo, ServerOptions(port=0, ping_s=1.0)) as server, mute(server):
        # It was a client, takes what it is sent and never answers a ping.
        assert eventually(lambda: metrics(server).get("vla_ops_errors_total client gone", 0) == 1)
        assert metrics(server)["vla_ops_clients"] == 0


@contextmanager
def mute(server: PolicyServer) -> Iterator[socket.socket]:
    """A connection that has shaken hands and does nothing by itself."""
    with socket.create_connection(("127.0.0.1", server.port)) as stream:
        asking = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        stream.sendall(f"{asking}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        assert stream.recv(100).startswith(b"HTTP/1.1 101 ")
        yield stream


def test_a_handshake_that_never_ends_is_given_up(echo: Echo) -> None:
    with running(echo, ServerOptions(port=0, open_timeout_s=0.2)) as server, socket.create_connection(("127.0.0.1", server.port)) as stream:
        stream.settimeout(60)
        # It may be given up before it has begun: then what is sent is not taken.
        with suppress(ConnectionError):
            stream.sendall(b"GET / HTTP/1.1\r\n")
            assert stream.recv(1000) == b""


def test_a_client_that_takes_no_reply_is_left(echo: Echo) -> None:
    message = pack({"image": np.zeros(12_000_000, np.uint8)})
    with running(echo, ServerOptions(port=0, send_timeout_s=0.3)) as server, talking(server) as other, mute(server) as stream:
        # Final, binary, masked with zeros, its length in 8 bytes.
        stream.sendall(b"\x82\xff" + struct.pack(">Q", len(message)) + bytes(4) + message)
        assert eventually(lambda: metrics(server).get("vla_ops_errors_total client takes no reply", 0) == 1)
        assert eventually(lambda: metrics(server)["vla_ops_clients"] == 1)
        assert asked(other, {"n": 1})["echo"] == {"n": 1}


# Several at once


def test_clients_are_answered_each_its_own(server: PolicyServer) -> None:
    def ask(k: int) -> list[int]:
        with talking(server) as client:
            return [asked(client, {"n": k * 100 + i})["echo"]["n"] for i in range(20)]

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, range(3))) == [[k * 100 + i for i in range(20)] for k in range(3)]


def test_more_requests_than_may_wait_are_told_so_and_may_ask_again(server: PolicyServer, echo: Echo) -> None:
    echo.hold.clear()
    with ExitStack() as open_:
        clients = [open_.enter_context(talking(server)) for _ in range(4)]
        clients[0].send(pack({"who": 0}))
        assert eventually(lambda: server.turns.is_busy)
        for k in (1, 2):
            clients[k].send(pack({"who": k}))
            assert eventually(lambda k=k: metrics(server)["vla_ops_waiting_requests"] == k)
        assert "too much to do" in asked(clients[3], {"who": 3})
        echo.hold.set()
        for client in clients[:3]:
            client.recv(timeout=60)
        assert asked(clients[3], {"who": 3})["echo"] == {"who": 3}
    assert echo.order == [0, 1, 2, 3]


def test_another_machine_comes_before_a_second_request_of_the_first(echo: Echo) -> None:
    echo.hold.clear()
    with running(echo, ServerOptions(port=0, wait_timeout_s=120)) as server, ExitStack() as open_:
        greedy = [open_.enter_context(talking(server)) for _ in range(4)]
        other = open_.enter_context(talking(server, source_address=("127.0.0.2", 0)))
        for k, client in enumerate(greedy):
            client.send(pack({"who": f"greedy {k}"}))
            assert eventually(lambda k=k: server.turns.is_busy and server.turns.waiting == k)
        other.send(pack({"who": "other"}))
        assert eventually(lambda: server.turns.waiting == 4)
        echo.hold.set()
        for client in (*greedy, other):
            client.recv(timeout=60)
    assert echo.order.index("other") == 2


def test_what_waits_is_computed_together_and_a_wrong_one_is_told_alone(tmp_path: Path) -> None:
    setup = make_setup(make_run(tmp_path).folder / "7")
    policy = doubling_policy(setup, setup.transforms(), batch_sizes=(1, 4))
    service, calls = Held(policy), policy.backend
    with running(service, ServerOptions(port=0, max_batch=4)) as server, ExitStack() as open_:
        clients = [open_.enter_context(talking(server)) for _ in range(4)]
        service.hold.clear()
        for k, client in enumerate(clients):
            client.send(pack(message(k) if k != 2 else {**message(k), "state": np.full(3, np.nan)}))
            assert eventually(lambda k=k: server.turns.is_busy and server.turns.waiting == k)
        service.hold.set()
        replies = [client.recv(timeout=30) for client in clients]
        found = metrics(server)
    assert "not finite" in str(replies[2])
    right = [unpack(reply)["actions"] for k, reply in enumerate(replies) if k != 2 and isinstance(reply, bytes)]
    assert len(right) == 3
    fresh = PiPolicy(setup, policy.transforms, calls)
    # As if they had been asked one after another.
    for k, actions in zip((0, 1, 3), right, strict=True):
        np.testing.assert_array_equal(actions, fresh.infer(seen(k)))
    assert found["vla_ops_batch_size_count"] == 2
    assert found["vla_ops_batch_size_sum"] == 4


class Held(PolicyService):
    """It waits until it may answer."""

    def __init__(self, policy: PiPolicy) -> None:
        super().__init__(policy)
        self.hold = threading.Event()
        self.hold.set()

    def answer_all(self, messages: Sequence[Any]) -> Any:
        """See Answers."""
        self.hold.wait(30)
        return super().answer_all(messages)


def test_five_hundred_connections_are_taken_or_told_to_come_later(echo: Echo) -> None:
    with running(echo, ServerOptions(port=0, max_clients=50)) as server, ExitStack() as open_:
        refused = 0
        for _ in range(500):
            try:
                open_.enter_context(connect(server.uri, compression=None, ping_interval=None))
            except InvalidStatus as error:
                refused += error.response.status_code == 503
        assert refused == 450
        assert metrics(server)["vla_ops_clients"] == 50
        assert metrics(server)["vla_ops_errors_total too many clients"] == 450


# Who may come in


def test_without_the_token_nobody_comes_in_and_healthz_is_open(echo: Echo) -> None:
    with running(echo, ServerOptions(port=0, token="s3cret")) as server:
        for headers in ({}, {"Authorization": "Api-Key wrong"}, {"Authorization": "s3cret"}, {"Authorization": "Basic s3cret"}):
            with pytest.raises(InvalidStatus) as refused:
                connect(server.uri, additional_headers=headers)
            assert refused.value.response.status_code == 401
        with pytest.raises(urllib.error.HTTPError) as refused_page:
            metrics(server)
        assert refused_page.value.code == 401
        refused_page.value.close()
        for scheme in ("Api-Key", "Bearer"):
            with talking(server, additional_headers={"Authorization": f"{scheme} s3cret"}) as client:
                assert asked(client, {"n": 1})["echo"] == {"n": 1}
        assert urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=60).read() == b"OK\n"


def test_the_token_is_nowhere_printed() -> None:
    assert "s3cret" not in repr(ServerOptions(token="s3cret"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-out", str(cert)]
    try:
        subprocess.run([*made, "-keyout", str(key), "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not there to make a certificate")
    return cert, key


def test_with_a_certificate_the_connection_is_encrypted(echo: Echo, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with running(echo, ServerOptions(port=0, tls_cert=cert, tls_key=key)) as server:
        assert server.uri.startswith("wss://")
        trusted = ssl.create_default_context(cafile=str(cert))
        with talking(server, ssl=trusted) as client:
            assert asked(client, {"n": 1})["echo"] == {"n": 1}
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(server.uri)
        with pytest.raises((ConnectionError, EOFError, ConnectionClosed, TimeoutError, Exception)):
            connect(server.uri.replace("wss", "ws"), open_timeout=2)


def test_files_that_are_no_certificate_are_refused(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    (tmp_path / "cert.pem").write_text("none")
    with pytest.raises(PolicyError, match="not a TLS certificate"):
        ServerOptions(tls_cert=tmp_path / "cert.pem").tls()
    with pytest.raises(PolicyError, match="needs its certificate"):
        ServerOptions(tls_key=certificate[1]).tls()


def test_it_is_on_loopback_unless_it_is_told_otherwise(server: PolicyServer) -> None:
    assert (server.options.host, server.options.is_loopback) == ("127.0.0.1", True)
    assert [ServerOptions(host=host).is_loopback for host in ("::1", "localhost", "0.0.0.0", "192.168.1.4")] == [True, True, False, False]


def test_a_port_that_is_taken_is_said(server: PolicyServer, echo: Echo) -> None:
    with pytest.raises(PolicyError, match=r"cannot listen.*Choose another"), running(echo, ServerOptions(port=server.port)):
        pass


# How it stops


def test_a_request_that_was_begun_is_answered_before_it_stops(echo: Echo) -> None:
    echo.hold.clear()
    with ThreadPoolExecutor(1) as pool, ExitStack() as open_:
        stack = ExitStack()
        server = stack.enter_context(running(echo, ServerOptions(port=0, stop_timeout_s=120)))
        client, idle = (open_.enter_context(talking(server)) for _ in range(2))
        client.send(pack({"who": "last"}))
        assert eventually(lambda: server.turns.is_busy)
        port = server.port
        stopped = pool.submit(stack.close)
        assert eventually(lambda: refuses(port))
        echo.hold.set()
        assert b"last" in client.recv(timeout=60)  # type: ignore[operator]
        for connection in (client, idle):
            with pytest.raises(ConnectionClosed) as closed:
                connection.recv(timeout=60)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server stops")
        stopped.result(timeout=60)


def refuses(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return False
    except OSError:
        return True


# What it measures


def test_metrics_count_requests_errors_and_the_seconds_of_each_stage(server: PolicyServer) -> None:
    with talking(server) as client:
        for k in range(3):
            asked(client, {"n": k})
        # The last is counted after it was sent.
        assert eventually(lambda: metrics(server)["vla_ops_requests_total answered"] == 3)
        found = metrics(server)
    for stage in ("receive", "queue", "think", "send"):
        assert found[f"vla_ops_stage_seconds_count {stage}"] == 3
    assert found["vla_ops_stage_seconds_sum think"] == 0.75
    assert found["vla_ops_clients"] == 1
