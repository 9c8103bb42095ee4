"""What the judges look at: what episode.json says of every episode, and the numbers of as many as they need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.store import Episode, EpisodeMeta

type Float64 = npt.NDArray[np.float64]

# More frames would not tell more of what a dimension is.
_MOST_FRAMES = 20_000


@dataclass(frozen=True)
class Series:
    """State and action of one episode, float64 [frames, state width] and [frames, action width]."""

    state: Float64
    action: Float64
    # The episode's id.
    episode: str = ""


@dataclass(frozen=True)
class Seen:
    """All episodes of a dataset by their metas, and `read` for the numbers of one."""

    metas: Sequence[EpisodeMeta]
    read: Callable[[EpisodeMeta], Series]

    @classmethod
    def of(cls, episodes: Sequence[Episode]) -> Seen:
        """The episodes as they are in the store."""
        by_id = {episode.id: episode for episode in episodes}
        return cls([episode.meta for episode in episodes], lambda meta: read_series(by_id[meta.id]))

    @cached_property
    def sample(self) -> list[Series]:
        """Whole episodes of at most 20,000 frames in all, or one: evenly taken, so that every station and day is among them."""
        frames = sum(meta.length for meta in self.metas)
        every = max(1, -(-frames // _MOST_FRAMES))
        return [self.read(meta) for meta in self.metas[::every]]


def read_series(episode: Episode) -> Series:
    """State and action of one episode from its frames.parquet."""
    import pyarrow.parquet as pq

    # `read_table` takes three times as long for a file this small, and every episode is read.
    with pq.ParquetFile(episode.frames) as file:
        table = file.read(columns=["observation.state", "action"])
    columns = (table[name].combine_chunks().flatten().to_numpy() for name in ("observation.state", "action"))
    state, action = (column.reshape(table.num_rows, -1).astype(np.float64) for column in columns)
    return Series(state, action, episode.id)
