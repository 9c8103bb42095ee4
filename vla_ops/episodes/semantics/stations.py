"""Judge the folders of stations, dates or operators: one whose recordings move through other ranges may be another robot's.

Only what a task or a mounting does not explain counts: joints that move in both, but nowhere near each other, in at least two
dimensions (one is how a robot is mounted); numbers on another scale throughout; a gripper that opens and closes on another scale.
Each folder is held against all the others: two folders of the same wrong robot hide each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.folders import levels, recordings_in
from vla_ops.episodes.semantics.leave_out import LeaveOut, Places
from vla_ops.episodes.semantics.seen import Float64, Seen
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.robot import Dimension, RobotSpec

_FEWEST_RECORDINGS = 2
_FEWEST_OTHERS = 2
# Dimensions that must be elsewhere: a base that is turned or stands elsewhere moves one.
_ELSEWHERE = 2
# Times the range of the others: no two demonstrations of a gripper or arm in the same unit differ by this, and 0..0.07 m and 0..1, degrees
# and radians, or metres and millimetres, differ by 14, 57 and 1000.
_OTHER_SCALE = 8.0
# Of the dimensions that move, this share must be on another scale.
_MOST = 0.5
# Spread over range of a dimension that goes somewhere; noise around a place has 0.17, going back and forth at least 0.25.
_GOES = 0.22


@dataclass(frozen=True)
class _Ranges:
    """The state of each of some episodes: lowest, middle and highest value and spread, each [episodes, dimensions]."""

    low: Float64
    middle: Float64
    high: Float64
    spread: Float64

    @classmethod
    def of(cls, metas: Sequence[EpisodeMeta]) -> _Ranges:
        stats = [meta.stats["observation.state"] for meta in metas]
        return cls(*(np.array([one[name] for one in stats], np.float64) for name in ("min", "q50", "max", "std")))

    def at(self, rows: Places) -> _Ranges:
        """Only these episodes."""
        return _Ranges(self.low[rows], self.middle[rows], self.high[rows], self.spread[rows])

    @property
    def apart(self) -> Float64:
        """How far each dimension goes in each episode."""
        return self.high - self.low

    @property
    def steadiness(self) -> Float64:
        """Spread over range in each episode."""
        return np.divide(self.spread, self.apart, out=np.zeros_like(self.apart), where=self.apart > 0)


@dataclass(frozen=True)
class _Side:
    """What a folder, or all others, do with each dimension: the usual way and spread over it, and the extremes; each [dimensions]."""

    span: Float64
    moves: npt.NDArray[np.bool_]
    low: Float64
    high: Float64
    least: Float64
    most: Float64

    @classmethod
    def of(cls, ranges: _Ranges) -> _Side:
        """Of some episodes."""
        apart = ranges.apart
        moves = np.median(ranges.steadiness, axis=0) >= _GOES
        return cls(np.median(apart, axis=0), moves, ranges.low.min(axis=0), ranges.high.max(axis=0), apart.min(axis=0), apart.max(axis=0))


class _Others:
    """`_Side` of all episodes but some: everything is sorted once, so that many folders do not cost many times all episodes."""

    def __init__(self, ranges: _Ranges) -> None:
        self.low, self.high = LeaveOut(ranges.low), LeaveOut(ranges.high)
        self.apart, self.steadiness = LeaveOut(ranges.apart), LeaveOut(ranges.steadiness)

    def than(self, rows: Places) -> _Side:
        """Of all that are not in these rows."""
        low, high = self.low.extremes(rows)[0], self.high.extremes(rows)[1]
        least, most = self.apart.extremes(rows)
        return _Side(self.apart.median(rows), self.steadiness.median(rows) >= _GOES, low, high, least, most)


def judge_stations(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Name the folders whose recordings may be another robot's."""
    found: dict[str, Verdict] = {}
    named: set[str] = set()
    for folders in levels(seen.metas):
        if len(folders) <= _FEWEST_OTHERS:
            continue
        level = _Level.of(seen.metas, folders)
        for folder, metas in folders.items():
            is_within_named = any(str(outer) in named for outer in PurePosixPath(folder).parents)
            if recordings_in(metas) >= _FEWEST_RECORDINGS and not is_within_named:
                found[folder] = _judge_folder(folder, level, spec.state_dims)
                named |= {folder} if found[folder].answer == "contradicts" else set()
    if not found:
        said = f"cannot tell: that takes at least {_FEWEST_OTHERS + 1} folders, and {_FEWEST_RECORDINGS} recordings in one to be judged"
        return [Verdict("stations", "folders", "cannot tell", said)]
    return list(found.values())


@dataclass(frozen=True)
class _Level:
    """The folders of one depth, and what all their episodes do."""

    folders: Mapping[str, Sequence[EpisodeMeta]]
    # Folder -> the places of its episodes among all.
    places: Mapping[str, Places]
    ranges: _Ranges
    others: _Others
    # Camera -> sizes of its pictures, with how many episodes have each.
    sizes: Mapping[str, Counter[tuple[int, int]]]

    @classmethod
    def of(cls, metas: Sequence[EpisodeMeta], folders: Mapping[str, Sequence[EpisodeMeta]]) -> _Level:
        """Measure all episodes once."""
        place = {id(meta): k for k, meta in enumerate(metas)}
        places = {folder: np.array([place[id(meta)] for meta in those]) for folder, those in folders.items()}
        ranges = _Ranges.of(metas)
        return cls(folders, places, ranges, _Others(ranges), {camera: _sizes(metas, camera) for camera in _cameras_of(metas)})


def _judge_folder(folder: str, level: _Level, dims: Sequence[Dimension]) -> Verdict:
    metas, rows = level.folders[folder], level.places[folder]
    ranges, there = level.ranges.at(rows), level.others.than(rows)
    here = _Side.of(ranges)
    scaled = list(_on_another_scale(here, there, dims))
    elsewhere = [] if scaled else list(_elsewhere(ranges, here, there))
    reasons = [_said(dims[k], here, there, k) for k in scaled or elsewhere] + list(_image_sizes(metas, level.sizes))
    subject, claimed = f"folder {folder}", "recordings of one robot"
    if not reasons:
        return Verdict(
            "stations", subject, "agrees", f"its {recordings_in(metas)} recordings move through the ranges of the others", claimed
        )
    if not scaled and len(reasons) == len(elsewhere) < _ELSEWHERE:
        found = f"cannot tell: {reasons[0]}, which may be how the robot is mounted there"
        return Verdict("stations", subject, "cannot tell", found, claimed)
    said = "; ".join(reasons[:4]) + (f"; and {len(reasons) - 4} more" if len(reasons) > 4 else "")
    todo = (
        "If it is another robot, give it a folder of its own in robots/ and leave this one out of `recordings.pattern`; if only a driver's "
    )
    todo += "unit or zero differs there, correct it and record again."
    return Verdict("stations", subject, "contradicts", said, claimed, todo)


def _on_another_scale(here: _Side, there: _Side, dims: Sequence[Dimension]) -> Iterator[int]:
    """Grippers that open and close on another scale, and all dimensions on another scale where most of those that move are."""
    both = here.moves & there.moves & (here.span > 0) & (there.span > 0)
    ratio = np.divide(here.span, there.span, out=np.ones_like(here.span), where=both)
    # Of each episode, so that one wide demonstration among the others makes no scale.
    apart = (here.most * _OTHER_SCALE < there.least) | (here.least > _OTHER_SCALE * there.most)
    other = both & apart & ((ratio > _OTHER_SCALE) | (ratio * _OTHER_SCALE < 1))
    throughout = other.sum() >= max(_ELSEWHERE, _MOST * both.sum())
    for k, dim in enumerate(dims):
        if other[k] and (throughout or dim.kind == "gripper"):
            yield k


def _elsewhere(ranges: _Ranges, here: _Side, there: _Side) -> Iterator[int]:
    """Dimensions that move in both, and whose middle here is outside the others' range by more than that range."""
    beyond = np.maximum(there.low - ranges.middle, ranges.middle - there.high).min(axis=0)
    yield from map(int, np.flatnonzero(here.moves & there.moves & (beyond > there.high - there.low)))


def _said(dim: Dimension, here: _Side, there: _Side, k: int) -> str:
    ranges = [f"{of.low[k]:.4g} .. {of.high[k]:.4g}" for of in (here, there)]
    return f"{dim.name} moves through {ranges[0]} {dim.unit}, in all other folders through {ranges[1]}"


def _cameras_of(metas: Sequence[EpisodeMeta]) -> list[str]:
    return list(dict.fromkeys(camera for meta in metas for camera in meta.videos))


def _sizes(metas: Sequence[EpisodeMeta], camera: str) -> Counter[tuple[int, int]]:
    return Counter((meta.videos[camera].width, meta.videos[camera].height) for meta in metas if camera in meta.videos)


def _image_sizes(metas: Sequence[EpisodeMeta], sizes: Mapping[str, Counter[tuple[int, int]]]) -> Iterator[str]:
    for camera in metas[0].videos:
        counted = _sizes(metas, camera)
        here, there = set(counted), set(sizes[camera] - counted)
        if len(here) == 1 and there and not here & there:
            said = [" or ".join(f"{w} x {h}" for w, h in sorted(of)) for of in (here, there)]
            yield f"{camera} is {said[0]}, in all other folders {said[1]}"
