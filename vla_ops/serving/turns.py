"""Whose requests are computed next: a few at once, the clients in turn, so that no client's many requests hold up another's one."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field

from vla_ops.errors import RequestError


@dataclass(frozen=True, eq=False)
class _Asked[Request, Answer]:
    request: Request
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def succeed(self, answer: Answer) -> None:
        # One who has gone waits for nothing.
        if not self.answer.done():
            self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Turns[Request, Answer]:
    """A bounded queue that goes round the clients, and `compute`, which answers up to `at_once` requests. For one event loop."""

    def __init__(
        self, compute: Callable[[Sequence[Request]], Awaitable[Sequence[Answer]]], *, at_once: int = 1, most_waiting: int, timeout_s: float
    ) -> None:
        self.at_once, self.most_waiting, self.timeout_s = at_once, most_waiting, timeout_s
        # Requests that wait; and whether some are computed.
        self.waiting, self.is_busy = 0, False
        self._compute = compute
        self._queues: OrderedDict[Hashable, deque[_Asked[Request, Answer]]] = OrderedDict()
        self._work: asyncio.Task[None] | None = None

    async def ask(self, client: Hashable, request: Request) -> Answer:
        """The answer, when it is this client's turn. Raise RequestError where too many wait, or it took too long until the turn."""
        if self.is_busy and self.waiting >= self.most_waiting:
            raise RequestError(
                "the server has too much to do", found=f"{self.waiting} requests wait", expected=f"fewer than {self.most_waiting}",
                todo="Ask again later, or run more servers.",
            )  # fmt: skip
        mine: _Asked[Request, Answer] = _Asked(request)
        self._queues.setdefault(client, deque()).append(mine)
        self.waiting += 1
        if not self.is_busy:
            self.is_busy = True
            # Taken at once: it is not one of those that wait.
            self._work = asyncio.create_task(self._answer_all(self._next()))
        try:
            async with asyncio.timeout(self.timeout_s):
                await mine.begun.wait()
        except TimeoutError as error:
            self._leave(client, mine)
            raise RequestError("the request waited too long for its turn", expected=f"at most {self.timeout_s:g} s") from error
        except asyncio.CancelledError:
            self._leave(client, mine)
            raise
        return await mine.answer

    async def _answer_all(self, asked: Sequence[_Asked[Request, Answer]]) -> None:
        """Those who were taken, and then all who wait."""
        try:
            while asked:
                try:
                    answers = await self._compute([one.request for one in asked])
                except Exception as error:
                    # To those who asked: the next ones are answered all the same.
                    for one in asked:
                        one.fail(error)
                else:
                    for one, answer in zip(asked, answers, strict=True):
                        one.succeed(answer)
                asked = self._next()
        finally:
            self.is_busy = False

    def _next(self) -> list[_Asked[Request, Answer]]:
        """The first request of each client in turn, then their second ones, up to `at_once`."""
        taken: list[_Asked[Request, Answer]] = []
        while self._queues and len(taken) < self.at_once:
            client, queue = self._queues.popitem(last=False)
            taken.append(queue.popleft())
            if queue:
                # Behind all others.
                self._queues[client] = queue
        self.waiting -= len(taken)
        for one in taken:
            one.begun.set()
        return taken

    def _leave(self, client: Hashable, mine: _Asked[Request, Answer]) -> None:
        """Of one who gives up; what has begun is computed for nobody."""
        if mine.begun.is_set():
            return
        queue = self._queues[client]
        queue.remove(mine)
        self.waiting -= 1
        if not queue:
            del self._queues[client]
