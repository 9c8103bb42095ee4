"""Under which keys clients send what a robot sees: openpi's for ALOHA, DROID and LIBERO, LeRobot's, and the robot's own of its YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vla_ops.errors import RequestError, SchemaMismatchError
from vla_ops.policies import Observation
from vla_ops.policies.images import as_pixels
from vla_ops.policies.policy import Policy
from vla_ops.robot import Dimension, RobotSpec

_NOTHING = object()


@dataclass(frozen=True)
class Layout:
    """The keys of one kind of client. `a/b` is that key, or `b` in the map under `a`."""

    name: str
    # Put behind one another.
    state: tuple[str, ...]
    # (camera's name in the spec, its key)
    images: tuple[tuple[str, str], ...]
    prompt: str = "prompt"

    @property
    def required(self) -> tuple[str, ...]:
        """The keys without which a message is not of this layout."""
        return (*self.state, *(key for _, key in self.images))


# Name, keys of the state, role -> key of the image.
_OPENPI: tuple[tuple[str, tuple[str, ...], Mapping[str, str]], ...] = (
    ("aloha", ("state",), {"base": "images/cam_high", "left_wrist": "images/cam_left_wrist", "right_wrist": "images/cam_right_wrist"}),
    ("libero", ("observation/state",), {"base": "observation/image", "left_wrist": "observation/wrist_image"}),
    (
        "droid",
        ("observation/joint_position", "observation/gripper_position"),
        {"base": "observation/exterior_image_1_left", "left_wrist": "observation/wrist_image_left"},
    ),
)


def layouts_of(spec: RobotSpec, cameras: Sequence[str]) -> tuple[Layout, ...]:
    """The layouts in which a robot's observation can come, those of its own YAML first; `cameras` are those that its model sees."""
    own = spec.client
    layouts = []
    # A policy of LeRobot's may see a camera that has no role, and then no key.
    if own is not None and all(name in own.images for name in cameras):
        layouts.append(Layout("the robot's own", tuple(own.state), tuple((name, own.images[name]) for name in cameras), own.prompt))
    layouts.append(Layout("vla-ops", ("state",), tuple((name, f"images/{name}") for name in cameras)))
    roles = {name: role for name in cameras if (role := spec.cameras[name].role)}
    for name, state, keys in _OPENPI:
        if all(roles.get(camera) in keys for camera in cameras):
            layouts.append(Layout(name, state, tuple((camera, keys[roles[camera]]) for camera in cameras)))
    dotted = tuple((name, f"observation.images.{name}") for name in cameras)
    return (*layouts, Layout("lerobot", ("observation.state",), dotted, "task"))


@dataclass(frozen=True)
class Requests:
    """What clients may send to one policy, and how it is read."""

    layouts: tuple[Layout, ...]
    state_dims: tuple[Dimension, ...]
    # Of a policy that sees several observations, a message has as many of each, the oldest first.
    steps: int = 1

    @classmethod
    def of(cls, policy: Policy) -> Requests:
        """For a policy's robot, and what its model sees of it."""
        return cls(layouts_of(policy.spec, policy.cameras), policy.state_dims, policy.observation_steps)

    def read(self, message: Any) -> Observation:
        """The observation in a message. Raise RequestError or SchemaMismatchError naming the client's key and what is expected there."""
        layout = self._layout(message)
        images = {camera: as_pixels(self._image(message, key), camera=key) for camera, key in layout.images}
        state, prompt = self._state(message, layout), self._prompt(message, layout)
        if self.steps == 1:
            return Observation(state, images, prompt)
        seen = [Observation(state[k], {camera: image[k] for camera, image in images.items()}, prompt) for k in range(self.steps)]
        return replace(seen[-1], past=tuple(seen[:-1]))

    def expected(self, layout: Layout) -> str:
        """What a message of this layout holds, in words."""
        rows, each = (f"{self.steps} rows of ", f"({self.steps}, ") if self.steps > 1 else ("", "(")
        parts = [f"{key}: {rows}numbers" for key in layout.state]
        parts[-1] += f", {len(self.state_dims)} in all: {', '.join(f'{dim.name} ({dim.unit})' for dim in self.state_dims)}"
        parts += [f"{key}: RGB image, uint8 {each}H, W, 3) or {each}3, H, W)" for _, key in layout.images]
        return "; ".join([*parts, f"{layout.prompt}: text"])

    def describe(self) -> dict[str, dict[str, Any]]:
        """The layouts as plain values, for a client to look at."""
        return {
            layout.name: {"state": list(layout.state), "images": {key: camera for camera, key in layout.images}, "prompt": layout.prompt}
            for layout in self.layouts
        }

    def _layout(self, message: Any) -> Layout:
        if not isinstance(message, Mapping):
            raise RequestError("an observation is a map", found=type(message).__name__, expected=self.expected(self.layouts[0]))
        there = {layout: [key for key in layout.required if _at(message, key) is not _NOTHING] for layout in self.layouts}
        whole = next((layout for layout, found in there.items() if len(found) == len(layout.required)), None)
        if whole is not None:
            return whole
        nearest = max(there, key=lambda layout: len(there[layout]))
        missing = [key for key in nearest.required if key not in there[nearest]]
        raise RequestError(
            f"the observation lacks {', '.join(missing)}",
            found=f"keys {', '.join(_keys(message)) or 'none'}",
            expected=f"as a client of layout {nearest.name!r} sends it: {self.expected(nearest)}",
            todo="" if len(self.layouts) == 1 else f"Other layouts: {', '.join(one.name for one in self.layouts if one is not nearest)}.",
        )

    def _state(self, message: Any, layout: Layout) -> np.ndarray[Any, np.dtype[np.float32]]:
        state = np.concatenate([_numbers(_at(message, key), key, self.steps) for key in layout.state], axis=-1)
        if state.shape[-1] != len(self.state_dims):
            called = " + ".join(layout.state)
            names = ", ".join(f"{dim.name} ({dim.unit})" for dim in self.state_dims)
            raise SchemaMismatchError(
                f"the state is not the robot's: {called}", found=f"{state.shape[-1]} numbers", expected=f"{len(self.state_dims)}: {names}"
            )
        if (wrong := ~np.isfinite(state)).any():
            *_, k = place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise SchemaMismatchError(
                f"the state is not finite: {' + '.join(layout.state)}",
                dimension=self.state_dims[k].name,
                found=f"{state[place]} at place {k}",
                expected=f"a number in {self.state_dims[k].unit}",
            )
        return state

    def _image(self, message: Any, key: str) -> np.ndarray[Any, Any]:
        image = _at(message, key)
        lead = (self.steps,) if self.steps > 1 else ()
        if not isinstance(image, np.ndarray) or image.ndim != 3 + len(lead) or image.shape[: len(lead)] != lead or 0 in image.shape:
            found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            each = f"({self.steps}, " if lead else "("
            what = f"not the last {self.steps} RGB images" if lead else "not an RGB image"
            todo = "They are the last steps, the oldest first: ActionChunkBroker of vla-ops-client keeps them." if lead else None
            raise SchemaMismatchError(what, stream=key, found=found, expected=f"uint8 {each}H, W, 3) or {each}3, H, W)", todo=todo)
        return image

    def _prompt(self, message: Any, layout: Layout) -> str | None:
        prompt = _at(message, layout.prompt)
        # openpi's clients send text, or an array of one text.
        prompt = prompt.item() if isinstance(prompt, np.ndarray | np.generic) and prompt.size == 1 else prompt
        if prompt is _NOTHING or prompt is None:
            return None
        if not isinstance(prompt, str):
            raise SchemaMismatchError(f"{layout.prompt} is not a text", found=type(prompt).__name__, expected="one text")
        return prompt


def message_of(layout: Layout, observation: Observation, widths: Sequence[int] | None = None) -> dict[str, Any]:
    """An observation as a client of this layout sends it; `widths` of the state's parts where there are several."""
    message: dict[str, Any] = {}
    steps = (*observation.past, observation)
    state = np.stack([step.state for step in steps]) if observation.past else np.asarray(observation.state)
    parts = np.split(state, np.cumsum(widths or [state.shape[-1]])[:-1], axis=-1)
    for key, part in zip(layout.state, parts, strict=True):
        message[key] = part
    for camera, key in layout.images:
        message[key] = np.stack([step.images[camera] for step in steps]) if observation.past else observation.images[camera]
    return message if observation.prompt is None else message | {layout.prompt: observation.prompt}


def _at(message: Mapping[Any, Any], key: str) -> Any:
    if key in message:
        return message[key]
    first, _, rest = key.partition("/")
    inner = message.get(first, _NOTHING)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else _NOTHING


def _keys(message: Mapping[Any, Any], most: int = 20) -> list[str]:
    nested = [(str(key)[:60], value if isinstance(value, Mapping) and value else {"": None}) for key, value in message.items()]
    return [f"{key}/{inner}".rstrip("/")[:120] for key, values in nested for inner in values][:most]


def _numbers(value: Any, key: str, steps: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The numbers under a key, [n] or [steps, n], as the datasets have them: float32."""
    try:
        array = np.atleast_1d(np.asarray(value))
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf" or array.ndim != 1 + (steps > 1) or (steps > 1 and len(array) != steps):
        found = f"{array.dtype} {array.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        if steps == 1:
            raise SchemaMismatchError(f"{key} is not a row of numbers", found=found, expected="floats (n,)")
        todo = "They are the last steps, the oldest first: ActionChunkBroker of vla-ops-client keeps them."
        raise SchemaMismatchError(f"{key} is not {steps} rows of numbers", found=found, expected=f"floats ({steps}, n)", todo=todo)
    return array.astype(np.float32)
