"""What is fetched while a recording is open: tasks that threads of a pool do, or the reader that cannot wait for them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from vla_ops.errors import SpecError
from vla_ops.recordings.byte_file import closed

_DEFAULT_PARALLEL = 8


def parallel_requests() -> int:
    """VLA_OPS_REMOTE_PARALLEL: requests at a time of one process, 8 where it is not set. Raise SpecError if it is no number."""
    asked = os.environ.get("VLA_OPS_REMOTE_PARALLEL", "").strip()
    if asked and not (asked.isdecimal() and 1 <= int(asked) <= 1024):
        raise SpecError("VLA_OPS_REMOTE_PARALLEL is not a number of requests", found=asked, expected="1 to 1024")
    return int(asked or _DEFAULT_PARALLEL)


class Task:
    """Work that is done once, by whoever comes first. `done` is called when it is over, however that was."""

    def __init__(self, work: Callable[[], None], done: Callable[[], None]) -> None:
        self._work, self._done = work, done
        self._future: Future[None] = Future()
        self._lock, self._is_taken = threading.Lock(), False

    def run(self) -> None:
        """Do it, unless somebody does or did. What it raises is raised by `wait`."""
        if not self._take():
            return
        try:
            self._work()
        except BaseException as error:
            self._done()
            self._future.set_exception(error)
        else:
            self._done()
            self._future.set_result(None)

    def wait(self) -> None:
        """Do it, or wait for who does: a reader never waits for its turn in the pool."""
        self.run()
        try:
            self._future.result()
        except CancelledError as error:
            raise closed() from error

    def cancel(self) -> None:
        """Leave it undone, unless somebody does it already."""
        if self._take():
            self._done()
            self._future.cancel()

    def _take(self) -> bool:
        with self._lock:
            is_free, self._is_taken = not self._is_taken, True
            return is_free


@dataclass
class Traffic:
    """The threads at work, bytes so far, and the first failure."""

    parallel: int = field(default_factory=parallel_requests)
    stopped: threading.Event = field(default_factory=threading.Event)
    fetched_bytes: int = 0
    requests: int = 0
    failure: Exception | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(self.parallel, thread_name_prefix="fetch")

    def in_background(self, tasks: Iterable[Task]) -> None:
        """Do the tasks in their order, as threads are free."""
        for task in tasks:
            self._pool.submit(task.run)

    def came(self, size: int) -> None:
        """Count what was fetched by one request."""
        with self.lock:
            self.fetched_bytes += size
            self.requests += 1

    def failed(self, error: Exception) -> None:
        """Remember the first failure: what libraries make of it may look like damaged data."""
        with self.lock:
            self.failure = self.failure or error

    def close(self) -> None:
        """Fetch nothing more; what is on its way is waited for. The tasks themselves are the files' to cancel."""
        self.stopped.set()
        self._pool.shutdown(cancel_futures=True)
