"""openpi's websocket protocol: its clients see no difference, and what they send cannot stop the server.

    with running(PolicyService(policy), ServerOptions(port=0)) as server:      in a thread, for notebooks and tests
        server.uri
    serve(PolicyService(policy), ServerOptions())                              until SIGTERM or Ctrl-C

The server sends its metadata, then a reply for each message. An error is a text. After one of the client's (a camera that is missing,
a state that is not finite) the connection stays open, which openpi closes; after bytes that are no message, and after an error that
nobody foresaw, it is closed with 1011 as openpi does. GET /healthz and /metrics are plain HTTP.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self

from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from vla_ops.errors import PolicyError, VlaOpsError
from vla_ops.serving.metrics import CONTENT_TYPE_LATEST, ServerMetrics
from vla_ops.serving.options import ServerOptions
from vla_ops.serving.recorder import Recorder
from vla_ops.serving.service import Answers, Reply
from vla_ops.serving.turns import Turns
from vla_ops.serving.wire import UnreadableError, pack, unpack

type Say = Callable[[str], None]

# As openpi says it.
_CLOSE_REASON = "Internal server error. Traceback included in previous frame."
_STOPS = "the server stops"
# A client that is told to go need not be waited for.
_CLOSE_TIMEOUT_S = 2.0
# Of messages that are already whole; each may have `max_message_bytes`.
_MESSAGES_AHEAD = 1
# Handshakes that fail are counted; their tracebacks say nothing.
_logger = logging.getLogger("vla_ops.serving.websockets")
_logger.setLevel(logging.CRITICAL)


class _Computed(NamedTuple):
    reply: Reply | Exception
    began: float
    ended: float


class PolicyServer:
    """A server in the running event loop; an asynchronous context."""

    def __init__(
        self, answers: Answers, options: ServerOptions | None = None, *, recorder: Recorder | None = None, say: Say = lambda _: None
    ) -> None:
        self.answers, self.options, self.recorder, self.say = answers, options or ServerOptions(), recorder, say
        self.metrics = ServerMetrics()
        self.turns = Turns(
            self._compute, at_once=self.options.max_batch, most_waiting=self.options.max_waiting, timeout_s=self.options.wait_timeout_s
        )
        # What clients see first does not change.
        self._greeting = pack(dict(answers.metadata))
        self._busy: set[ServerConnection] = set()
        self._stopping = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="vla_ops policy")
        self._server: Server | None = None
        self.metrics.watch(clients=lambda: len(self._clients), waiting=lambda: self.turns.waiting)

    async def __aenter__(self) -> Self:
        asked = self.options
        try:
            self._server = await listen(
                self._handle, asked.host, asked.port, ssl=asked.tls(), compression=None, max_size=asked.max_message_bytes,
                max_queue=_MESSAGES_AHEAD, process_request=self._before, open_timeout=asked.open_timeout_s,
                ping_interval=asked.ping_s, ping_timeout=asked.ping_s, close_timeout=_CLOSE_TIMEOUT_S, logger=_logger,
            )  # fmt: skip
        except OSError as error:
            self._worker.shutdown()
            raise PolicyError("the server cannot listen there", found=str(error), todo="Choose another --host or --port.") from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def port(self) -> int:
        """Where it listens."""
        return next(iter(self._open.sockets)).getsockname()[1]

    @property
    def uri(self) -> str:
        """Its address for a client on this machine."""
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        return f"{'wss' if self.options.tls_cert else 'ws'}://{host}:{self.port}"

    async def stop(self) -> None:
        """Take no more clients, send the replies that were begun, and close."""
        server, self._stopping = self._open, True
        server.close(close_connections=False)
        ends = time.monotonic() + self.options.stop_timeout_s
        while self._busy and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        for client in self._clients:
            with suppress(ConnectionClosed):
                await client.close(CloseCode.GOING_AWAY, _STOPS)
        await server.wait_closed()
        self._worker.shutdown(wait=False, cancel_futures=True)

    @property
    def _clients(self) -> list[ServerConnection]:
        """Those that have shaken hands."""
        return [] if self._server is None else list(self._server.connections)

    @property
    def _open(self) -> Server:
        if self._server is None:
            raise PolicyError("the server is not running", todo="Use it as an asynchronous context.")
        return self._server

    def _before(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP, and refuse who may not come in."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if not self._may_enter(request):
            self.metrics.refused("unauthorized")
            return connection.respond(http.HTTPStatus.UNAUTHORIZED, "This server wants `Authorization: Api-Key TOKEN`.\n")
        if request.path == "/metrics":
            response = connection.respond(http.HTTPStatus.OK, self.metrics.text().decode())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = CONTENT_TYPE_LATEST
            return response
        if len(self._clients) >= self.options.max_clients:
            self.metrics.refused("too many clients")
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{len(self._clients)} clients are connected already.\n")
        return None

    def _may_enter(self, request: Request) -> bool:
        if self.options.token is None:
            return True
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        return scheme.lower() in ("api-key", "bearer") and hmac.compare_digest(given.strip().encode(), self.options.token.encode())

    async def _handle(self, client: ServerConnection) -> None:
        try:
            await self._send(client, self._greeting)
            await self._converse(client)
            if self._stopping:
                await client.close(CloseCode.GOING_AWAY, _STOPS)
        except ConnectionClosed as closed:
            self._note(closed)
        except TimeoutError:
            self.metrics.refused("client takes no reply")
            client.transport.abort()
        finally:
            self._busy.discard(client)
            if self.recorder is not None:
                self.recorder.ended(id(client))

    async def _converse(self, client: ServerConnection) -> None:
        took_ms: float | None = None
        while not self._stopping:
            began = time.monotonic()
            message = await client.recv()
            self._busy.add(client)
            try:
                is_open = await self._reply(client, message, took_ms)
            finally:
                self._busy.discard(client)
            if not is_open:
                return
            took_ms = (time.monotonic() - began) * 1e3

    async def _reply(self, client: ServerConnection, message: str | bytes, took_ms: float | None) -> bool:
        """Answer one message; return whether the connection goes on."""
        stamp_ns = time.time_ns()
        try:
            request, receive_s = self._unpacked(message)
            queued = time.perf_counter()
            reply, began, ended = await self.turns.ask(_address(client), request)
            if isinstance(reply, Exception):
                raise reply
        except VlaOpsError as error:
            self.metrics.failed(type(error).__name__)
            self.say(f"{_address(client)}: {error}")
            await self._send(client, f"{type(error).__name__}: {error}")
            return not isinstance(error, UnreadableError) or await self._close(client)
        except Exception as error:
            # Whatever it is, the others are served on.
            self.metrics.failed(type(error).__name__)
            self.say(f"{_address(client)}: {error!r}")
            await self._send(client, traceback.format_exc())
            return await self._close(client)
        timing = {"infer_ms": (ended - began) * 1e3} | ({} if took_ms is None else {"prev_total_ms": took_ms})
        await self._send(client, pack({**reply.values, "server_timing": timing}))
        self.metrics.answered({"receive": receive_s, "queue": began - queued, "send": time.perf_counter() - ended, **reply.seconds})
        if self.recorder is not None:
            self.recorder.answered(id(client), stamp_ns, request, reply)
        return True

    async def _compute(self, requests: Sequence[Any]) -> list[_Computed]:
        began = time.perf_counter()
        replies = await asyncio.get_running_loop().run_in_executor(self._worker, self.answers.answer_all, requests)
        ended = time.perf_counter()
        self.metrics.computed(len(requests))
        return [_Computed(reply, began, ended) for reply in replies]

    def _unpacked(self, message: str | bytes) -> tuple[Any, float]:
        began = time.perf_counter()
        if isinstance(message, str):
            raise UnreadableError("a request is bytes", found=f"text {message[:40]!r}", expected="msgpack, as openpi-client packs it")
        return unpack(message), time.perf_counter() - began

    async def _send(self, client: ServerConnection, message: str | bytes) -> None:
        async with asyncio.timeout(self.options.send_timeout_s):
            await client.send(message)

    async def _close(self, client: ServerConnection) -> bool:
        await client.close(CloseCode.INTERNAL_ERROR, _CLOSE_REASON)
        return False

    def _note(self, closed: ConnectionClosed) -> None:
        ours = closed.sent
        if ours is not None and ours.code == CloseCode.MESSAGE_TOO_BIG:
            self.metrics.refused("message too big")
        elif closed.rcvd is None:
            self.metrics.refused("client gone")


def _address(client: ServerConnection) -> str:
    """The machine that asks: its connections share its turns."""
    return str((client.remote_address or ("?",))[0])


def serve(answers: Answers, options: ServerOptions, *, recorder: Recorder | None = None, say: Say = print) -> None:
    """Serve until SIGTERM or SIGINT, then send the replies that were begun and return. Raise PolicyError where it cannot listen."""

    async def run() -> None:
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked.set)
        async with PolicyServer(answers, options, recorder=recorder, say=say) as server:
            say(f"serving on {server.uri}")
            await asked.wait()
            say("stopping")

    asyncio.run(run())


@contextmanager
def running(
    answers: Answers, options: ServerOptions | None = None, *, recorder: Recorder | None = None, say: Say = lambda _: None
) -> Iterator[PolicyServer]:
    """Serve in a thread of this process."""
    loop = asyncio.new_event_loop()
    server = PolicyServer(answers, options or ServerOptions(port=0), recorder=recorder, say=say)
    thread = threading.Thread(target=loop.run_forever, name="vla_ops server", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result()
        try:
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
