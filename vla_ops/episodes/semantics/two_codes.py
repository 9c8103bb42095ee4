"""Whether episodes write the same orientation in two ways: a rotation vector near half a turn, or an angle near its end, has two.

Within an episode the numbers are continuous, so nothing jumps; but one episode begins at +3.09 rad and the next at -3.04 for a tool that
points down in both. The mean and spread of such a column are of nothing that exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vla_ops.episodes.rotations import delta_between, quaternions
from vla_ops.episodes.semantics.parts import Placed, placed_parts
from vla_ops.episodes.semantics.seen import Float64, Seen
from vla_ops.episodes.semantics.verdict import Verdict
from vla_ops.robot import RobotSpec

_TWO_CODES = ("rotation_vector", "rotation_rpy")
# Episodes of one task begin within this of each other; the two codes of one rotation are a whole turn apart.
_ALIKE_RAD, _APART_RAD = 0.5, np.pi
# Every pair is compared.
_MOST = 300


def judge_two_codes(seen: Seen, spec: RobotSpec) -> list[Verdict]:
    """Name each rotation of which two episodes begin in nearly the same orientation and in far apart numbers."""
    return [verdict for placed in placed_parts(spec) if placed.part.kind_written in _TWO_CODES for verdict in _verdicts(seen, placed)]


def _verdicts(seen: Seen, placed: Placed) -> Iterator[Verdict]:
    sample = [series for series in seen.sample if np.isfinite(placed.of(series)[0]).all()][:_MOST]
    if len(sample) < 2:
        return
    kind, unit = placed.part.kind_written, placed.part.unit_written
    first = np.array([placed.of(series)[0] for series in sample])
    radians = np.radians(first) if unit == "deg" else first
    apart = np.linalg.norm(radians[:, None] - radians[None], axis=2)
    alike = _angles(first, placed) < _ALIKE_RAD
    a, b = np.unravel_index(int(np.argmax(np.where(alike, apart, 0.0))), apart.shape)
    if not alike[a, b] or apart[a, b] < _APART_RAD:
        return
    numbers = (f"({', '.join(f'{value:.2f}' for value in first[k])}) in {sample[k].episode}" for k in (a, b))
    yield Verdict(
        "motion",
        f"{placed.vector} {', '.join(dim.name for dim in placed.dims)}",
        "contradicts",
        f"nearly the same orientation is written as {' and as '.join(numbers)}: their mean and spread are of nothing that exists",
        f"`{'written_as' if placed.part.written_as else 'kind'}: {kind}`, in {unit}",
        _todo(placed),
    )


def _todo(placed: Placed) -> str:
    six = "`written_as: rotation_6d` with six names, which has one form for every rotation"
    if placed.part.written_as is None and placed.part.kind == "rotation_vector":
        return f"{placed.line('written_as: rotation_vector')}: then every episode begins on one side. If that is not enough, {six}."
    return f"{placed.line('written_as: rotation_6d')}, with six names: it has one form for every rotation."


def _angles(first: Float64, placed: Placed) -> Float64:
    """The angle between each two of the orientations, rad [n, n]."""
    turns = quaternions(first, placed.part.kind_written, placed.part.unit_written)
    between = delta_between(turns[:, None], turns[None], "rotation_vector", "rad")
    return np.linalg.norm(between, axis=2)
