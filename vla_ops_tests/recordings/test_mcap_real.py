"""The MCAP reader on real recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader

from vla_ops.errors import (
    RecordingFormatError,
    UnknownEncodingError,
)
from vla_ops.recordings.base import Source
from vla_ops_tests.recordings.mcap_reading import open_mcap, read


@pytest.fixture
def real(recordings_dir) -> Path:
    return recordings_dir / "mcap"


class TestRealRecordings:
    @pytest.mark.parametrize(
        "name",
        [
            "airbot_1-1_h264_oldcollector",
            "airbot_ptk_h264",
            "cartpole_kinda_works",
            "cartpole_sim",
            "lichtblick_custom-camera-model",
            "lichtblick_example",
            "nebius_sim2real_sample",
            "rosbag2_cdr_test_0",
            "rosbag2_topics_and_services",
            "rosbag2_wbag_0",
            "rosbag2_wrong_rmw_test_0",
        ],
    )
    def test_counts_are_those_of_the_mcap_library(self, real, name):
        with open(real / f"{name}.mcap", "rb") as file:
            summary = make_reader(file).get_summary()
        assert summary is not None
        assert summary.statistics is not None
        with open_mcap(real / f"{name}.mcap") as recording:
            spans = len(recording.spans())
            found = {s.name: s.count for s in recording.streams() if not s.schema.startswith("video/")}
            counts = {c.topic: summary.statistics.channel_message_counts.get(k, 0) for k, c in summary.channels.items()}
            assert found == counts or spans > 1
            assert {t: len(recording._index.table(t)) for t in counts} == counts

    def test_airbot_frames_carry_their_number_at_the_stamp_of_their_step(self, real):
        with open_mcap(real / "airbot_ptk_h264.mcap") as recording:
            span = recording.spans()[0]
            assert span.task == "fold the cloth in half"
            for camera_name in ("env", "left", "right"):
                stream = recording.images(Source(f"/{camera_name}_camera/color/image_raw"), span)
                frames = [as_array(image) for image in stream.packets(range(100))]
                assert [barcode(frame) for frame in frames] == list(range(100))
                joints_ns = recording.numbers(Source("/left/follow/arm/joint_state/position"), span).stamps_ns
                assert np.abs(joints_ns - stream.stamps_ns - 8_000_000).max() < 2_000

    def test_airbot_widths_and_names(self, real):
        with open_mcap(real / "airbot_ptk_h264.mcap") as recording:
            span = recording.spans()[0]
            arm = recording.numbers(Source("/left/follow/arm/joint_state/position"), span)
            gripper = recording.numbers(Source("/right/lead/eef/joint_state/position"), span)
        assert (arm.values.shape, arm.names) == ((100, 6), tuple(f"joint{k}" for k in range(1, 7)))
        assert (gripper.values.shape, gripper.names) == ((100, 1), ("gripper",))

    def test_cartpole_training_runs_are_split_where_the_clock_restarts(self, real):
        with open_mcap(real / "cartpole_kinda_works.mcap") as recording:
            spans = recording.spans()
            assert len(spans) == 58
            assert all(span.clock_jump for span in spans[1:])
            lengths = []
            for span in spans:
                numbers = recording.numbers(Source.parse("/cartpole/state.cart_position"), span)
                assert numbers.stamps_ns[0] == 100_000_000
                assert (np.diff(numbers.stamps_ns) > 0).all()
                lengths.append(len(numbers.values))
            assert sum(lengths) == 9989
        with open_mcap(real / "cartpole_sim.mcap") as recording:
            assert [s.clock_jump for s in recording.spans()] == [
                None,
                "the clock of /cartpole/state jumps back 49.950 s at message 1000",
            ]

    def test_files_that_are_no_recordings(self, real):
        with pytest.raises(RecordingFormatError, match=r"not an MCAP file.*PACM"):
            open_mcap(real / "nomyze_bad_magic.mcap")
        with open_mcap(real / "foxglove_sdk_empty.mcap") as recording:
            assert (recording.streams(), recording.spans()) == ([], [])

    def test_an_unknown_message_encoding_is_named_with_the_known_ones(self, real):
        with open_mcap(real / "rosbag2_wrong_rmw_test_0.mcap") as recording:
            assert {s.encoding for s in recording.streams()} == {"wrong_format"}
            with pytest.raises(UnknownEncodingError, match=r"/array_topic.*wrong_format.*cdr with ros2msg schemas \| ros1 \| protobuf"):
                recording.numbers(Source("/array_topic"), recording.spans()[0])

    def test_cdr_arrays_of_rosbag2(self, real):
        values = read(real / "rosbag2_cdr_test_0.mcap", "/array_topic.float64_values").values
        assert values.shape == (4, 3)
        assert values.dtype == np.float64


def as_array(image) -> np.ndarray:
    assert image.codec == "raw"
    return image.data


def barcode(frame: np.ndarray) -> int:
    """16 cells of 32 px in the top row, most significant left."""
    cells = frame[0, 16:512:32].astype(float).mean(axis=1) > 127
    return int("".join("1" if c else "0" for c in cells), 2)
