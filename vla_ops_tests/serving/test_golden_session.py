"""A session that was recorded of openpi's own server and client, byte for byte."""

from __future__ import annotations

import json
import re
import socket
import struct
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from vla_ops.serving.options import ServerOptions
from vla_ops.serving.server import PolicyServer, running
from vla_ops.serving.service import Answers, Reply
from vla_ops.serving.wire import pack, unpack


class Recorded(Answers):
    """Answers as openpi's policy did in the recording."""

    def __init__(self, folder: Path) -> None:
        self._metadata: Any = unpack((folder / "00_server_to_client.msgpack").read_bytes())
        self._values = unpack((folder / "02_server_to_client.msgpack").read_bytes())
        del self._values["server_timing"]

    @property
    def metadata(self) -> Any:
        return self._metadata

    def answer(self, message: Any) -> Reply:
        if message.get("boom"):
            raise ValueError("intentional failure")
        return Reply(dict(self._values))


@pytest.fixture
def folder(golden_dir: Path) -> Path:
    return golden_dir / "websocket"


@pytest.fixture
def server(folder: Path) -> Any:
    with running(Recorded(folder), ServerOptions(port=0)) as server:
        yield server


def timeless(message: bytes) -> bytes:
    """The bytes with the times of the server's timing zero: 9 bytes, whatever they are."""
    head, found, tail = message.partition(b"server_timing")
    return head + found + re.sub(rb"(infer_ms|prev_total_ms)\xcb.{8}", lambda match: match[1] + bytes(9), tail, flags=re.DOTALL)


def test_every_message_is_openpis_but_for_the_times(server: PolicyServer, folder: Path) -> None:
    with connect(server.uri, compression=None, max_size=None) as connection:
        assert connection.recv() == (folder / "00_server_to_client.msgpack").read_bytes()
        for asked, answered in (("01", "02"), ("03", "04")):
            connection.send((folder / f"{asked}_client_to_server.msgpack").read_bytes())
            reply = connection.recv()
            assert isinstance(reply, bytes)
            assert timeless(reply) == timeless((folder / f"{answered}_server_to_client.msgpack").read_bytes())
        connection.send((folder / "05_client_to_server.msgpack").read_bytes())
        text = connection.recv()
        assert isinstance(text, str)
        recorded = (folder / "06_server_to_client.txt").read_text()
        assert (text.splitlines()[0], text.splitlines()[-1]) == (recorded.splitlines()[0], recorded.splitlines()[-1])
        with pytest.raises(ConnectionClosedError) as closed:
            connection.recv()
    assert str(closed.value) == json.loads((folder / "session.json").read_text())["after_error"]["text"]


def test_the_bytes_on_the_wire_are_openpis_but_for_date_program_and_times(server: PolicyServer, folder: Path) -> None:
    asked, messages = (folder / "raw_tcp_client_to_server.bin").read_bytes().split(b"\r\n\r\n", 1)
    recorded_head, recorded = (folder / "raw_tcp_server_to_client.bin").read_bytes().split(b"\r\n\r\n", 1)
    with socket.create_connection(("127.0.0.1", server.port)) as stream:
        stream.settimeout(60)
        stream.sendall(asked + b"\r\n\r\n")
        head, _, found = received(stream, len(b"\r\n\r\n".join([recorded_head, b""]))).partition(b"\r\n\r\n")
        sizes = [len(frame) for frame in frames_of(recorded)]
        found += received(stream, sizes[0] - len(found))
        # openpi's client waits for each reply.
        for message, size in zip(frames_of(messages), sizes[1:], strict=False):
            stream.sendall(message)
            found += received(stream, size)
    assert len(sizes) == 3
    assert without_times(head) == without_times(recorded_head)
    assert [timeless(frame) for frame in frames_of(found)] == [timeless(frame) for frame in frames_of(recorded)]


def received(stream: socket.socket, size: int) -> bytes:
    """At least so many bytes, as far as they come."""
    found = b""
    while len(found) < size and (part := stream.recv(1 << 16)):
        found += part
    return found


def without_times(head: bytes) -> list[bytes]:
    return [line for line in head.split(b"\r\n") if not line.startswith((b"Date:", b"Server:"))]


def frames_of(stream: bytes) -> list[bytes]:
    """The frames of one side; a client's have a mask of 4 bytes."""
    frames, at = [], 0
    while at < len(stream):
        masked, size, start = stream[at + 1] >> 7, stream[at + 1] & 127, at
        at += 2
        if size == 126:
            (size,) = struct.unpack(">H", stream[at : at + 2])
            at += 2
        at += size + 4 * masked
        frames.append(stream[start:at])
    return frames


def test_healthz_is_openpis(server: PolicyServer, folder: Path) -> None:
    recorded = json.loads((folder / "session.json").read_text())["healthz"]
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz", timeout=60) as response:
        assert (response.status, response.reason, response.read().decode()) == (recorded["status"], recorded["reason"], recorded["body"])
        found = {name: value for name, value in response.headers.items() if name not in ("Date", "Server")}
    assert found == {name: value for name, value in recorded["headers"] if name not in ("Date", "Server")}


def test_another_plain_request_is_told_to_upgrade(server: PolicyServer, folder: Path) -> None:
    recorded = json.loads((folder / "session.json").read_text())["plain_get_other"]
    for _ in range(3):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=60)
        assert (refused.value.code, refused.value.reason) == (recorded["status"], recorded["reason"])
        refused.value.close()


def test_arrays_in_the_metadata_are_sent(server: PolicyServer) -> None:
    with connect(server.uri) as connection:
        greeting = connection.recv()
        assert isinstance(greeting, bytes)
        assert pack(unpack(greeting)) == greeting
