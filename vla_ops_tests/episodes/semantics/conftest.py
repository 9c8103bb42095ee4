"""The six recordings of robots/aloha_sim as episodes, made once a session by copying their JPEGs."""

from __future__ import annotations

import pytest

from vla_ops.episodes.semantics import Seen
from vla_ops.robot import RobotSpec
from vla_ops.robot_file import Robot
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.episodes.semantics.made_up import aloha_robot, remembering


@pytest.fixture(scope="session")
def aloha(tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, RobotSpec]:
    robot: Robot = aloha_robot()
    outcome = run(robot, tmp_path_factory.mktemp("aloha"))
    episodes = [episode for recording in sorted(outcome.states) for episode in outcome.store.read_episodes(recording)]
    assert len(episodes) == 6
    return remembering(Seen.of(episodes)), robot.spec
