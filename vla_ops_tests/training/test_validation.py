from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from vla_ops.errors import DatasetError, SchemaMismatchError, SpecError
from vla_ops.models import create, state_paths
from vla_ops.robot import Dimension
from vla_ops.training.baselines import Errors, absolute_errors, hold_actions, mean_action
from vla_ops.training.validation import Patience, Validation
from vla_ops_tests.training.arm import NAMES, Arm, make_arm, small

CONFIG = small()


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    return make_arm(tmp_path_factory.mktemp("arm"), [12, 9, 7], held_out=(1, 2))


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return state_paths(create(CONFIG, jax.random.key(0))[1])


@pytest.fixture(scope="module")
def validation(arm: Arm) -> Validation:
    return Validation.of(arm.spec, CONFIG, arm.transforms(CONFIG), arm.frames(), batch_size=6, batches=None, sampling_steps=2, seed=1)


@pytest.fixture(scope="module")
def result(validation: Validation, params: dict[str, Any]) -> Any:
    return validation.run(100, params)


def test_all_held_out_frames_are_measured_and_no_other(result: Any) -> None:
    assert (result.frames, result.episodes) == (16, 2)


def test_metrics_are_finite_and_named_by_dimension(result: Any) -> None:
    assert set(result.metrics) == {"loss", "action_error", "hold_error", *(f"mae/{name}" for name in NAMES)}
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert result.logged()["validation/loss"] == result.metrics["loss"]


def test_the_same_parameters_measure_the_same_whatever_the_step(validation: Validation, params: dict[str, Any], result: Any) -> None:
    again = validation.run(200, params)
    assert again.metrics == result.metrics
    assert again.step == 200


def test_another_seed_draws_other_noise(arm: Arm, params: dict[str, Any], validation: Validation, result: Any) -> None:
    other = Validation(
        validation.transforms, CONFIG, validation.held, validation.mean, validation.fps, seed=2, sampling_steps=validation.sampling_steps
    )
    assert other.run(100, params).metrics["loss"] != result.metrics["loss"]


def test_better_parameters_have_a_lower_error(validation: Validation, params: dict[str, Any], result: Any) -> None:
    """Take the best constant of each dimension as the bias of the last layer, and nothing else of the model."""
    quiet = params | {
        "action_out_proj/kernel": params["action_out_proj/kernel"] * 0,
        "action_out_proj/bias": params["action_out_proj/bias"] * 0,
    }
    still = validation.run(1, quiet)
    wild = validation.run(1, quiet | {"action_out_proj/bias": quiet["action_out_proj/bias"] + 30})
    assert wild.metrics["loss"] > 10 * still.metrics["loss"]
    assert wild.metrics["action_error"] > still.metrics["action_error"]


def test_the_measured_error_is_that_of_the_sampled_actions_over_recorded_steps_alone(
    arm: Arm, validation: Validation, params: dict[str, Any], result: Any
) -> None:
    frames, total, count = arm.frames(), 0.0, 0
    for held in validation.held:
        _, sampled = validation._measure(params, held.inputs, validation._key(validation.held.index(held)))
        predicted = validation.transforms.inverse(np.asarray(sampled), held.batch.training_row().observation)
        for row in np.flatnonzero(held.batch.valid):
            place = frames.places[[p.index for p in frames.places].index(int(held.batch.episode[row]))]
            left = min(CONFIG.action_horizon, place.length - int(held.batch.frame[row]))
            total += np.abs(predicted[row, :left, 1] - held.batch.actions[row, :left, 1]).sum()
            count += left
    assert result.metrics["mae/j2"] == pytest.approx(total / count, rel=1e-6)


def test_the_error_of_holding_is_what_repeating_the_last_action_gives(arm: Arm, result: Any) -> None:
    frames, totals, count = arm.frames(), np.zeros(3), 0
    for k, place in enumerate(frames.places):
        if place.index not in frames.held_out:
            continue
        first = int(frames.starts[k])
        for t in range(place.length):
            last = frames.actions[first + t - 1] if t else frames.states[first]
            chunk = frames.actions[first + t : min(first + t + CONFIG.action_horizon, first + place.length)]
            totals += np.abs(chunk - last).sum(axis=0)
            count += len(chunk)
    assert result.errors.hold == pytest.approx(totals / count, rel=1e-5)


def test_limits_take_frames_spread_over_all(arm: Arm, params: dict[str, Any]) -> None:
    some = Validation.of(arm.spec, CONFIG, arm.transforms(CONFIG), arm.frames(), batch_size=3, batches=2, sampling_steps=1)
    assert [held.batch.valid.tolist() for held in some.held] == [[True] * 3] * 2
    assert {int(e) for held in some.held for e in held.batch.episode} == {1, 2}


def test_plots_hold_named_chunks_in_robot_units(result: Any) -> None:
    assert len(result.plots) == 4
    plot = result.plots[0]
    assert plot.predicted.shape == plot.recorded.shape == (CONFIG.action_horizon, 3)
    assert plot.dims == (("j1", "rad"), ("j2", "rad"), ("gripper", "m"))
    assert plot.time_s[1] == pytest.approx(1 / 30)
    assert plot.title.startswith("episode")


def test_a_table_names_each_dimension_and_the_baselines(result: Any) -> None:
    text = result.render()
    assert [row["dimension"] for row in result.rows] == list(NAMES)
    assert "16 frames of 2 held-out episodes" in text
    assert "of hold" in text


def test_an_empty_validation_set_is_refused(tmp_path: Path) -> None:
    arm = make_arm(tmp_path, [8])
    with pytest.raises(DatasetError, match="holds out no episode"):
        Validation.of(arm.spec, CONFIG, arm.transforms(CONFIG), arm.frames(), batch_size=2)


def test_sampled_actions_that_are_not_finite_are_refused(validation: Validation, params: dict[str, Any]) -> None:
    with pytest.raises(SchemaMismatchError, match="not finite"):
        validation.run(1, params | {"action_out_proj/bias": params["action_out_proj/bias"] * np.nan})


def test_the_first_frame_of_an_episode_holds_its_state(arm: Arm) -> None:
    frames = arm.frames()
    held = hold_actions(frames, np.array([0, 1, 12]), arm.spec)
    assert np.array_equal(held, np.stack([frames.states[0], frames.actions[0], frames.states[12]]))


def test_a_recorded_step_holds_as_no_step_at_the_first_frame(arm: Arm, tmp_path: Path) -> None:
    said = arm.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    parts = [part | {"means": "delta"} for part in json.loads(json.dumps(said["state"]))]
    spec = type(arm.spec).model_validate(said | {"action": parts})
    assert np.array_equal(hold_actions(arm.frames(), np.array([12]), spec), np.zeros((1, 3)))


def test_the_mean_action_is_of_training_episodes(arm: Arm) -> None:
    assert mean_action(arm.frames()) == pytest.approx(arm.frames().actions[:12].mean(axis=0), rel=1e-6)


def test_angles_differ_by_the_short_way_and_quaternions_up_to_sign() -> None:
    dims = [Dimension(f"r{k}", "rad", "rotation_rpy") for k in range(3)] + [Dimension(f"q{k}", "1", "quaternion_xyzw") for k in range(4)]
    recorded = np.array([[-3.1, 0.0, 1.0, 0.5, 0.5, 0.5, 0.5]])
    predicted = np.array([[3.1, 0.2, 1.0, -0.5, -0.5, -0.5, -0.4]])
    assert absolute_errors(predicted, recorded, dims)[0] == pytest.approx([2 * math.pi - 6.2, 0.2, 0, 0, 0, 0, 0.1], abs=1e-9)


def test_dimensions_that_never_move_do_not_count() -> None:
    dims = (Dimension("a", "rad", "joint"), Dimension("b", "m", "gripper"))
    errors = Errors(dims, np.array([0.1, 0.5]), np.array([0.2, 0.0]), np.array([0.4, 0.0]))
    assert errors.metrics()["action_error"] == pytest.approx(0.25)
    assert errors.rows()[1]["of hold"] == "-"


@pytest.mark.parametrize(
    ("values", "min_delta", "stops"),
    [
        ([], 0.0, False),
        ([3.0, 2.0, 1.0], 0.0, False),
        ([1.0, 2.0], 0.0, False),
        ([1.0, 2.0, 3.0], 0.0, True),
        ([1.0, 2.0, 0.5, 0.6], 0.0, False),
        ([1.0, math.nan, math.nan], 0.0, True),
        ([math.nan, 1.0, 0.9], 0.0, False),
        ([1.0, 0.96, 0.93], 0.05, False),
        ([1.0, 0.96, 0.96], 0.05, True),
    ],
)
def test_patience_ends_when_nothing_gets_better(values: list[float], min_delta: float, *, stops: bool) -> None:
    assert Patience("loss", patience=2, min_delta=min_delta).stops(values) is stops


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(SpecError, match="no such metric"):
        Patience("mae", patience=2)
