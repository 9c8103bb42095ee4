"""Decide which episodes share a file, and which files of the previous version can be kept as they are.

The episodes of a dataset stand in one order; every file holds a run of consecutive ones. A file whose episodes are all
still there, next to each other and unchanged, is kept. What is new goes into the file before it only if that file is
small, so that the cost of an append grows with what is new; many small files become one now and then.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile

# So many files in a row, each at most this part of a full one, become one when something is added after them: every byte is
# written again at most a few times, and there are never many small files.
_MANY = 8


@dataclass(frozen=True)
class Run:
    """Episodes `start` up to `stop` of the dataset in one file; `kept` is the number of the previous version's file, if any."""

    start: int
    stop: int
    kept: int | None = None

    @property
    def episodes(self) -> range:
        """The places of its episodes in the dataset."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class Weight:
    """How much one file holds."""

    bytes: int = 0
    frames: int = 0
    episodes: int = 0

    def __add__(self, other: Weight) -> Weight:
        return Weight(self.bytes + other.bytes, self.frames + other.frames, self.episodes + other.episodes)

    def fits(self, limit: Weight) -> bool:
        """True if no measure is above that of `limit`."""
        return self.bytes <= limit.bytes and self.frames <= limit.frames and self.episodes <= limit.episodes

    def divided(self, parts: int) -> Weight:
        """One of `parts` equal parts."""
        return Weight(self.bytes // parts, self.frames // parts, self.episodes // parts)

    def at_least(self, other: Weight) -> Weight:
        """The larger of each measure."""
        return Weight(max(self.bytes, other.bytes), max(self.frames, other.frames), max(self.episodes, other.episodes))


@dataclass(frozen=True)
class Limits:
    """When a file is full, and up to when it is small enough to be written again for what follows it."""

    full: Weight
    small: Weight


def plan_runs(keys: list[Hashable], previous: Sequence[list[Hashable]], *, weigh: Callable[[int], Weight], limits: Limits) -> list[Run]:
    """Divide the episodes with `keys` into runs, keeping the files of `previous` (the keys each of them holds) where possible.

    A key says everything that an episode's part of a file depends on. `weigh` gives the weight of the episode at a place; it
    is asked only for episodes that are written, and for those of the files just before them. An episode that is over the
    limit alone has a file alone.
    """
    runs: list[Run] = []
    for run in _matched(keys, previous):
        runs.append(run if run.kept is not None else _with_runs_before(run, runs, weigh, limits))
    return [part for run in runs for part in ([run] if run.kept is not None else _divided(run, weigh, limits.full))]


def _matched(keys: list[Hashable], previous: Sequence[list[Hashable]]) -> Iterator[Run]:
    """Yield kept runs, and between them runs of what has to be written."""
    by_first = {held[0]: number for number, held in enumerate(previous) if held}
    fresh_from = place = 0
    while place < len(keys):
        number = by_first.get(keys[place])
        stop = place + (len(previous[number]) if number is not None else 0)
        if number is None or keys[place:stop] != previous[number]:
            place += 1
            continue
        if fresh_from < place:
            yield Run(fresh_from, place)
        yield Run(place, stop, number)
        fresh_from = place = stop
    if fresh_from < place:
        yield Run(fresh_from, place)


def _with_runs_before(fresh: Run, runs: list[Run], weigh: Callable[[int], Weight], limits: Limits) -> Run:
    """Take the runs before `fresh` that are to be written again out of `runs` and into it."""
    start = fresh.start
    for _ in range(_rewritten_before(fresh, runs, weigh, limits)):
        start = runs.pop().start
    while runs and runs[-1].kept is None:
        start = runs.pop().start
    return Run(start, fresh.stop)


def _rewritten_before(fresh: Run, runs: list[Run], weigh: Callable[[int], Weight], limits: Limits) -> int:
    """Count the kept runs just before `fresh` that are written again with it: the last if it is small, or many that became small files."""
    kept = list(takewhile(lambda run: run.kept is not None, reversed(runs)))[:_MANY]
    part = limits.full.divided(_MANY)
    if len(kept) == _MANY and all(_fits(run, weigh, part) for run in kept):
        return _MANY
    small = limits.small.at_least(sum(map(weigh, fresh.episodes), Weight()))
    return int(bool(kept) and _fits(kept[0], weigh, small) and _fits(kept[0], weigh, limits.full, beside=weigh(fresh.start)))


def _fits(run: Run, weigh: Callable[[int], Weight], limit: Weight, *, beside: Weight | None = None) -> bool:
    # Weighing costs a look at the disk: `all` stops at the episode that settles it.
    return all(held.fits(limit) for held in accumulate(map(weigh, run.episodes), initial=beside or Weight()))


def _divided(run: Run, weigh: Callable[[int], Weight], full: Weight) -> Iterator[Run]:
    start, held = run.start, Weight()
    for place in run.episodes:
        weight = weigh(place)
        if place > start and not (held + weight).fits(full):
            yield Run(start, place)
            start, held = place, Weight()
        held += weight
    yield Run(start, run.stop)
