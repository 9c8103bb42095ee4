"""The unit of a gripper: metres or millimetres of opening, an angle, or a ratio that may be in percent or in a controller's counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vla_ops.episodes.semantics.parts import Ranges
from vla_ops.episodes.semantics.unit_opinions import FURTHEST_RAD, Opinion, agrees, unknown, wrong
from vla_ops.robot import Dimension
from vla_ops.spec import Unit

# Parallel grippers open by 0.04 to 0.14 m; the widest there are stay below the second.
_OPENING_M = 0.12
_WIDEST_M = 0.3
_WIDEST_MM = 160.0
# A ratio goes to 1, or a little over it where it is not clipped.
_LARGEST_RATIO = 1.5
# Through less than this (m, ratio) it neither opens nor closes.
_MOVES_M = 0.02
_MOVES_RATIO = 0.2
# An angle in degrees that never gets so far is in radians.
_LEAST_DEG = 2.0
# What the values must use of given limits to show that the limits are theirs.
_USED = 0.25
# Of its opening: openings as alike as this are those of a stop.
_SAME_STOP = 0.1
_BEYOND = 0.1


def gripper_opinion(ranges: Ranges, dims: Sequence[Dimension]) -> Opinion:
    """Of a gripper's opening, or its fingers' (of which one may count downwards)."""
    if all(_has_its_limits(ranges, k, dim) for k, dim in enumerate(dims)):
        return agrees(ranges)
    if dims[0].unit == "ratio" and ranges.size.max() <= _OPENING_M and any(map(_is_wide, dims)):
        return unknown(ranges, "it uses little of its limits: it hardly opens, or it is in metres")
    return _RULES.get(dims[0].unit, _no_rule)(ranges)


def _has_its_limits(ranges: Ranges, k: int, dim: Dimension) -> bool:
    """True where the values fill limits that are possible in this unit."""
    if dim.limits is None or max(map(abs, dim.limits)) > _LARGEST.get(dim.unit, np.inf):
        return False
    low, high = dim.limits
    outside = max(low - float(ranges.low[:, k].min()), float(ranges.high[:, k].max()) - high)
    # A ratio whose limits are a few centimetres is in metres.
    is_small = dim.unit == "ratio" and not _is_wide(dim)
    return outside < _BEYOND * (high - low) and float(ranges.span[k]) > _USED * (high - low) and not is_small


def _is_wide(dim: Dimension) -> bool:
    """True where the YAML gives limits that are no opening in metres."""
    return dim.limits is not None and dim.limits[1] - dim.limits[0] >= _MOVES_RATIO


def _no_rule(ranges: Ranges) -> Opinion:
    return unknown(ranges, "nothing tells the unit of such values")


def _ratio(ranges: Ranges) -> Opinion:
    size = ranges.size.max()
    if size > _LARGEST_RATIO:
        far = (ranges.size > _LARGEST_RATIO).any(axis=1)
        if size > _WIDEST_MM:
            return wrong(ranges, far, "a ratio goes from 0 to 1", f"limits: [0, {_round_up(size)}]")
        return wrong(ranges, far, "a ratio goes from 0 to 1; this is an opening in millimetres, or in percent", "unit: mm")
    if size > _OPENING_M:
        return agrees(ranges) if ranges.span.max() > _MOVES_RATIO else unknown(ranges, "it hardly moves")
    return _as_metres(ranges, "over all episodes it never opens by more than 0.12 of its range")


def _metres(ranges: Ranges) -> Opinion:
    size = ranges.size.max()
    if size <= _WIDEST_M:
        return agrees(ranges) if ranges.span.max() > _MOVES_M / 2 else unknown(ranges, "it hardly moves")
    far = (ranges.size > _WIDEST_M).any(axis=1)
    return wrong(ranges, far, f"no gripper opens by {size:.3g} m", _larger(size))


def _millimetres(ranges: Ranges) -> Opinion:
    size, span = ranges.size.max(), ranges.span.max()
    if size > 1000 * _WIDEST_M:
        return wrong(ranges, (ranges.size > 1000 * _WIDEST_M).any(axis=1), f"no gripper opens by {size:.4g} mm", _larger(size))
    if size <= _OPENING_M:
        return _as_metres(ranges, f"over all episodes it never opens by more than {size:.2g} mm")
    if size <= _LARGEST_RATIO and span > _MOVES_RATIO:
        return wrong(ranges, np.ones(len(ranges.low), bool), f"over all episodes it never opens by more than {size:.2g} mm", "unit: ratio")
    return agrees(ranges) if span > 1000 * _MOVES_M / 2 else unknown(ranges, "it hardly moves")


def _radians(ranges: Ranges) -> Opinion:
    size = ranges.size.max()
    if size <= FURTHEST_RAD:
        return agrees(ranges) if ranges.span.max() > _MOVES_RATIO else unknown(ranges, "it hardly moves")
    return wrong(ranges, (ranges.size > FURTHEST_RAD).any(axis=1), f"no finger turns by {size:.4g} rad", "unit: deg")


def _degrees(ranges: Ranges) -> Opinion:
    size = ranges.size.max()
    if size > _LEAST_DEG:
        return agrees(ranges) if size > FURTHEST_RAD else unknown(ranges, "radians and degrees go so far")
    if ranges.span.max() < _MOVES_RATIO:
        return unknown(ranges, "it hardly moves")
    return wrong(ranges, np.ones(len(ranges.low), bool), f"over all episodes it never turns by more than {size:.2g} degrees", "unit: rad")


def _as_metres(ranges: Ranges, why: str) -> Opinion:
    """Small values are metres where they go through all of their range in most episodes, as a gripper that grasps does.

    And where they end at the same stop: a gripper that only opens a little for a small thing stops elsewhere each time.
    """
    each, widest = np.median((ranges.high - ranges.low).max(axis=1)), ranges.size.max(axis=1)
    if ranges.span.max() < _MOVES_M or each < ranges.span.max() / 2:
        return unknown(ranges, "it hardly moves")
    if np.median(widest) < (1 - _SAME_STOP) * widest.max():
        return unknown(ranges, "it may be a gripper that never opens far")
    return wrong(ranges, np.ones(len(ranges.low), bool), why, "unit: m")


def _larger(size: float) -> str:
    if size <= _LARGEST_RATIO:
        return "unit: ratio"
    return "unit: mm" if size <= _WIDEST_MM else f"unit: ratio, limits: [0, {_round_up(size)}]"


def _round_up(size: float) -> int:
    """The full scale of common controllers that holds `size`."""
    return next((full for full in (255, 1000, 4095, 65535) if size <= 1.02 * full), int(np.ceil(size)))


# The largest limits that are possible in a unit; a ratio may be one of counts.
_LARGEST: Mapping[Unit, float] = {"m": _WIDEST_M, "mm": 1000 * _WIDEST_M, "rad": FURTHEST_RAD}
_RULES: Mapping[Unit, Callable[[Ranges], Opinion]] = {
    "ratio": _ratio,
    "m": _metres,
    "mm": _millimetres,
    "rad": _radians,
    "deg": _degrees,
}
