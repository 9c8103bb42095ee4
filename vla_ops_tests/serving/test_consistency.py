"""One frame in training, evaluation and serving."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_ops.errors import PolicyError
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.normalize import Normalize
from vla_ops.policies.pi_policy import PiPolicy
from vla_ops.policies.policy import Policy
from vla_ops.policies.steps import Chain
from vla_ops.serving.consistency import check_consistency
from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import make_run
from vla_ops_tests.training.mixed_run import make_mixed_run

INPUTS = ["state", "mask of base_0_rgb", "image base_0_rgb", "tokens", "mask of the tokens"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("consistent"))


@pytest.fixture(scope="module")
def policy(run: Run) -> Policy:
    return Policy.load(run.folder, options=BackendOptions(sampling_steps=2))


def test_training_evaluation_and_serving_agree(policy: Policy, run: Run) -> None:
    found = check_consistency(policy, run)
    for ways in (("training", "evaluation"), ("evaluation", "serving")):
        assert set(INPUTS) <= {one.name for one in found.compared if one.ways == ways}
    assert {one.name: one.limit for one in found.compared if one.ways == ("evaluation", "serving")}["image base_0_rgb"] == 0
    assert "actions of the robot" in found.render()
    assert found.frame in found.render()
    assert found.compared[-1].ways == ("serving", "client")


def test_any_frame_can_be_asked_for(policy: Policy, run: Run) -> None:
    assert check_consistency(policy, run, row=3).frame != check_consistency(policy, run, row=4).frame


def test_another_order_of_cameras_is_named(policy: Policy, run: Run) -> None:
    slots = policy.transforms.cameras
    (first, a), (second, b), rest = slots.shown
    swapped = replace(policy.transforms, cameras=replace(slots, shown=((first, b), (second, a), rest)))
    with pytest.raises(PolicyError, match=r"evaluation and serving do not have the same image base_0_rgb.*do not run it on a robot"):
        check_consistency(PiPolicy(policy.setup, swapped, policy.backend, options=policy.options), run)


def test_other_norm_stats_are_named(policy: Policy, run: Run) -> None:
    steps = policy.transforms.chain.steps
    last = steps[-1]
    assert isinstance(last, Normalize)
    other = replace(last, action_scale=replace(last.action_scale, offset=last.action_scale.offset + 0.1))
    served = replace(policy.transforms, chain=Chain((*steps[:-1], other)))
    with pytest.raises(PolicyError, match=r"evaluation and serving do not have the same actions of the robot.*found a difference of 0.1"):
        check_consistency(PiPolicy(policy.setup, served, policy.backend, options=policy.options), run)


def test_other_parameters_are_named(policy: Policy, run: Run, tmp_path: Path) -> None:
    class Shifted:
        name, batch_sizes = "shifted", (1,)

        def sample(self, inputs: object, noise: np.ndarray, guide: None = None) -> object:
            sampled = policy.backend.sample(inputs, noise, guide)  # type: ignore[arg-type]
            return replace(sampled, actions=sampled.actions + np.float32(0.01))

    with pytest.raises(PolicyError, match="do not have the same actions of the model"):
        check_consistency(PiPolicy(policy.setup, policy.transforms, Shifted(), options=policy.options), run)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["left", "right"])
def test_a_source_of_a_mixture_is_served_as_it_was_trained(source: str, tmp_path: Path) -> None:
    mixed = make_mixed_run(tmp_path)
    policy = Policy.load(mixed.folder, source=source, options=BackendOptions(sampling_steps=2))
    found = check_consistency(policy, mixed)
    for ways in (("training", "evaluation"), ("evaluation", "serving")):
        assert set(INPUTS) <= {one.name for one in found.compared if one.ways == ways}
    # `left` holds out its second episode, `right` none.
    assert found.frame == {"left": "episode_000001 frame 0", "right": "episode_000002 frame 0"}[source]
    other = next(each for each in mixed.recipe.sources if each.name != source)
    mistaken = PiPolicy(replace(policy.setup, source=other), policy.transforms, policy.backend, options=policy.options)
    with pytest.raises(PolicyError, match="evaluation and serving do not have the same"):
        check_consistency(mistaken, mixed)
