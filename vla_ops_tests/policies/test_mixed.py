"""Rows of a mixture through the transforms of their own source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ops.errors import SchemaMismatchError
from vla_ops.policies import MixtureTransforms, Observation, PolicyTransforms, TrainingRow
from vla_ops_tests.policies.making import arm_spec, seen, stats_of, transforms_of

SPEC = arm_spec()
BLIND_HAND = SPEC.model_copy(update={"cameras": {"top": SPEC.cameras["top"]}})
LEFT = transforms_of(SPEC, stats=stats_of(SPEC, seed=1))
RIGHT = transforms_of(BLIND_HAND, stats=stats_of(SPEC, seed=5))
BOTH = MixtureTransforms({"left": LEFT, "right": RIGHT})
SOURCES = ["right", "left", "right", "left", "left"]


def batch() -> tuple[Observation, np.ndarray]:
    observation = replace(seen(SPEC, batch=5), prompt=[f"task {k}" for k in range(5)], source=SOURCES)
    return observation, np.random.default_rng(3).uniform(0, 1, (5, 5, 3)).astype(np.float32)


def row_of(observation: Observation, k: int) -> Observation:
    images = {camera: image[k] for camera, image in observation.images.items()}
    assert observation.prompt is not None
    return Observation(observation.state[k], images, observation.prompt[k])


def own(k: int) -> PolicyTransforms:
    return BOTH.of_source[SOURCES[k]]


def test_each_row_comes_out_as_from_its_own_source_in_its_own_place() -> None:
    observation, actions = batch()
    inputs = BOTH.forward_training(TrainingRow(observation, actions)).as_dict()
    for k in range(5):
        alone = own(k).forward_training(TrainingRow(row_of(observation, k), actions[k])).as_dict()
        for key in ("state", "actions", "tokenized_prompt", "tokenized_prompt_mask"):
            np.testing.assert_array_equal(inputs[key][k], alone[key], err_msg=f"{key} of row {k}")
        for slot in alone["image"]:
            np.testing.assert_array_equal(inputs["image"][slot][k], alone["image"][slot])
            assert inputs["image_mask"][slot][k] == alone["image_mask"][slot]


def test_a_camera_that_a_source_lacks_is_masked_in_its_rows_alone() -> None:
    observation, _ = batch()
    masks = BOTH.forward_inference(observation).image_masks
    assert masks["left_wrist_0_rgb"].tolist() == [source == "left" for source in SOURCES]
    assert masks["base_0_rgb"].all()
    assert BOTH.cameras.cameras == ("top", "hand")


def test_actions_come_back_by_the_norm_stats_of_their_own_source() -> None:
    observation, actions = batch()
    inputs = BOTH.forward_training(TrainingRow(observation, actions))
    assert inputs.actions is not None
    np.testing.assert_allclose(BOTH.inverse(inputs.actions, observation), actions, atol=1e-5)
    single = replace(row_of(observation, 1), source="left")
    np.testing.assert_array_equal(BOTH.inverse(inputs.actions[1], single), LEFT.inverse(inputs.actions[1], single))


@pytest.mark.parametrize(
    ("source", "found"), [(None, "found none"), ("middle", "found middle"), (["left"] * 4 + ["middle"], "found middle")]
)
def test_an_observation_of_no_source_is_refused_with_those_there_are(source: str | list[str] | None, found: str) -> None:
    observation, _ = batch()
    with pytest.raises(SchemaMismatchError, match=rf"which of its sources it is of; {found}; expected left or right"):
        BOTH.forward_inference(replace(observation, source=source))


def test_the_fingerprint_is_of_every_source() -> None:
    other = transforms_of(BLIND_HAND, stats=stats_of(SPEC, seed=6))
    assert BOTH.fingerprint == MixtureTransforms({"left": LEFT, "right": RIGHT}).fingerprint
    assert BOTH.fingerprint != MixtureTransforms({"left": LEFT, "right": other}).fingerprint
    assert (BOTH.state_dims, BOTH.action_dims) == (LEFT.state_dims, LEFT.action_dims)
