"""What a conversion of a dataset did, and what of the source is not in its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Report:
    """Lines are added while the conversion goes on."""

    source: Path
    target: Path
    source_version: str
    version: str
    episodes: int
    frames: int
    cameras: list[str]
    done: list[str] = field(default_factory=list)
    # What the source has and the target has not, by name.
    not_kept: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield what to print."""
        yield f"{self.source} ({self.source_version}) -> {self.target} ({self.version})"
        cameras = f", cameras {', '.join(self.cameras)}" if self.cameras else ""
        yield f"  {self.episodes} episodes, {self.frames:,} frames{cameras}"
        yield from (f"  {line}" for line in self.done)
        yield from (f"  NOT KEPT: {line}" for line in self.not_kept)


def some(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
