"""Bring a robot's dataset up to date with its episodes: the one path behind the asset and the CLI."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vla_ops.datasets.lerobot_v3 import DatasetVersion, Held, update_dataset
from vla_ops.episodes.plan import make_plan, quarantine_reasons, usable_episodes
from vla_ops.episodes.progress import Steps
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.errors import DatasetError
from vla_ops.files import only_one
from vla_ops.robot_file import Robot


@dataclass(frozen=True)
class Refreshed:
    """A dataset and the episodes it was made of."""

    made: DatasetVersion
    episodes: list[Episode]
    # Read back from its files.
    held: Held


def refresh_lerobot_v3(robot: Robot, store: RobotStore, *, say: Callable[[str], None]) -> Refreshed:
    """Write the LeRobot v3.0 dataset of all usable episodes; nothing is done where it is there.

    Waits for a run that is converting the robot's recordings. Raise DatasetError with the reasons if no episode is usable, or if
    some were made with another YAML.
    """
    with only_one(store.root, lambda who: say(f"{robot.name}: waiting, {who} is converting its recordings")):
        episodes = usable_episodes(store, make_plan(robot, store))
        if not episodes:
            raise _nothing_usable(robot, store)
        steps = Steps("lerobot_v3", say)
        made = update_dataset(store.root / "lerobot_v3", episodes, spec=robot.spec, robot=robot.name, progress=steps.show)
        held = Held.by(made.folder)
    say(f"lerobot_v3 {made.summary()}")
    return Refreshed(made, episodes, held)


def _nothing_usable(robot: Robot, store: RobotStore) -> DatasetError:
    reasons = [row["reason"] for row in quarantine_reasons(store)]
    if not reasons:
        todo = f"Put recordings matching {robot.spec.recordings.pattern} below {robot.recordings_uri}, and convert them first."
        return DatasetError(f"{robot.name} has no episodes", todo=todo)
    shown = "\n".join(f"- {reason}" for reason in reasons[:20])
    return DatasetError(f"no episode of {robot.name} is usable; {len(reasons)} in quarantine:\n{shown}")
