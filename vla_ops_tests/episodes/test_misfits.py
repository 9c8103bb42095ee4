from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.datasets.refresh import refresh_lerobot_v3
from vla_ops.errors import DatasetError
from vla_ops_tests.episodes.ingesting import robot_at, run
from vla_ops_tests.recordings.hdf5_files import write_aloha

WIDE, NARROW = (48, 80), (48, 64)
CAMERA = {"cam_high": {"source": "/observations/images/cam_high"}}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def record(raw: Path, name: str, size: tuple[int, int]) -> None:
    write_aloha(raw / name, frames=12, cameras=["cam_high"], size=size, images="jpeg_rows", width=7, seed=sum(name.encode()))


def test_in_a_first_run_the_camera_size_of_most_recordings_decides_and_the_odd_one_is_quarantined(raw: Path, tmp_path: Path) -> None:
    for name, size in (("0.hdf5", NARROW), ("1.hdf5", WIDE), ("2.hdf5", WIDE)):
        record(raw, name, size)
    robot = robot_at(raw, "*.hdf5", "hdf5", cameras=CAMERA)
    done = run(robot, tmp_path)
    assert done.states == {"0.hdf5": "quarantined", "1.hdf5": "converted", "2.hdf5": "converted"}
    said = ("file 0.hdf5", "camera cam_high", "found 64x48 h264", "expected 80x48 h264")
    assert [word for word in said if word not in done.reason("0.hdf5")] == []
    assert refresh_lerobot_v3(robot, done.store, say=print).made.episodes == 2


def test_later_the_recordings_that_are_in_the_store_decide(raw: Path, tmp_path: Path) -> None:
    record(raw, "0.hdf5", NARROW)
    robot = robot_at(raw, "*.hdf5", "hdf5", cameras=CAMERA)
    run(robot, tmp_path)
    for name in ("1.hdf5", "2.hdf5"):
        record(raw, name, WIDE)
    done = run(robot, tmp_path)
    assert done.states == {"1.hdf5": "quarantined", "2.hdf5": "quarantined"}
    assert run(robot, tmp_path).states == {}
    assert refresh_lerobot_v3(robot, done.store, say=print).made.episodes == 1


def test_a_dataset_is_never_made_of_episodes_of_two_specs(raw: Path, tmp_path: Path) -> None:
    for name in ("0.hdf5", "1.hdf5"):
        record(raw, name, WIDE)
    run(robot_at(raw, "*.hdf5", "hdf5", cameras=CAMERA), tmp_path)
    edited = robot_at(raw, "*.hdf5", "hdf5", cameras=CAMERA, timeline={"rate_hz": 20, "images": "hold"})
    done = run(edited, tmp_path, only=["0.hdf5"])
    assert done.states == {"0.hdf5": "converted"}
    with pytest.raises(DatasetError, match=r"not converted as they and the YAML now are; found 1\.hdf5\. Convert all"):
        refresh_lerobot_v3(edited, done.store, say=print)
    run(edited, tmp_path)
    assert refresh_lerobot_v3(edited, done.store, say=print).made.episodes == 2
