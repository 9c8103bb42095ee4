"""Bad MCAP recordings, end to end: each is put in quarantine with a message that a person can act on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops_tests.episodes.ingesting import JOINTS, Run, assert_says, robot_at, run
from vla_ops_tests.recordings.pictures import as_jpeg, frame_picture

JOINT_STATE = "float64[] position\n"

COMPRESSED_IMAGE = "string format\nuint8[] data\n"


T0 = 1_700_000_000_000_000_000

STEP = 50_000_000


class Bag:
    """Writes a small ROS 2 MCAP, one step every 50 ms: `/arm` and, unless it is left out, `/camera`."""

    def __init__(self, path: Path) -> None:
        self.path, self.frames, self.seed = path, 20, 0
        self.topics = ("/arm", "/camera")
        self.width_at = {0: 7}
        self.size_at = {0: (48, 80)}
        self.encoding = "cdr"
        self.stamps_ns = T0 + STEP * np.arange(self.frames)

    def write(self) -> None:
        from mcap_ros2.writer import Writer

        with open(self.path, "wb") as file:
            writer = Writer(file, chunk_size=4096)
            schemas = {
                "/arm": writer.register_msgdef("test_msgs/msg/Joints", JOINT_STATE),
                "/camera": writer.register_msgdef("sensor_msgs/msg/CompressedImage", COMPRESSED_IMAGE),
            }
            for k, stamp in enumerate(self.stamps_ns.tolist()):
                for topic in self.topics:
                    writer.write_message(
                        topic, schemas.get(topic, schemas["/arm"]), self._body(topic, k), log_time=stamp, publish_time=stamp
                    )
            writer.finish()

    def _body(self, topic: str, k: int) -> dict[str, object]:
        if topic == "/camera":
            return {"format": "jpeg", "data": as_jpeg(frame_picture(k, size=_latest(self.size_at, k)))}
        return {"position": np.sin(k / 10 + self.seed + np.arange(_latest(self.width_at, k))).tolist()}


def _latest(values: dict[int, Any], k: int) -> Any:
    return values[max(at for at in values if at <= k)]


MCAP = {
    "state": [
        {"source": "/arm.position[0:6]", "names": JOINTS, "unit": "rad"},
        {"source": "/arm.position[6:7]", "names": ["gripper"], "unit": "ratio", "kind": "gripper"},
    ],
    "cameras": {"high": {"source": "/camera", "role": "base"}},
}


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mcap")
    changes: dict[str, dict[str, Any]] = {
        "good": {},
        "cut_off": {"seed": 1},
        "no_arm": {"topics": ("/arms", "/camera")},
        "no_camera": {"topics": ("/arm",)},
        "width": {"width_at": {0: 7, 9: 6}},
        "resolution": {"size_at": {0: (48, 80), 9: (64, 96)}},
        "clock": {"stamps_ns": T0 + STEP * np.r_[np.arange(10), np.arange(4, 14)]},
        "gap": {"stamps_ns": T0 + STEP * np.r_[np.arange(10), np.arange(20, 30)]},
    }
    for name, change in changes.items():
        bag = Bag(folder / f"{name}.mcap")
        for key, value in change.items():
            setattr(bag, key, value)
        bag.write()
    with open(folder / "cut_off.mcap", "r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) * 6 // 10)
    (folder / "zero.mcap").touch()
    _write_unknown_encoding(folder / "encoding.mcap")
    return folder


def _write_unknown_encoding(path: Path) -> None:
    from mcap.writer import Writer

    writer = Writer(str(path))
    writer.start()
    schema = writer.register_schema("vendor/Joints", "vendor_idl", b"position: f64[7]")
    channel = writer.register_channel("/arm", "vendor_bin", schema)
    for k in range(5):
        writer.add_message(channel, log_time=T0 + k * STEP, publish_time=T0 + k * STEP, data=bytes(56))
    writer.finish()


@pytest.fixture(scope="module")
def mcap(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(robot_at(bags, "*.mcap", "mcap", **MCAP), tmp_path_factory.mktemp("store"))


def test_the_good_bag_is_converted_and_nothing_else(mcap: Run):
    assert [key for key, state in mcap.states.items() if state == "converted"] == ["good.mcap"]
    assert mcap.left_behind == []


def test_a_truncated_bag_is_quarantined_by_default(mcap: Run):
    assert_says(mcap.reason("cut_off.mcap"), "file cut_off.mcap", "truncated", "keep_whole")


def test_an_empty_bag_is_named(mcap: Run):
    assert_says(mcap.reason("zero.mcap"), "file zero.mcap", "empty")


def test_a_missing_topic_names_the_nearest_one(mcap: Run):
    assert_says(mcap.reason("no_arm.mcap"), "file no_arm.mcap", "/arm", "Did you mean '/arms'")


def test_a_camera_that_one_bag_lacks_is_named(mcap: Run):
    assert_says(mcap.reason("no_camera.mcap"), "file no_camera.mcap", "/camera", "/arm")


def test_a_state_that_changes_its_width_midway_names_stream_and_both_widths(mcap: Run):
    assert_says(mcap.reason("width.mcap"), "file width.mcap", "stream /arm, message 9", "found 6 values", "expected 7")


def test_a_bag_whose_camera_changes_its_resolution_names_the_frame(mcap: Run):
    assert_says(mcap.reason("resolution.mcap"), "file resolution.mcap", "camera high", "frame 9", "96 x 64", "80 x 48")


def test_a_log_clock_that_jumps_back_names_topic_and_message(mcap: Run):
    assert_says(mcap.reason("clock.mcap"), "file clock.mcap", "clock jumps back", "/arm", "0.250 s", "on_clock_jump: split")


def test_a_gap_names_stream_time_and_length(mcap: Run):
    assert_says(mcap.reason("gap.mcap"), "file gap.mcap", "a gap at 0.450 s", "550 ms", "max_gap_ms 200", "on_gap: split")


def test_an_unknown_message_encoding_is_named_with_the_known_ones(mcap: Run):
    assert_says(mcap.reason("encoding.mcap"), "file encoding.mcap", "stream /arm", "vendor_bin", "cdr", "protobuf", "flatbuffer")


@pytest.fixture(scope="module")
def lenient(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same bags with every policy that keeps what is whole."""
    timeline = {"rate_hz": 20, "on_gap": "split", "on_clock_jump": "split"}
    robot = robot_at(bags, "[cg]*.mcap", "mcap", recordings={"truncated": "keep_whole"}, timeline=timeline, **MCAP)
    return run(robot, tmp_path_factory.mktemp("store"))


def test_what_is_whole_of_a_truncated_bag_is_converted_if_the_spec_says_so(lenient: Run):
    (episode,) = lenient.store.read_episodes("cut_off.mcap")
    assert 5 <= episode.meta.length < 19


def test_a_clock_jump_can_begin_another_episode(lenient: Run):
    assert [e.meta.length for e in lenient.store.read_episodes("clock.mcap")] == [9, 9]


def test_a_gap_can_split_an_episode(lenient: Run):
    assert [e.meta.length for e in lenient.store.read_episodes("gap.mcap")] == [9, 9]
    (outcome,) = [c for c in lenient.ingested.converted if c.recording == "gap.mcap"]
    assert any("split at a gap of 550 ms" in note for note in outcome.notes)
