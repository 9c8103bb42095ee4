"""The transforms of one source of a mixture for the robot itself, which knows nothing of the mixture.

The robot sends its own state and cameras in its own order and names and is sent its own actions; the model sees what it saw of the
source in training. What the mixture leaves out of a robot's state is not looked at; of its actions the policy gives those it has.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vla_ops.policies.images import CameraSlots
from vla_ops.policies.prompts import Prompts
from vla_ops.policies.sources import PlacedRobot
from vla_ops.policies.steps import Bools, Float64, Pad
from vla_ops.policies.transforms import Float32, ModelInputs, Observation, PolicyTransforms, check_first_actions, check_state
from vla_ops.robot import Dimension

# Of a robot that a model was trained for, or of a source of a mixture.
type RobotTransforms = PolicyTransforms | PlacedTransforms


@dataclass(frozen=True, eq=False)
class PlacedTransforms:
    """See PolicyTransforms; `trained` are those of the source, in the mixture's dimensions."""

    trained: PolicyTransforms
    placed: PlacedRobot

    def forward_inference(self, observation: Observation) -> ModelInputs:
        """See PolicyTransforms."""
        return self._inner.forward_inference(self._in_mixture(observation))

    def encode_actions(self, actions: npt.ArrayLike, observation: Observation) -> Float32:
        """See PolicyTransforms; of the mixture's actions those that the robot has not are 0, as in training."""
        given = np.asarray(actions, np.float64)
        check_first_actions(given, self.action_dims, self.horizon)
        return self._inner.encode_actions(self._wide(given), self._in_mixture(observation))

    def inverse(self, actions: npt.ArrayLike, observation: Observation) -> Float64:
        """See PolicyTransforms."""
        return self.own_actions(self._inner.inverse(actions, self._in_mixture(observation)))

    def relative(self, actions: Float64, observation: Observation) -> Float64:
        """See PolicyTransforms."""
        return self.own_actions(self._inner.relative(self._wide(actions), self._in_mixture(observation)))

    def own_actions(self, actions: Float64) -> Float64:
        """The robot's of actions [..., a] of the mixture, in the robot's order."""
        return actions[..., self._places]

    def as_sent(self, observation: Observation) -> Observation:
        """What the robot sends, of an observation in the mixture's dimensions and cameras; what the mixture leaves out is 0."""
        state = np.zeros((*observation.state.shape[:-1], len(self.state_dims)), observation.state.dtype)
        for place, column in self._columns(self.placed.placement.state):
            state[..., column] = observation.state[..., place]
        names = self.placed.placement.cameras
        images = {own: observation.images[camera] for camera in self.trained.cameras.cameras if (own := names[camera]) is not None}
        return replace(observation, state=state, images=images, source=None)

    @cached_property
    def state_dims(self) -> tuple[Dimension, ...]:
        """The robot's."""
        return tuple(self.placed.spec.state_dims)

    @cached_property
    def action_dims(self) -> tuple[Dimension, ...]:
        """Those of the robot that the mixture has."""
        dims = self.placed.spec.action_dims
        return tuple(dims[column] for column in sorted(column for _, column in self._columns(self.placed.placement.action)))

    @cached_property
    def cameras(self) -> CameraSlots:
        """By the robot's names."""
        names, slots = self.placed.placement.cameras, self.trained.cameras
        return replace(slots, shown=tuple((slot, names[camera] if camera else None) for slot, camera in slots.shown))

    @property
    def horizon(self) -> int:
        """See PolicyTransforms."""
        return self.trained.horizon

    @property
    def pad(self) -> Pad:
        """See PolicyTransforms."""
        return self.trained.pad

    @property
    def prompts(self) -> Prompts:
        """See PolicyTransforms."""
        return self.trained.prompts

    @property
    def fingerprint(self) -> str:
        """Of what the source was trained with."""
        return self.trained.fingerprint

    @cached_property
    def _inner(self) -> PolicyTransforms:
        """What names the robot and its cameras in errors."""
        return replace(self.trained, robot=self.placed.name, cameras=self.cameras)

    @cached_property
    def _places(self) -> list[int]:
        """Places in the mixture of the robot's actions, in the robot's order."""
        return [place for place, _ in sorted(self._columns(self.placed.placement.action), key=lambda pair: pair[1])]

    def _wide(self, actions: Float64) -> Float64:
        wide = np.zeros((*actions.shape[:-1], len(self.trained.action_dims)))
        wide[..., self._places] = actions
        return wide

    def _in_mixture(self, observation: Observation) -> Observation:
        check_state(observation.state, self.state_dims)
        wide = np.zeros((*observation.state.shape[:-1], len(self.trained.state_dims)), observation.state.dtype)
        for place, column in self._columns(self.placed.placement.state):
            wide[..., place] = observation.state[..., column]
        return replace(observation, state=wide, delta_mask=self._mask(observation.delta_mask))

    def _mask(self, mask: Bools | None) -> Bools | None:
        if mask is None:
            return None
        wide = np.zeros((*mask.shape[:-1], len(self.trained.action_dims)), np.bool_)
        wide[..., self._places] = mask
        return wide

    @staticmethod
    def _columns(placed: tuple[int | None, ...]) -> list[tuple[int, int]]:
        """(place in the mixture, the robot's column)."""
        return [(place, column) for place, column in enumerate(placed) if column is not None]
