"""The MCAP reader on files written by the libraries that robots use."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from vla_ops.errors import (
    RecordingFormatError,
    UnknownEncodingError,
)
from vla_ops.recordings.base import Source
from vla_ops.recordings.mcap import McapRecording
from vla_ops_tests.recordings.contract import Contents, RecordingContract
from vla_ops_tests.recordings.mcap_files import (
    START_NS,
    Extras,
    Joints,
    Sample,
    camera,
    mp4_bytes,
    rewritten,
    stamps,
    write_mcap,
    write_samples,
)
from vla_ops_tests.recordings.mcap_reading import ARM, CAMERAS, open_mcap, read, samples_of, standard
from vla_ops_tests.recordings.pictures import frame_number, from_bytes


@pytest.fixture
def plain(tmp_path) -> Path:
    return standard(tmp_path / "plain.mcap")


class McapContract(RecordingContract):
    encoding = "ros2"

    @pytest.fixture
    def recording(self, tmp_path) -> Iterator[McapRecording]:
        with open_mcap(standard(tmp_path / "0.mcap", self.encoding)) as recording:
            yield recording

    @pytest.fixture
    def contents(self) -> Contents:
        return Contents(numbers={"/joint_states": ARM.values}, images={"/cam/high": 12, "/cam/wrist": 12})


class TestRos2(McapContract):
    encoding = "ros2"


class TestRos1(McapContract):
    encoding = "ros1"


class TestProtobuf(McapContract):
    encoding = "protobuf"


class TestJson(McapContract):
    encoding = "json"


class TestAirbotFlatBuffers(McapContract):
    encoding = "airbot"


class TestRawImages(McapContract):
    @pytest.fixture
    def recording(self, tmp_path) -> Iterator[McapRecording]:
        cameras = {name: replace(c, raw=True) for name, c in CAMERAS.items()}
        with open_mcap(write_mcap(tmp_path / "0.mcap", "ros2", joints={"/joint_states": ARM}, cameras=cameras)) as recording:
            yield recording


class TestVideoAttachments(McapContract):
    b_frames = 0

    @pytest.fixture
    def recording(self, tmp_path) -> Iterator[McapRecording]:
        videos = [(name, "video/mp4", mp4_bytes(c.pictures, c.stamps_ns, b_frames=self.b_frames)) for name, c in CAMERAS.items()]
        path = write_mcap(tmp_path / "0.mcap", "airbot", joints={"/joint_states": ARM}, extras=Extras(attachments=videos))
        with open_mcap(path) as recording:
            yield recording


class TestVideoAttachmentsWithBFrames(TestVideoAttachments):
    b_frames = 2


class TestClockRuns(McapContract):
    @pytest.fixture
    def recording(self, tmp_path) -> Iterator[McapRecording]:
        second = Joints(ARM.stamps_ns, -ARM.values)
        path = tmp_path / "0.mcap"
        write_samples(path, "ros2", [*samples_of(ARM), *samples_of(second)])
        with open_mcap(path) as recording:
            yield recording

    @pytest.fixture
    def contents(self) -> Contents:
        return Contents(numbers={"/joint_states": ARM.values}, episodes=2)


class TestContainers:
    @pytest.mark.parametrize("compression", list(CompressionType))
    @pytest.mark.parametrize("chunked", [True, False])
    @pytest.mark.parametrize("summary", [True, False])
    def test_chunks_compression_and_summary_change_nothing(self, plain, tmp_path, compression, chunked, summary):
        path = rewritten(plain, tmp_path / "other.mcap", compression=compression, chunked=chunked, summary=summary)
        with open_mcap(plain) as expected, open_mcap(path) as found:
            assert found.streams() == expected.streams()
            numbers = found.numbers(Source("/joint_states"), found.spans()[0])
            np.testing.assert_array_equal(numbers.values, ARM.values)
            np.testing.assert_array_equal(numbers.stamps_ns, ARM.stamps_ns)
            images = found.images(Source("/cam/high"), found.spans()[0])
            assert [frame_number(from_bytes(i.data)) for i in images.packets(range(12))] == list(range(12))

    @pytest.mark.parametrize("summary", [True, False])
    def test_chunks_without_message_indexes_are_walked(self, plain, tmp_path, summary):
        path = rewritten(plain, tmp_path / "other.mcap", summary=summary, message_indexes=False)
        np.testing.assert_array_equal(read(path, "/joint_states").values, ARM.values)

    def test_an_index_sorted_by_time_gives_the_order_recorded(self, tmp_path):
        arm = Joints(ARM.stamps_ns[::-1].copy(), ARM.values)
        path = write_samples(tmp_path / "0.mcap", "ros2", samples_of(arm), chunk_size=10**6)
        with open_mcap(path) as recording:
            table = recording._index.table("/joint_states")
            assert (np.diff(table.offsets) > 0).all()
            np.testing.assert_array_equal(table.log_ns, arm.stamps_ns)

    def test_a_damaged_summary_is_replaced_by_a_scan(self, plain, tmp_path):
        data = bytearray(plain.read_bytes())
        (start,) = struct.unpack_from("<Q", data, len(data) - 8 - 20)
        data[start + 40] ^= 0xFF
        (tmp_path / "d.mcap").write_bytes(data)
        np.testing.assert_array_equal(read(tmp_path / "d.mcap", "/joint_states").values, ARM.values)

    def test_topic_after_topic_is_one_episode(self, tmp_path):
        path = standard(tmp_path / "0.mcap", topic_after_topic=True)
        with open_mcap(path) as recording:
            assert len(recording.spans()) == 1
        np.testing.assert_array_equal(read(path, "/joint_states").stamps_ns, ARM.stamps_ns)

    def test_a_topic_published_by_two_channels_is_one_stream(self, tmp_path):
        with open(tmp_path / "0.mcap", "wb") as file:
            writer = McapWriter(file)
            writer.start()
            schema = writer.register_schema("S", "jsonschema", b"{}")
            for k in range(6):
                channel = writer.register_channel("/x", "json", schema, {"publisher": str(k // 3)})
                writer.add_message(channel, k, f'{{"value": {k}}}'.encode(), k)
            writer.finish()
        assert read(tmp_path / "0.mcap", "/x").values[:, 0].tolist() == [0, 1, 2, 3, 4, 5]

    def test_only_chunks_with_the_topic_are_decompressed(self, tmp_path):
        path = standard(tmp_path / "0.mcap", topic_after_topic=True, chunk_size=2_000)
        with open_mcap(path) as recording:
            span = recording.spans()[0]
            recording.numbers(Source("/joint_states"), span)
            table = recording._index.table("/joint_states")
            assert recording._index.chunks.loads == len(set(table.chunks.tolist())) < len(recording._index.contents.chunks)

    def test_image_stamps_of_the_log_clock_need_one_chunk(self, tmp_path):
        with open_mcap(standard(tmp_path / "0.mcap", chunk_size=2_000)) as recording:
            stream = recording.images(Source("/cam/high"), recording.spans()[0])
            assert len(stream.stamps_ns) == 12
            assert recording._index.chunks.loads == 1

    def test_cameras_read_together_share_their_chunks(self, tmp_path):
        with open_mcap(standard(tmp_path / "0.mcap", chunk_size=4_000)) as recording:
            streams = [recording.images(Source(name), recording.spans()[0]) for name in CAMERAS]
            for _ in zip(*(s.packets(range(12)) for s in streams), strict=True):
                pass
            assert recording._index.chunks.loads <= len(recording._index.contents.chunks)


class TestImages:
    def test_jpeg_bytes_are_those_recorded(self, plain):
        with open_mcap(plain) as recording:
            stream = recording.images(Source("/cam/wrist"), recording.spans()[0])
            assert stream.codec == "jpeg"
            assert [frame_number(from_bytes(i.data)) for i in stream.packets([3, 3, 7, 11])] == [3, 3, 7, 11]

    @pytest.mark.parametrize("said", ["jpeg", "rgb8; jpeg compressed bgr8", "png", ""])
    def test_the_bytes_say_what_a_compressed_image_is_and_not_its_format(self, tmp_path, said):
        sample = Sample("/c", "CompressedImage", START_NS + 1, {"format": said, "data": jpeg()})
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", [sample])) as recording:
            assert recording.images(Source("/c"), recording.spans()[0]).codec == "jpeg"

    def test_an_unknown_image_encoding_is_named_with_the_known_ones(self, tmp_path):
        sample = Sample("/c", "CompressedImage", START_NS + 1, {"format": "webp", "data": b"RIFF1234WEBP"})
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", [sample])) as recording:
            assert recording.streams()[0].kind == "other"
            with pytest.raises(UnknownEncodingError, match=r"/c.*webp.*JPEG"):
                recording.images(Source("/c"), recording.spans()[0])

    @pytest.mark.parametrize(
        ("encoding", "channels", "bgr", "expected"),
        [
            ("rgb8", 3, False, [1, 2, 3]),
            ("rgb8", 3, True, [3, 2, 1]),
            ("bgr8", 3, False, [3, 2, 1]),
            ("bgr8", 3, True, [3, 2, 1]),
            ("rgba8", 4, False, [1, 2, 3]),
            ("bgra8", 4, False, [3, 2, 1]),
            ("mono8", 1, False, [1, 1, 1]),
        ],
    )
    def test_raw_images_become_rgb(self, tmp_path, encoding, channels, bgr, expected):
        row = bytes(range(1, channels + 1)) * 5
        content = {"height": 2, "width": 5, "encoding": encoding, "step": len(row) + 3, "data": (row + b"\xff\xff\xff") * 2}
        path = write_samples(tmp_path / "0.mcap", "ros2", [Sample("/c", "Image", START_NS + 1, content)])
        with open_mcap(path, bgr_sources=frozenset({"/c"} if bgr else ())) as recording:
            image = next(iter(recording.images(Source("/c"), recording.spans()[0]).packets([0])))
        assert image.data.tolist() == [[expected] * 5] * 2

    def test_depth_images_are_refused_by_name(self, tmp_path):
        content = {"height": 2, "width": 2, "encoding": "16UC1", "step": 4, "data": bytes(8)}
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", [Sample("/c", "Image", START_NS + 1, content)])) as recording:
            assert (recording.streams()[0].kind, recording.streams()[0].encoding) == ("other", "cdr: 16UC1")
            with pytest.raises(UnknownEncodingError, match=r"found 16UC1.*rgb8"):
                recording.images(Source("/c"), recording.spans()[0])

    def test_a_raw_image_cut_short_is_named_with_its_frame(self, tmp_path):
        whole = {"height": 2, "width": 2, "encoding": "rgb8", "step": 6, "data": bytes(12)}
        samples = [Sample("/c", "Image", START_NS + 1, whole), Sample("/c", "Image", START_NS + 2, {**whole, "data": bytes(5)})]
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", samples)) as recording:
            stream = recording.images(Source("/c"), recording.spans()[0])
            with pytest.raises(RecordingFormatError, match=r"stream /c, frame 1.*found 5 bytes"):
                list(stream.packets([0, 1]))


def jpeg() -> bytes:
    from vla_ops_tests.recordings.pictures import as_jpeg

    return as_jpeg(camera(1).pictures[0])


class TestMetadata:
    def test_values_written_as_json_and_plain_ones_read_alike(self, tmp_path):
        tasks = [{"task_name": '"put_cup"', "task_id": '"7"'}, {"task_name": "put_cup", "task_id": "7"}]
        for k, info in enumerate(tasks):
            path = write_mcap(tmp_path / f"{k}.mcap", joints={"/j": ARM}, extras=Extras({"task_info": info}))
            with open_mcap(path) as recording:
                assert recording.metadata() == {"task_info.task_name": "put_cup", "task_info.task_id": "7"}
                assert recording.spans()[0].task == "put_cup"

    def test_the_description_is_the_task_unless_it_is_empty(self, tmp_path):
        for description, task in (('"fold the cloth"', "fold the cloth"), ('""', "fold"), ('" "', "fold")):
            extras = Extras({"task_info": {"task_name": '"fold"', "task_description": description}})
            with open_mcap(write_mcap(tmp_path / "0.mcap", joints={"/j": ARM}, extras=extras)) as recording:
                assert recording.spans()[0].task == task

    def test_joint_names_come_from_component_info_where_the_messages_have_none(self, tmp_path):
        info = b'{"/left/follow": {"arm/joint_names": ["a", "b", "c", "d", "e", "f", "g"], "eef/joint_names": ["gripper"]}}'
        topics = {"/left/follow/arm/joint_state/position": ARM, "/right/follow/arm/joint_state/position": ARM}
        extras = Extras(attachments=[("component_info", "application/json", info)])
        path = write_mcap(tmp_path / "0.mcap", "airbot", joints=topics, extras=extras)
        assert read(path, "/left/follow/arm/joint_state/position").names == tuple("abcdefg")
        assert read(path, "/right/follow/arm/joint_state/position").names == ()


def test_stamps_begin_where_the_files_say():
    assert stamps(3, 100).tolist() == [START_NS, START_NS + 10_000_000, START_NS + 20_000_000]
