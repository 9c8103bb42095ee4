"""Hold where a quaternion's w stands against `kind`.

In the wrong order a quaternion is still one: of length 1, and turning by the same angles. Only what robots do tells the two apart:
a tool that stays upright while it turns, a driver that keeps w from being negative, another form of the same rotation beside it, a
recording that begins at no rotation at all. Each is looked for in both orders. One alone decides only where it would be absurd in the
other order; if two disagree, or there is none, it cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vla_ops.episodes.joint_names import side_of
from vla_ops.episodes.rotations import quaternions
from vla_ops.episodes.semantics.parts import Placed, placed_parts
from vla_ops.episodes.semantics.seen import Float64, Seen, Series
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.robot import RobotSpec

# A tool is upright within 41 degrees (hand-led Pandas tilted theirs by up to 39), turns by more than 30 about the vertical...
_UPRIGHT = 0.75
_TURNS = np.radians(30)
# ...and is straight within 18. A home pose is level or on edge within 20.
_STRAIGHT = 0.95
_LEVEL = np.radians(20)
# Of all frames: drivers lose a pose now and then.
_THROUGHOUT = 0.99
_MOSTLY = 0.9
# Fewer first frames than this may all have w > 0 by chance; they must differ, and come near 0.
_FEWEST_STARTS = 10
_NEAR_0 = 0.3
_EACH_SIGN = 0.2
_BOTH_SIGNS = 0.05
# Two forms of one rotation, and two different rotations.
_SAME = np.radians(3)
_DIFFERENT = np.radians(20)
# A rotation of less is none, rad: as it is measured, and as it is computed. In the other order it is a tool exactly upside down, or
# turned half around, as a home pose may well be.
_NONE = 2e-3
_COMPUTED = 1e-6
_FEWEST_RECORDINGS = 3
# Steps of a frame are small, and in the other order half turns.
_SMALL = np.radians(30)

type Order = Literal["quaternion_xyzw", "quaternion_wxyz"]


@dataclass(frozen=True)
class _Reading:
    """A part in one order: unit quaternions, w last, of every episode looked at."""

    order: Order
    episodes: Sequence[Float64]

    @property
    def rows(self) -> Float64:
        """All of them, [n, 4]."""
        return np.concatenate(list(self.episodes))

    @property
    def starts(self) -> Float64:
        """The first of each episode, [episodes, 4]."""
        return np.array([rows[0] for rows in self.episodes])


@dataclass(frozen=True)
class _Hint:
    """What speaks for one order and would be odd in the other."""

    order: Order
    why: str


def judge_rotations(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Hold the order of every recorded quaternion against what its episodes show."""
    placed = placed_parts(spec)
    recorded = [p for p in placed if p.part.kind in ("quaternion_xyzw", "quaternion_wxyz")]
    sample = seen.sample if recorded else []
    return [_verdict(part, list(_hints(part, placed, sample))) for part in recorded if sample]


def _verdict(placed: Placed, hints: Sequence[_Hint]) -> Verdict:
    claimed = placed.part.kind
    subject = f"{placed.vector} {', '.join(dim.name for dim in placed.dims)}"
    orders = {hint.order for hint in hints}
    found = " and ".join(f"{hint.order[-4:]}: {hint.why}" for hint in hints)
    if len(orders) != 1:
        why = f"the signs disagree: {found}" if orders else "no motion in it tells where w stands"
        return Verdict("rotations", subject, "cannot tell", why, f"`kind: {claimed}`")
    (order,) = orders
    if order == claimed:
        return Verdict("rotations", subject, "agrees", found, f"`kind: {claimed}`")
    names = "" if placed.part.written_as else ", and `names` in that order"
    return Verdict("rotations", subject, "contradicts", found, f"`kind: {claimed}`", f"{placed.line(f'kind: {order}')}{names}.")


def _hints(placed: Placed, beside: Sequence[Placed], sample: Sequence[Series]) -> Iterator[_Hint]:
    claimed = _Reading(_order(placed), [quaternions(placed.of(s), placed.dims[0].kind, placed.dims[0].unit) for s in sample])
    other = _in_other_order(claimed)
    for one, rival in ((claimed, other), (other, claimed)):
        if placed.part.means != "absolute":
            yield from _small(one, rival)
            continue
        yield from _upright(one, rival)
        if placed.part.written_as in (None, placed.part.kind):
            yield from _never_negative(one, rival)
        yield from _from_nothing(one, _COMPUTED if one is other or _is_home(rival) else _NONE)
        for part in beside:
            if part.part.kind in ("rotation_vector", "rotation_rpy", "rotation_6d") and _same_arm(part, placed):
                yield from _same_as(part, sample, one, rival)


def _order(placed: Placed) -> Order:
    return "quaternion_wxyz" if placed.part.kind == "quaternion_wxyz" else "quaternion_xyzw"


def _in_other_order(reading: _Reading) -> _Reading:
    """The same recorded numbers, had w stood at the other end."""
    if reading.order == "quaternion_xyzw":
        return _Reading("quaternion_wxyz", [rows[:, [1, 2, 3, 0]] for rows in reading.episodes])
    return _Reading("quaternion_xyzw", [rows[:, [3, 0, 1, 2]] for rows in reading.episodes])


def _axes(rows: Float64) -> tuple[Float64, Float64, Float64]:
    """Of the rotation matrices of `rows` [n, 4]: the x axis [n, 3], and how much of z [n] and of y [n] is along the frame's z."""
    x, y, z, w = np.moveaxis(rows, -1, 0)
    forward = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w)], axis=1)
    return forward, 1 - 2 * (x * x + y * y), 2 * (y * z + x * w)


def _upright(one: _Reading, rival: _Reading) -> Iterator[_Hint]:
    """The tool points up or down all the time while it turns; in the other order it would roll about the base's x axis, from odd angles.

    The z axis in one order is the x axis in the other: a tool that is upright here points along x there. Grippers do that as well, and
    roll from where they are level or on edge, but not from upside down.
    """
    if _turn(one) < _TURNS or _share_upright(rival, _UPRIGHT) > _MOSTLY:
        return
    _, up, side = _axes(rival.starts)
    rolled = float(np.median(np.abs(np.arctan2(side, up))))
    is_over, is_odd = rolled > np.pi - 2 * _LEVEL, min(rolled, abs(rolled - np.pi / 2)) > _LEVEL
    if _share_upright(one, _UPRIGHT if is_over else _STRAIGHT) > _THROUGHOUT and (is_over or is_odd):
        yield _Hint(one.order, f"the tool stays upright while it turns by {np.degrees(_turn(one)):.0f} degrees")


def _share_upright(reading: _Reading, cosine: float) -> float:
    """In how much of all frames the tool points up, or down."""
    _, up, _ = _axes(reading.rows)
    return float(max(np.mean(up > cosine), np.mean(up < -cosine)))


def _turn(reading: _Reading) -> float:
    """How far the x axis turns about the vertical, rad, from its mean direction to either side."""
    forward, _, _ = _axes(reading.rows)
    mean = np.arctan2(*forward[:, 1::-1].mean(axis=0))
    turned = np.arctan2(forward[:, 1], forward[:, 0]) - mean
    return float(np.ptp((turned + np.pi) % (2 * np.pi) - np.pi))


def _never_negative(one: _Reading, rival: _Reading) -> Iterator[_Hint]:
    """Of q and -q many drivers send that with w >= 0; later frames were made continuous, the first is as it was recorded."""
    w, other = one.starts[:, 3], rival.starts[:, 3]
    clear = other[np.abs(other) > _BOTH_SIGNS]
    if len(clear) < _FEWEST_STARTS or w.min() < -_COMPUTED or w.min() > _NEAR_0 or np.ptp(w) < _NEAR_0:
        return
    if min(np.mean(clear > 0), np.mean(clear < 0)) > _EACH_SIGN:
        yield _Hint(one.order, f"its w is never negative at the beginning of {len(w)} episodes, though it comes near 0")


def _is_home(reading: _Reading) -> bool:
    """True where all episodes begin with the tool straight down."""
    return bool(_axes(reading.starts)[1].max() < -_STRAIGHT)


def _from_nothing(one: _Reading, most: float) -> Iterator[_Hint]:
    """All recordings begin with no rotation at all: they are relative to their beginning."""
    angles = _angles(one.starts)
    if len(angles) >= _FEWEST_RECORDINGS and angles.max() < most:
        yield _Hint(one.order, f"all {len(angles)} episodes begin at no rotation")


def _small(one: _Reading, rival: _Reading) -> Iterator[_Hint]:
    if np.median(_angles(one.rows)) < _SMALL and np.median(_angles(rival.rows)) > np.pi - _SMALL:
        yield _Hint(one.order, "its steps are small")


def _angles(rows: Float64) -> Float64:
    """By how much each turns, rad; exact where it is next to nothing."""
    return 2 * np.arctan2(np.linalg.norm(rows[:, :3], axis=1), np.abs(rows[:, 3]))


def _same_arm(part: Placed, placed: Placed) -> bool:
    return part.vector == placed.vector and side_of(part.dims[0].name) == side_of(placed.dims[0].name)


def _same_as(part: Placed, sample: Sequence[Series], one: _Reading, rival: _Reading) -> Iterator[_Hint]:
    """Another form of the rotation beside it is the same rotation in this order only."""
    known = np.concatenate([quaternions(part.of(series), part.dims[0].kind, part.dims[0].unit) for series in sample])
    apart, rivals = (2 * np.arccos(np.clip(np.abs(np.sum(known * r.rows, axis=1)), 0, 1)) for r in (one, rival))
    if np.median(apart) < _SAME and np.median(rivals) > _DIFFERENT:
        yield _Hint(one.order, f"it is the rotation of {', '.join(part.part.names)}")
