"""Trainings of a mixture: what they are bound to, what a model sees of each source, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.backends.jax import train, transforms_of
from vla_ops.checkpoints.layout import read_state
from vla_ops.errors import SpecError, StatsMismatchError
from vla_ops.mixture_file import Mixture
from vla_ops.norm_stats.mixture import refresh_mixture_stats
from vla_ops.policies import MixtureTransforms, read_stats
from vla_ops.training.data import Batch, read_frames
from vla_ops.training.data.batch import numbers_of
from vla_ops.training.preflight import preflight
from vla_ops.training.prepare import current_recipe, fingerprint_of
from vla_ops.training.recipe import Recipe
from vla_ops.training.run import read_run
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, SOURCES, Lab
from vla_ops_tests.training.small_training import TRAINING, losses

pytestmark = pytest.mark.usefixtures("compiled_fast")

SMALL: dict[str, Any] = {**TRAINING, "steps": 4, "save_every": 2, "validation": {"every": 2, "batches": 1, "sampling_steps": 1}}


def made(lab: Lab, **attributes: Any) -> Mixture:
    """The mixture of left and right with the training `small`, its dataset and norm stats."""
    mixture = lab.mix("both", *SOURCES, **({"trainings": {"small": SMALL}} | attributes))
    lab.make(mixture)
    refresh_mixture_stats(mixture, lab.store("both"))
    return mixture


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.add("left", LEFT, stats=True)
    lab.add("right", RIGHT, stats=True)
    return lab


@pytest.fixture(scope="module")
def mixture(lab: Lab) -> Mixture:
    return made(lab)


@pytest.fixture
def recipe(lab: Lab, mixture: Mixture) -> Recipe:
    return current_recipe(mixture, lab.store("both"), "small")


def inputs_of(recipe: Recipe) -> tuple[dict[str, Any], list[str], MixtureTransforms]:
    """What the model is given of every frame, in the dataset's order, and the source of each."""
    transforms = transforms_of(recipe, recipe.read_stats())
    assert isinstance(transforms, MixtureTransforms)
    frames = read_frames(recipe.dataset, cameras=transforms.cameras.cameras)
    rows = np.arange(len(frames))
    numbers = numbers_of(frames, rows, horizon=recipe.model.action_horizon, valid=np.ones(len(rows), bool))
    size = recipe.model.image_size
    images = {camera: np.full((len(rows), size, size, 3), 7, np.uint8) for camera in frames.cameras}
    batch = Batch(images=images, **numbers)
    assert batch.source is not None
    return transforms.forward_training(batch.training_row()).as_dict(), list(batch.source), transforms


def test_each_source_is_normalised_by_its_own_norm_stats_and_what_it_lacks_stays_zero(recipe: Recipe) -> None:
    inputs, sources, _ = inputs_of(recipe)
    names = [dim.name for dim in recipe.spec.state_dims]
    assert names == ["j1", "j2", "gripper", "j3"]
    of_left = np.array([source == "left" for source in sources])
    assert 0 < of_left.sum() < len(sources)
    for vector in (inputs["state"], inputs["actions"]):
        assert (vector[of_left][..., names.index("j3")] == 0).all()
        assert (vector[~of_left][..., names.index("j1")] == 0).all()
        assert (vector[of_left][..., names.index("j1")] != 0).any()
    for source, stats in recipe.read_stats().items():
        mine = of_left if source == "left" else ~of_left
        wanted = {k: name for k, name in enumerate(names) if stats.state.std[k] != 1.0}
        assert len(wanted) == 3
        recorded = read_frames(recipe.dataset, cameras=()).states[mine]
        for k in wanted:
            normalised = (recorded[:, k] - stats.state.mean[k]) / (stats.state.std[k] + 1e-6)
            np.testing.assert_allclose(inputs["state"][mine][:, k], normalised, atol=1e-4)


def test_a_camera_that_a_source_lacks_is_masked_in_its_frames_alone(recipe: Recipe) -> None:
    inputs, sources, _ = inputs_of(recipe)
    assert inputs["image_mask"]["base_0_rgb"].all()
    assert inputs["image_mask"]["left_wrist_0_rgb"].tolist() == [source == "left" for source in sources]
    assert inputs["image_mask"]["right_wrist_0_rgb"].tolist() == [source == "right" for source in sources]


def test_merged_norm_stats_are_one_for_all_but_for_what_a_source_lacks(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.add("left", LEFT, stats=True)
    lab.add("right", RIGHT, stats=True)
    recipe = current_recipe(made(lab, norm_stats="merged"), lab.store("both"), "small")
    stats = recipe.read_stats()
    shared = [k for k, dim in enumerate(recipe.spec.state_dims) if dim.name in ("j2", "gripper")]
    assert stats["left"].state.mean[shared].tolist() == stats["right"].state.mean[shared].tolist()
    assert stats["right"].state.std[0] == 1.0 != stats["left"].state.std[0]
    inputs, sources, _ = inputs_of(recipe)
    assert (inputs["state"][[source == "right" for source in sources], 0] == 0).all()


def test_a_recipe_is_the_same_after_json_and_says_what_of_it_differs(lab: Lab, recipe: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    heavier = lab.mix("both", SOURCES[0], {**SOURCES[1], "weight": 5.0}, trainings={"small": SMALL})
    other = current_recipe(heavier, lab.store("both"), "small")
    # The dataset in use is still the one with the old weights.
    assert other.fingerprint == recipe.fingerprint
    assert recipe.with_overrides({"steps": 9}).fingerprint != recipe.fingerprint


@pytest.mark.slow
def test_a_mixture_trains_resumes_and_keeps_the_norm_stats_of_each_source(lab: Lab, recipe: Recipe) -> None:
    home = lab.root / "home"
    half = train(recipe.with_overrides({"steps": 3}), home=home, run="one", say=lambda _: None)
    assert half.step == 2
    trained = train(recipe, home=home, run="one", say=lambda _: None)
    whole = train(recipe, home=home, run="whole", say=lambda _: None)
    assert losses(trained.run.folder) == losses(whole.run.folder)
    for source, stats in recipe.read_stats().items():
        assert read_stats(trained.checkpoint / "assets" / source).fingerprint == stats.fingerprint
    assert read_run(trained.run.file).recipe == recipe
    metrics = read_state(trained.checkpoint)["metrics"]
    assert {"validation/loss", "validation/action_error", "validation/mae/j3"} <= set(metrics)


def test_what_would_stop_it_is_found_before_it_starts(lab: Lab, recipe: Recipe) -> None:
    report = preflight(recipe, lab.root / "next", home=lab.root / "home")
    assert not report.errors
    assert "for left" in report.render()
    assert "for right" in report.render()


def test_a_training_without_norm_stats_of_the_dataset_is_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.add("left", LEFT, stats=True)
    lab.add("right", RIGHT, stats=True)
    mixture = lab.mix("both", *SOURCES, trainings={"small": SMALL})
    lab.make(mixture)
    with pytest.raises(StatsMismatchError, match="Run: vla-ops norm-stats both"):
        current_recipe(mixture, lab.store("both"), "small")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"norm_stats": {"from": "/base", "asset_id": "trossen"}},
            r":\d+: trainings.small.norm_stats: a mixture is trained with its own",
        ),
        ({"model": {"preset": "pi0_tiny", "action_horizon": 50}}, r":\d+: trainings.small: small has action_horizon 50"),
        ({"stepz": 3}, "did you mean 'steps'"),
    ],
)
def test_a_training_that_a_mixture_cannot_have_is_refused_with_its_line(lab: Lab, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        lab.mix("wrong", *SOURCES, trainings={"small": SMALL | changed})


def test_an_override_that_a_mixture_cannot_have_is_refused(recipe: Recipe) -> None:
    with pytest.raises(SpecError, match="its own norm stats"):
        recipe.with_overrides({"norm_stats": {"from": "/base", "asset_id": "trossen"}})
    with pytest.raises(SpecError, match="action_horizon 50"):
        recipe.with_overrides({"model.action_horizon": 50})


def test_the_fingerprint_in_dagster_changes_with_the_schema_and_not_with_weights(lab: Lab, mixture: Mixture) -> None:
    heavier = lab.mix("heavier", SOURCES[0], {**SOURCES[1], "weight": 5.0}, trainings={"small": SMALL})
    fewer = lab.mix("fewer", *SOURCES, trainings={"small": SMALL}, schema={"cameras": ["cam_high"]})
    same, heavy, blind = (fingerprint_of(replace(made, name="both"), "small") for made in (mixture, heavier, fewer))
    assert same == heavy != blind
