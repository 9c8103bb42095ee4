"""Count what a piece of code looks at: the files it opens and the folders it lists, by Python's own audit events."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Work:
    """Paths below a folder, once for each time they were opened or listed."""

    below: Path
    opened: list[str] = field(default_factory=list)
    listed: list[str] = field(default_factory=list)

    def named(self, name: str) -> int:
        """How often a file of this name was opened."""
        return sum(Path(path).name == name for path in self.opened)


_watching: list[Work] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], str | Path):
        for work in _watching:
            if str(arguments[0]).startswith(f"{work.below}/"):
                (work.opened if event == "open" else work.listed).append(str(arguments[0]))


# It cannot be taken out again.
sys.addaudithook(_hear)


@contextmanager
def watched(below: Path) -> Iterator[Work]:
    """Yield what is opened and listed below a folder from now on."""
    work = Work(below)
    _watching.append(work)
    try:
        yield work
    finally:
        _watching.remove(work)
