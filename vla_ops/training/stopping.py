"""SIGTERM and SIGINT end a training after the step it is at, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, Self

# What a shell gives for a process that the signal has killed: launchers take it for a stop, not for a failure, and may start again.
EXIT_INTERRUPTED, EXIT_TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopping:
    """A context in which the two signals are only noted; a second SIGINT interrupts at once. It may be entered within itself."""

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self._say, self._asked, self._before = say, 0, list[dict[int, Any]]()

    def __enter__(self) -> Self:
        # Only the main thread may; in another one whoever called asks by `ask`.
        is_main = threading.current_thread() is threading.main_thread()
        self._before.append({number: signal.signal(number, self._note) for number in _SIGNALS} if is_main else {})
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.pop().items():
            signal.signal(number, handler)

    @property
    def asked(self) -> int:
        """The signal that was noted; 0 for none."""
        return self._asked

    def ask(self, number: int = signal.SIGTERM) -> None:
        """End as if the signal had come."""
        self._asked = int(number)

    def _note(self, number: int, *_: object) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = int(number)
        self._say(f"{signal.Signals(number).name}: stopping after this step, with a checkpoint")
