"""The contract on worker processes of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.plan import make_plan
from vla_ops.episodes.pool import Workers
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers import LocalWorkers
from vla_ops_tests.episodes.killing import hold  # noqa: F401 - a fixture
from vla_ops_tests.episodes.workers.contract import WorkersContract, files_of, filmed_robot
from vla_ops_tests.holding import Hold


@pytest.mark.slow
class TestLocalWorkers(WorkersContract):
    @pytest.fixture
    def workers(self, tmp_path: Path) -> Workers:
        return LocalWorkers(2)

    @pytest.fixture
    def held(self, hold: Callable[..., Hold]) -> Hold:  # noqa: F811
        return hold()


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_the_number_of_cores_is_in_no_file(tmp_path: Path, codec: str):
    robot, made = filmed_robot(tmp_path / "raw", 1, codec=codec), []
    for cores in (1, 2, 8):
        store = RobotStore.of("arm", tmp_path / str(cores))
        ((file, version),) = make_plan(robot, store).todo
        convert_recording(ConversionJob(file.id, file.uri, version, robot.spec, store.root, cores))
        made.append(files_of(store))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 6
