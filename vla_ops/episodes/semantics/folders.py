"""The folders that recordings lie in: task, station, date or operator, as a lab sorts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from vla_ops.episodes.store import EpisodeMeta


def folders_of(recording: str) -> tuple[str, ...]:
    """The folders a recording lies in, the outermost first; none for one that lies at the root."""
    return PurePosixPath(recording).parent.parts


def levels(metas: Sequence[EpisodeMeta]) -> list[Mapping[str, list[EpisodeMeta]]]:
    """For each depth at which all recordings have a folder, the outermost first: folder -> its episodes."""
    depth = min((len(folders_of(meta.recording)) for meta in metas), default=0)
    found: list[Mapping[str, list[EpisodeMeta]]] = []
    for level in range(1, depth + 1):
        groups: dict[str, list[EpisodeMeta]] = {}
        for meta in metas:
            groups.setdefault("/".join(folders_of(meta.recording)[:level]), []).append(meta)
        found.append(groups)
    return found


def recordings_in(metas: Sequence[EpisodeMeta]) -> int:
    """How many recordings the episodes are of."""
    return len({meta.recording for meta in metas})
