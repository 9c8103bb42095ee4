"""A TCP proxy that is as slow as a network: so many Mbit/s for all connections together, and a latency for each answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_PART = 32 * 2**10


class _Link:
    """The way back from the server. `bytes_per_s` are shared by all connections."""

    def __init__(self, bytes_per_s: float, latency_s: float) -> None:
        self.bytes_per_s, self.latency_s, self.free_at = bytes_per_s, latency_s, 0.0

    async def carry(self, size: int) -> None:
        """Wait until so many bytes have come through."""
        self.free_at = max(self.free_at, time.monotonic()) + size / self.bytes_per_s
        await asyncio.sleep(max(0.0, self.free_at - time.monotonic()))


@contextmanager
def slow_link(host: str, port: int, *, mbit: float, latency_s: float) -> Iterator[int]:
    """Yield the port at which the server at `host:port` is reached through the link."""
    loop, ready, ports = asyncio.new_event_loop(), threading.Event(), list[int]()
    link, stopping = _Link(mbit * 1e6 / 8, latency_s), asyncio.Event()

    async def serve() -> None:
        server = await asyncio.start_server(lambda r, w: _connect(r, w, host, port, link), "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stopping.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()


async def _connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, link: _Link) -> None:
    there_reader, there_writer = await asyncio.open_connection(host, port)
    asked = asyncio.Event()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(_forth(reader, there_writer, asked), _back(there_reader, writer, link, asked))


async def _forth(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(_PART):
            asked.set()
            writer.write(data)
            await writer.drain()
        writer.close()


async def _back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, asked: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(_PART):
            if asked.is_set():  # The first bytes of an answer.
                asked.clear()
                await asyncio.sleep(link.latency_s)
            await link.carry(len(data))
            writer.write(data)
            await writer.drain()
        writer.close()
