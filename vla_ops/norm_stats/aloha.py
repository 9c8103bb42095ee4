"""ALOHA's state and actions in the space that pi0's base checkpoints were trained in, and back: openpi's `adapt_to_pi`.

Vectors are [..., 14]: twice 6 joints (rad) and a gripper (ratio of the opening between the fingers, 0 closed to 1 open). Three
joints turn the other way in that space, and its grippers are told by the angle of their motor. openpi scales that angle to a ratio
in the state and leaves it in radians in the actions, and takes an action's ratio for one of the angle; the checkpoints were trained
so, and it is kept. All is float64. Deltas are formed after this, in that space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vla_ops.robot import Dimension

type _Vectors = npt.NDArray[np.float32 | np.float64]
type _Float64 = npt.NDArray[np.float64]

# Waist, shoulder, elbow, forearm roll, wrist angle, wrist rotate, gripper of each arm: shoulder and elbow turn the other way.
JOINT_SIGNS = np.array([1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 1.0] * 2)
GRIPPERS = (6, 13)

# Opening (m) of the follower's fingers at ratio 0 and 1, and its motor's angle (rad) there: the constants of ALOHA's own code.
_OPENING_M = (0.01844, 0.05800)
_MOTOR_RAD = (-0.6213, 1.4910)
# The crank that moves the fingers: radius of the motor's horn and length of the arm on it, from Interbotix's configuration.
_HORN_M, _ARM_M = 0.022, 0.036
# Angle (rad) of the gripper, closed and open, in pi0's data: counts 2405 and about 3110 of an encoder of 4096, zero at 2048.
_PI_RAD = (0.5476, 1.6296)


def state_to_pi(states: _Vectors) -> _Float64:
    """States [..., 14] as pi0's base checkpoints know them. A gripper's opening beyond what the crank reaches is its end."""
    return _turned(states, lambda ratio: _ratio(_angle(_between(ratio, _OPENING_M)), _PI_RAD))


def state_from_pi(states: _Vectors) -> _Float64:
    """The inverse of `state_to_pi`, for grippers within the crank's reach (ratio -0.11 to 1)."""
    return _turned(states, lambda ratio: _ratio(_opening(_between(ratio, _PI_RAD)), _OPENING_M))


def action_to_pi(actions: _Vectors) -> _Float64:
    """Absolute actions [..., 14] as pi0's base checkpoints know them, for training: the exact inverse of `action_from_pi`."""
    return _turned(actions, lambda ratio: _between(ratio, _MOTOR_RAD) - _PI_RAD[0])


def action_from_pi(actions: _Vectors) -> _Float64:
    """Absolute actions [..., 14] of such a checkpoint, for the robot."""
    return _turned(actions, lambda angle: _ratio(angle + _PI_RAD[0], _MOTOR_RAD))


def action_dims_in_pi(dims: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """The action's dimensions in that space: its grippers are in rad. The state's stay as they are."""
    return tuple(replace(dim, unit="rad") if k in GRIPPERS else dim for k, dim in enumerate(dims))


def _turned(vectors: _Vectors, gripper: Callable[[_Float64], _Float64]) -> _Float64:
    turned = JOINT_SIGNS * vectors.astype(np.float64)
    turned[..., GRIPPERS] = gripper(turned[..., GRIPPERS])
    return turned


def _between(ratio: _Float64, ends: tuple[float, float]) -> _Float64:
    return ends[0] + ratio * (ends[1] - ends[0])


def _ratio(value: _Float64, ends: tuple[float, float]) -> _Float64:
    return (value - ends[0]) / (ends[1] - ends[0])


def _angle(opening_m: _Float64) -> _Float64:
    """The crank's angle (rad), by the law of cosines in the triangle of horn, arm and opening."""
    # An opening of 0 or infinity has no triangle; NaN and Inf of a recording are refused by name later.
    with np.errstate(divide="ignore", invalid="ignore"):
        sine = (_HORN_M**2 + opening_m**2 - _ARM_M**2) / (2 * _HORN_M * opening_m)
    return np.arcsin(np.clip(sine, -1.0, 1.0))


def _opening(angle_rad: _Float64) -> _Float64:
    """The inverse of `_angle`: the side of the triangle that is longer than 0."""
    along = _HORN_M * np.sin(angle_rad)
    return along + np.sqrt(along**2 + _ARM_M**2 - _HORN_M**2)
