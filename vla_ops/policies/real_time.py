"""Real-time chunking: a chunk that goes on from the one which the robot is carrying out while this one is computed (arXiv:2506.07339).

    Overlap    in robot units: what is left of the chunk before, and how much of it will be past when this one begins
    Guide      the same for a model: normalised, padded, as seen from the new observation, with a weight a step

The server keeps nothing between requests: the robot's side says with each what it has not carried out yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla_ops.errors import PolicyError, SchemaMismatchError
from vla_ops.policies.placed import RobotTransforms
from vla_ops.policies.steps import Floats
from vla_ops.policies.transforms import Float32, Observation


@dataclass(frozen=True)
class RealTime:
    """How strongly a new chunk is held to the one before."""

    # The paper's beta.
    max_weight: float = 5.0
    # The paper's gradient goes back through the model; LeRobot leaves that out, which is faster and holds less.
    through_model: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.max_weight < np.inf:
            raise PolicyError("the weight of guidance must be more than 0", found=self.max_weight)


@dataclass(frozen=True, eq=False)
class Overlap:
    """What a robot has still to carry out when it makes an observation."""

    # [n, a], absolute, in robot units; the first is due at the observation's own step.
    actions: Floats
    # So many of them are carried out before the new chunk begins.
    delay: int


@dataclass(frozen=True, eq=False)
class Guide:
    """Overlaps as a model takes them."""

    # [B, H, action_dim], zeros behind a row's overlap.
    actions: Float32
    # Steps, [B]: of the delay, and of the overlap; no overlap is 0.
    delays: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def weights(self) -> Float32:
        """How much each step [B, H] is held to the chunk before."""
        horizon = self.actions.shape[1]
        return np.stack([prefix_weights(*row, horizon) for row in zip(self.delays, self.lengths, strict=True)])

    def picked(self, rows: Sequence[int]) -> Guide:
        """Some of its rows."""
        return Guide(self.actions[rows], tuple(self.delays[k] for k in rows), tuple(self.lengths[k] for k in rows))


def prefix_weights(delay: int, length: int, horizon: int) -> Float32:
    """Weights [H] of an overlap of `length` steps: 1 for what is decided, falling over the rest, then 0 (equation 5 of the paper)."""
    weights = np.zeros(horizon, np.float32)
    weights[:delay] = 1
    falling = (length - np.arange(delay, length)) / (length - delay + 1)
    weights[delay:length] = falling * np.expm1(falling) / np.expm1(1)
    return weights


def guide_of(transforms: RobotTransforms, observations: Sequence[Observation], overlaps: Sequence[Overlap | None]) -> Guide:
    """The guide of a batch. Raise SchemaMismatchError, by name, for actions that are not the robot's, or a delay beyond them."""
    rows = list(zip(observations, overlaps, strict=True))
    actions = np.stack([_encoded(transforms, observation, overlap) for observation, overlap in rows])
    known = [(0, 0) if overlap is None else (overlap.delay, len(overlap.actions)) for overlap in overlaps]
    return Guide(actions, tuple(delay for delay, _ in known), tuple(length for _, length in known))


def _encoded(transforms: RobotTransforms, observation: Observation, overlap: Overlap | None) -> Float32:
    whole = np.zeros((transforms.horizon, transforms.pad.width), np.float32)
    if overlap is None:
        return whole
    encoded = transforms.encode_actions(overlap.actions, observation)
    if not 0 <= overlap.delay <= len(encoded):
        raise SchemaMismatchError(
            "the new chunk would begin beyond what is left of the one before",
            found=f"a delay of {overlap.delay} steps, and {len(encoded)} actions",
            expected=f"a delay of 0 to {len(encoded)}",
            todo="Ask earlier: while more steps are left than the reply takes.",
        )
    whole[: len(encoded)] = encoded
    return whole
