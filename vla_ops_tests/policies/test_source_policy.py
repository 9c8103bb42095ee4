"""One source of a mixture as a policy of its own robot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.backends.jax import frames_of, transforms_of
from vla_ops.errors import PolicyError, SchemaMismatchError
from vla_ops.policies import Observation
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.placed import PlacedTransforms
from vla_ops.policies.policy import Policy
from vla_ops.policies.setup import make_setup
from vla_ops.policies.transforms import TrainingRow
from vla_ops.robot_file import Robot
from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import make_run
from vla_ops_tests.training.mixed_run import make_mixed_run
from vla_ops_tests.training.small_training import TRAINING

OPTIONS = BackendOptions(sampling_steps=1)
SIZE = (48, 64, 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_mixed_run(tmp_path_factory.mktemp("mixed"))


def placed(run: Run, source: str) -> PlacedTransforms:
    transforms = make_setup(run.folder / "7", source=source).transforms()
    assert isinstance(transforms, PlacedTransforms)
    return transforms


def sees(transforms: PlacedTransforms, seed: int = 0) -> Observation:
    random = np.random.default_rng(seed)
    images = {camera: random.integers(0, 256, SIZE, dtype=np.uint8) for camera in transforms.cameras.cameras}
    return Observation(random.uniform(0, 1, len(transforms.state_dims)).astype(np.float32), images, "pick")


@pytest.mark.parametrize(("source", "found"), [(None, "no source named"), ("middle", "source middle")])
def test_which_source_must_be_said(run: Run, source: str | None, found: str) -> None:
    with pytest.raises(PolicyError, match=rf"of a mixture, which is several robots.*found {found}.*left or right.*--source left"):
        Policy.load(run.folder, source=source)


def test_a_policy_has_its_robots_own_names_order_and_cameras(run: Run) -> None:
    policy = Policy.load(run.folder, source="right", options=OPTIONS)
    told = policy.metadata
    assert (told["robot"], told["source"], told["policy"]) == ("right", "right", "small/first/7")
    assert told["state"] == told["actions"] == [["j2", "rad"], ["j3", "rad"], ["gripper", "m"]]
    assert told["cameras"] == ["cam_top", "cam_right"]
    assert told["transforms"] == run.trained_transforms("right") != run.trained_transforms("left")
    transforms = policy.transforms
    assert isinstance(transforms, PlacedTransforms)
    assert policy.infer(sees(transforms)).shape == (3, 3)


@pytest.mark.parametrize("norm_stats", ["per_source", "merged"])
def test_what_the_model_sees_and_says_is_what_it_was_trained_on(run: Run, norm_stats: str, tmp_path: Path) -> None:
    run = run if norm_stats == "per_source" else make_mixed_run(tmp_path, norm_stats=norm_stats)
    trained = transforms_of(run.recipe, run.recipe.read_stats())
    frames = frames_of(run.recipe, trained)
    raw = np.random.default_rng(1).standard_normal((run.recipe.model.action_horizon, run.recipe.model.action_dim))
    for source in ("left", "right"):
        transforms = placed(run, source)
        row = int(np.flatnonzero(frames.source_of == frames.sources.index(source))[3])
        images = {camera: np.full(SIZE, k + 1, np.uint8) for k, camera in enumerate(trained.cameras.cameras)}
        there = Observation(frames.states[row], images, "pick", source=source)
        actions = frames.chunk(np.array([row]), run.recipe.model.action_horizon)[0][0]
        expected, given = trained.forward_training(TrainingRow(there, actions)), transforms.forward_inference(transforms.as_sent(there))
        np.testing.assert_array_equal(expected.state, given.state)
        np.testing.assert_array_equal(expected.tokens, given.tokens)
        assert {slot: bool(mask) for slot, mask in expected.image_masks.items()} == {k: bool(v) for k, v in given.image_masks.items()}
        assert not all(given.image_masks.values())
        for slot, image in expected.images.items():
            np.testing.assert_array_equal(image, given.images[slot])
        has = [dim.name for dim in run.recipe.spec.action_dims]
        columns = [has.index(dim.name) for dim in transforms.action_dims]
        said = transforms.inverse(raw, transforms.as_sent(there))
        np.testing.assert_array_equal(said, trained.inverse(raw, there)[:, columns])


def test_a_merged_run_is_served_with_the_merged_norm_stats(tmp_path: Path) -> None:
    run = make_mixed_run(tmp_path, norm_stats="merged")
    left, right = (make_setup(run.folder / "7", source=source).stats for source in ("left", "right"))
    names = [dim.name for dim in run.recipe.spec.state_dims]
    assert left.state.mean[names.index("j2")] == right.state.mean[names.index("j2")]
    assert left.state.std[names.index("j3")] == 1.0 != right.state.std[names.index("j3")]


def test_names_of_its_own_are_the_robots_and_what_the_mixture_leaves_out_is_not_asked_for(tmp_path: Path) -> None:
    sources = [
        {"robot": "left", "dims": {"j1": "waist"}},
        {"robot": "right", "cameras": {"cam_top": "cam_high"}, "dims": {"j3": "waist"}},
    ]
    dims = ["gripper", "waist"]
    run = make_mixed_run(tmp_path, sources=sources, schema={"state": dims, "action": dims, "cameras": ["cam_high"]})
    transforms = placed(run, "right")
    assert [dim.name for dim in transforms.state_dims] == ["j2", "j3", "gripper"]
    assert [dim.name for dim in transforms.action_dims] == ["j3", "gripper"]
    assert transforms.cameras.cameras == ("cam_top",)
    seen = sees(transforms)
    moved = replace(seen, state=seen.state + np.array([1, 0, 0], np.float32))
    np.testing.assert_array_equal(transforms.forward_inference(seen).state, transforms.forward_inference(moved).state)
    raw = np.zeros((transforms.horizon, run.recipe.model.action_dim))
    stats = run.recipe.read_stats()["right"].actions.mean
    # A delta of the waist, and the gripper as it is; in the robot's order.
    np.testing.assert_allclose(transforms.inverse(raw, seen)[0], [stats[1] + seen.state[1], stats[0]], atol=1e-5)


def test_deltas_are_those_of_its_own_dimensions(run: Run) -> None:
    transforms = placed(run, "right")
    seen = sees(transforms)
    absolute = transforms.inverse(np.zeros((transforms.horizon, run.recipe.model.action_dim)), seen)
    deltas = transforms.relative(absolute, seen)
    np.testing.assert_allclose((absolute - deltas)[0], [*seen.state[:2], 0], atol=1e-6)


def test_what_is_sent_wrong_is_named_as_the_robot_knows_it(run: Run) -> None:
    transforms = placed(run, "right")
    seen = sees(transforms)
    with pytest.raises(SchemaMismatchError, match=r"3,\).*j2 \(rad\), j3 \(rad\), gripper \(m\)"):
        transforms.forward_inference(replace(seen, state=np.zeros(4, np.float32)))
    with pytest.raises(SchemaMismatchError, match=r"image is missing.*stream cam_top, robot right.*expected images cam_top, cam_right"):
        transforms.forward_inference(replace(seen, images={"cam_right": seen.images["cam_right"]}))


def changed(run: Run, to: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The checkpoint of a copy of the run whose run.json says something else."""
    shutil.copytree(run.folder, to / "run")
    told = json.loads((to / "run/run.json").read_text())
    change(told)
    (to / "run/run.json").write_text(json.dumps(told))
    return to / "run" / "7"


def test_inputs_that_would_be_made_otherwise_than_in_training_are_refused_for_that_source_alone(run: Run, tmp_path: Path) -> None:
    def change(told: dict[str, Any]) -> None:
        told["transforms"]["sources"]["right"]["version"] = 0

    there = changed(run, tmp_path, change)
    make_setup(there, source="left").transforms()
    with pytest.raises(PolicyError, match="would not be made as they were in training"):
        make_setup(there, source="right").transforms()


def test_a_run_that_does_not_say_its_robots_is_refused_with_what_to_do(run: Run, tmp_path: Path) -> None:
    there = changed(run, tmp_path, lambda told: [each.pop("placed") for each in told["recipe"]["sources"]] and None)
    with pytest.raises(PolicyError, match=r"begun before.*Resume the run once"):
        make_setup(there, source="left")


def test_a_run_of_one_robot_has_no_sources(run: Run, tmp_path: Path) -> None:
    alone = make_run(tmp_path)
    with pytest.raises(PolicyError, match="the run is of one robot"):
        make_setup(alone.folder / "7", source="left")
    robot = Robot("arm", Path(), alone.recipe.spec)  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="Name one of the two"):
        make_setup(run.folder / "7", source="left", robot=robot)


def test_pi05_has_its_sources_too(tmp_path: Path) -> None:
    model = TRAINING["model"] | {"family": "pi05", "max_token_len": 120}
    run = make_mixed_run(tmp_path, training=TRAINING | {"model": model})
    policy = Policy.load(run.folder, source="right", options=OPTIONS)
    assert isinstance(policy.transforms, PlacedTransforms)
    assert np.isfinite(policy.infer(sees(policy.transforms))).all()
