"""A job is a process on this machine, in a process group of its own: Ctrl-C in the terminal reaches its launcher only.

It writes to its log itself, and what is shown of it is read from there: no pipe that could be full, or broken when the launcher dies.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from vla_ops.errors import TrainingError
from vla_ops.launchers.base import SAVE_LIMIT_S
from vla_ops.launchers.log_tail import LogTail

_PIECE_S = 0.5


class LocalLauncher:
    """See Launcher."""

    def start(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, echo: Callable[[str], None] | None = None
    ) -> LocalJob:
        """See Launcher."""
        return LocalJob(command, log=log, env={**os.environ, **(env or {})}, echo=echo)


class LocalJob:
    """See Job."""

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str], echo: Callable[[str], None] | None) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._failed: OSError | None = None
        tail = LogTail(log, echo)
        # An event and not `Thread.join`: after an interrupted join Python 3.12 takes the thread for over.
        begun, self._over = threading.Event(), threading.Event()
        # The kernel ends the process with the thread that made it, so that thread stays as long as the process does.
        threading.Thread(target=self._live, args=(list(command), log, env, begun), daemon=True).start()
        begun.wait()
        if self._failed is not None:
            raise TrainingError(f"the trainer cannot be started: {self._failed}", file=log) from self._failed
        self._echo = threading.Thread(target=tail.follow, args=(self._over.is_set,), daemon=True)
        self._echo.start()

    def poll(self) -> int | None:
        """See Job."""
        if not self._over.is_set():
            return None
        self._echo.join()
        return self._exit_code

    def stop(self, *, limit_s: float = SAVE_LIMIT_S) -> int:
        """See Job."""
        try:
            if not self._over.is_set():
                self._group_leader.terminate()
            self._wait(limit_s)
        finally:
            # Its workers too, and whatever else it left behind.
            self._kill()
        self._echo.join()
        return self._exit_code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """See Job."""
        self.stop()

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._group_leader.pid

    @property
    def _group_leader(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the process was never started")
        return self._process

    @property
    def _exit_code(self) -> int:
        code = self._group_leader.returncode
        return code if code >= 0 else 128 - code

    def _live(self, command: list[str], log: Path, env: Mapping[str, str], begun: threading.Event) -> None:
        try:
            self._process = _started(command, log, env)
        except OSError as error:
            self._failed = error
            return
        finally:
            begun.set()
        self._process.wait()
        self._over.set()

    def _wait(self, limit_s: float) -> None:
        # In pieces: an interrupt that comes just before a wait begins is noticed only after it.
        ends = time.monotonic() + limit_s
        while (left := ends - time.monotonic()) > 0 and not self._over.wait(min(left, _PIECE_S)):
            pass

    def _kill(self) -> None:
        # Nobody of it is left; a Mac says so by EPERM.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group_leader.pid, signal.SIGKILL)
        self._over.wait()


def _started(command: list[str], log: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with_parent = [sys.executable, "-m", "vla_ops.launchers.with_parent", str(os.getpid()), *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(with_parent, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(env), process_group=0)
