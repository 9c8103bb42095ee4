"""What a spec maps is read as it says: one clock for each use of a stream, and no numbers for rotations that are none."""

from __future__ import annotations

from pathlib import Path

from vla_ops.episodes.read import SpanStreams, read_span
from vla_ops.recordings import open_recording
from vla_ops_tests.episodes.ingesting import RATE_HZ, robot_at, run, write_arm

HIGH = "/observations/images/high"


def streams_of(folder: Path, **sections: object) -> SpanStreams:
    spec = robot_at(folder, "*.hdf5", "hdf5", **sections).spec
    with open_recording(str(folder / "a.hdf5"), "hdf5", spec.open_options) as recording:
        return read_span(recording, recording.spans()[0], spec)


def test_the_latency_of_a_camera_moves_its_images(tmp_path: Path) -> None:
    """Recorded 100 ms late: two frames at 20 Hz."""
    write_arm(tmp_path / "raw" / "a.hdf5", cameras=("high",))
    cameras = {"high": {"source": HIGH, "time_offset_ms": -100}}
    done = run(robot_at(tmp_path / "raw", "*.hdf5", "hdf5", cameras=cameras), tmp_path / "home")
    (episode,) = done.store.read_episodes("a.hdf5")
    assert episode.meta.length == 12 - 100 * RATE_HZ // 1000 - 1


def test_numbers_that_are_no_rotation_put_the_recording_in_quarantine_by_name(tmp_path: Path) -> None:
    write_arm(tmp_path / "raw" / "a.hdf5")
    state = [{"source": "/observations/qpos[0:4]", "names": ["qx", "qy", "qz", "qw"], "unit": "1", "kind": "quaternion_xyzw"}]
    done = run(robot_at(tmp_path / "raw", "*.hdf5", "hdf5", state=state), tmp_path / "home")
    reason = done.reason("a.hdf5")
    assert "samples are no quaternion_xyzw" in reason
    assert "dimension qx, qy, qz, qw" in reason
    assert "sample 0" in reason
    assert "expected norm 1" in reason
