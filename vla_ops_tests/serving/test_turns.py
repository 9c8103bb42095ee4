"""A few requests at a time, the clients in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from vla_ops.errors import RequestError
from vla_ops.serving.turns import Turns


class Computing:
    """Answers requests with themselves, once it is let; what was computed together is in `rounds`."""

    def __init__(self) -> None:
        self.rounds: list[list[Any]] = []
        self.let = asyncio.Event()

    async def __call__(self, requests: Sequence[Any]) -> Sequence[Any]:
        self.rounds.append(list(requests))
        await self.let.wait()
        if "boom" in requests:
            raise ValueError("intentional failure")
        return requests


def waiting_turns(
    scenario: Callable[[Turns[Any, Any], Computing, list[asyncio.Task[Any]]], Awaitable[None]], asking: str, **given: Any
) -> Any:
    """The turns after `scenario`, which begins when a first request is computed and the others, named by their clients, wait."""

    async def run() -> tuple[Turns[Any, Any], Computing]:
        computing = Computing()
        turns: Turns[Any, Any] = Turns(computing, **{"most_waiting": 20, "timeout_s": 60} | given)
        tasks = [asyncio.create_task(turns.ask("first", "first"))]
        await settled()
        tasks += [asyncio.create_task(turns.ask(client, f"{client}{k}")) for k, client in enumerate(asking)]
        await settled()
        await scenario(turns, computing, tasks)
        computing.let.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns.waiting == 0
        assert await turns.ask("later", "later") == "later"
        return turns, computing

    return asyncio.run(run())


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def nothing(turns: Turns[Any, Any], computing: Computing, tasks: list[asyncio.Task[Any]]) -> None:
    """Nothing happens meanwhile."""


def order_of(asking: str, **given: Any) -> list[str]:
    """The clients of each round, as one word."""
    _, computing = waiting_turns(nothing, asking, **given)
    return ["".join(request[0] for request in requests) for requests in computing.rounds[1:-1]]


def test_a_client_with_many_requests_waits_behind_one_with_one() -> None:
    assert order_of("aaaab") == list("abaaa")
    assert order_of("aabbcc") == list("abcabc")


def test_requests_of_one_client_keep_their_order() -> None:
    _, computing = waiting_turns(nothing, "aaa")
    assert computing.rounds[1:-1] == [["a0"], ["a1"], ["a2"]]


def test_several_are_computed_at_once_the_clients_in_turn_and_each_gets_its_own_answer() -> None:
    assert order_of("aaaab", at_once=2) == ["ab", "aa", "a"]
    assert order_of("aabbcc", at_once=4) == ["abca", "bc"]

    async def look(turns: Turns[Any, Any], computing: Computing, tasks: list[asyncio.Task[Any]]) -> None:
        computing.let.set()
        assert await asyncio.gather(*tasks) == ["first", "a0", "a1", "b2"]

    waiting_turns(look, "aab", at_once=2)


def test_more_requests_than_may_wait_are_refused() -> None:
    async def scenario(turns: Turns[Any, Any], computing: Computing, tasks: list[asyncio.Task[Any]]) -> None:
        with pytest.raises(RequestError, match="too much to do; found 1 requests wait"):
            await turns.ask("c", "c")

    waiting_turns(scenario, "b", most_waiting=1)


def test_one_who_comes_before_the_first_is_begun_finds_as_much_room() -> None:
    async def run() -> list[str]:
        computing = Computing()
        computing.let.set()
        turns: Turns[Any, Any] = Turns(computing, most_waiting=2, timeout_s=60)
        # None of them has been waited for in between.
        return await asyncio.gather(*(turns.ask(client, client) for client in "abc"))

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_with_no_room_to_wait_one_after_another_is_answered() -> None:
    _, computing = waiting_turns(nothing, "", most_waiting=0)
    assert computing.rounds == [["first"], ["later"]]


def test_a_request_that_waited_too_long_or_was_given_up_leaves_the_others_their_turn() -> None:
    async def scenario(turns: Turns[Any, Any], computing: Computing, tasks: list[asyncio.Task[Any]]) -> None:
        _, late, given_up, waiting = tasks
        given_up.cancel()
        with pytest.raises(RequestError, match=r"waited too long.*at most 0.05 s"):
            await late
        assert turns.waiting == 1 or waiting.done()

    _, computing = waiting_turns(scenario, "bcd", timeout_s=0.05)
    assert all("c1" not in requests and "b0" not in requests for requests in computing.rounds)


def test_one_who_goes_while_it_is_computed_disturbs_nobody() -> None:
    async def scenario(turns: Turns[Any, Any], computing: Computing, tasks: list[asyncio.Task[Any]]) -> None:
        tasks[0].cancel()
        computing.let.set()
        assert await tasks[1] == "b0"
        assert tasks[0].cancelled()

    waiting_turns(scenario, "b")


def test_an_error_is_told_to_those_who_asked_and_the_next_are_answered() -> None:
    async def scenario(turns: Turns[Any, Any], computing: Computing, tasks: list[asyncio.Task[Any]]) -> None:
        broken = asyncio.create_task(turns.ask("x", "boom"))
        await settled()
        computing.let.set()
        with pytest.raises(ValueError, match="intentional failure"):
            await broken
        assert await turns.ask("y", "y") == "y"

    waiting_turns(scenario, "")
