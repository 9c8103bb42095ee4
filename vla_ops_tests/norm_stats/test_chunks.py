from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.errors import DatasetError, SchemaMismatchError
from vla_ops.norm_stats.chunks import ChunkStats, Effort, VectorStats, chunk_norm_stats
from vla_ops_tests.norm_stats.data import all_chunks, by_rank

MASK = (True, False, True)
fast = settings(deadline=None, max_examples=40)


@st.composite
def recordings(draw):
    """States [N, 4], actions [N, 3], lengths and a horizon; on a coarse grid ties are common, at a large scale cancellation is."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    scale, grid = draw(st.sampled_from([(3.0, 1.0), (1.0, 0.0), (1e-3, 0.0), (1e3, 0.5)]))
    values = np.random.default_rng(draw(st.integers(0, 2**32))).normal(scale=scale, size=(sum(lengths), 7))
    rounded = (np.round(values / grid) * grid if grid else values).astype(np.float32)
    return rounded[:, :4], rounded[:, 4:], lengths, draw(st.integers(1, 20))


def random_walk(frames: int, *, seed: int = 0, width: int = 3) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(scale=0.02, size=(frames, width)), axis=0).astype(np.float32)


def assert_right(stats: VectorStats, rows: np.ndarray) -> None:
    scale = np.abs(rows).max(initial=1.0)
    assert stats.count == len(rows)
    np.testing.assert_allclose(stats.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-13 * scale)
    np.testing.assert_allclose(stats.std, rows.std(axis=0), rtol=1e-9, atol=1e-13 * scale)
    np.testing.assert_array_equal(stats.q01, by_rank(rows, 1))
    np.testing.assert_array_equal(stats.q99, by_rank(rows, 99))
    np.testing.assert_array_equal(stats.min, rows.min(axis=0))
    np.testing.assert_array_equal(stats.max, rows.max(axis=0))


def assert_same(a: ChunkStats, b: ChunkStats) -> None:
    for left, right in ((a.state, b.state), (a.actions, b.actions)):
        assert left.count == right.count
        for name in ("q01", "q99", "min", "max"):
            np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        for name in ("mean", "std"):
            np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=1e-11, atol=1e-11)


@fast
@given(recordings())
def test_statistics_are_those_of_all_chunks_written_out(recording):
    states, actions, lengths, horizon = recording
    stats = chunk_norm_stats(states, actions, lengths, horizon=horizon, delta_mask=MASK)
    rows = all_chunks(states, actions, lengths, horizon=horizon, delta_mask=MASK)
    assert_right(stats.state, states.astype(np.float64))
    assert_right(stats.actions, rows.reshape(-1, 3))


@fast
@given(recordings(), st.integers(1, 30), st.integers(1, 50), st.sampled_from([1e-9, 1e-3, 6.0, 1e6]))
def test_block_size_sample_and_margin_change_no_number(recording, block, sample, margin):
    states, actions, lengths, horizon = recording
    effort = Effort(block_frames=block, sample=sample, margin_sigmas=margin)
    usual = chunk_norm_stats(states, actions, lengths, horizon=horizon, delta_mask=MASK)
    assert_same(chunk_norm_stats(states, actions, lengths, horizon=horizon, delta_mask=MASK, effort=effort), usual)


@fast
@given(recordings(), st.randoms(use_true_random=False))
def test_the_order_of_episodes_does_not_matter(recording, random):
    states, actions, lengths, horizon = recording
    ends = np.cumsum(lengths)
    order = list(range(len(lengths)))
    random.shuffle(order)
    rows = np.concatenate([np.arange(ends[k] - lengths[k], ends[k]) for k in order])
    shuffled = chunk_norm_stats(states[rows], actions[rows], [lengths[k] for k in order], horizon=horizon, delta_mask=MASK)
    assert_same(chunk_norm_stats(states, actions, lengths, horizon=horizon, delta_mask=MASK), shuffled)


@fast
@given(recordings())
def test_openpi_570_every_row_of_every_chunk_is_counted(recording):
    states, actions, lengths, horizon = recording
    stats = chunk_norm_stats(states, actions, lengths, horizon=horizon, delta_mask=MASK)
    assert stats.state.count == sum(lengths)
    assert stats.actions.count == sum(lengths) * horizon
    # Each row has weight: change any single action and the mean of its dimension moves.
    changed = actions.astype(np.float64)
    changed[-1] += 1e4
    moved = chunk_norm_stats(states, changed, lengths, horizon=horizon, delta_mask=MASK)
    tail = sum(max(0, horizon - back) for back in range(lengths[-1]))
    np.testing.assert_allclose(moved.actions.mean - stats.actions.mean, 1e4 * tail / (sum(lengths) * horizon), rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 3.1, 1e3, 1e6])
def test_std_and_spread_do_not_change_under_a_large_offset(offset):
    states = random_walk(2000, width=4).astype(np.float64)
    actions = random_walk(2000, seed=1).astype(np.float64)
    here = chunk_norm_stats(states, actions, [700, 1300], horizon=10, delta_mask=MASK)
    there = chunk_norm_stats(states + offset, actions + offset, [700, 1300], horizon=10, delta_mask=MASK)
    np.testing.assert_allclose(there.state.std, here.state.std, rtol=1e-8)
    np.testing.assert_allclose(there.actions.std, here.actions.std, rtol=1e-8)
    np.testing.assert_allclose(there.actions.q99 - there.actions.q01, here.actions.q99 - here.actions.q01, rtol=1e-8)


def test_a_joint_held_far_from_zero_has_its_true_std_where_float32_moments_give_zero():
    held = (3.1 + np.random.default_rng(0).normal(scale=1e-3, size=(100_000, 1))).astype(np.float32)
    moments = np.sqrt(max(np.mean(held**2, dtype=np.float32) - np.mean(held, dtype=np.float32) ** 2, np.float32(0)))
    stats = chunk_norm_stats(held, held, [100_000], horizon=1, delta_mask=[False])
    assert abs(moments - 1e-3) > 1e-4
    assert stats.state.std[0] == pytest.approx(held.astype(np.float64).std(), rel=1e-12)
    assert stats.state.std[0] == pytest.approx(1e-3, rel=1e-2)


def test_an_outlier_in_the_first_frame_leaves_the_quantiles_alone():
    states = random_walk(20_000)
    clean = chunk_norm_stats(states, states, [20_000], horizon=5, delta_mask=MASK)
    states[0] = 1e3
    stats = chunk_norm_stats(states, states, [20_000], horizon=5, delta_mask=MASK)
    assert_right(stats.actions, all_chunks(states, states, [20_000], horizon=5, delta_mask=MASK).reshape(-1, 3))
    spread = clean.state.q99 - clean.state.q01
    assert np.abs(stats.state.q01 - clean.state.q01).max() < 0.01 * spread.max()
    assert np.abs(stats.state.q99 - clean.state.q99).max() < 0.01 * spread.max()
    assert (stats.state.max == 1e3).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -3.1, 1e6])
def test_a_constant_dimension_has_exactly_no_spread(value):
    values = np.full((5000, 3), value, dtype=np.float32)
    stats = chunk_norm_stats(values, values, [2000, 3000], horizon=7, delta_mask=MASK)
    for name in ("q01", "q99", "min", "max", "mean"):
        np.testing.assert_array_equal(getattr(stats.state, name), values[0].astype(np.float64))
    np.testing.assert_array_equal(stats.state.std, 0.0)
    np.testing.assert_array_equal(stats.actions.std, 0.0)
    np.testing.assert_array_equal(stats.actions.mean, np.where(MASK, 0.0, values[0].astype(np.float64)))


def test_a_gripper_that_is_closed_in_all_but_a_few_frames_has_both_quantiles_at_closed():
    gripper = np.zeros((50_000, 1), dtype=np.float32)
    gripper[1000:1100] = 1.0
    stats = chunk_norm_stats(gripper, gripper, [50_000], horizon=1, delta_mask=[False])
    assert (stats.state.q01[0], stats.state.q99[0], stats.state.max[0]) == (0.0, 0.0, 1.0)


def test_one_frame_is_an_episode_whose_chunk_repeats_its_action():
    states, actions = np.array([[1.0, 2.0, 3.0]]), np.array([[1.5, 5.0, 2.0]])
    stats = chunk_norm_stats(states, actions, [1], horizon=50, delta_mask=MASK)
    assert (stats.state.count, stats.actions.count) == (1, 50)
    for name in ("mean", "q01", "q99", "min", "max"):
        np.testing.assert_array_equal(getattr(stats.actions, name), [0.5, 5.0, -1.0])


def test_a_horizon_longer_than_every_episode_repeats_the_last_action():
    states, actions = random_walk(7, width=3), random_walk(7, seed=1)
    stats = chunk_norm_stats(states, actions, [3, 4], horizon=100, delta_mask=MASK)
    assert_right(stats.actions, all_chunks(states, actions, [3, 4], horizon=100, delta_mask=MASK).reshape(-1, 3))


def test_a_pivot_that_misses_is_moved_until_the_rank_is_found():
    values = random_walk(3000)
    hasty = Effort(block_frames=100, sample=30, margin_sigmas=1e-12)
    stats = chunk_norm_stats(values, values, [3000], horizon=3, delta_mask=MASK, effort=hasty)
    assert_right(stats.actions, all_chunks(values, values, [3000], horizon=3, delta_mask=MASK).reshape(-1, 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("vector", ["state", "action"])
def test_a_value_that_is_not_finite_is_refused_by_dimension_name_episode_and_frame(bad, vector):
    states, actions = random_walk(10), random_walk(10)
    (states if vector == "state" else actions)[7, 1] = bad
    names = ["waist", "elbow", "gripper"]
    with pytest.raises(DatasetError) as raised:
        chunk_norm_stats(states, actions, [4, 6], horizon=2, delta_mask=MASK, state_names=names, action_names=names)
    assert raised.value.where == {"episode": 1, "dimension": "elbow", "frame": 3}
    assert vector in str(raised.value)
    assert str(bad) in str(raised.value)


@pytest.mark.parametrize(
    ("lengths", "horizon", "mask", "said"),
    [
        ([5], 2, MASK, "do not add up"),
        ([10], 0, MASK, "at least one step"),
        ([10], 2, (True,), "delta mask"),
        ([10, 0], 2, MASK, "without frames"),
    ],
)
def test_arguments_that_do_not_fit_each_other_are_refused(lengths, horizon, mask, said):
    with pytest.raises((SchemaMismatchError, DatasetError), match=said):
        chunk_norm_stats(random_walk(10), random_walk(10), lengths, horizon=horizon, delta_mask=mask)


def test_a_delta_action_without_a_state_at_its_place_is_refused():
    with pytest.raises(SchemaMismatchError, match="no state at its place"):
        chunk_norm_stats(random_walk(10, width=2), random_walk(10), [10], horizon=2, delta_mask=MASK)


def test_no_frames_are_refused():
    empty = np.zeros((0, 3), dtype=np.float32)
    with pytest.raises(DatasetError, match="without frames"):
        chunk_norm_stats(empty, empty, [], horizon=2, delta_mask=MASK)


def test_the_input_is_not_changed():
    states, actions = random_walk(100), random_walk(100, seed=1)
    before = states.copy(), actions.copy()
    chunk_norm_stats(states, actions, [100], horizon=5, delta_mask=MASK)
    np.testing.assert_array_equal(states, before[0])
    np.testing.assert_array_equal(actions, before[1])
