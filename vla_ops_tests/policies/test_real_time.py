"""What is left of a chunk, as a model takes it, and chunks that go on from one another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.errors import PolicyError, SchemaMismatchError
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.pi_policy import PiPolicy
from vla_ops.policies.policy import Policy
from vla_ops.policies.real_time import Overlap, RealTime, guide_of, prefix_weights
from vla_ops.policies.transforms import TrainingRow
from vla_ops_tests.policies.small_run import make_run, seen


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PiPolicy:
    run = make_run(tmp_path_factory.mktemp("real_time"))
    return Policy.load(run.folder, options=BackendOptions(batch_sizes=(1, 2), sampling_steps=5, real_time=RealTime()))


def chunk(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).uniform(0, 1, (6, 3))


# Weights


@given(horizon=st.integers(1, 60), data=st.data())
def test_weights_hold_the_delay_fall_over_the_overlap_and_are_zero_behind_it(horizon: int, data: Any) -> None:
    length = data.draw(st.integers(0, horizon))
    delay = data.draw(st.integers(0, length))
    weights = prefix_weights(delay, length, horizon)
    assert weights.shape == (horizon,)
    assert (weights[:delay] == 1).all()
    assert (weights[length:] == 0).all()
    between = weights[delay:length]
    assert ((between > 0) & (between < 1)).all()
    assert (np.diff(between) < 0).all()


def test_weights_are_those_of_the_papers_equation() -> None:
    # H = 8, s = 2, d = 3: c_i = (H - s - i) / (H - s - d + 1), W_i = c_i (e^c_i - 1) / (e - 1).
    c = np.array([3 / 4, 2 / 4, 1 / 4])
    np.testing.assert_allclose(prefix_weights(3, 6, 8), [1, 1, 1, *(c * (np.exp(c) - 1) / (np.e - 1)), 0, 0], rtol=1e-6)


# In the model's numbers


def test_an_overlap_is_encoded_as_the_actions_of_training_are(policy: PiPolicy) -> None:
    wanted = policy.transforms.forward_training(TrainingRow(seen(1), chunk())).actions
    assert wanted is not None
    guide = guide_of(policy.transforms, [seen(1), seen(2)], [Overlap(chunk()[:4], 1), None])
    np.testing.assert_array_equal(guide.actions[0, :4], wanted[:4])
    assert (guide.actions[0, 4:] == 0).all()
    assert (guide.actions[1] == 0).all()
    assert (guide.delays, guide.lengths) == ((1, 0), (4, 0))


@pytest.mark.parametrize(
    ("actions", "delay", "said"),
    [
        (chunk()[:, :2], 1, r"not the first actions of a chunk.*\(6, 2\).*j1 .*gripper"),
        (np.concatenate([chunk(), chunk()]), 1, r"not the first actions.*\(12, 3\)"),
        (chunk()[:0], 0, r"not the first actions.*\(0, 3\)"),
        (np.where(np.eye(6, 3, -1), np.nan, chunk()), 1, r"an action is not finite"),
        (chunk()[:3], 4, r"beyond what is left.*a delay of 4 steps, and 3 actions.*Ask earlier"),
        (chunk()[:3], -1, r"beyond what is left"),
    ],
    ids=["width", "too long", "none", "not finite", "late", "negative"],
)
def test_what_is_no_overlap_is_refused(policy: PiPolicy, actions: Any, delay: int, said: str) -> None:
    with pytest.raises(SchemaMismatchError, match=said):
        policy.infer(seen(), overlap=Overlap(actions, delay))


# Chunks


def test_the_steps_of_the_delay_are_the_old_chunks_and_the_next_ones_join_it(policy: PiPolicy) -> None:
    before = policy.infer(seen(0), noise=policy.draw_noise(1)[0] * 0)
    # Two steps later, of which three more are past before the reply.
    overlap = Overlap(before[2:], 2)
    noises = np.random.default_rng(3).standard_normal((8, *policy.draw_noise(1)[0].shape), np.float32)
    free, joined = ([policy.infer(seen(1), noise=noise, overlap=given) for noise in noises] for given in (None, overlap))
    assert all((actions[:2] == before[2:4]).all() for actions in joined)
    off_free, off_joined = (np.mean([np.abs(actions[2] - before[4]) for actions in chunks]) for chunks in (free, joined))
    assert off_joined < 0.5 * off_free, (off_joined, off_free)


def test_rows_of_one_call_go_on_each_from_its_own(policy: PiPolicy) -> None:
    noise, observations = policy.draw_noise(2), [seen(0), seen(1)]
    overlaps = [Overlap(chunk(0)[:4], 2), None]
    together = policy.run(observations, noise=noise, overlaps=overlaps).actions
    for k in range(2):
        np.testing.assert_allclose(together[k], policy.infer(observations[k], noise=noise[k], overlap=overlaps[k]), atol=1e-4)
    with pytest.raises(SchemaMismatchError, match="one overlap an observation"):
        policy.run(observations, overlaps=overlaps[:1])


def test_a_policy_that_was_not_made_for_it_says_how(policy: PiPolicy) -> None:
    plain = PiPolicy(policy.setup, policy.transforms, policy.backend)
    assert plain.metadata["real_time"] is None
    assert policy.metadata["real_time"] == {"max_weight": 5.0, "through_model": True}
    with pytest.raises(PolicyError, match=r"not made ready for real-time chunking.*--real-time"):
        plain.infer(seen(), overlap=Overlap(chunk(), 1))


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_weights_that_hold_nothing_or_all_are_refused(weight: float) -> None:
    with pytest.raises(PolicyError, match="more than 0"):
        RealTime(max_weight=weight)
