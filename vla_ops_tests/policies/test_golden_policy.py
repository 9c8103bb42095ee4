"""From an ALOHA's observation to the model's inputs, and from the model's actions to the robot's, as a whole openpi policy does it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vla_ops.errors import PromptError
from vla_ops.policies import Observation, PolicyTransforms, StatsFrom, compose, load_tokenizer, take_stats
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.policy import Policy
from vla_ops.robot_file import Robot
from vla_ops.spec import TrainingSpec
from vla_ops_tests.policies.making import ROBOT, Shape, aloha_spec

EITHER = pytest.mark.parametrize("family", ["pi0", "pi05"])


def policy(golden_dir: Path, family: str, *, truncate: bool) -> PolicyTransforms:
    spec = aloha_spec(horizon=8, adapt_to_pi=True)
    base = golden_dir / "openpi_ckpt_tiny" / family / "tiny" / "1"
    stats = take_stats(StatsFrom.model_validate({"from": str(base), "asset_id": "trossen"}), spec, robot=ROBOT)
    tokenizer = load_tokenizer(str(golden_dir / "policy" / "standin_tokenizer.model"))
    model = Shape(family=family, action_horizon=8, max_token_len=64)  # pyright: ignore[reportArgumentType]
    return compose(spec, stats, model, tokenizer, robot=ROBOT, truncate_prompts=truncate)


def recorded(golden_dir: Path, family: str) -> tuple[dict[str, np.ndarray], Observation]:
    arrays = dict(np.load(golden_dir / "policy" / f"policy_{family}.npz"))
    prompt = json.loads((golden_dir / "policy" / "notes.json").read_text())[family]["prompt"]
    images = {name: arrays[f"obs/images/{name}"] for name in ("cam_high", "cam_left_wrist")}
    return arrays, Observation(arrays["obs/state"], images, prompt)


@EITHER
def test_the_models_inputs_are_openpis(golden_dir: Path, family: str) -> None:
    arrays, observation = recorded(golden_dir, family)
    inputs = policy(golden_dir, family, truncate=family == "pi05").forward_inference(observation)
    np.testing.assert_allclose(inputs.state, arrays["model_in/state"], rtol=1e-6, atol=1e-7)
    for slot in ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"):
        np.testing.assert_array_equal(inputs.images[slot], arrays[f"model_in/image/{slot}"])
        assert inputs.image_masks[slot] == arrays[f"model_in/image_mask/{slot}"]
    np.testing.assert_array_equal(inputs.tokens, arrays["model_in/tokenized_prompt"])
    np.testing.assert_array_equal(inputs.token_mask, arrays["model_in/tokenized_prompt_mask"])


@EITHER
def test_the_robots_actions_are_openpis(golden_dir: Path, family: str) -> None:
    arrays, observation = recorded(golden_dir, family)
    actions = policy(golden_dir, family, truncate=False).inverse(arrays["model_actions_raw"][0], observation)
    np.testing.assert_allclose(actions, arrays["out/actions"], rtol=1e-6, atol=1e-6)


def test_openpi_cuts_the_end_of_the_state_off_a_long_prompt_and_here_that_is_said(golden_dir: Path) -> None:
    _, observation = recorded(golden_dir, "pi05")
    with pytest.raises(
        PromptError, match=r"more tokens than the model takes.*test_arm.*found \d+ tokens for 'insert peg into bowl'.*at most 64"
    ):
        policy(golden_dir, "pi05", truncate=False).forward_inference(observation)


# The whole policy


def whole(golden_dir: Path, family: str) -> Policy:
    base = golden_dir / "openpi_ckpt_tiny" / family / "tiny" / "1"
    said = {
        "tokenizer": str(golden_dir / "policy" / "standin_tokenizer.model"),
        "prompt": {"truncate": True},
        "model": {"max_token_len": 64, "dtype": "float32"},
    }
    return Policy.load(
        base,
        robot=Robot(ROBOT, Path(), aloha_spec(horizon=8, adapt_to_pi=True)),
        stats=StatsFrom.model_validate({"from": str(base), "asset_id": "trossen"}),
        training=TrainingSpec.model_validate(said),
        # As openpi serves.
        options=BackendOptions(dtype="bfloat16"),
    )


@EITHER
def test_a_policy_of_openpis_checkpoint_gives_openpis_actions(golden_dir: Path, family: str) -> None:
    arrays, observation = recorded(golden_dir, family)
    inferred = whole(golden_dir, family).run([observation], noise=arrays["noise"][None])
    np.testing.assert_allclose(inferred.raw, arrays["model_actions_raw"], atol=1e-4)
    np.testing.assert_allclose(inferred.actions[0], arrays["out/actions"], atol=1e-4)
