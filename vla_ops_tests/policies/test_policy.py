"""A checkpoint as one object: of a run, and for a robot that is named."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.errors import CheckpointError, PolicyError, PromptError, SchemaMismatchError, StatsMismatchError
from vla_ops.policies import StatsFrom, read_stats
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.pi_policy import PiPolicy
from vla_ops.policies.policy import Policy
from vla_ops.policies.setup import make_setup
from vla_ops.robot_file import Robot
from vla_ops.spec import TrainingSpec
from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import make_run, seen
from vla_ops_tests.training.untrained import asset_id_of

OPTIONS = BackendOptions(batch_sizes=(1, 2), sampling_steps=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def policy(run: Run) -> Policy:
    return Policy.load(run.folder, options=OPTIONS)


@pytest.fixture
def copied(run: Run, tmp_path: Path) -> Path:
    """The checkpoint of a copy of the run."""
    shutil.copytree(run.folder, tmp_path / "run")
    return tmp_path / "run" / "7"


def named(run: Run) -> Robot:
    return Robot("arm", Path(), run.recipe.spec)


# What it gives


def test_a_run_of_this_project_says_all_that_its_policy_needs(policy: Policy, run: Run) -> None:
    actions = policy.infer(seen())
    assert (actions.shape, actions.dtype) == ((6, 3), np.float64)
    assert np.isfinite(actions).all()
    told = policy.metadata
    assert (told["robot"], told["policy"], told["cameras"]) == ("arm", "small/first/7", ["cam_high", "cam_wrist"])
    assert told["transforms"] == run.found.get("transforms_fingerprint", policy.transforms.fingerprint)
    json.dumps(told)


@pytest.mark.parametrize("name", ["arm/small", "arm/small/first", "arm/small/first@7"])
def test_a_run_can_be_named_as_init_names_it(run: Run, name: str) -> None:
    from vla_ops.checkpoints.sources import locate

    assert make_setup(locate(name, run.home)).robot == "arm"


def test_the_same_noise_gives_the_same_actions_and_calls_draw_their_own(policy: Policy) -> None:
    noise = policy.draw_noise(1)[0]
    np.testing.assert_array_equal(policy.infer(seen(), noise=noise), policy.infer(seen(), noise=noise))
    assert np.abs(policy.infer(seen()) - policy.infer(seen())).max() > 1e-3


def test_two_policies_of_one_seed_draw_the_same_noise(policy: Policy) -> None:
    one, two = (replace_seed(policy, 5) for _ in range(2))
    for _ in range(2):
        np.testing.assert_array_equal(one.infer(seen()), two.infer(seen()))
    assert np.abs(replace_seed(policy, 6).draw_noise(1) - replace_seed(policy, 5).draw_noise(1)).max() > 0.1


def replace_seed(policy: Policy, seed: int) -> Policy:
    return PiPolicy(policy.setup, policy.transforms, policy.backend, seed)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_a_batch_is_its_rows_whatever_was_compiled(policy: Policy, rows: int) -> None:
    together, noise = seen(batch=rows), policy.draw_noise(rows)
    actions = policy.infer(together, noise=noise)
    assert actions.shape == (rows, 6, 3)
    for k in range(rows):
        alone = replace(together, state=together.state[k], images={name: image[k] for name, image in together.images.items()})
        np.testing.assert_allclose(actions[k], policy.infer(alone, noise=noise[k]), atol=1e-5)


def test_rows_of_one_call_may_have_images_of_several_sizes(policy: Policy) -> None:
    observations = [seen(0), seen(1, side=(64, 64))]
    noise = policy.draw_noise(2)
    together = policy.run(observations, noise=noise)
    for k, observation in enumerate(observations):
        np.testing.assert_allclose(together.actions[k], policy.infer(observation, noise=noise[k]), atol=1e-5)


def test_deltas_are_given_where_they_are_asked_for(policy: Policy) -> None:
    there, noise = seen(), policy.draw_noise(1)[0]
    absolute, deltas = (policy.infer(there, noise=noise, absolute=absolute) for absolute in (True, False))
    assert [dim.name for dim in policy.transforms.action_dims] == ["j1", "j2", "gripper"]
    np.testing.assert_allclose(deltas[:, :2], absolute[:, :2] - there.state[:2])
    np.testing.assert_array_equal(deltas[:, 2], absolute[:, 2])


def test_every_stage_has_its_seconds(policy: Policy) -> None:
    seconds = policy.run([seen()]).seconds
    assert list(seconds) == ["transform", "prefix", "denoise", "inverse"]
    assert all(spent > 0 for spent in seconds.values())


@pytest.mark.slow  # it compiles another model
def test_parameters_may_be_bfloat16(policy: Policy, run: Run) -> None:
    half = Policy.load(run.folder, options=BackendOptions(dtype="bfloat16", sampling_steps=3))
    noise = policy.draw_noise(1)[0]
    difference = np.abs(half.infer(seen(), noise=noise) - policy.infer(seen(), noise=noise)).max()
    assert 0 < difference < 0.5


# What it refuses


def test_observations_that_are_not_the_robots_are_refused_by_name(policy: Policy) -> None:
    there = seen()
    with pytest.raises(SchemaMismatchError, match=r"image is missing.*cam_wrist"):
        policy.infer(replace(there, images={"cam_high": there.images["cam_high"]}))
    with pytest.raises(SchemaMismatchError, match=r"not finite.*j2"):
        policy.infer(replace(there, state=np.array([0, np.nan, 0], np.float32)))
    with pytest.raises(PromptError, match="no prompt"):
        policy.infer(replace(there, prompt=None))
    with pytest.raises(SchemaMismatchError, match=r"noise.*\(2, 6, 8\).*\(1, 6, 8\)"):
        policy.run([there], noise=policy.draw_noise(2))


def test_a_checkpoint_without_assets_is_refused_with_the_way_to_add_them(copied: Path) -> None:
    shutil.rmtree(copied / "assets")
    with pytest.raises(CheckpointError, match=r"no norm stats.*assets none.*norm_stats\.json.*Copy the run's norm stats there"):
        Policy.load(copied)


def test_norm_stats_of_something_else_are_refused(copied: Path) -> None:
    file = next((copied / "assets").rglob("norm_stats.json"))
    told = json.loads(file.read_text())
    told["norm_stats"]["state"]["mean"][0] += 1
    file.write_text(json.dumps(told))
    file.with_name("norm_stats.meta.json").unlink()
    with pytest.raises(StatsMismatchError, match="not those it was trained with"):
        Policy.load(copied)


def test_inputs_that_would_be_made_otherwise_than_in_training_are_refused(copied: Path) -> None:
    file = copied.parent / "run.json"
    told = json.loads(file.read_text()) | {"transforms_fingerprint": "0" * 16}
    file.write_text(json.dumps(told))
    with pytest.raises(PolicyError, match=r"not be made as they were in training.*0000000000000000"):
        Policy.load(copied)


def test_a_half_written_checkpoint_is_refused(copied: Path) -> None:
    largest = max((copied / "params").rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="damaged"):
        Policy.load(copied)


def test_without_a_run_the_robot_and_its_norm_stats_must_be_named(copied: Path, run: Run) -> None:
    (copied.parent / "run.json").unlink()
    with pytest.raises(PolicyError, match=r"which robot.*no run\.json.*Name the robot"):
        Policy.load(copied)
    with pytest.raises(StatsMismatchError, match=rf"which norm stats.*arm.*assets {asset_id_of(run)}"):
        Policy.load(copied, robot=named(run))


def test_a_run_says_its_norm_stats_itself(copied: Path, run: Run) -> None:
    with pytest.raises(PolicyError, match="Name the robot as well"):
        Policy.load(copied, stats=run.recipe.read_stats()[asset_id_of(run)])


def test_a_backend_that_there_is_not_is_refused_with_those_there_are(copied: Path) -> None:
    with pytest.raises(PolicyError, match=r"no such backend.*tensorrt.*jax or torch"):
        Policy.load(copied, backend="tensorrt")


# For a robot that is named


@pytest.mark.slow  # it compiles another model
def test_the_tensors_say_the_models_sizes_and_the_person_the_rest(policy: Policy, copied: Path, run: Run) -> None:
    (copied.parent / "run.json").unlink()
    said: dict[str, Any] = {"tokenizer": "bytes", "model": {"max_token_len": 120, "dtype": "float32"}}
    chosen = StatsFrom.model_validate({"from": str(copied), "asset_id": asset_id_of(run)})
    other = Policy.load(copied, robot=named(run), stats=chosen, training=TrainingSpec.model_validate(said), options=OPTIONS)
    assert other.setup.model == replace(run.recipe.model, remat=other.setup.model.remat)
    noise = policy.draw_noise(1)[0]
    np.testing.assert_array_equal(other.infer(seen(), noise=noise), policy.infer(seen(), noise=noise))


def test_norm_stats_for_another_robot_are_refused(copied: Path, run: Run) -> None:
    other = Robot("other_arm", Path(), run.recipe.spec)
    chosen = StatsFrom.model_validate({"from": str(copied), "asset_id": asset_id_of(run)})
    with pytest.raises(StatsMismatchError, match="other_arm"):
        Policy.load(copied, robot=other, stats=chosen)


def test_the_robots_own_norm_stats_serve_a_checkpoint_that_was_never_trained_on_it(copied: Path, run: Run) -> None:
    own = read_stats(Path(str(run.recipe.stats)))
    said = TrainingSpec.model_validate({"tokenizer": "bytes", "model": {"max_token_len": 120}})
    setup = make_setup(copied, robot=named(run), stats=own, training=said)
    assert (setup.stats.fingerprint, setup.model.dtype) == (own.fingerprint, "bfloat16")
    setup.transforms()
