"""The episodes of a mixture in its order, each with its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla_ops.datasets.lerobot_layout import Entry
from vla_ops.datasets.mixture.sources import SourceData, episode_id
from vla_ops.episodes.store import Episode
from vla_ops.mixture_schema import Placement


@dataclass(frozen=True)
class Placed:
    """One episode of a mixture."""

    data: SourceData
    episode: Episode

    @property
    def placement(self) -> Placement:
        """Where its numbers and images go."""
        return self.data.source.placement

    @property
    def entry(self) -> Entry:
        """What the dataset's layout says of it."""
        return Entry(episode_id(self.data, self.episode), self.episode.version, self.episode.meta.length, self.episode.meta.task)

    @property
    def is_held_out(self) -> bool:
        """Whether no training reads it."""
        return episode_id(self.data, self.episode) in self.data.held_out


def place_episodes(sources: Sequence[SourceData], before: Sequence[Entry]) -> list[Placed]:
    """Return all episodes: those unchanged since the version with the entries `before` as they stand there, then the others.

    The others are in the order of the sources, and of their datasets. So an episode that a robot adds moves no other.
    """
    placed = [Placed(data, episode) for data in sources for episode in data.episodes]
    rank = {entry.key: k for k, entry in enumerate(before)}
    kept = [p for p in placed if p.entry.key in rank]
    return sorted(kept, key=lambda p: rank[p.entry.key]) + [p for p in placed if p.entry.key not in rank]
