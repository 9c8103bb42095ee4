"""Our norm stats against those that the real openpi computed for the same dataset.

What openpi computed with `max_frames` is not compared: it is of 192 frames drawn at random, and here every frame is read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vla_ops.norm_stats import compute_norm_stats
from vla_ops.norm_stats.aloha import action_to_pi, state_to_pi
from vla_ops.norm_stats.chunks import VectorStats, chunk_norm_stats
from vla_ops.norm_stats.columns import DatasetColumns, read_columns
from vla_ops.robot import RobotSpec
from vla_ops_tests.norm_stats.data import ALOHA, all_chunks, by_rank, make_spec

type Rows = npt.NDArray[np.float64]

BINS = 5000
# Counts that openpi lost by re-binning, which takes an edge bin with all that is in it: a value that many chunks repeat, mostly.
LOST = {
    ("actions", 50, "delta", False): {"left_elbow": 40},
    ("actions", 50, "absolute", False): {"left_elbow": 275, "left_wrist_rotate": 225},
    # The elbows turn the other way: now the right one's edge is at the bottom, and without the 253 in it the q99 that openpi writes
    # is the glitch of 30 rad that 42 chunk rows hold, and not 1.06.
    ("actions", 50, "absolute", True): {"right_elbow": 253, "left_wrist_rotate": 225},
}
# Turned into pi0's space or not.
EITHER = pytest.mark.parametrize("adapt", [False, True], ids=["plain", "adapted"])


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Path:
    return golden_dir / "norm_stats"


@pytest.fixture(scope="module")
def dataset(golden: Path) -> Path:
    return golden / "lerobot_v21_aloha_img32"


@pytest.fixture(scope="module")
def columns(dataset: Path) -> DatasetColumns:
    return read_columns(dataset, state_names=ALOHA, action_names=ALOHA)


def spec_of(*, horizon: int, action_space: str = "delta", adapt: bool = False) -> RobotSpec:
    return make_spec(ALOHA, norm_stats={"action_space": action_space, "action_horizon": horizon, "adapt_to_pi": adapt})


def rows_of(columns: DatasetColumns, *, horizon: int, action_space: str, adapt: bool = False) -> dict[str, Rows]:
    """State [N, 14] and chunks [N, H, 14] written out in full; the delta is formed after the adaptation."""
    mask = spec_of(horizon=horizon, action_space=action_space).delta_mask
    states, actions = columns.states.astype(np.float64), columns.actions.astype(np.float64)
    if adapt:
        states, actions = state_to_pi(states), action_to_pi(actions)
    return {"state": states, "actions": all_chunks(states, actions, list(columns.lengths), horizon=horizon, delta_mask=mask)}


def openpi_stats(golden: Path, run: str) -> dict[str, dict[str, list[float]]]:
    return json.loads((golden / run / "norm_stats.json").read_text())["norm_stats"]


def rebinnings(batches: list[Rows]) -> int:
    """How often openpi moved its histograms to new edges: whenever a batch widened the range of any dimension."""
    low, high = batches[0].min(axis=0), batches[0].max(axis=0)
    times = 0
    for batch in batches[1:]:
        wider_low, wider_high = np.minimum(low, batch.min(axis=0)), np.maximum(high, batch.max(axis=0))
        times += bool((wider_low != low).any() or (wider_high != high).any())
        low, high = wider_low, wider_high
    return times


def assert_moments_match(openpi: dict[str, list[float]], *, mean: Rows, std: Rows) -> None:
    # A mean near zero is right to 1e-5 of the std it is divided by.
    np.testing.assert_array_less(np.abs(openpi["mean"] - mean), 1e-5 * np.maximum(np.abs(mean), std) + 1e-12)
    np.testing.assert_array_less(np.abs(openpi["std"] - std), 1e-5 * std + 1e-12)


def assert_quantile_is_within_openpi_bins(openpi: list[float], rows: Rows, percent: int, *, moved: int, lost: Rows | int = 0) -> None:
    """Openpi's quantile is the left edge of a bin, moved left by up to one bin, and short of a count or more, at each re-binning."""
    ordered, width = np.sort(rows, axis=0), np.ptp(rows, axis=0) / BINS
    rank = -(-percent * len(rows) // 100) - 1
    above = np.minimum(rank + np.maximum(lost, moved + 1), len(rows) - 1)
    assert (np.array(openpi) >= ordered[rank - 1] - (1 + moved) * width - 1e-9).all()
    assert (np.array(openpi) <= ordered[above, np.arange(rows.shape[1])] + width + 1e-9).all()


@EITHER
@pytest.mark.parametrize("horizon", [10, 50])
def test_norm_stats_match_openpi_where_it_saw_every_frame(golden, dataset, columns, horizon, adapt):
    stats = compute_norm_stats(dataset, spec=spec_of(horizon=horizon, adapt=adapt))
    openpi = openpi_stats(golden, f"h{horizon}_bs1_adapt{int(adapt)}_delta1")
    rows = rows_of(columns, horizon=horizon, action_space="delta", adapt=adapt)
    assert (stats.state.count, stats.actions.count) == (559, 559 * horizon)
    for vector, ours in (("state", stats.state), ("actions", stats.actions)):
        assert_moments_match(openpi[vector], mean=ours.mean, std=ours.std)
        moved = rebinnings(list(rows[vector].reshape(559, -1, 14)))
        for name, percent in (("q01", 1), ("q99", 99)):
            assert_quantile_is_within_openpi_bins(openpi[vector][name], rows[vector].reshape(-1, 14), percent, moved=moved)


@EITHER
@pytest.mark.parametrize(("horizon", "action_space"), [(10, "delta"), (50, "delta"), (50, "absolute")])
def test_the_chunks_we_count_are_those_that_openpi_counted_before_it_dropped_the_tail(golden, columns, horizon, action_space, adapt):
    openpi = openpi_stats(golden, f"h{horizon}_bs32_adapt{int(adapt)}_delta{int(action_space == 'delta')}")
    seen = 559 // 32 * 32
    for vector, rows in rows_of(columns, horizon=horizon, action_space=action_space, adapt=adapt).items():
        kept = rows[:seen]
        flat = kept.reshape(-1, 14)
        assert_moments_match(openpi[vector], mean=flat.mean(axis=0), std=flat.std(axis=0))
        moved = rebinnings([batch_rows.reshape(-1, 14) for batch_rows in np.split(kept, 17)])
        lost = np.array([LOST.get((vector, horizon, action_space, adapt), {}).get(name, 0) for name in ALOHA])
        for name, percent in (("q01", 1), ("q99", 99)):
            assert_quantile_is_within_openpi_bins(openpi[vector][name], flat, percent, moved=moved, lost=lost)


def test_the_exact_truth_over_the_same_rows_is_ours(golden, columns):
    truth = json.loads((golden / "exact_h50_bs32_adapt0_delta1.json").read_text())
    rows = rows_of(columns, horizon=50, action_space="delta")
    # Every row as an episode of one frame: the core must give the truth over exactly the rows that openpi saw.
    for vector in ("state", "actions"):
        flat = rows[vector][:544].reshape(-1, 14)
        ours = chunk_norm_stats(flat, flat, np.ones(len(flat), np.int64), horizon=1, delta_mask=[False] * 14).actions
        for name in ("mean", "std", "min", "max"):
            np.testing.assert_allclose(getattr(ours, name), truth[vector][name], rtol=1e-5, atol=1e-7)
        # The truth's quantiles lie between two values; ours is one that occurs.
        ordered = np.sort(flat, axis=0)
        for name, percent in (("q01", 1), ("q99", 99)):
            rank = -(-percent * len(flat) // 100) - 1
            assert (np.array(truth[vector][name]) >= ordered[rank - 1] - 1e-6).all()
            assert (np.array(truth[vector][name]) <= ordered[min(rank + 1, len(flat) - 1)] + 1e-6).all()


@EITHER
@pytest.mark.parametrize(("horizon", "action_space"), [(50, "delta"), (10, "delta"), (50, "absolute")])
def test_quantiles_are_within_one_of_5000_bins_of_a_histogram_that_is_never_moved(dataset, columns, horizon, action_space, adapt):
    stats = compute_norm_stats(dataset, spec=spec_of(horizon=horizon, action_space=action_space, adapt=adapt))
    rows = rows_of(columns, horizon=horizon, action_space=action_space, adapt=adapt)
    for vector, ours in (("state", stats.state), ("actions", stats.actions)):
        flat = rows[vector].reshape(-1, 14)
        for k in range(14):
            counts, edges = np.histogram(flat[:, k], bins=BINS)
            for q, exact in ((0.01, ours.q01[k]), (0.99, ours.q99[k])):
                left = edges[np.searchsorted(counts.cumsum(), q * len(flat))]
                assert -1e-12 <= exact - left <= (edges[1] - edges[0]) * (1 + 1e-9)
        np.testing.assert_array_equal(ours.q01, by_rank(flat, 1))
        np.testing.assert_array_equal(ours.q99, by_rank(flat, 99))


def test_openpi_832_its_running_statistics_on_raw_batches_agree_with_ours(golden):
    recorded = np.load(golden / "running_stats_unit.npz")
    batches = [recorded[f"batch{k}"].reshape(-1, 7) for k in range(7)]
    rows = np.concatenate(batches)
    ours: VectorStats = chunk_norm_stats(rows, rows, [len(rows)], horizon=1, delta_mask=[False] * 7).state
    assert_moments_match({"mean": recorded["mean"], "std": recorded["std"]}, mean=ours.mean, std=ours.std)
    moved = rebinnings([batch.astype(np.float64) for batch in batches])
    for name, percent in (("q01", 1), ("q99", 99)):
        assert_quantile_is_within_openpi_bins(recorded[name], rows.astype(np.float64), percent, moved=moved)


@pytest.mark.parametrize(
    ("horizon", "action_space", "adapt"),
    [(10, "delta", False), (50, "delta", False), (50, "absolute", False), (10, "delta", True), (50, "delta", True), (50, "absolute", True)],
)
def test_the_first_and_last_chunks_are_the_rows_that_openpi_normalised(golden, columns, horizon, action_space, adapt):
    rows = rows_of(columns, horizon=horizon, action_space=action_space, adapt=adapt)
    run = f"h{horizon}_bs32_adapt{int(adapt)}_delta{int(action_space == 'delta')}"
    recorded = np.load(golden / f"{run}_rows_first3_last3.npz")
    for vector in ("state", "actions"):
        seen = rows[vector][:544]
        np.testing.assert_allclose(np.concatenate([seen[:3], seen[-3:]]), recorded[vector], atol=1e-5)
