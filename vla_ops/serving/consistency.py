"""One recorded frame on the three ways to a model's numbers: as it is trained on, as it is validated with, and as a client sends it.

What differs on the way is named: an image, the state, the tokens, the model's actions, or those of the robot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import DatasetError, PolicyError
from vla_ops.policies import Observation, Transforms
from vla_ops.policies.pi_policy import Inferred, PiPolicy
from vla_ops.policies.placed import PlacedTransforms
from vla_ops.serving.layouts import message_of
from vla_ops.serving.service import NOISE, PolicyService
from vla_ops.serving.wire import pack, unpack
from vla_ops.training.data import Batch, Frames, InOrder, Loader
from vla_ops.training.data.decode import Resize, Video
from vla_ops.training.run import Run
from vla_ops.training.validation import inputs_of

type Numbers = npt.NDArray[Any]

# Training shrinks images by another program (see `training.data.decode`): this far, of 255, in the mean.
_PIXELS = 3.0
# Of the model's actions, in its own units, by the parameters' dtype: compiled functions add up in another order.
_RAW = {"float32": 1e-4, "bfloat16": 0.1}
_EXACT = 1e-6
_SEED = 7


@dataclass(frozen=True)
class Compared:
    """One intermediate on two ways."""

    name: str
    ways: tuple[str, str]
    # Largest difference, or for images of training the mean one.
    difference: float
    limit: float

    @property
    def is_same(self) -> bool:
        """Whether the two agree."""
        return self.difference <= self.limit

    def __str__(self) -> str:
        return f"{self.name:<28} {' and '.join(self.ways):<26} {self.difference:.3g} (limit {self.limit:.3g})"


@dataclass(frozen=True)
class Consistency:
    """All that was compared of one frame."""

    frame: str
    compared: tuple[Compared, ...]

    def render(self) -> str:
        """A line for each."""
        return "\n".join([f"{self.frame} in training, evaluation and serving", *(f"  {one}" for one in self.compared)])

    def refuse(self) -> None:
        """Raise PolicyError naming the first that differs."""
        wrong = next((one for one in self.compared if not one.is_same), None)
        if wrong is not None:
            raise PolicyError(
                f"{wrong.ways[0]} and {wrong.ways[1]} do not have the same {wrong.name}",
                frame=self.frame,
                found=f"a difference of {wrong.difference:.4g}",
                expected=f"at most {wrong.limit:.4g}",
                todo="What is served is not what was trained: do not run it on a robot.",
            )


def check_consistency(policy: PiPolicy, run: Run, *, row: int | None = None) -> Consistency:
    """Compare everything on the way of one frame of the run's dataset, the first that is held out where it is not said.

    Raise PolicyError naming the first difference, DatasetError where the dataset is gone.
    """
    from vla_ops.backends.jax import frames_of, transforms_of

    transforms = transforms_of(run.recipe, run.recipe.read_stats())
    frames = frames_of(run.recipe, transforms)
    row = _first(frames, policy.setup.source and policy.setup.source.name) if row is None else row
    trained, _ = _loaded(run, frames, row, transforms, "fast")
    evaluated, batch = _loaded(run, frames, row, transforms, "exact")
    noise, raw = _evaluated(policy, run, evaluated)
    actions = _own(policy, transforms.inverse(raw, batch.training_row().observation))
    served, replied = _served(policy, _sent(policy, _seen(frames, row, batch)), noise)
    limit = _RAW[policy.options.dtype]
    robots_limit = _in_robot_units(transforms, raw, batch, limit)
    compared = [
        *_of_inputs(trained, evaluated, ("training", "evaluation"), pixels=_PIXELS),
        _largest("actions to learn", ("training", "evaluation"), trained["actions"], evaluated["actions"], _EXACT),
        _largest("recorded actions", ("training", "dataset"), transforms.inverse(trained["actions"], batch.training_row().observation),
                 batch.actions, 1e-4),
        *_of_inputs(evaluated, served.inputs.as_dict(), ("evaluation", "serving"), pixels=0.0),
        _largest("actions of the model", ("evaluation", "serving"), raw, served.raw, limit),
        _largest("actions of the robot", ("evaluation", "serving"), actions, served.actions, robots_limit),
        _largest("actions sent", ("serving", "client"), served.actions[0], replied, _EXACT),
    ]  # fmt: skip
    found = Consistency(batch.places()[0], tuple(compared))
    found.refuse()
    return found


def _first(frames: Frames, source: str | None) -> int:
    """The first held-out row, of a mixture that of one source; where nothing is held out, any row will do."""
    try:
        held_out = frames.validation_rows()
    except DatasetError:
        held_out = np.empty(0, np.int64)
    rows = np.concatenate([held_out, frames.training_rows()])
    if frames.source_of is not None and source is not None:
        rows = rows[frames.source_of[rows] == frames.sources.index(source)]
    return int(rows[0])


def _own(policy: PiPolicy, actions: Numbers) -> Numbers:
    """Actions in the dataset's dimensions as those of the policy's robot, which in a mixture are fewer."""
    transforms = policy.transforms
    return transforms.own_actions(actions) if isinstance(transforms, PlacedTransforms) else actions


def _sent(policy: PiPolicy, seen: Observation) -> Observation:
    """What the dataset holds as the policy's robot sends it."""
    transforms = policy.transforms
    return transforms.as_sent(seen) if isinstance(transforms, PlacedTransforms) else seen


def _loaded(run: Run, frames: Frames, row: int, transforms: Transforms, resize: Resize) -> tuple[dict[str, Any], Batch]:
    """The model's inputs of a frame, by the loader of training (`fast`) or of validation (`exact`), and the frame."""
    config = run.recipe.model
    to_inputs = partial(inputs_of, transforms)
    with Loader(
        frames, InOrder(np.array([row])), batch_size=1, horizon=config.action_horizon, size=config.image_size, resize=resize,
        workers=0, transform=to_inputs,
    ) as loader:  # fmt: skip
        loaded = next(loader)
    return loaded.inputs, loaded.batch


def _evaluated(policy: PiPolicy, run: Run, inputs: dict[str, Any]) -> tuple[Numbers, Numbers]:
    """The noise and the actions of validation's own compiled measurement, of the parameters that are served."""
    import jax

    from vla_ops.policies.jax_backend import JaxBackend, read_parameters
    from vla_ops.training.validation import measurement, noise_of

    backend = policy.backend
    params = backend.params if isinstance(backend, JaxBackend) else read_parameters(policy.setup, policy.options.dtype)
    key = jax.random.key(_SEED)
    _, raw = measurement(run.recipe.model, policy.options.sampling_steps)(params, inputs, key)
    return np.asarray(noise_of(key, raw.shape), np.float32), np.asarray(raw, np.float32)


def _seen(frames: Frames, row: int, batch: Batch) -> Observation:
    """What the robot saw: images as they are in the videos; those of datasets without videos as the loader gives them."""
    images = {camera: _picture(frames, row, feature) for camera, feature in frames.cameras.items()}
    there = {camera: batch.images[camera][0] if image is None else image for camera, image in images.items()}
    return Observation(batch.state[0], there, batch.prompts[0])


def _picture(frames: Frames, row: int, feature: str) -> npt.NDArray[np.uint8] | None:
    at = int(frames.place_of(np.array([row]))[0])
    place = frames.places[at]
    if feature not in place.videos:
        return None
    video = Video(str(place.videos[feature].path))
    try:
        seconds = place.videos[feature].from_s + (row - int(frames.starts[at])) / frames.fps
        return video.rgb(video.read(seconds, 1 / frames.fps))
    finally:
        video.close()


def _served(policy: PiPolicy, seen: Observation, noise: Numbers) -> tuple[Inferred, Numbers]:
    """Everything of a request, and the actions in its reply."""
    service = PolicyService(policy)
    layout = service.requests.layouts[0]
    widths = [len(seen.state) - len(layout.state) + 1, *[1] * (len(layout.state) - 1)]
    message = unpack(pack(message_of(layout, seen, widths) | {NOISE: noise[0]}))
    replied = unpack(pack(service.answer(message).values))["actions"]
    return policy.run([service.requests.read(message)], noise=noise), replied


def _of_inputs(one: dict[str, Any], other: dict[str, Any], ways: tuple[str, str], *, pixels: float) -> list[Compared]:
    found = [_largest("state", ways, one["state"], other["state"], _EXACT)]
    for slot, image in one["image"].items():
        found.append(_largest(f"mask of {slot}", ways, one["image_mask"][slot], other["image_mask"][slot], 0.0))
        compared = _largest(f"image {slot}", ways, image, other["image"][slot], pixels)
        found.append(compared if pixels == 0 else replace(compared, difference=_mean(image, other["image"][slot])))
    found.append(_largest("tokens", ways, one["tokenized_prompt"], other["tokenized_prompt"], 0.0))
    return [*found, _largest("mask of the tokens", ways, one["tokenized_prompt_mask"], other["tokenized_prompt_mask"], 0.0)]


def _in_robot_units(transforms: Transforms, raw: Numbers, batch: Batch, limit: float) -> float:
    """What a difference of `limit` in the model's actions is in the robot's."""
    seen = batch.training_row().observation
    return float(np.abs(transforms.inverse(raw + np.float32(limit), seen) - transforms.inverse(raw, seen)).max()) + _EXACT


def _largest(name: str, ways: tuple[str, str], one: Numbers, other: Numbers, limit: float) -> Compared:
    if one.shape != other.shape:
        return Compared(f"{name} ({one.shape} and {other.shape})", ways, float("inf"), limit)
    return Compared(name, ways, float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0)), limit)


def _mean(one: Numbers, other: Numbers) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).mean()) if one.shape == other.shape else float("inf")
