from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_ops.episodes.vector_stats import QUANTILES, STATS, vector_stats
from vla_ops.errors import QualityError


@pytest.fixture(scope="module")
def lerobot_stats():
    from lerobot.datasets.compute_stats import get_feature_stats

    return lambda values: get_feature_stats(values, axis=0, keepdims=False)


def assert_as_lerobot(found, expected, values):
    span = values.max(axis=0).astype(float) - values.min(axis=0)
    for name in ("min", "max", "count"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["mean"], expected["mean"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["std"], expected["std"], rtol=1e-3, atol=1e-3)
    for q in QUANTILES:
        assert np.all(np.abs(np.array(found[q]) - expected[q]) <= span / 5000 * 1.01 + 1e-6), q


@pytest.mark.parametrize("count", [2, 7, 30, 100, 1234])
def test_stats_are_those_of_lerobot_with_quantiles_within_one_of_its_bins(count, lerobot_stats):
    rng = np.random.default_rng(count)
    values = np.cumsum(rng.normal(size=(count, 14)), axis=0).astype(np.float32) / 10
    assert_as_lerobot(vector_stats(values), lerobot_stats(values), values)


def test_quantiles_of_counting_numbers_pick_the_same_values_as_lerobot(lerobot_stats):
    for count in (10, 30, 100, 101, 700):
        values = np.arange(count, dtype=np.int64)[:, None]
        assert_as_lerobot(vector_stats(values), lerobot_stats(values), values)


def test_a_held_joint_far_from_zero_keeps_its_spread():
    noise = np.random.default_rng(0).normal(0, 1e-3, size=(5000, 1))
    values = (3.1 + noise).astype(np.float32)
    assert vector_stats(values)["std"][0] == pytest.approx(float(values.astype(np.float64).std()), rel=1e-9)
    assert vector_stats(values)["std"][0] == pytest.approx(1e-3, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 4)), elements=st.floats(-1e3, 1e3, width=32)))
def test_stats_are_ordered_complete_and_do_not_depend_on_the_order_of_frames(values):
    stats = vector_stats(values)
    assert tuple(stats) == STATS
    assert stats["count"] == [len(values)]
    ordered = np.array([stats[name] for name in ("min", *QUANTILES, "max")])
    assert np.all(np.diff(ordered, axis=0) >= 0)
    shuffled = vector_stats(values[::-1].copy())
    for name in STATS:
        np.testing.assert_allclose(shuffled[name], stats[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_dimension_and_frame(bad):
    values = np.zeros((4, 3), np.float32)
    values[2, 1] = bad
    with pytest.raises(QualityError, match=r"dimension 1, frame 2"):
        vector_stats(values)


def test_no_frames_are_refused():
    with pytest.raises(QualityError, match="empty"):
        vector_stats(np.zeros((0, 3), np.float32))
