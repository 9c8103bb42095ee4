"""Judge the cameras: black, frozen, two that show the same picture, and two that are exchanged in some episodes.

Everything is read from episode.json; only for wrist cameras the joints are read too. Two cameras that are exchanged in *every*
episode are found only if they are wrist cameras whose arms move apart: pictures alone do not say which of two is the left one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from vla_ops.episodes.semantics.camera_swaps import FEWEST, FLAT, Groups, exchanged
from vla_ops.episodes.semantics.episode_list import exclusion, named
from vla_ops.episodes.semantics.seen import Float64, Seen
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.episodes.semantics.wrist_motion import ROLES, TELLS, arm_sides, wrist_pair, wrist_scores
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.robot import RobotSpec

# Black or frozen for more than this share of an episode: that camera has nothing to teach in it.
_MOST = 0.5
# Two cameras show the same picture if their usual pictures are this close in grey values (RMS over the cells) and their colors' means and
# spreads in 0..1. The same stream twice differs by rounding alone; the two cameras of a stereo pair by several grey values.
_SAME_PICTURE = 1.5
_SAME_COLORS = 2 / 255
# Of the episodes in which wrist motion tells, the share from which on all are taken as exchanged.
_ALL = 0.9


def judge_cameras(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Judge each camera alone, then each two of them."""
    alone = [verdict for camera in spec.cameras for verdict in _judge_alone(seen.metas, spec, camera)]
    wrists = wrist_pair(spec)
    scores = None if wrists is None else wrist_scores(seen, spec, wrists)
    pairs = []
    for a, b in combinations(spec.cameras, 2):
        is_wrists = wrists is not None and {a, b} == set(wrists)
        pairs.append(_judge_pair(seen.metas, spec, (a, b), scores if is_wrists else None))
    return alone + pairs


def _judge_alone(metas: Sequence[EpisodeMeta], spec: RobotSpec, camera: str) -> list[Verdict]:
    black = [m.id for m in metas if m.measured.get(camera, {}).get("black_fraction", 0) > _MOST]
    carrier = _carried_by(spec, camera)
    frozen = [m.id for m in metas if _is_frozen(m, camera, carrier)]
    if not black and not frozen:
        known = sum("black_fraction" in m.measured.get(camera, {}) for m in metas)
        answer = "agrees" if known else "cannot tell"
        return [Verdict("cameras", f"camera {camera}", answer, f"neither black nor frozen in {known} of {len(metas)} episodes")]
    is_black = frozenset(black)
    found = [("black", black), ("frozen", [one for one in frozen if one not in is_black])]
    return [
        Verdict(
            "cameras",
            f"camera {camera}",
            "contradicts",
            f"{how} for most of {len(which)} of {len(metas)} episodes: {named(which)}",
            "a camera of the dataset",
            f"Check its cable and driver, and leave these episodes out in curation.yaml: {exclusion(which, f'{camera} is {how}')}.",
        )
        for how, which in found
        if which
    ]


def _carried_by(spec: RobotSpec, camera: str) -> list[int]:
    """Dimensions of the state that move the camera's picture: its own arm's if it is a wrist camera, else all."""
    role, sides = spec.cameras[camera].role, arm_sides(spec.state_dims)
    return (sides[ROLES.index(role)] if role in ROLES else []) or list(range(len(spec.state_dims)))


def _is_frozen(meta: EpisodeMeta, camera: str, carrier: Sequence[int]) -> bool:
    """Whether it shows the same image for most of an episode in which what it sees moves."""
    frozen_s = meta.measured.get(camera, {}).get("frozen_s", 0)
    # A simulator's camera on an arm at rest is not frozen: it has nothing new to show.
    stats = meta.stats["observation.state"]
    return frozen_s > _MOST * meta.length / meta.rate_hz and any(stats["max"][k] > stats["min"][k] for k in carrier)


def _judge_pair(metas: Sequence[EpisodeMeta], spec: RobotSpec, pair: tuple[str, str], scores: Float64 | None) -> Verdict:
    a, b = pair
    subject, claimed = f"cameras {a} and {b}", f"{a} is {spec.cameras[a].source}, {b} is {spec.cameras[b].source}"
    if same := [meta.id for meta in metas if _is_same(meta, a, b)]:
        found = f"show the same picture in {len(same)} of {len(metas)} episodes: {named(same)}"
        todo = f"Check the cameras' serial numbers in the driver, and leave these out: {exclusion(same, f'{a} shows what {b} shows')}."
        return Verdict("cameras", subject, "contradicts", found, claimed, todo)
    groups = exchanged(metas, a, b)
    motion = _by_motion(scores, len(metas))
    crossed = (motion < 0) | ((groups.sides < 0) & (motion == 0))
    if not crossed.any():
        return _not_crossed(subject, claimed, (groups.sides > 0) | (motion > 0), len(metas))
    ids = [meta.id for meta, is_crossed in zip(metas, crossed, strict=True) if is_crossed]
    found, todo = _said(ids, pair, motion=motion, groups=groups)
    return Verdict("cameras", subject, "contradicts", found, claimed, todo)


def _not_crossed(subject: str, claimed: str, told: np.ndarray, count: int) -> Verdict:
    if 2 * told.sum() > count:
        return Verdict("cameras", subject, "agrees", f"each shows its own picture in {told.sum()} of {count} episodes", claimed)
    alike = f"in {count - told.sum()} of {count} episodes they look alike, or like neither does in the others"
    why = f"fewer than {FEWEST} episodes" if count < FEWEST else alike
    return Verdict("cameras", subject, "cannot tell", f"cannot tell whether they are exchanged: {why}", claimed)


def _said(ids: Sequence[str], pair: tuple[str, str], *, motion: np.ndarray, groups: Groups) -> tuple[str, str]:
    """What was found of the exchanged episodes, and what to do."""
    a, b = pair
    told = int((motion != 0).sum())
    if told and (motion < 0).sum() >= _ALL * told and len(ids) >= _ALL * told:
        found = f"exchanged in {len(ids)} of {len(motion)} episodes: {a} moves with the arm of {b}, and {b} with that of {a}"
        return found, f"Exchange the `source` of {a} and {b} in `cameras` (or the arms' names in `state`, if those are wrong)."
    found = f"exchanged in {len(ids)} of {len(motion)} episodes, compared with the others: {named(ids)}"
    if not told and not groups.is_clear:
        found += " (which of the two groups is the right one, the pictures do not tell: look at one of each)"
    return found, f"Leave them out in curation.yaml, or exchange the two in the recordings: {exclusion(ids, f'{a} and {b} exchanged')}."


def _by_motion(scores: Float64 | None, count: int) -> np.ndarray:
    """1 where the wrist cameras follow their own arms, -1 where each other's, 0 where that does not tell; int8 [episodes]."""
    told = np.zeros(count, np.int8)
    if scores is None:
        return told
    known = np.isfinite(scores)
    # Only where the pictures follow the arms at all in this robot's episodes.
    if known.sum() < FEWEST or 2 * known.sum() < count or np.median(np.abs(scores[known])) < TELLS:
        return told
    told[known] = np.sign(scores[known]) * (np.abs(scores[known]) >= TELLS)
    return told


def _is_same(meta: EpisodeMeta, a: str, b: str) -> bool:
    """Whether two cameras show the same picture all through an episode."""
    first, second = (np.array(meta.measured.get(camera, {}).get("signature", []), float) for camera in (a, b))
    if not len(first) or len(first) != len(second) or first.std() < FLAT:
        return False
    colors = [meta.stats[f"observation.images.{camera}"] for camera in (a, b)]
    apart = max(float(np.abs(np.subtract(colors[0][name], colors[1][name])).max()) for name in ("mean", "std"))
    return bool(np.sqrt(np.mean((first - second) ** 2)) <= _SAME_PICTURE) and apart <= _SAME_COLORS
