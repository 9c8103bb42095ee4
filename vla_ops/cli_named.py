"""What commands share: what a name or a path means, a robot or a mixture; and what is said beside a command's output."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vla_ops.episodes.store import RobotStore
    from vla_ops.mixture_file import Mixture
    from vla_ops.robot_file import Robot


def robots_folder() -> Path:
    """Where robots are looked for."""
    return Path(os.environ.get("VLA_OPS_ROBOTS", "robots"))


def named_robot(name: str) -> tuple[Robot, RobotStore]:
    """The robot of this name or in this folder, and its store. Raise SpecError."""
    from vla_ops.episodes.store import RobotStore
    from vla_ops.robot_file import load_robot

    robot = load_robot(_folder(name))
    return robot, RobotStore.of(robot.name)


def named_mixture(name: str) -> Mixture | None:
    """The mixture of this name; None if it is a robot, or nothing."""
    from vla_ops.mixture_file import COMPONENT_TYPE, component_of, load_mixture

    folder = _folder(name)
    return load_mixture(folder) if component_of(folder) == COMPONENT_TYPE else None


def named_robot_or_mixture(name: str) -> tuple[Robot | Mixture, RobotStore]:
    """The robot or mixture of this name, and its store. Raise SpecError."""
    from vla_ops.episodes.store import RobotStore

    mixture = named_mixture(name)
    return named_robot(name) if mixture is None else (mixture, RobotStore.of(mixture.name))


def say(line: str) -> None:
    """Tell who waits, beside the output."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _folder(name: str) -> Path:
    return Path(name) if (Path(name) / "defs.yaml").is_file() else robots_folder() / name
