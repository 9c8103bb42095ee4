"""Judge the folders of stations, dates or operators: one whose recordings move through other ranges may be another robot's.

Only what a task or a mounting does not explain counts: joints that move in both, but nowhere near each other, in at least two
dimensions (one is how a robot is mounted); numbers on another scale throughout; a gripper that opens and closes on another scale.
Each folder is held against all the others: two folders of the same wrong robot hide each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.folders import levels, recordings_in
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

    @property
    def span(self) -> Float64:
        """How far each dimension usually goes in an episode."""
        return np.median(self.high - self.low, axis=0)

    @property
    def moves(self) -> npt.NDArray[np.bool_]:
        """Whether a dimension usually goes somewhere, rather than rests somewhere with noise."""
        apart = self.high - self.low
        return np.median(np.divide(self.spread, apart, out=np.zeros_like(apart), where=apart > 0), axis=0) >= _GOES


def judge_stations(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Name the folders whose recordings may be another robot's."""
    found: dict[str, Verdict] = {}
    for folders in levels(seen.metas):
        if len(folders) <= _FEWEST_OTHERS:
            continue
        for folder, metas in folders.items():
            is_within_named = any(folder.startswith(f"{other}/") and found[other].answer == "contradicts" for other in found)
            if recordings_in(metas) >= _FEWEST_RECORDINGS and not is_within_named:
                others = {other: those for other, those in folders.items() if other != folder}
                found[folder] = _judge_folder(folder, metas, others, spec.state_dims)
    if not found:
        said = f"cannot tell: that takes at least {_FEWEST_OTHERS + 1} folders, and {_FEWEST_RECORDINGS} recordings in one to be judged"
        return [Verdict("stations", "folders", "cannot tell", said)]
    return list(found.values())


def _judge_folder(
    folder: str, metas: Sequence[EpisodeMeta], others: Mapping[str, Sequence[EpisodeMeta]], dims: Sequence[Dimension]
) -> Verdict:
    rest = [meta for those in others.values() for meta in those]
    here, there = _Ranges.of(metas), _Ranges.of(rest)
    scaled = list(_on_another_scale(here, there, dims))
    elsewhere = [] if scaled else list(_elsewhere(here, there))
    reasons = [_said(dims[k], here, there, k) for k in scaled or elsewhere] + list(_image_sizes(metas, rest))
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


def _on_another_scale(here: _Ranges, there: _Ranges, dims: Sequence[Dimension]) -> Iterator[int]:
    """Grippers that open and close on another scale, and all dimensions on another scale where most of those that move are."""
    both = here.moves & there.moves & (here.span > 0) & (there.span > 0)
    ratio = np.divide(here.span, there.span, out=np.ones_like(here.span), where=both)
    # Of each episode, so that one wide demonstration among the others makes no scale.
    apart = (here.high - here.low).max(axis=0) * _OTHER_SCALE < (there.high - there.low).min(axis=0)
    apart |= (here.high - here.low).min(axis=0) > _OTHER_SCALE * (there.high - there.low).max(axis=0)
    other = both & apart & ((ratio > _OTHER_SCALE) | (ratio * _OTHER_SCALE < 1))
    throughout = other.sum() >= max(_ELSEWHERE, _MOST * both.sum())
    for k, dim in enumerate(dims):
        if other[k] and (throughout or dim.kind == "gripper"):
            yield k


def _elsewhere(here: _Ranges, there: _Ranges) -> Iterator[int]:
    """Dimensions that move in both, and whose middle here is outside the others' range by more than that range."""
    low, high = there.low.min(axis=0), there.high.max(axis=0)
    beyond = np.maximum(low - here.middle, here.middle - high).min(axis=0)
    yield from map(int, np.flatnonzero(here.moves & there.moves & (beyond > high - low)))


def _said(dim: Dimension, here: _Ranges, there: _Ranges, k: int) -> str:
    ranges = [f"{of.low[:, k].min():.4g} .. {of.high[:, k].max():.4g}" for of in (here, there)]
    return f"{dim.name} moves through {ranges[0]} {dim.unit}, in all other folders through {ranges[1]}"


def _image_sizes(metas: Sequence[EpisodeMeta], rest: Sequence[EpisodeMeta]) -> Iterator[str]:
    for camera in metas[0].videos:
        here, there = ({(m.videos[camera].width, m.videos[camera].height) for m in of if camera in m.videos} for of in (metas, rest))
        if len(here) == 1 and there and not here & there:
            sizes = [" or ".join(f"{w} x {h}" for w, h in sorted(of)) for of in (here, there)]
            yield f"{camera} is {sizes[0]}, in all other folders {sizes[1]}"
