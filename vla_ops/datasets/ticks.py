"""How much of a dataset's files is done, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable

# (done, of how many)
type Progress = Callable[[int, int], None]


class Ticks:
    """Counts what is done and reports it."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        """Count one more."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)
