"""What every launcher does. Its contract is vla_ops_tests/launchers/contract.py, which all of them pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

# Longer than the largest checkpoint takes to be written to a slow disk.
SAVE_LIMIT_S = 900.0


class Job(Protocol):
    """A command that was started; a context that does not leave it running."""

    def poll(self) -> int | None:
        """Return its exit code as a shell has it (128 + the signal that ended it), or None while it runs."""
        ...

    def stop(self, *, limit_s: float = SAVE_LIMIT_S) -> int:
        """Ask it to end by SIGTERM, kill it and all it started where it has not after `limit_s`, and return its exit code.

        Interrupted while it waits, as by a second Ctrl-C, it kills at once. A job that is over is left alone.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it where it still runs."""
        ...


class Launcher(Protocol):
    """Starts commands somewhere."""

    def start(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, echo: Callable[[str], None] | None = None
    ) -> Job:
        """Start `command` with `env` added to this environment.

        What it writes to stdout and stderr is added to the file `log`; each line is also given to `echo`, which is called in another
        thread. When this process dies without a word, the command is asked to end by SIGTERM. Raise TrainingError where it cannot be
        started.
        """
        ...
