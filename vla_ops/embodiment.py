"""What has a state, an action and cameras: a robot, or several in a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vla_ops.robot import Dimension, RotationGroup
from vla_ops.spec import NormStatsSpec


class Embodiment(Protocol):
    """What of a robot (RobotSpec), or of several in a mixture (Schema), norm stats and policies depend on."""

    @property
    def state_dims(self) -> Sequence[Dimension]:
        """The state's dimensions in order."""
        ...

    @property
    def action_dims(self) -> Sequence[Dimension]:
        """The action's dimensions in order."""
        ...

    @property
    def delta_mask(self) -> tuple[bool, ...]:
        """See RobotSpec.delta_mask."""
        ...

    @property
    def delta_rotations(self) -> tuple[RotationGroup, ...]:
        """See RobotSpec.delta_rotations."""
        ...

    @property
    def cameras(self) -> Mapping[str, Any]:
        """Its cameras by name."""
        ...

    @property
    def camera_slots(self) -> Mapping[str, str]:
        """See RobotSpec.camera_slots."""
        ...

    @property
    def norm_stats(self) -> NormStatsSpec:
        """Action space and horizon of the norm stats."""
        ...
