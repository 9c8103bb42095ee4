"""The lines that come into a file after now."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

_EVERY_S = 0.2


class LogTail:
    """Reads whole lines of a file as they come; what is there already is not read."""

    def __init__(self, file: Path, echo: Callable[[str], None] | None) -> None:
        """`echo` is given each line, without its end."""
        self.file, self._echo = file, echo
        self._at = file.stat().st_size if file.exists() else 0

    def follow(self, is_over: Callable[[], bool]) -> None:
        """Read until it is over, and what is left then, though it be half a line."""
        while not is_over():
            self._read()
            time.sleep(_EVERY_S)
        self._read()
        self._read(rest=True)

    def _read(self, *, rest: bool = False) -> None:
        if self._echo is None or not self.file.exists():
            return
        with self.file.open("rb") as handle:
            handle.seek(self._at)
            data = handle.read()
        whole = data if rest else data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            self._echo(line.decode(errors="replace"))
