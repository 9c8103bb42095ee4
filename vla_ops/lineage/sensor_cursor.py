"""What a sensor remembers of a listing: a digest of it. What differs is worked out only where the digest does."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from vla_ops.episodes.plan import remembered_contents
from vla_ops.episodes.store import RobotStore
from vla_ops.recordings.discover import RecordingFile


@dataclass(frozen=True)
class Listing:
    """The recordings that are there; `waiting` are those that someone may still be writing."""

    settled: Sequence[RecordingFile]
    waiting: Sequence[RecordingFile]

    @classmethod
    def of(cls, files: Sequence[RecordingFile], settle_s: float) -> Self:
        """Divide `files`."""
        settled = [file for file in files if file.is_settled(settle_s)]
        return cls(settled, [] if len(settled) == len(files) else [file for file in files if not file.is_settled(settle_s)])

    @property
    def count(self) -> int:
        """All that are there."""
        return len(self.settled) + len(self.waiting)

    @cached_property
    def cursor(self) -> str:
        """Digest of the settled recordings as the listing shows them."""
        lines = "\n".join(f"{file.id}\0{file.size}\0{file.stamp}" for file in self.settled)
        return f"listing {len(self.settled)} {hashlib.sha256(lines.encode(errors='surrogateescape')).hexdigest()[:32]}"

    def is_at(self, cursor: str | None) -> bool:
        """Whether a sensor that left this cursor has seen all of it."""
        if not cursor:
            return not self.settled
        return _old_stamps(self.settled) == json.loads(cursor) if is_old(cursor) else cursor == self.cursor

    def since(self, cursor: str | None, store: RobotStore) -> tuple[list[str], list[str]]:
        """Ids of the recordings that are new or changed, and of those that are gone, since the cursor and the last run."""
        there = {file.id for file in (*self.settled, *self.waiting)}
        if cursor and is_old(cursor):
            stamps, before = _old_stamps(self.settled), json.loads(cursor)
        else:
            stamps = {file.id: (file.size, file.stamp) for file in self.settled}
            before = remembered_contents(store) if cursor else {}
        return [key for key, stamp in stamps.items() if before.get(key) != stamp], [key for key in before if key not in there]


def is_old(cursor: str | None) -> bool:
    """Whether it is a cursor of the form before: every recording with its stamp, as JSON."""
    return bool(cursor) and str(cursor).startswith("{")


def _old_stamps(files: Sequence[RecordingFile]) -> dict[str, str]:
    return {file.id: f"{file.size}:{zlib.crc32(file.stamp.encode()):08x}" for file in files}
