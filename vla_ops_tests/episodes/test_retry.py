"""What is not a recording's fault is tried again by the next run."""

from __future__ import annotations

from pathlib import Path

import fsspec

from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.plan import make_plan
from vla_ops.episodes.store import RobotStore
from vla_ops_tests.episodes.ingesting import robot_at, run, write_arm


def test_a_recording_that_is_out_of_reach_for_a_moment_is_converted_by_the_next_run(tmp_path: Path) -> None:
    raw, store = tmp_path / "raw", RobotStore.of("arm", tmp_path / "home")
    write_arm(raw / "0.hdf5")
    robot = robot_at(raw, "*.hdf5", "hdf5")
    ((file, version),) = make_plan(robot, store).todo
    (raw / "0.hdf5").rename(tmp_path / "away.hdf5")
    result = convert_recording(ConversionJob(file.id, file.uri, version, robot.spec, store.root))
    assert result.quarantined is not None
    assert "0.hdf5" in result.quarantined
    assert result.quarantined.endswith("The next run tries it again.")
    (tmp_path / "away.hdf5").rename(raw / "0.hdf5")
    assert run(robot, tmp_path / "home").states == {"0.hdf5": "converted"}


def test_a_recording_that_is_damaged_is_not_tried_again(tmp_path: Path) -> None:
    write_arm(tmp_path / "raw" / "0.hdf5")
    data = (tmp_path / "raw" / "0.hdf5").read_bytes()
    (tmp_path / "raw" / "0.hdf5").write_bytes(data[: len(data) // 2])
    robot = robot_at(tmp_path / "raw", "*.hdf5", "hdf5")
    first = run(robot, tmp_path / "home")
    assert first.states == {"0.hdf5": "quarantined"}
    assert "tries it again" not in first.reason("0.hdf5")
    assert run(robot, tmp_path / "home").states == {}


def test_a_recording_that_cannot_be_fetched_says_so_and_not_that_memory_is_short(tmp_path: Path) -> None:
    # Listed in this process; the worker is another one, in whose memory there is no such file.
    write_arm(tmp_path / "0.hdf5")
    with fsspec.open("memory://retry/0.hdf5", "wb") as file:
        file.write((tmp_path / "0.hdf5").read_bytes())
    robot = robot_at(Path("/"), "*.hdf5", "hdf5", recordings={"uri": "memory://retry"})
    done = run(robot, tmp_path / "home", workers=1)
    assert done.states == {"0.hdf5": "quarantined"}
    assert "is not in its store any more [file 0.hdf5" in done.reason("0.hdf5")
    assert run(robot, tmp_path / "home", workers=1).states == {"0.hdf5": "quarantined"}
