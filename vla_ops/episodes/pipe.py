"""A bounded queue between two threads, of which either may fail or be told to stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any

# How long a thread that waits for the other may not notice that it is to stop.
_NOTICE_S = 0.1


class Stopped(Exception):  # noqa: N818  nothing went wrong here
    """Another part of the same work has failed or was interrupted, so this one ends."""


class Pipe[T]:
    """Carries items from a thread that runs `fill` to one that iterates; `stop` ends both."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self.stop = stop
        self.abandoned = threading.Event()
        # An exception is what filling ended with, None a good end; both are wrapped to be told from items.
        self.items: queue.Queue[tuple[bool, Any]] = queue.Queue(size)

    def fill(self, source: Iterable[T]) -> None:
        """Put every item of `source`, waiting while the pipe is full, then its end or its error."""
        try:
            for item in source:
                self._put((True, item))
            self._put((False, None))
        except Stopped:
            return
        except BaseException as error:
            self._put_error(error)

    def _put_error(self, error: BaseException) -> None:
        try:
            self._put((False, error))
        except Stopped:
            return

    def _put(self, item: tuple[bool, Any]) -> None:
        while not (self.stop.is_set() or self.abandoned.is_set()):
            try:
                return self.items.put(item, timeout=_NOTICE_S)
            except queue.Full:
                continue
        raise Stopped

    def __iter__(self) -> Iterator[T]:
        """Yield the items; raise the error that filling ended with, or Stopped."""
        try:
            while True:
                is_item, item = self._get()
                if is_item:
                    yield item
                elif item is not None:
                    raise item
                else:
                    return
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let the filling thread end: nobody takes its items any more."""
        self.abandoned.set()

    def _get(self) -> tuple[bool, Any]:
        while not self.stop.is_set():
            try:
                return self.items.get(timeout=_NOTICE_S)
            except queue.Empty:
                continue
        raise Stopped
