"""One recording of a shipped robot, converted in this process: what becomes of it, without the dataset around it."""

from __future__ import annotations

from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.robot_file import load_robot
from vla_ops_tests.robots.shipped import Shipped


def convert_alone(robot: Shipped, recording: str) -> tuple[str | None, list[Episode]]:
    """Why the recording with this id is in quarantine, or None, and its episodes."""
    store = RobotStore(robot.folder / "home")
    path = str(robot.recordings / recording)
    done = convert_recording(ConversionJob(recording, path, "1", load_robot(robot.folder).spec, store.root))
    return done.quarantined, store.read_episodes(recording)


def refusal(robot: Shipped, recording: str) -> str:
    """Why the recording is in quarantine."""
    reason, episodes = convert_alone(robot, recording)
    assert episodes == []
    assert reason is not None
    return reason
