"""Split a file whose clock jumps back into the runs it holds: some collectors write many episodes, each from 0 s, into one file.

File order across topics means nothing (some collectors write topic after topic), so a topic is only compared with itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vla_ops.recordings.base import Int64
from vla_ops.recordings.mcap_index import Table

# Recorders that stamp in several threads write some messages this much out of order: no jump, and for alignment to name.
_JITTER_NS = 1_000_000


@dataclass(frozen=True)
class Rows:
    """Messages start..stop of a topic."""

    start: int
    stop: int


@dataclass(frozen=True)
class Runs:
    """The runs of the clock in a file. `jumps[k]` says where run k + 1 begins."""

    jumps: tuple[str, ...]
    # Topic -> number of its first message in each run, int64 [runs]; empty where there is one run.
    starts: Mapping[str, Int64] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of runs."""
        return len(self.jumps) + 1

    def rows(self, topic: str, run: int, total: int) -> Rows:
        """The messages of `topic`, which has `total`, in a run; none where it is empty."""
        if topic not in self.starts:
            return Rows(0, total)
        starts = self.starts[topic]
        return Rows(int(starts[run]), int(starts[run + 1]) if run + 1 < len(starts) else total)


def find_runs(tables: Mapping[str, Table]) -> Runs:
    """Find the runs. A run begins where a topic jumps back by more than 1 ms that has a message in the current run already."""
    if not any(_jumps_back(table.log_ns) for table in tables.values()):
        return Runs(())
    names = [name for name, table in tables.items() if len(table)]
    topics = np.concatenate([np.full(len(tables[name]), k) for k, name in enumerate(names)])
    numbers = np.concatenate([np.arange(len(tables[name])) for name in names])
    columns = [np.concatenate([getattr(tables[name], column) for name in names]) for column in ("chunks", "offsets", "log_ns")]
    chunks, offsets, log_ns = columns
    order = np.lexsort((offsets, chunks))
    return _sweep(names, topics[order].tolist(), numbers[order].tolist(), log_ns[order].tolist())


def _jumps_back(log_ns: Int64) -> bool:
    return bool((np.maximum.accumulate(log_ns) - log_ns > _JITTER_NS).any())


def _sweep(names: list[str], topics: list[int], numbers: list[int], log_ns: list[int]) -> Runs:
    """Go through the messages of all topics in file order."""
    jumps: list[str] = []
    last_ns: list[int | None] = [None] * len(names)
    last_run = [0] * len(names)
    starts: list[list[int]] = [[0] for _ in names]
    seen = [0] * len(names)
    for topic, number, stamp in zip(topics, numbers, log_ns, strict=True):
        before = last_ns[topic]
        if before is not None and stamp < before - _JITTER_NS and last_run[topic] == len(jumps):
            jumps.append(f"the clock of {names[topic]} jumps back {(before - stamp) / 1e9:.3f} s at message {number}")
        if last_run[topic] < len(jumps):
            starts[topic] += [number] * (len(jumps) - last_run[topic])
        # The latest so far, so that many small steps back add up.
        is_later = before is None or stamp > before or last_run[topic] < len(jumps)
        last_ns[topic], last_run[topic], seen[topic] = stamp if is_later else before, len(jumps), number + 1
    for topic in range(len(names)):
        starts[topic] += [seen[topic]] * (len(jumps) + 1 - len(starts[topic]))
    return Runs(tuple(jumps), {name: np.array(begun) for name, begun in zip(names, starts, strict=True)})
