"""Find the episodes in which two cameras are exchanged, by comparing each one's usual picture with those of all other episodes.

Two episodes say something of each other where the cameras' pictures fit far better one way than the other: as they are, or
crosswise. The episodes are then split in two groups such that those of a group fit as they are, and those of different groups
crosswise. The larger group is taken as right. If the cameras are exchanged in *all* episodes there is only one group, and
pictures alone cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.semantics.seen import Float64
from vla_ops.episodes.store import EpisodeMeta

type Int8 = npt.NDArray[np.int8]
type Places = npt.NDArray[np.intp]

# Two episodes tell if one way of pairing their pictures leaves less than this share of the other's difference. On the recordings of
# robots/aloha_sim the right way leaves at most 0.21; cameras that look alike leave about 1.
_TELLING = 0.5
# Each episode is compared with at most this many others, evenly taken: the groups become no clearer with more.
_REFERENCES = 500
# Episodes whose comparisons are in memory at once.
_AT_ONCE = 2000
# Spread in grey values: below it a picture is a wall, or black, and its pattern is noise.
FLAT = 4.0
# Groups smaller than this name no majority.
FEWEST = 3
# Share of comparisons that may contradict the groups: more, and there is something else than an exchange in the data.
_MOST_CONTRARY = 0.1
# Where two arms do each other's motions, their wrist cameras show each other's pictures. Episodes are compared only where the robot
# stood and moved alike: mean difference over the state's dimensions of the means (over the range) and of the spreads (over the largest).
# Demonstrations of one task differ by at most 0.16 and 0.4 for nine in ten pairs; an idle arm against a busy one by about 0.2 and 1.
_SAME_POSE = 0.2
_SAME_ACTIVITY = 0.4


@dataclass(frozen=True)
class Groups:
    """For each episode: 1 in the majority, -1 exchanged against it, 0 unknown. `is_clear` if the majority is at least two thirds."""

    sides: Int8
    is_clear: bool


def exchanged(metas: Sequence[EpisodeMeta], a: str, b: str) -> Groups:
    """Group the episodes by whether cameras `a` and `b` are exchanged."""
    sides = np.zeros(len(metas), np.int8)
    pictures_a, pictures_b = (standardized(metas, camera) for camera in (a, b))
    there = np.flatnonzero(np.isfinite(pictures_a[:, 0]) & np.isfinite(pictures_b[:, 0]))
    if len(there) < FEWEST:
        return Groups(sides, True)
    few = there[:: -(-len(there) // _REFERENCES)]
    behaviour = _behaviour(metas)
    some = (there[start : start + _AT_ONCE] for start in range(0, len(there), _AT_ONCE))
    tells = np.concatenate([_told((pictures_a, pictures_b), behaviour, these, few) for these in some])
    among = tells[np.isin(there, few)]
    votes = tells @ _colored(among).astype(int)
    told = np.abs(tells).sum(axis=1)
    if np.abs(votes).sum() < (1 - 2 * _MOST_CONTRARY) * told.sum():
        return Groups(sides, True)
    # One comparison is one picture's accident.
    enough = np.minimum(FEWEST - 1, max(1, len(few) - 1))
    sides[there] = np.where(np.abs(votes) >= np.maximum(enough, told / 2), np.sign(votes), 0)
    return Groups(sides, bool((sides < 0).sum() * 2 <= (sides > 0).sum()))


def standardized(metas: Sequence[EpisodeMeta], camera: str) -> Float64:
    """Usual pictures [episodes, cells] with mean 0 and spread 1, so that light does not count; NaN where there is none or it is flat."""
    found = [meta.measured.get(camera, {}).get("signature") or None for meta in metas]
    cells = max((len(picture) for picture in found if picture), default=1)
    pictures = np.full((len(metas), cells), np.nan)
    for row, picture in zip(pictures, found, strict=True):
        if picture and np.std(picture) >= FLAT:
            row[:] = (np.array(picture) - np.mean(picture)) / np.std(picture)
    return pictures


def _told(pictures: tuple[Float64, Float64], behaviour: tuple[Float64, Float64], these: Places, few: Places) -> Int8:
    """`_evidence` of two episodes of which the robot did the like; [these, few]."""
    a, b = pictures
    tells = _evidence((a[these], b[these]), (a[few], b[few]))
    tells[~_alike(behaviour, these, few)] = 0
    tells[these[:, None] == few[None]] = 0
    return tells


def _evidence(these: tuple[Float64, Float64], others: tuple[Float64, Float64]) -> Int8:
    """1 where two episodes' pictures fit as they are, -1 where crosswise, 0 where that does not tell; [these, others]."""
    (a, b), (ref_a, ref_b) = these, others
    own_a, own_b, cross_a, cross_b = _distance(a, ref_a), _distance(b, ref_b), _distance(a, ref_b), _distance(b, ref_a)
    own, cross = own_a + own_b, cross_a + cross_b
    is_crossed = (cross < _TELLING * own) & (cross_a < own_a) & (cross_b < own_b)
    return (own < _TELLING * cross).astype(np.int8) - is_crossed.astype(np.int8)


def _distance(a: Float64, b: Float64) -> Float64:
    """Mean squared difference of every picture of `a` and every one of `b`."""
    return np.maximum(0, 2 - 2 * (a @ b.T) / a.shape[1])


def _behaviour(metas: Sequence[EpisodeMeta]) -> tuple[Float64, Float64]:
    """Where the state of each episode was and how much it moved, each [episodes, dimensions] in 0..1."""
    stats = [meta.stats["observation.state"] for meta in metas]
    low, high, mean, std = (np.array([of[name] for of in stats], float) for name in ("min", "max", "mean", "std"))
    span, busiest = np.ptp(np.concatenate([low, high]), axis=0), std.max(axis=0)
    return (mean - low.min(axis=0)) / np.where(span > 0, span, 1), std / np.where(busiest > 0, busiest, 1)


def _alike(behaviour: tuple[Float64, Float64], these: Places, others: Places) -> npt.NDArray[np.bool_]:
    pose, activity = (_mean_difference(values[these], values[others]) for values in behaviour)
    return (pose <= _SAME_POSE) & (activity <= _SAME_ACTIVITY)


def _mean_difference(a: Float64, b: Float64) -> Float64:
    # By column: all at once would be episodes x references x dimensions.
    return sum((np.abs(x[:, None] - y[None]) for x, y in zip(a.T, b.T, strict=True)), np.zeros((len(a), len(b)))) / a.shape[1]


def _colored(tells: Int8) -> Int8:
    """Split in two groups, within each set of episodes that tell of each other: 1 the larger one, -1 the smaller, 0 too few."""
    from scipy.sparse.csgraph import connected_components

    sides = np.zeros(len(tells), np.int8)
    count, labels = connected_components(tells != 0, directed=False)
    for label in range(count):
        members = np.flatnonzero(labels == label)
        if len(members) >= FEWEST:
            # The leading eigenvector's signs are the split that agrees with most of the comparisons.
            leading = np.linalg.eigh(tells[np.ix_(members, members)].astype(float))[1][:, -1]
            split = np.where(leading < 0, -1, 1)
            sides[members] = split if split.sum() >= 0 else -split
    return sides
