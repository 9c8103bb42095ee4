"""Weighted quantiles against all values written out, each as often as its weight says."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.norm_stats.chunk_values import SingleValues
from vla_ops.norm_stats.weighted import quantiles


def source(values: Sequence[float]) -> SingleValues:
    column = np.array(values, dtype=np.float32)
    return SingleValues(column, None, np.array([len(column) - 1]), 1)


def written_out(sources: Sequence[Sequence[float]], shares: Sequence[int], q: Fraction) -> float:
    """The smallest value v with P(x <= v) >= q, in exact arithmetic."""
    mass: dict[float, Fraction] = {}
    for values, share in zip(sources, shares, strict=True):
        for value in np.array(values, dtype=np.float32).astype(np.float64).tolist():
            mass[value] = mass.get(value, Fraction(0)) + Fraction(share, sum(shares) * len(values))
    total = Fraction(0)
    for value in sorted(mass):
        total += mass[value]
        if total >= q:
            return value
    raise AssertionError


VALUES = st.lists(st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=300)


@given(st.lists(st.tuples(VALUES, st.integers(1, 50)), min_size=1, max_size=4))
def test_they_are_values_that_occur_and_the_ranks_are_exact(drawn: list[tuple[list[float], int]]) -> None:
    sources, shares = [values for values, _ in drawn], [share for _, share in drawn]
    found = quantiles([source(values) for values in sources], shares)
    assert found[:, 0].tolist() == [written_out(sources, shares, Fraction(1, 100)), written_out(sources, shares, Fraction(99, 100))]


def test_a_source_with_a_small_weight_moves_the_tail_alone() -> None:
    rng = np.random.default_rng(0)
    wide, narrow = rng.normal(0, 10, 5000), rng.normal(0, 1, 200)
    found = quantiles([source(wide), source(narrow)], [0.5, 99.5])
    assert np.all(np.abs(found) < 3)
    assert np.all(np.abs(quantiles([source(wide), source(narrow)], [99.5, 0.5])) > 20)
