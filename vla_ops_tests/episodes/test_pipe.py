"""The bounded queue between the decoding and the encoding thread."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from vla_ops.episodes.pipe import Pipe, Stopped


def filled(pipe: Pipe[int], source) -> threading.Thread:
    thread = threading.Thread(target=pipe.fill, args=(source,))
    thread.start()
    return thread


def test_items_come_in_order_and_end():
    pipe: Pipe[int] = Pipe(2, threading.Event())
    thread = filled(pipe, range(50))
    assert list(pipe) == list(range(50))
    thread.join(120)
    assert not thread.is_alive()


def test_filling_waits_for_the_taker():
    made: list[int] = []

    def endless() -> Iterator[int]:
        for k in itertools.count():
            made.append(k)
            yield k

    pipe: Pipe[int] = Pipe(3, threading.Event())
    thread = filled(pipe, endless())
    items = iter(pipe)
    assert next(items) == 0
    time.sleep(0.3)
    # One taken, three waiting, one in the filler's hand.
    assert len(made) <= 5
    pipe.abandon()
    thread.join(120)
    assert not thread.is_alive()


def test_the_taker_gets_the_error_of_the_filler_after_its_items():
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken source")

    pipe: Pipe[int] = Pipe(3, threading.Event())
    thread = filled(pipe, failing())
    items = iter(pipe)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken source"):
        next(items)
    thread.join(120)


def test_stop_ends_a_taker_that_waits_and_a_filler_that_waits():
    stop = threading.Event()
    full: Pipe[int] = Pipe(1, stop)
    thread = filled(full, itertools.count())
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Stopped):
        next(iter(Pipe[int](1, stop)))
    thread.join(120)
    assert not thread.is_alive()
