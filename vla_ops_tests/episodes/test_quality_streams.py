"""The quality of streams and cameras, and what of it stands in an episode."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.quality import QualityReport, judge_stream
from vla_ops.episodes.store import RobotStore
from vla_ops_tests.episodes.ingesting import robot_at, write_arm
from vla_ops_tests.episodes.judging import (
    DEFAULTS,
    MS,
    camera,
    regular,
    stream,
)
from vla_ops_tests.recordings.hdf5_files import write_images
from vla_ops_tests.recordings.pictures import frame_picture

# Streams


@given(st.lists(st.integers(-50_000_000, 50_000_000), min_size=1, max_size=300))
def test_skew_percentiles_are_those_of_its_size(skews: list[int]) -> None:
    found = judge_stream("/a", regular(), np.array(skews), DEFAULTS).measured["skew_ms"]
    size = np.sort(np.abs(skews)) / MS
    assert found["max"] == round(size[-1], 3)
    assert found["p50"] == pytest.approx(np.median(size), abs=6e-4)
    assert found["p50"] <= found["p99"] <= found["max"]
    assert (size <= found["p99"] + 1e-3).mean() >= 0.985 or len(size) < 100


def test_samples_before_and_after_their_frame_count_alike() -> None:
    late, early = stream(skew_ms=np.full(100, 30.0)), stream(skew_ms=np.full(100, -30.0))
    assert late == early
    assert "99 % of frames are within 30.0 ms" in late.findings[0].message


@given(st.sets(st.integers(1, 298), max_size=120))
def test_every_image_that_never_arrived_is_counted(lost: set[int]) -> None:
    kept = np.delete(regular(), sorted(lost))
    # The usual step is known only while most steps are whole.
    if np.median(np.diff(kept)) == 33 * MS:
        assert stream(kept).measured["dropped_fraction"] == pytest.approx(len(lost) / 300, abs=1e-4)


def test_a_gap_is_the_largest_step_and_what_is_missing_is_counted() -> None:
    judged = stream(np.delete(regular(), slice(100, 140)))
    assert judged.measured["largest_step_ms"] == 41 * 33.0
    (finding,) = judged.findings
    assert (finding.check, finding.level) == ("dropped_fraction", "warn")
    assert "13.3% of the expected samples are missing: 260 of 300" in finding.message


def test_samples_with_the_same_stamp_are_counted() -> None:
    stamps = regular()
    stamps[10:13] = stamps[9]
    judged = stream(stamps)
    assert (judged.measured["same_stamps"], judged.measured["samples"], judged.findings) == (3, 300, [])


def test_one_sample_has_no_rate_and_is_no_error() -> None:
    measured = stream(np.array([5])).measured
    assert (measured["samples"], measured["rate_hz"], measured["largest_step_ms"], measured["dropped_fraction"]) == (1, None, None, 0)


# Cameras


@given(st.lists(st.integers(0, 3), min_size=1, max_size=200))
def test_frames_that_repeat_the_image_before_are_counted(steps: list[int]) -> None:
    measured = camera(np.cumsum([0, *steps])).measured
    assert measured["duplicated_fraction"] == round(steps.count(0) / (len(steps) + 1), 4)


def test_a_camera_at_half_the_rate_of_the_timeline_is_fine_and_one_at_a_third_is_noted() -> None:
    assert camera(np.arange(100) // 2).findings == []
    (finding,) = camera(np.arange(100) // 3).findings
    assert (finding.check, finding.level, finding.where) == ("duplicated_fraction", "note", "high")


def test_one_frame_repeats_nothing() -> None:
    assert camera(np.array([4])).measured["duplicated_fraction"] == 0


def test_a_frozen_camera_says_for_how_long() -> None:
    (finding,) = camera(frozen_frames=50).findings
    assert (finding.check, finding.level, finding.value) == ("frozen_camera_s", "warn", 2.5)
    assert "shows the same image for 2.5 s" in finding.message


def test_a_stream_and_a_camera_of_one_name_share_a_line_of_the_report() -> None:
    report = QualityReport()
    report.add("/camera", stream())
    report.add("/camera", camera())
    assert {"samples", "skew_ms", "frozen_s"} <= set(report.measured["/camera"])


# From recording to report


def converted(tmp_path: Path, pictures: list[np.ndarray], quality: dict[str, object] | None = None) -> RobotStore:
    """Convert an arm of 40 frames whose camera saw `pictures`."""
    write_arm(tmp_path / "raw/a.hdf5", frames=40)
    with h5py.File(tmp_path / "raw/a.hdf5", "r+") as file:
        write_images(file, "/observations/images/high", pictures, "jpeg_rows")
    cameras = {"high": {"source": "/observations/images/high"}}
    robot = robot_at(tmp_path / "raw", "*.hdf5", "hdf5", cameras=cameras, quality=quality or {})
    store = RobotStore.of("arm", tmp_path / "home")
    convert_recording(ConversionJob("a.hdf5", str(tmp_path / "raw/a.hdf5"), "v1", robot.spec, store.root))
    return store


def test_a_camera_that_freezes_is_a_warning_in_the_episode(tmp_path: Path) -> None:
    (episode,) = converted(tmp_path, [frame_picture(min(k, 9)) for k in range(40)]).read_episodes("a.hdf5")
    (finding,) = [f for f in episode.meta.findings if f.check == "frozen_camera_s"]
    assert (finding.level, finding.where) == ("warn", "high")
    # Frames 9 to 38 of the 39 that have a next state.
    assert 1.4 <= episode.meta.measured["high"]["frozen_s"] == finding.value <= 1.5


def test_a_camera_whose_cap_is_on_puts_the_episode_in_quarantine(tmp_path: Path) -> None:
    store = converted(tmp_path, [np.zeros((48, 80, 3), np.uint8)] * 40)
    assert store.read_episodes("a.hdf5") == []
    entry = store.read_quarantine("a.hdf5")
    assert entry is not None
    assert "high: 100% of the sampled images are black" in entry["quarantined"]
    assert "black_camera_fraction: {level: warn, limit: 0.5}" in entry["quarantined"]


def test_a_black_camera_is_kept_where_the_spec_says_so(tmp_path: Path) -> None:
    pictures = [np.zeros((48, 80, 3), np.uint8)] * 40
    store = converted(tmp_path, pictures, {"black_camera_fraction": {"level": "note", "limit": 0.5}})
    (episode,) = store.read_episodes("a.hdf5")
    assert {f.check: f.level for f in episode.meta.findings} == {"frozen_camera_s": "warn", "black_camera_fraction": "note"}


def test_a_good_recording_has_no_findings_and_everything_measured(tmp_path: Path) -> None:
    (episode,) = converted(tmp_path, [frame_picture(k) for k in range(40)]).read_episodes("a.hdf5")
    assert [f for f in episode.meta.findings if f.where != "state gripper"] == []
    measured = episode.meta.measured
    assert measured["/observations/qpos"]["rate_hz"] == 20
    seen = measured["high"]
    assert set(seen) == {"duplicated_fraction", "frozen_s", "black_fraction", "signature", "motion"}
    assert (seen["duplicated_fraction"], seen["black_fraction"]) == (0.0, 0.0)
    assert set(measured["state j1"]) == {"min", "max", "jump_sigma", "still_s"}
    assert {f"{vector} {name}" for vector in ("state", "action") for name in ("j1", "j6", "gripper")} <= set(measured)
