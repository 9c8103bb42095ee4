"""Answers without a model, and clients, for the tests of the server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from vla_ops.policies.backend import BackendOptions, Sampled
from vla_ops.policies.pi_policy import PiPolicy
from vla_ops.policies.real_time import Guide
from vla_ops.policies.setup import PolicySetup
from vla_ops.policies.transforms import ModelInputs, PolicyTransforms
from vla_ops.serving.server import PolicyServer
from vla_ops.serving.service import Answers, Reply
from vla_ops.serving.wire import pack, unpack


class Echo(Answers):
    """Sends back what it is sent; `hold` makes it wait until it is set, `boom` fails."""

    metadata: Mapping[str, Any] = {"name": "echo"}

    def __init__(self, delay_s: float = 0.0) -> None:
        self.hold = threading.Event()
        self.hold.set()
        self.delay_s = delay_s
        self.order: list[Any] = []

    def answer(self, message: Any) -> Reply:
        """See Answers."""
        self.hold.wait(120)
        time.sleep(self.delay_s)
        if message.get("boom"):
            raise ValueError("intentional failure")
        self.order.append(message.get("who"))
        return Reply({"echo": message}, {"think": 0.25})


class Doubling:
    """A backend whose actions are twice the noise and the mean of the first image, or the guide's as far as they are held to it.

    No model, but rows that can be told apart.
    """

    name = "doubling"
    batch_sizes = (1, 2)

    def sample(self, inputs: ModelInputs, noise: np.ndarray[Any, np.dtype[np.float32]], guide: Guide | None = None) -> Sampled:
        first = next(iter(inputs.images.values())).astype(np.float32).mean(axis=(1, 2, 3)) / 255
        free = (2 * noise + first[:, None, None]).astype(np.float32)
        held = free if guide is None else free + guide.weights[..., None] * (guide.actions - free)
        return Sampled(held, {"prefix": 0.001, "denoise": 0.002})


def doubling_policy(setup: PolicySetup, transforms: PolicyTransforms, **options: Any) -> PiPolicy:
    return PiPolicy(setup, transforms, Doubling(), options=BackendOptions(**options))


@contextmanager
def kept_port() -> Iterator[int]:
    """A port that nobody listens on, and that no other program is given: a server that may reuse addresses can have it."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@contextmanager
def talking(server: PolicyServer, **given: Any) -> Iterator[ClientConnection]:
    """A connection whose metadata was read."""
    with connect(server.uri, compression=None, max_size=None, **given) as connection:
        unpack(received(connection))
        yield connection


def received(connection: ClientConnection) -> bytes:
    message = connection.recv(timeout=60)
    assert isinstance(message, bytes), message
    return message


def asked(connection: ClientConnection, message: Any) -> Any:
    """The reply, unpacked; the text of an error as it is."""
    connection.send(message if isinstance(message, bytes | str) else pack(message))
    reply = connection.recv(timeout=60)
    return reply if isinstance(reply, str) else unpack(reply)
