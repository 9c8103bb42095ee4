from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from vla_ops.norm_stats.chunks import VectorStats, chunk_norm_stats
from vla_ops.norm_stats.narrow import FLOORS, REACH_LIMIT, NarrowDimension, find_narrow
from vla_ops.robot import Dimension
from vla_ops.spec import Unit


def stats_of(*columns: np.ndarray) -> VectorStats:
    rows = np.stack(columns, axis=1)
    return chunk_norm_stats(rows, rows, [len(rows)], horizon=1, delta_mask=[False] * len(columns)).state


def narrow_in(unit: Unit, column: np.ndarray) -> list[NarrowDimension]:
    return find_narrow("state", stats_of(column), [Dimension("elbow", unit, "joint")])


def normal(scale: float, *, mean: float = 0.0, frames: int = 20_000) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, scale, frames)


def test_every_unit_has_a_floor():
    assert set(FLOORS) == set(get_args(Unit.__value__))


def test_a_moving_joint_is_not_narrow():
    assert narrow_in("rad", normal(0.3)) == []
    assert narrow_in("rad", normal(1e-3, mean=3.1)) == []


def test_openpi_814_a_nearly_constant_joint_no_longer_normalises_to_thousands():
    joint = normal(1e-4, mean=1.2)
    joint[500:503] = 0.9
    [narrow] = narrow_in("rad", joint)
    assert narrow.measured.quantile_reach > 1000
    assert narrow.widened
    assert narrow.written.quantile_reach < REACH_LIMIT
    assert narrow.written.z_reach < REACH_LIMIT
    assert "elbow" in str(narrow)
    assert "widened, in rad" in str(narrow)


@pytest.mark.parametrize("unit", list(FLOORS))
def test_a_constant_dimension_is_written_with_the_floor_of_its_unit(unit):
    floor = FLOORS[unit]
    [narrow] = narrow_in(unit, np.full(100, 2.5))
    assert narrow.measured.std == 0
    assert narrow.noise_seen == pytest.approx(floor / 1e-6)
    assert narrow.written.std == floor
    assert narrow.written.q01 == pytest.approx(2.5 - 2 * floor)
    assert narrow.written.q99 == pytest.approx(2.5 + 2 * floor)
    # A reading one floor away is seen as about one, whichever normalisation the model uses.
    assert floor / (narrow.written.std + 1e-6) <= 1
    assert abs((2.5 + floor - narrow.written.q01) / (narrow.written.q99 - narrow.written.q01) * 2 - 1) <= 1


def test_a_gripper_that_moves_in_one_frame_of_two_hundred_keeps_its_std_and_gets_wider_quantiles():
    gripper = np.zeros(20_000)
    gripper[:100] = 1.0
    [narrow] = narrow_in("ratio", gripper)
    assert narrow.measured.quantile_reach > 1e5
    assert narrow.written.std == narrow.measured.std
    assert narrow.written.q01 < 0 < narrow.written.q99
    assert narrow.written.quantile_reach < 10
    assert "std" not in narrow.treatment.split(";")[0]


def test_a_lone_outlier_on_a_moving_joint_is_named_and_the_truth_is_kept():
    joint = normal(0.3)
    joint[0] = 1e3
    [narrow] = narrow_in("rad", joint)
    assert not narrow.widened
    assert narrow.written == narrow.measured
    assert "look for a glitch" in narrow.treatment


def test_widening_never_cuts_off_what_was_measured():
    # Two percent of the values stand at the end of a narrow range, farther than two stds from the mean.
    joint = np.zeros(10_000)
    joint[:200] = 1.9e-3
    [narrow] = narrow_in("rad", joint)
    assert narrow.written.q01 <= narrow.measured.q01
    assert narrow.written.q99 >= narrow.measured.q99


def test_each_narrow_dimension_is_named_and_no_other():
    dims = [Dimension("waist", "rad", "joint"), Dimension("elbow", "rad", "joint"), Dimension("lift", "m", "position")]
    found = find_narrow("actions", stats_of(normal(0.2), np.full(20_000, 1.0), normal(1e-6)), dims)
    assert [(n.vector, n.name, n.unit) for n in found] == [("actions", "elbow", "rad"), ("actions", "lift", "m")]
