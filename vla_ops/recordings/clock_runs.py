"""Several runs in one file: a clock that jumps back begins another one.

Simulators and trainers restart their clock with every episode and write on. Messages are followed in the order of the file: a
channel whose stamp goes back begins a new run, unless another channel has already begun it. That topics were written one after
the other (old AIRBOT collectors) is no jump, since each of them goes forward in itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ops.recordings.base import Int64
from vla_ops.recordings.mcap_index import Locations


@dataclass(frozen=True)
class ClockRun:
    """The messages of one run: topic -> positions, int64 [n], in the topic's order of recording. `jump` says how it began."""

    messages: Mapping[str, Int64]
    jump: str | None = None


def clock_runs(topics: Mapping[str, Locations]) -> list[ClockRun]:
    """Split at jumps; one run with everything in it where no clock jumps back."""
    everything = {topic: np.arange(len(where.log_ns)) for topic, where in topics.items()}
    if not any((np.diff(where.log_ns) < 0).any() for where in topics.values()):
        return [ClockRun(everything)]
    runs: list[dict[str, list[int]]] = [{}]
    jumps: list[str | None] = [None]
    last: dict[str, tuple[int, int]] = {}
    for topic, position, stamp in _in_file_order(topics):
        before, run = last.get(topic, (stamp, len(runs) - 1))
        if stamp < before and run == len(runs) - 1:
            runs.append({})
            jumps.append(f"{topic} goes back {(before - stamp) / 1e9:.3f} s at its message {position}")
        runs[-1].setdefault(topic, []).append(position)
        last[topic] = (stamp, len(runs) - 1)
    return [ClockRun({t: np.array(p, np.int64) for t, p in run.items()}, jump) for run, jump in zip(runs, jumps, strict=True)]


def _in_file_order(topics: Mapping[str, Locations]) -> list[tuple[str, int, int]]:
    names = list(topics)
    which = np.concatenate([np.full(len(topics[t].log_ns), k) for k, t in enumerate(names)])
    position = np.concatenate([np.arange(len(topics[t].log_ns)) for t in names])
    chunk, offset, stamp = (np.concatenate([getattr(topics[t], field) for t in names]) for field in ("chunk", "offset", "log_ns"))
    order = np.lexsort((offset, chunk))
    return [(names[w], int(p), int(s)) for w, p, s in zip(which[order], position[order], stamp[order], strict=True)]
