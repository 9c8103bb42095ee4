"""The recordings of a dataset one by one, or a few of a folder together where one alone tells too little."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vla_ops.episodes.semantics.folders import folders_of
from vla_ops.episodes.semantics.seen import Seen, Series
from vla_ops.episodes.store import EpisodeMeta

# Fewer frames do not tell a relation for sure, and more of one group only take time.
_FEWEST_FRAMES = 100
_MOST_FRAMES = 300
# How many groups are looked at: each is measured by itself, which takes a hundredth of a second.
_MOST_GROUPS = 200


@dataclass(frozen=True)
class Group:
    """Episodes that are measured together; `names` are the recordings, or the episodes of a recording that has several groups."""

    names: Sequence[str]
    pieces: Sequence[Series]


def groups_of(seen: Seen) -> list[Group]:
    """About 200 groups, evenly taken from every folder's and at least one of each; of each some hundred frames."""
    by_recording: dict[str, list[EpisodeMeta]] = {}
    for meta in seen.metas:
        by_recording.setdefault(meta.recording, []).append(meta)
    alone = [bunch for metas in by_recording.values() for bunch in _bunches(metas)]
    sizes = {recording: len(metas) for recording, metas in by_recording.items()}
    return [Group(_names(bunch, sizes), _pieces(seen, bunch)) for bunch in _chosen(list(_pooled(alone)))]


def _bunches(metas: Sequence[EpisodeMeta]) -> list[list[EpisodeMeta]]:
    """A recording's episodes, so many together that they tell enough; all of them where they do not."""
    bunches: list[list[EpisodeMeta]] = [[]]
    for meta in metas:
        if _frames(bunches[-1]) >= _FEWEST_FRAMES:
            bunches.append([])
        bunches[-1].append(meta)
    if len(bunches) > 1 and _frames(bunches[-1]) < _FEWEST_FRAMES:
        bunches[-2:] = [bunches[-2] + bunches[-1]]
    return bunches


def _pooled(bunches: Sequence[list[EpisodeMeta]]) -> Iterator[list[EpisodeMeta]]:
    """With short recordings of one folder together; what is left of a folder is a group all the same."""
    short: dict[tuple[str, ...], list[EpisodeMeta]] = {}
    for bunch in bunches:
        if _frames(bunch) >= _FEWEST_FRAMES:
            yield bunch
            continue
        waiting = short.setdefault(folders_of(bunch[0].recording), [])
        waiting += bunch
        if _frames(waiting) >= _FEWEST_FRAMES:
            yield short.pop(folders_of(bunch[0].recording))
    yield from short.values()


def _chosen(bunches: Sequence[list[EpisodeMeta]]) -> Iterator[list[EpisodeMeta]]:
    """As many of each folder as is its share, and one of the smallest, so that every station and day is among them."""
    by_folder: dict[tuple[str, ...], list[list[EpisodeMeta]]] = {}
    for bunch in bunches:
        by_folder.setdefault(folders_of(bunch[0].recording), []).append(bunch)
    for each in by_folder.values():
        count = max(1, min(len(each), len(each) * _MOST_GROUPS // len(bunches)))
        yield from (each[k * len(each) // count] for k in range(count))


def _frames(metas: Sequence[EpisodeMeta]) -> int:
    return sum(meta.length for meta in metas)


def _names(bunch: Sequence[EpisodeMeta], sizes: dict[str, int]) -> list[str]:
    """Recordings that are in the bunch as a whole by their name, and the episodes of others by theirs."""
    counts = {meta.recording: sum(other.recording == meta.recording for other in bunch) for meta in bunch}
    return list(dict.fromkeys(m.recording if counts[m.recording] == sizes[m.recording] else m.id for m in bunch))


def _pieces(seen: Seen, bunch: Sequence[EpisodeMeta]) -> list[Series]:
    """Whole episodes up to the most frames, of a longer one its middle: arms rest at its ends."""
    ends = [0, *(_frames(bunch[: k + 1]) for k in range(len(bunch)))]
    read = [seen.read(meta) for meta, (start, _) in zip(bunch, pairwise(ends), strict=True) if start < _MOST_FRAMES]
    return [_middle(series) for series in read]


def _middle(series: Series) -> Series:
    start = max(0, (len(series.state) - _MOST_FRAMES) // 2)
    rows = slice(start, start + _MOST_FRAMES)
    return Series(series.state[rows], series.action[rows], series.episode)
