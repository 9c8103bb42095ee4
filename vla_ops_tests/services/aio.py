"""An aiohttp server in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web


@contextmanager
def served(app: web.Application) -> Iterator[str]:
    """Serve on the loopback until the end of the block; its `http://HOST:PORT`."""
    ready, loop, found = threading.Event(), asyncio.new_event_loop(), list[str]()
    stopping = asyncio.Event()

    async def run() -> None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        found.append(f"http://{host}:{port}")
        ready.set()
        await stopping.wait()
        await runner.cleanup()
        # Connections that were open are closed in the loop's next rounds.
        await asyncio.sleep(0.05)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(120), "the server did not start"
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()
