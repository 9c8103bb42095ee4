"""What a source of an MCAP recording gives: fields, columns and names, also where messages change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import Writer as McapWriter

from vla_ops.errors import (
    RecordingFormatError,
    SchemaMismatchError,
    StreamNotFoundError,
    UnknownEncodingError,
)
from vla_ops.recordings.base import Source
from vla_ops_tests.recordings.mcap_files import (
    START_NS,
    Sample,
    write_mcap,
    write_samples,
)
from vla_ops_tests.recordings.mcap_reading import ARM, ENCODINGS, open_mcap, read, samples_of, standard


@pytest.fixture
def plain(tmp_path) -> Path:
    return standard(tmp_path / "plain.mcap")


class TestSources:
    def test_fields_and_columns_are_selected(self, plain):
        np.testing.assert_array_equal(read(plain, "/joint_states.velocity[1:3]").values, -ARM.values[:, 1:3])
        numbers = read(plain, "/joint_states.position[6,0]")
        assert numbers.names == ("j7", "j1")
        np.testing.assert_array_equal(numbers.values, ARM.values[:, [6, 0]])

    def test_a_field_that_is_not_there_is_named_with_the_nearest(self, plain):
        with pytest.raises(StreamNotFoundError, match=r"no field 'positoin'.*Did you mean 'position'"):
            read(plain, "/joint_states.positoin")

    def test_a_column_that_is_not_there_is_refused(self, plain):
        with pytest.raises(SchemaMismatchError, match="7 values a message"):
            read(plain, "/joint_states.position[7,8]")

    def test_an_empty_field_is_refused(self, plain):
        with pytest.raises(SchemaMismatchError, match=r"holds no numbers.*effort"):
            read(plain, "/joint_states.effort")

    def test_images_are_no_numbers_and_numbers_no_images(self, plain):
        with pytest.raises(SchemaMismatchError, match=r"not a numeric stream.*/cam/high"):
            read(plain, "/cam/high")
        with open_mcap(plain) as recording, pytest.raises(UnknownEncodingError, match="JointState"):
            recording.images(Source("/joint_states"), recording.spans()[0])

    def test_names_of_topics_may_hold_dots(self, tmp_path):
        path = write_mcap(tmp_path / "0.mcap", joints={"robot.arm.state": ARM})
        np.testing.assert_array_equal(read(path, "robot.arm.state.velocity").values, -ARM.values)

    def test_several_numeric_fields_must_be_told_apart(self, tmp_path):
        content = {"x": 1.5, "y": [1, 2], "label": "a"}
        path = write_samples(tmp_path / "0.mcap", "json", [Sample("/s", "State", START_NS + 5, content)])
        with pytest.raises(StreamNotFoundError, match=r"several numeric fields.*x, y"):
            read(path, "/s")
        assert read(path, "/s.y").values.tolist() == [[1, 2]]

    def test_pose_is_position_and_orientation(self, tmp_path):
        pose = {"position": {"x": 1.0, "y": 2.0, "z": 3.0}, "orientation": {"x": 0.1, "y": 0.2, "z": 0.3, "w": 0.9}}
        content = {"header": {"stamp": {"sec": 1, "nanosec": 2}, "frame_id": "base"}, "pose": pose}
        path = write_samples(tmp_path / "0.mcap", "ros2", [Sample("/pose", "PoseStamped", START_NS + k, content) for k in range(3)])
        assert read(path, "/pose").values[2].tolist() == [1, 2, 3, 0.1, 0.2, 0.3, 0.9]
        assert read(path, "/pose.pose.orientation").values[0].tolist() == [0.1, 0.2, 0.3, 0.9]
        assert read(path, "/pose", clock="header").stamps_ns.tolist() == [1_000_000_002] * 3

    def test_multi_arrays_are_their_data(self, tmp_path):
        layout = {"dim": [{"label": "joints", "size": 3, "stride": 3}], "data_offset": 0}
        samples = [Sample("/a", "Float32MultiArray", START_NS + k, {"layout": layout, "data": [k, 0.5, -k]}) for k in range(4)]
        assert read(write_samples(tmp_path / "0.mcap", "ros2", samples), "/a").values.tolist() == [[k, 0.5, -k] for k in range(4)]


class TestMessagesThatChange:
    def test_joints_are_brought_to_the_order_of_the_first_message(self, tmp_path):
        samples = []
        for k, sample in enumerate(samples_of(ARM)):
            order = np.random.default_rng(k).permutation(7) if k % 3 else np.arange(7)
            content = {key: [values[i] for i in order] for key, values in sample.content.items()}
            samples.append(replace(sample, content=content))
        numbers = read(write_samples(tmp_path / "0.mcap", "ros2", samples), "/joint_states")
        assert numbers.names == ARM.joint_names
        np.testing.assert_array_equal(numbers.values, ARM.values)

    def test_a_joint_that_goes_missing_is_named_with_its_message(self, tmp_path):
        samples = samples_of(ARM)
        samples[17] = replace(samples[17], content={**samples[17].content, "name": ["j1", "j2", "j3", "j4", "j5", "j6", "finger"]})
        with pytest.raises(SchemaMismatchError, match=r"'j7' is missing.*/joint_states.*message 17"):
            read(write_samples(tmp_path / "0.mcap", "ros2", samples), "/joint_states")

    @pytest.mark.parametrize("encoding", ENCODINGS)
    def test_a_width_that_changes_names_both_widths_and_the_message(self, tmp_path, encoding):
        samples = samples_of(ARM)
        samples[20:] = [replace(s, content={key: values[:6] for key, values in s.content.items()}) for s in samples[20:]]
        with pytest.raises(SchemaMismatchError, match=r"/joint_states.*message 20.*found 6 values.*expected 7 values"):
            read(write_samples(tmp_path / "0.mcap", encoding, samples), "/joint_states")

    def test_nan_and_null_are_nan(self, tmp_path):
        samples = [Sample("/s", "S", START_NS + 1, {"v": [1, 2]}), Sample("/s", "S", START_NS + 2, {"v": [None, float("nan")]})]
        assert np.isnan(read(write_samples(tmp_path / "0.mcap", "json", samples), "/s").values[1]).all()

    def test_a_message_that_does_not_decode_is_named(self, tmp_path):
        with open(tmp_path / "0.mcap", "wb") as file:
            writer = McapWriter(file)
            writer.start()
            channel = writer.register_channel("/x", "json", writer.register_schema("S", "jsonschema", b"{}"))
            for k, data in enumerate([b'{"v": 1}', b'{"v": 2}', b'{"v":']):
                writer.add_message(channel, k, data, k)
            writer.finish()
        with pytest.raises(RecordingFormatError, match=r"does not decode.*stream /x.*message 2"):
            read(tmp_path / "0.mcap", "/x")
