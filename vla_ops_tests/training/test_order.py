from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.errors import DatasetError
from vla_ops.training.data.order import InOrder, Shuffled, Source, Weighted, state_of, used_by

SEEDS = st.integers(0, 2**32)


def rows(count: int) -> np.ndarray:
    return np.arange(count) * 3 + 7


@given(count=st.integers(1, 60), seed=SEEDS, epoch=st.integers(0, 5))
def test_every_row_comes_exactly_once_an_epoch(count: int, seed: int, epoch: int) -> None:
    found = Shuffled(rows(count), seed=seed).rows(epoch * count, count)
    assert sorted(found.tolist()) == rows(count).tolist()


@given(count=st.integers(1, 40), seed=SEEDS, start=st.integers(0, 200), parts=st.lists(st.integers(0, 30), max_size=6))
def test_samples_are_the_same_however_they_are_asked_for(count: int, seed: int, start: int, parts: list[int]) -> None:
    half = Source("half", 0.5, rows(count)[: count // 2 + 1])
    for whole, again in (
        (Shuffled(rows(count), seed=seed), Shuffled(rows(count), seed=seed)),
        (Weighted([half, Source("all", 1.5, rows(count))], seed=seed), Weighted([half, Source("all", 1.5, rows(count))], seed=seed)),
    ):
        expected = whole.rows(start, sum(parts)).tolist()
        at, found = start, []
        for part in parts:
            found += again.rows(at, part).tolist()
            at += part
        assert found == expected


@given(count=st.integers(1, 50), used=st.integers(0, 1000), seed=SEEDS)
def test_a_place_survives_json_and_is_refused_by_another_order(count: int, used: int, seed: int) -> None:
    order = Shuffled(rows(count), seed=seed)
    state = json.loads(json.dumps(state_of(order, used)))
    assert used_by(order, state) == used
    for other in (Shuffled(rows(count), seed=seed + 1), Shuffled(rows(count + 1), seed=seed)):
        with pytest.raises(DatasetError, match="another order of frames"):
            used_by(other, state)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = Shuffled(np.arange(50), seed=1)
    assert order.rows(0, 50).tolist() != order.rows(50, 50).tolist()
    assert order.rows(0, 50).tolist() != Shuffled(np.arange(50), seed=2).rows(0, 50).tolist()
    assert order.rows(0, 50).tolist() != list(range(50))


def test_the_order_of_a_seed_is_the_same_in_every_version() -> None:
    # A run that is resumed after an update of NumPy must not read other batches.
    assert Shuffled(np.arange(10), seed=42).rows(8, 6).tolist() == SHUFFLED
    assert Weighted([Source("a", 1, np.arange(5)), Source("b", 3, np.arange(5, 10))], seed=42).rows(3, 6).tolist() == WEIGHTED


SHUFFLED, WEIGHTED = [2, 8, 4, 9, 5, 3], [0, 8, 5, 2, 6, 9]


def test_sources_are_drawn_by_their_shares_and_their_rows_alike() -> None:
    order = Weighted([Source("a", 3, np.arange(10)), Source("none", 0, np.arange(0)), Source("b", 1, np.arange(10, 30))], seed=5)
    found = order.rows(0, 40_000)
    assert abs((found < 10).mean() - 0.75) < 0.01
    counts = np.bincount(found, minlength=30) / 40_000
    np.testing.assert_allclose(counts[:10], 0.075, atol=0.006)
    np.testing.assert_allclose(counts[10:], 0.0125, atol=0.003)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([(1.0, 0), (1.0, 3)], "no training frames in s0"),
        ([(0.0, 3)], "shares"),
        ([(-1.0, 3), (2.0, 3)], "shares"),
        ([(np.nan, 3)], "shares"),
    ],
)
def test_sources_that_cannot_be_drawn_from_are_refused(shares: list[tuple[float, int]], said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        Weighted([Source(f"s{k}", share, np.arange(count)) for k, (share, count) in enumerate(shares)], seed=0)


def test_in_order_ends() -> None:
    order = InOrder(rows(7))
    assert order.rows(4, 4).tolist() == rows(7)[4:].tolist()
    assert order.rows(7, 4).tolist() == []


@pytest.mark.parametrize("state", [{}, {"seed": 0, "epoch": 0, "position": 0}, {"seed": 0, "epoch": "1", "position": 0, "frames": 9}])
def test_what_is_no_place_in_the_data_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match="not a place in the data"):
        used_by(Shuffled(rows(9), seed=0), state)
