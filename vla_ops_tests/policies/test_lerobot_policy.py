"""LeRobot's policies behind `Policy`, value by value against LeRobot's own `select_action` on the same files."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.errors import CheckpointError, PolicyError, PromptError, SchemaMismatchError
from vla_ops.export.lerobot_sizes import other_sizes
from vla_ops.policies import Observation
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.policy import Policy
from vla_ops.spec import TrainingSpec
from vla_ops_tests.policies import lerobot_made as made
from vla_ops_tests.policies.lerobot_made import ROBOT_FILE, LeRobotsOwn, seen

# LeRobot imports every one of its policies to load one.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_act(tmp_path_factory.mktemp("lerobot") / "act")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers", reason="diffusers is not installed: uv sync --extra policies")
    return made.make_diffusion(tmp_path_factory.mktemp("lerobot") / "diffusion")


@pytest.fixture(scope="module")
def smolvla(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("num2words", reason="num2words is not installed: uv sync --extra policies")
    return made.make_smolvla(tmp_path_factory.mktemp("lerobot") / "smolvla")


@pytest.fixture
def copied(act: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(act, tmp_path / "act"))


def load(folder: Path, **more: Any) -> Policy:
    return Policy.load(folder, robot=ROBOT_FILE, **more)


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))


# As LeRobot's own


def test_act_gives_lerobots_actions_and_draws_nothing(act: Path) -> None:
    policy, own = load(act), LeRobotsOwn(act)
    assert (policy.horizon, policy.observation_steps, policy.cameras) == (6, 1, ("top", "hand"))
    for seed in range(2):
        actions = policy.infer(seen(seed))
        assert (actions.shape, actions.dtype) == ((6, 3), np.float64)
        np.testing.assert_allclose(actions, own.chunk(seen(seed), 6), atol=1e-6)
    np.testing.assert_array_equal(policy.infer(seen(1)), actions)
    assert np.abs(policy.infer(seen(0)) - actions).max() > 1e-4
    inferred = policy.run([seen(0), seen(1)])
    assert set(inferred.seconds) == {"transform", "model", "inverse"}
    np.testing.assert_allclose(inferred.actions[1], actions, atol=1e-5)


def test_diffusion_sees_two_steps_and_draws_the_noise_of_its_call(diffusion: Path) -> None:
    policy, own = load(diffusion), LeRobotsOwn(diffusion)
    assert (policy.horizon, policy.observation_steps) == (4, 2)
    first, *others = [seen(seed) for seed in range(5)]
    # At the start LeRobot repeats the first observation; what it sees while it carries out a chunk does not change that.
    expected = np.concatenate([own.chunk(first, 1, call=0), [own.act(other) for other in others[:3]]])
    np.testing.assert_allclose(policy.infer(replace(first, past=(first,))), expected, atol=1e-5)
    # Now its chunk is at its end, and it remembers the last two.
    before, last = others[2:]
    np.testing.assert_allclose(policy.infer(replace(last, past=(before,))), own.chunk(last, 4, call=1), atol=1e-5)


def test_smolvla_is_told_the_task(smolvla: Path) -> None:
    policy, own = load(smolvla), LeRobotsOwn(smolvla)
    assert policy.horizon == 4
    for call, prompt in enumerate(["do it", "leave it alone"]):
        there = seen(3, prompt=prompt, size=(30, 40))
        np.testing.assert_allclose(policy.infer(there), own.chunk(there, 4, call=call), atol=1e-5)
    with pytest.raises(PromptError, match="no prompt"):
        policy.infer(seen(3, prompt=None))


def test_pi0s_relative_actions_come_back_absolute(tmp_path: Path) -> None:
    with other_sizes():
        folder = made.make_pi0(tmp_path / "pi0")
        policy, own = load(folder), LeRobotsOwn(folder)
    there = seen(5)
    actions = policy.infer(there)
    np.testing.assert_allclose(actions, own.chunk(there, policy.horizon), atol=1e-5)
    deltas = load_again(policy).infer(there, absolute=False)
    # The gripper is the last, and was never relative.
    np.testing.assert_allclose(actions - deltas, np.tile(there.state * [1, 1, 0], (policy.horizon, 1)), atol=1e-5)
    from safetensors.torch import load_file, save_file

    # LeRobot prints that it could not load this, and goes on with random weights.
    tensors = load_file(folder / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith("action_in_proj.bias"))
    save_file(tensors | {name: tensors[name][:3].clone()}, folder / "model.safetensors")
    with other_sizes(), pytest.raises(CheckpointError, match=r"has not the weights of the file.*model\.safetensors"):
        load(folder)
    edit(folder / "config.json", lambda told: told.update(action_feature_names=["elbow", "waist", "gripper"]))
    with pytest.raises(SchemaMismatchError, match=r"other names.*config\.json.*waist"):
        load(folder)


def load_again(policy: Any) -> Any:
    """The policy with its calls counted from the beginning."""
    policy._calls = 0
    return policy


# One call, and another


def test_noise_is_of_the_seed_and_the_call_and_pytorchs_own_is_left_alone(diffusion: Path) -> None:
    import torch

    there = seen(past=1)
    one, two, other = load(diffusion), load(diffusion), load(diffusion, seed=1)
    torch.manual_seed(9)
    first, second = one.infer(there), one.infer(there)
    after = torch.rand(1)
    torch.manual_seed(9)
    assert torch.rand(1) == after
    torch.rand(7)
    np.testing.assert_array_equal(two.infer(there), first)
    np.testing.assert_array_equal(two.infer(there), second)
    assert np.abs(second - first).max() > 1e-4
    assert np.abs(other.infer(there) - first).max() > 1e-4
    with pytest.raises(SchemaMismatchError, match="draws its noise itself"):
        one.infer(there, noise=np.zeros((4, 3), np.float32))


def test_clients_that_ask_at_once_get_what_each_would_get_alone(act: Path) -> None:
    policy, there = load(act), [seen(seed) for seed in range(4)]
    alone = [policy.infer(one) for one in there]
    found: list[list[np.ndarray[Any, Any]]] = [[] for _ in there]

    def ask(k: int) -> None:
        found[k] = [policy.infer(there[k]) for _ in range(3)]

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, expected in enumerate(alone):
        np.testing.assert_allclose(found[k], [expected] * 3, atol=1e-6)


@pytest.mark.parametrize("name", ["diffusion", "pi0"])
def test_what_another_client_asked_before_changes_nothing(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with other_sizes():
        policy: Any = load(made.make_pi0(tmp_path / "pi0") if name == "pi0" else request.getfixturevalue(name))
    past = policy.observation_steps - 1
    policy.infer(seen(3, past=past))
    second = policy.infer(seen(1, past=past))
    load_again(policy).infer(seen(0, past=past))
    np.testing.assert_array_equal(policy.infer(seen(1, past=past)), second)


# Where it lies, and what it says


def test_it_is_found_in_a_training_and_in_a_step_of_it(act: Path, tmp_path: Path) -> None:
    step = tmp_path / "train" / "checkpoints" / "000100"
    shutil.copytree(act, step / "pretrained_model")
    (step.parent / "last").symlink_to("000100")
    policies = [load(place) for place in (tmp_path / "train", step, step / "pretrained_model")]
    for policy in policies:
        np.testing.assert_array_equal(policy.infer(seen()), policies[0].infer(seen()))
    told = policies[1].metadata
    assert (told["policy"], told["backend"], told["robot"]) == ("act/000100/pretrained_model", "lerobot", "test_arm")
    assert (told["action_horizon"], told["observation_steps"], told["cameras"]) == (6, 1, ["top", "hand"])
    json.dumps(told)


def test_metadata_says_of_which_numbers_it_is(act: Path, copied: Path) -> None:
    from safetensors.numpy import load_file, save_file

    file = next(copied.glob("policy_preprocessor*normalizer*.safetensors"))
    numbers = load_file(file)
    save_file(numbers | {"observation.state.mean": numbers["observation.state.mean"] + 1}, file)
    before, after = load(act).metadata, load(copied).metadata
    assert before["norm_stats"] != after["norm_stats"]
    assert before["transforms"] == after["transforms"]


def test_weights_that_the_file_replaces_are_not_fetched(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    expected = load(copied).infer(seen())
    edit(copied / "config.json", lambda told: told.update(pretrained_backbone_weights="ResNet18_Weights.IMAGENET1K_V1"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    np.testing.assert_array_equal(load(copied).infer(seen()), expected)


def test_a_policy_is_served_for_the_same_camera_under_the_name_of_its_dataset(copied: Path) -> None:
    expected = load(copied).infer(seen())
    renamed = {"observation.images.top": "observation.images.camera1"}

    def rename(told: dict[str, Any]) -> None:
        for step in told["steps"]:
            if step["registry_name"] == "rename_observations_processor":
                step["config"] = {"rename_map": renamed}

    text = (copied / "config.json").read_text()
    (copied / "config.json").write_text(text.replace("observation.images.top", "observation.images.camera1"))
    for file in copied.glob("policy_p*.json"):
        file.write_text(file.read_text().replace("observation.images.top", "observation.images.camera1"))
    edit(copied / "policy_preprocessor.json", rename)
    from safetensors.numpy import load_file, save_file

    for file in copied.glob("policy_p*.safetensors"):
        save_file({name.replace("images.top", "images.camera1"): value for name, value in load_file(file).items()}, file)
    np.testing.assert_array_equal(load(copied).infer(seen()), expected)


# What is wrong


def test_an_observation_that_does_not_fit_is_refused_by_name(act: Path, diffusion: Path) -> None:
    policy, there = load(act), seen()
    with pytest.raises(SchemaMismatchError, match=r"image is missing.*hand.*expected images top, hand"):
        policy.infer(replace(there, images={"top": there.images["top"]}))
    with pytest.raises(SchemaMismatchError, match=r"not of the size.*top.*expected \(48, 64, 3\).*Resize it on the robot"):
        policy.infer(seen(size=(30, 40)))
    with pytest.raises(SchemaMismatchError, match="gripper"):
        policy.infer(replace(there, state=there.state[:2]))
    with pytest.raises(SchemaMismatchError, match=r"not finite.*elbow"):
        policy.infer(replace(there, state=np.array([0, np.nan, 0], np.float32)))
    with pytest.raises(SchemaMismatchError, match=r"found 2; expected one"):
        policy.infer(seen(past=1))
    with pytest.raises(SchemaMismatchError, match=r"found 1; expected the last 2.*as `past`"):
        load(diffusion).infer(there)


def test_a_batch_is_its_rows(act: Path, diffusion: Path) -> None:
    one, two = seen(1), seen(2)
    batch = Observation(
        np.stack([one.state, two.state]), {name: np.stack([one.images[name], two.images[name]]) for name in one.images}, "do it"
    )
    actions = load(act).infer(batch)
    np.testing.assert_allclose(actions[1], load(act).infer(two), atol=1e-5)
    with_past = replace(batch, past=(batch,))
    assert load(diffusion).infer(with_past).shape == (2, 4, 3)


def test_weights_that_are_cut_short_or_of_another_policy_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = copied / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"the weights cannot be read.*model\.safetensors"):
        load(copied)
    file.write_bytes(whole)
    tensors = load_file(file)
    bias = tensors.pop("model.action_head.bias")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"not the tensors of the policy.*action_head\.bias.*1 not in the file"):
        load(copied)
    save_file(tensors | {"model.action_head.bias": bias, "model.other": bias + 1}, file)
    with pytest.raises(CheckpointError, match=r"not the tensors of the policy.*model\.other.*1 not in the policy"):
        load(copied)
    save_file(tensors | {"model.action_head.bias": bias[:2].clone()}, file)
    with pytest.raises(PolicyError, match=r"LeRobot cannot load the policy.*action_head"):
        load(copied)


def test_a_policy_that_this_lerobot_does_not_know_or_that_remembers_is_refused(copied: Path) -> None:
    edit(copied / "config.json", lambda told: told.update(no_such_setting=1))
    with pytest.raises(PolicyError, match=r"LeRobot cannot load the policy.*no_such_setting"):
        load(copied)
    edit(copied / "config.json", lambda told: told.update(type="vqbet"))
    with pytest.raises(PolicyError, match=r"no policy of this kind.*found vqbet; expected act, diffusion"):
        load(copied)


def test_packages_that_are_missing_are_named_with_the_way_to_install_them(diffusion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lerobot.policies.diffusion import modeling_diffusion

    def missing(name: str, **_: Any) -> None:
        raise ImportError(f"'{name}' is required but not installed.")

    monkeypatch.setattr(modeling_diffusion, "require_package", missing)
    with pytest.raises(PolicyError, match=r"needs packages.*config\.json.*'diffusers' is required.*uv sync --extra policies"):
        load(diffusion)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"options": BackendOptions(dtype="bfloat16")}, "dtype bfloat16"),
        ({"options": BackendOptions(sampling_steps=5)}, "dtype float32, 5 sampling steps"),
        ({"backend": "jax"}, "backend jax"),
        ({"training": TrainingSpec()}, "training"),
    ],
)
def test_what_its_files_say_cannot_be_chosen(act: Path, choice: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=rf"as its own files say.*found {said}"):
        load(act, **choice)


def test_without_a_robot_it_is_refused(act: Path) -> None:
    with pytest.raises(PolicyError, match=r"which robot.*--robot"):
        Policy.load(act)
