"""Robot units to a model's and back: whole, for every robot, space, rotation and way of normalising; and what is refused."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_ops.errors import PromptError, SchemaMismatchError, StatsMismatchError
from vla_ops.norm_stats import compute_norm_stats
from vla_ops.policies import Observation, TrainingRow, compose, load_tokenizer, stack_inputs
from vla_ops.policies.steps import Chain, DeltaActions, Now, Pad
from vla_ops.robot import RobotSpec
from vla_ops.spec import ROTATION_WIDTHS
from vla_ops_tests.episodes.rotating import FORMS, read
from vla_ops_tests.norm_stats.arms import parts, pose_spec, poses
from vla_ops_tests.norm_stats.data import ALOHA, make_spec, write_dataset
from vla_ops_tests.policies.making import ALOHA_CAMERAS, ARM, CAMERAS, ROBOT, Shape, aloha_spec, arm_spec, seen, stats_of, transforms_of

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HORIZON = 5


def padded(chunk: np.ndarray, width: int = 32) -> np.ndarray:
    return np.pad(chunk, [(0, 0)] * (chunk.ndim - 1) + [(0, width - chunk.shape[-1])])


# there and back


@quick
@given(
    adapt=st.booleans(),
    space=st.sampled_from(["delta", "absolute"]),
    family=st.sampled_from(["pi0", "pi05"]),
    batch=st.sampled_from([None, 1, 3]),
    seed=st.integers(0, 1000),
)
def test_an_alohas_actions_come_back_in_every_combination(*, adapt: bool, space: str, family: Any, batch: int | None, seed: int) -> None:
    spec = aloha_spec(horizon=HORIZON, adapt_to_pi=adapt, action_space=space)
    transforms = transforms_of(spec, Shape(family=family), stats=stats_of(spec, seed=seed))
    observation = seen(spec, batch=batch, seed=seed)
    actions = np.random.default_rng(seed + 1).uniform(-1.5, 1.5, (*observation.state.shape[:-1], HORIZON, 14)).astype(np.float32)
    inputs = transforms.forward_training(TrainingRow(observation, actions))
    assert inputs.actions is not None
    assert inputs.actions.shape == (*observation.state.shape[:-1], HORIZON, 32)
    # What a model sees is float32: the last digit of a normalised number is that many units of the robot.
    digit = np.abs(inputs.actions).max() * 2e-7 * 8
    np.testing.assert_allclose(transforms.inverse(inputs.actions, observation), actions, atol=digit)
    # In float64, nothing is lost but rounding.
    now = Now(observation.state)
    np.testing.assert_allclose(transforms.chain.decode(transforms.chain.encode(actions, now), now), actions, atol=1e-9)


@quick
@given(
    form=st.sampled_from(FORMS),
    way=st.sampled_from(["composed", "subtracted"]),
    space=st.sampled_from(["delta", "absolute"]),
    family=st.sampled_from(["pi0", "pi05"]),
    batched=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_an_arms_poses_come_back_in_every_form_of_a_rotation(
    *, form: Any, way: str, space: str, family: Any, batched: bool, seed: int
) -> None:
    kind, unit = form
    spec = pose_spec(parts(kind, unit, stream="/state"), action_space=space, rotation_delta=way).model_copy(
        update={"cameras": arm_spec().cameras}
    )
    transforms = transforms_of(spec, Shape(family=family))
    rows = poses(3 * HORIZON, kind, unit, seed=seed)
    states, actions = rows[::HORIZON], rows.reshape(3, HORIZON, -1)
    if not batched:
        states, actions = states[0], actions[0]
    now = Now(states)
    back = transforms.chain.decode(transforms.chain.encode(actions, now), now)
    place = slice(3, 3 + ROTATION_WIDTHS[kind])
    others = np.ones(actions.shape[-1], bool)
    others[place] = False
    np.testing.assert_allclose(back[..., others], actions[..., others], atol=1e-9)
    turned = [read(each[..., place].reshape(-1, place.stop - place.start).astype(np.float64), kind, unit) for each in (back, actions)]
    # A composed one comes back as the same rotation, in the smallest numbers of its form.
    assert (turned[0] * turned[1].inv()).magnitude().max() < 1e-6
    if way == "subtracted" or space == "absolute":
        np.testing.assert_allclose(back, actions, atol=1e-9 * (180 if unit == "deg" else 1))


@quick
@given(batch=st.integers(1, 4), seed=st.integers(0, 1000), family=st.sampled_from(["pi0", "pi05"]))
def test_a_batch_is_its_rows(batch: int, seed: int, family: Any) -> None:
    spec = arm_spec()
    transforms = transforms_of(spec, Shape(family=family))
    prompts = [f"do {k}" for k in range(batch)]
    together = replace(seen(spec, batch=batch, seed=seed), prompt=prompts)
    actions = np.random.default_rng(seed).normal(size=(batch, HORIZON, 3)).astype(np.float32)
    inputs = transforms.forward_training(TrainingRow(together, actions))
    back = transforms.inverse(inputs.actions, together)
    singles = []
    for k in range(batch):
        alone = Observation(together.state[k], {name: image[k] for name, image in together.images.items()}, prompts[k])
        single = transforms.forward_training(TrainingRow(alone, actions[k]))
        for name in ("state", "actions", "tokens", "token_mask"):
            np.testing.assert_array_equal(getattr(single, name), getattr(inputs, name)[k], err_msg=name)
        for slot in single.images:
            np.testing.assert_array_equal(single.images[slot], inputs.images[slot][k])
            assert single.image_masks[slot] == inputs.image_masks[slot][k]
        np.testing.assert_array_equal(transforms.inverse(single.actions, alone), back[k])
        singles.append(single)
    stacked = stack_inputs(singles).as_dict()
    np.testing.assert_array_equal(stacked["actions"], inputs.as_dict()["actions"])
    np.testing.assert_array_equal(stacked["image"]["base_0_rgb"], inputs.images["base_0_rgb"])
    assert stacked["image_mask"]["right_wrist_0_rgb"].tolist() == [False] * batch


def test_training_and_inference_see_the_same_of_an_observation() -> None:
    spec = arm_spec()
    transforms, observation = transforms_of(spec, Shape(family="pi05")), seen(spec)
    training = transforms.forward_training(TrainingRow(observation, np.zeros((HORIZON, 3), np.float32)))
    inference = transforms.forward_inference(observation)
    assert inference.actions is None
    for name in ("state", "tokens", "token_mask"):
        np.testing.assert_array_equal(getattr(training, name), getattr(inference, name))


def test_a_chain_goes_back_in_the_other_order_whatever_is_pushed() -> None:
    """Two steps that do not commute: padding is behind the delta, and the delta sees the state before it was padded."""
    chain = Chain().push(DeltaActions(tuple(ARM), (True, True, False))).push(Pad(8, 3))
    now, actions = Now(np.array([1.0, 2.0, 0.5])), np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(chain.encode(actions, now)[:, :3], [[-1, -1, 2], [2, 2, 5]])
    np.testing.assert_array_equal(chain.decode(chain.encode(actions, now), now), actions)


# the same as the norm stats


@pytest.mark.parametrize("kind", ["rotation_vector", "quaternion_xyzw", None])
def test_the_chunks_a_model_learns_are_those_the_norm_stats_were_computed_from(tmp_path: Path, kind: Any) -> None:
    if kind is None:
        spec, names, rows = aloha_spec(horizon=HORIZON, adapt_to_pi=True), ALOHA, np.random.default_rng(0).uniform(0, 1, (40, 14))
    else:
        unit = "rad" if kind == "rotation_vector" else "1"
        spec, rows = pose_spec(parts(kind, unit, stream="/state")), poses(40, kind, unit)
        names = [dim.name for dim in spec.state_dims]
    rows = rows.astype(np.float32)
    stats = compute_norm_stats(write_dataset(tmp_path / "dataset", rows, np.roll(rows, -1, axis=0), [15, 25], names=names), spec=spec)
    chain = transforms_of(spec.model_copy(update={"cameras": arm_spec().cameras})).chain
    ends = np.repeat([14, 39], [15, 25])
    actions = np.roll(rows, -1, axis=0)[np.minimum(np.arange(40)[:, None] + np.arange(HORIZON), ends[:, None])]
    before_normalising = Chain(chain.steps[:-1])
    chunks, states = before_normalising.encode(actions, Now(rows)).reshape(200, -1), before_normalising.state(Now(rows))
    np.testing.assert_array_equal(chunks.min(axis=0), stats.actions.min)
    np.testing.assert_array_equal(chunks.max(axis=0), stats.actions.max)
    np.testing.assert_allclose(chunks.mean(axis=0), stats.actions.mean, atol=1e-12)
    np.testing.assert_array_equal(states.max(axis=0), stats.state.max)


# a mixture's rows that say themselves what is a delta


def test_a_row_may_say_that_its_actions_are_no_deltas() -> None:
    spec = arm_spec()
    chain = transforms_of(spec).chain
    states, actions = np.random.default_rng(0).normal(size=(2, 3)), np.random.default_rng(1).normal(size=(2, HORIZON, 3))
    mask = np.array([[True, True, False], [False, False, False]])
    mixed = Now(states, mask)
    absolute = transforms_of(arm_spec(action_space="absolute"), stats=stats_of(arm_spec(action_space="absolute"))).chain
    encoded = chain.encode(actions, mixed)
    np.testing.assert_allclose(encoded[0], chain.encode(actions[0], Now(states[0])))
    np.testing.assert_allclose(encoded[1], absolute.encode(actions[1], Now(states[1])))
    np.testing.assert_allclose(chain.decode(encoded, mixed), actions)


def test_rotations_of_a_row_without_them_are_not_looked_at() -> None:
    spec = pose_spec(parts("quaternion_xyzw", "1", stream="/state")).model_copy(update={"cameras": arm_spec().cameras})
    step = transforms_of(spec).chain.steps[0]
    rows = poses(2, "quaternion_xyzw", "1").astype(np.float64)
    rows[1] = 0
    now = Now(rows, np.array([[True] * 7 + [False], [False] * 8]))
    encoded = step.encode(rows[:, None], now)
    np.testing.assert_allclose(encoded[0, 0, 3:7], [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_array_equal(encoded[1], 0)
    half = Now(rows, np.array([[True] * 4 + [False] * 4] * 2))
    with pytest.raises(SchemaMismatchError, match="delta-encoded in part"):
        step.encode(rows[:, None], half)


def test_a_row_cannot_make_a_delta_of_what_the_yaml_says_is_none() -> None:
    spec = arm_spec()
    observation = replace(seen(spec), delta_mask=np.array([True, True, True]))
    with pytest.raises(SchemaMismatchError, match=r"none in the robot's YAML \[dimension gripper, robot test_arm\]"):
        transforms_of(spec).forward_training(TrainingRow(observation, np.zeros((HORIZON, 3), np.float32)))


# what is refused


def test_a_state_of_another_width_is_refused_by_the_names_it_lacks() -> None:
    spec = arm_spec()
    with pytest.raises(
        SchemaMismatchError, match=r"dimension gripper, robot test_arm.*found shape \(2,\).*waist \(rad\), elbow \(rad\), gripper"
    ):
        transforms_of(spec).forward_inference(replace(seen(spec), state=np.zeros(2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused_by_name_on_every_way(bad: float) -> None:
    spec = arm_spec()
    transforms, observation = transforms_of(spec), seen(spec)
    state, actions = observation.state.copy(), np.zeros((HORIZON, 3), np.float32)
    state[1] = bad
    actions[2, 2] = bad
    with pytest.raises(SchemaMismatchError, match=r"the state is not finite \[dimension elbow, robot test_arm\]"):
        transforms.forward_inference(replace(observation, state=state))
    with pytest.raises(SchemaMismatchError, match=r"the row's action is not finite \[dimension gripper.*at \[2\]"):
        transforms.forward_training(TrainingRow(observation, actions))
    with pytest.raises(SchemaMismatchError, match=r"the model's action is not finite \[dimension gripper.*expected a number in ratio"):
        transforms.inverse(padded(actions), observation)


def test_model_actions_of_another_horizon_or_width_are_refused() -> None:
    spec = arm_spec()
    transforms, observation = transforms_of(spec), seen(spec)
    for shape in ((4, 32), (HORIZON, 3), (1, HORIZON, 32)):
        with pytest.raises(SchemaMismatchError, match=r"the model's actions have another shape.*\(5, 32\) \(waist"):
            transforms.inverse(np.zeros(shape), observation)


def test_a_camera_that_is_not_sent_is_refused_and_never_black() -> None:
    spec = arm_spec()
    observation = seen(spec)
    blind = replace(observation, images={"top": observation.images["top"], "palm": observation.images["hand"]})
    with pytest.raises(SchemaMismatchError, match=r"an image is missing \[stream hand, robot test_arm\]; found images top, palm"):
        transforms_of(spec).forward_inference(blind)


def test_a_robot_whose_cameras_have_no_role_is_refused() -> None:
    spec = make_spec(ARM, cameras={"side": {"source": "/side"}}, norm_stats={"action_horizon": 5})
    with pytest.raises(SchemaMismatchError, match=r"blind \[robot test_arm\]; found cameras side; with a role none; expected one"):
        transforms_of(spec)


def test_no_camera_that_the_model_does_not_see_is_to_be_decoded() -> None:
    spec = make_spec(ARM, cameras={**CAMERAS, "side": {"source": "/side"}}, norm_stats={"action_horizon": 5})
    transforms = transforms_of(spec)
    assert transforms.cameras.cameras == ("top", "hand")
    assert transforms_of(spec, Shape(cameras=("left_wrist_0_rgb",))).cameras.cameras == ("hand",)


@pytest.mark.parametrize("prompt", [None, "", " \n", "_"])
def test_a_prompt_that_was_lost_on_the_way_is_missed(prompt: str | None) -> None:
    """openpi's repacking keeps only the keys it names, and a task's prompt is gone unless `prompt` is one of them."""
    spec = arm_spec()
    with pytest.raises(PromptError, match=r"there is no prompt \[robot test_arm\]"):
        transforms_of(spec).forward_inference(seen(spec, prompt=prompt))
    by_default = transforms_of(spec, default_prompt="fold it").forward_inference(seen(spec, prompt=prompt))
    np.testing.assert_array_equal(by_default.tokens, transforms_of(spec).forward_inference(seen(spec, prompt="fold it")).tokens)


def test_as_many_prompts_as_rows_are_needed() -> None:
    spec = arm_spec()
    with pytest.raises(PromptError, match="found 1 prompts; expected 2 rows"):
        transforms_of(spec).forward_inference(replace(seen(spec, batch=2), prompt=["one"]))


def test_a_state_that_is_no_rotation_is_refused_before_it_is_composed() -> None:
    spec = pose_spec(parts("quaternion_xyzw", "1", stream="/state")).model_copy(update={"cameras": arm_spec().cameras})
    rows = poses(HORIZON, "quaternion_xyzw", "1")
    lost = rows[0].copy()
    lost[3:7] = 0
    images = seen(spec).images
    transforms = transforms_of(spec)
    with pytest.raises(
        SchemaMismatchError, match=r"no quaternion_xyzw \[stream state, dimension r0, r1, r2, r3, robot test_arm\]; found norm 0"
    ):
        transforms.forward_training(TrainingRow(Observation(lost, images, "do it"), rows))
    raw = transforms.chain.steps[-1].encode(np.zeros((HORIZON, 8)), Now(rows[0]))
    with pytest.raises(
        SchemaMismatchError, match=r"the model's numbers are no quaternion_xyzw \[dimension r0, r1, r2, r3, robot test_arm\]"
    ):
        transforms.inverse(padded(raw), Observation(rows[0], images, "do it"))


def test_columns_of_a_matrix_that_a_model_makes_parallel_do_not_reach_the_robot() -> None:
    spec = pose_spec(parts("rotation_6d", "1", stream="/state")).model_copy(update={"cameras": arm_spec().cameras})
    rows, transforms = poses(HORIZON, "rotation_6d", "1"), transforms_of(spec)
    raw = transforms.chain.steps[-1].encode(np.zeros((HORIZON, 10)), Now(rows[0]))
    with pytest.raises(SchemaMismatchError, match=r"in robot units, is not finite \[dimension r0|the model's numbers are no rotation_6d"):
        transforms.inverse(padded(raw), Observation(rows[0], seen(spec).images, "do it"))


def test_norm_stats_of_another_horizon_than_the_models_are_refused() -> None:
    with pytest.raises(StatsMismatchError, match=r"another length.*robot test_arm.*found horizon 5; expected action_horizon 50"):
        transforms_of(arm_spec(), Shape(action_horizon=50))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused() -> None:
    with pytest.raises(SchemaMismatchError, match=r"more tokens than the model.*found 259 \(bytes-1\); expected at most 100"):
        transforms_of(arm_spec(), Shape(vocab_size=100))


# one object for training, evaluation and serving


def test_the_fingerprint_is_the_same_for_the_same_and_changes_with_whatever_matters(golden_dir: Path) -> None:
    spec, model = arm_spec(), Shape(family="pi05")
    first = transforms_of(spec, model)
    assert first.fingerprint == transforms_of(spec, model).fingerprint
    sentences = load_tokenizer(str(golden_dir / "policy" / "standin_tokenizer.model"))
    one_camera = spec.model_copy(update={"cameras": {"top": spec.cameras["top"]}})
    absolute = arm_spec(action_space="absolute")
    others = [
        transforms_of(spec, model, stats=stats_of(spec, seed=9)),
        transforms_of(absolute, model),
        transforms_of(one_camera, model),
        transforms_of(spec, replace(model, family="pi0")),
        transforms_of(spec, replace(model, max_token_len=150)),
        transforms_of(spec, model, default_prompt="do it"),
        transforms_of(spec, model, discrete_state=False),
        compose(spec, stats_of(spec), model, sentences, robot=ROBOT),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 9
    assert json.loads(json.dumps(first.describe())) == first.describe()


def test_it_goes_to_loader_processes_whole(golden_dir: Path) -> None:
    spec = aloha_spec(horizon=HORIZON)
    sentences = load_tokenizer(str(golden_dir / "policy" / "standin_tokenizer.model"))
    here = compose(spec, stats_of(spec), Shape(), sentences, robot=ROBOT)
    there = pickle.loads(pickle.dumps(here))  # noqa: S301
    assert there.fingerprint == here.fingerprint
    observation = seen(spec)
    np.testing.assert_array_equal(there.forward_inference(observation).tokens, here.forward_inference(observation).tokens)


def test_a_models_own_configuration_says_what_its_inputs_depend_on() -> None:
    from vla_ops.models.config import tiny

    spec = make_spec(ALOHA, cameras=ALOHA_CAMERAS, norm_stats={"action_horizon": 50})
    inputs = compose(spec, stats_of(spec), tiny("pi0"), load_tokenizer("bytes"), robot=ROBOT).forward_inference(seen(spec))
    assert (inputs.state.shape, inputs.tokens.shape, list(inputs.images)) == ((32,), (48,), list(tiny("pi0").cameras))


def test_nothing_that_is_given_is_changed() -> None:
    spec: RobotSpec = aloha_spec(horizon=HORIZON, adapt_to_pi=True)
    transforms, observation = transforms_of(spec, Shape(family="pi05")), seen(spec)
    actions = np.random.default_rng(0).uniform(size=(HORIZON, 14)).astype(np.float32)
    before = observation.state.copy(), {name: image.copy() for name, image in observation.images.items()}, actions.copy()
    for array in (observation.state, actions, *observation.images.values()):
        array.flags.writeable = False
    inputs = transforms.forward_training(TrainingRow(observation, actions))
    raw = np.asarray(inputs.actions)
    kept = raw.copy()
    transforms.inverse(raw, observation)
    np.testing.assert_array_equal(observation.state, before[0])
    np.testing.assert_array_equal(actions, before[2])
    np.testing.assert_array_equal(raw, kept)
    for name, image in observation.images.items():
        np.testing.assert_array_equal(image, before[1][name])
