"""The MCAP reader on files written by the libraries that robots use, whole, cut off and damaged, and on real recordings."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter

from vla_ops.errors import (
    RecordingError,
    RecordingFormatError,
    SchemaMismatchError,
    StreamNotFoundError,
    UnknownEncodingError,
)
from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Source
from vla_ops.recordings.mcap import McapRecording
from vla_ops_tests.recordings.contract import Contents, RecordingContract
from vla_ops_tests.recordings.mcap_files import (
    HEADER_LEAD_NS,
    PUBLISH_LEAD_NS,
    START_NS,
    Extras,
    Joints,
    Sample,
    camera,
    joints,
    mp4_bytes,
    rewritten,
    stamps,
    write_mcap,
    write_samples,
)
from vla_ops_tests.recordings.pictures import frame_number, from_bytes

ENCODINGS = ("ros2", "ros1", "protobuf", "json", "airbot")
ARM = joints()
CAMERAS = {"/cam/high": camera(), "/cam/wrist": camera(number=1, rate_hz=25)}


def open_mcap(path: Path, **options) -> McapRecording:
    recording = open_recording(str(path), "mcap", OpenOptions(**options))
    assert isinstance(recording, McapRecording)
    return recording


def read(path: Path, source: str, **options):
    with open_mcap(path, **options) as recording:
        return recording.numbers(Source.parse(source), recording.spans()[0])


def standard(path: Path, encoding="ros2", **options) -> Path:
    return write_mcap(path, encoding, joints={"/joint_states": ARM}, cameras=CAMERAS, **options)


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


def samples_of(arm: Joints, topic: str = "/joint_states") -> list[Sample]:
    return [
        Sample(topic, "JointState", stamp, {"name": list(arm.joint_names), "position": row, "velocity": row})
        for stamp, row in zip(arm.stamps_ns.tolist(), arm.values.tolist(), strict=True)
    ]


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


class TestClocks:
    @pytest.mark.parametrize("encoding", ENCODINGS)
    @pytest.mark.parametrize(("clock", "lead"), [("log", 0), ("publish", PUBLISH_LEAD_NS), ("header", HEADER_LEAD_NS)])
    def test_the_clock_asked_for_is_read(self, tmp_path, encoding, clock, lead):
        path = standard(tmp_path / "0.mcap", encoding)
        with open_mcap(path, clock=clock) as recording:
            stream = recording.images(Source("/cam/wrist"), recording.spans()[0])
        np.testing.assert_array_equal(stream.stamps_ns, CAMERAS["/cam/wrist"].stamps_ns - lead)
        if (encoding, clock) != ("airbot", "header"):
            np.testing.assert_array_equal(read(path, "/joint_states", clock=clock).stamps_ns, ARM.stamps_ns - lead)

    def test_messages_without_a_stamp_of_their_own_are_named(self, tmp_path):
        path = standard(tmp_path / "0.mcap", "airbot")
        with pytest.raises(RecordingError, match=r"no stamp of their own.*/joint_states.*clock: log"):
            read(path, "/joint_states", clock="header")


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


class TestDamagedFiles:
    @pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
    def test_a_file_cut_off_is_refused_and_says_how_much_is_whole(self, plain, tmp_path, share):
        cut = self.cut(plain, tmp_path, share)
        with pytest.raises(
            RecordingFormatError,
            match=r"cut off.*byte \d+.*(0 messages in 0 chunks.*no message|messages in \d+ chunks.*truncated: keep_whole)",
        ):
            open_mcap(cut)

    @pytest.mark.parametrize("chunked", [True, False])
    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    def test_what_is_whole_can_be_kept(self, plain, tmp_path, share, chunked):
        source = rewritten(plain, tmp_path / "w.mcap", chunked=chunked, chunk_size=4_000)
        numbers = read(self.cut(source, tmp_path, share), "/joint_states", allow_truncated=True)
        count = len(numbers.values)
        assert 0.15 * len(ARM.values) < count < len(ARM.values) or share > 0.9
        np.testing.assert_array_equal(numbers.values, ARM.values[:count])
        np.testing.assert_array_equal(numbers.stamps_ns, ARM.stamps_ns[:count])

    def test_zeros_in_place_of_the_end_are_a_cut(self, plain, tmp_path):
        data = plain.read_bytes()
        (tmp_path / "z.mcap").write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
        with pytest.raises(RecordingFormatError, match="cut off"):
            open_mcap(tmp_path / "z.mcap")
        assert 0 < len(read(tmp_path / "z.mcap", "/joint_states", allow_truncated=True).values) < len(ARM.values)

    @pytest.mark.parametrize("step", [997])
    def test_every_cut_is_either_read_or_refused_as_a_recording_error(self, plain, tmp_path, step):
        size = plain.stat().st_size
        for end in [*range(8, size, step), size - 1]:
            (tmp_path / "c.mcap").write_bytes(plain.read_bytes()[:end])
            with open_mcap(tmp_path / "c.mcap", allow_truncated=True) as recording:
                listed = {s.name: s.count for s in recording.streams()}
                if listed.get("/joint_states"):
                    numbers = recording.numbers(Source("/joint_states"), recording.spans()[0])
                    np.testing.assert_array_equal(numbers.values, ARM.values[: listed["/joint_states"]])

    def test_flipped_bytes_never_raise_anything_but_recording_errors(self, plain, tmp_path):
        random, refused = np.random.default_rng(0), 0
        for _ in range(60):
            data = bytearray(plain.read_bytes())
            for at in random.integers(8, len(data), 5):
                data[at] ^= int(random.integers(1, 256))
            (tmp_path / "f.mcap").write_bytes(data)
            try:
                with open_mcap(tmp_path / "f.mcap", allow_truncated=True) as recording:
                    for info in recording.streams():
                        if info.kind == "numbers":
                            recording.numbers(Source(info.name), recording.spans()[0])
            except (RecordingError, SchemaMismatchError):
                refused += 1
        # Some bytes matter and some do not; anything else that is raised fails the test.
        assert 0 < refused <= 60

    def test_an_empty_file_is_named(self, tmp_path):
        (tmp_path / "0.mcap").touch()
        with pytest.raises(RecordingFormatError, match="the file is empty"):
            open_mcap(tmp_path / "0.mcap")

    def test_a_file_that_is_not_there_and_a_folder_are_recording_errors(self, tmp_path):
        with pytest.raises(RecordingError, match="No such file"):
            open_mcap(tmp_path / "none.mcap")
        with pytest.raises(RecordingError):
            open_mcap(tmp_path)

    def test_a_damaged_chunk_is_found_by_its_crc(self, plain, tmp_path):
        path = rewritten(plain, tmp_path / "n.mcap", compression=CompressionType.NONE)
        data = bytearray(path.read_bytes())
        with open_mcap(path) as recording:
            chunk = recording._index.contents.chunks[0]
        data[chunk.start + chunk.size - 5] ^= 1
        path.write_bytes(data)
        with pytest.raises(RecordingFormatError, match=r"chunk is damaged.*CRC"):
            read(path, "/joint_states")

    def test_reading_after_closing_says_so(self, plain):
        recording = open_mcap(plain)
        span = recording.spans()[0]
        recording.close()
        with pytest.raises(RecordingError, match="closed"):
            recording.numbers(Source("/joint_states"), span)

    def test_no_file_stays_open(self, plain, tmp_path):
        (tmp_path / "bad.mcap").write_bytes(b"PACM" * 20)
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with open_mcap(plain) as recording:
                recording.streams()
            with pytest.raises(RecordingFormatError):
                open_mcap(tmp_path / "bad.mcap")
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    @staticmethod
    def cut(source: Path, folder: Path, share: float) -> Path:
        data = source.read_bytes()
        (folder / "cut.mcap").write_bytes(data[: int(len(data) * share)])
        return folder / "cut.mcap"


class TestClockJumps:
    def test_each_run_of_the_clock_is_an_episode_with_its_own_messages(self, tmp_path):
        runs = [Joints(ARM.stamps_ns[: 10 + k], ARM.values[: 10 + k] + k) for k in range(3)]
        samples = [s for arm in runs for s in samples_of(arm)]
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", samples)) as recording:
            spans = recording.spans()
            assert [span.clock_jump for span in spans] == [
                None,
                "the clock of /joint_states jumps back 0.090 s at message 10",
                "the clock of /joint_states jumps back 0.100 s at message 21",
            ]
            for span, arm in zip(spans, runs, strict=True):
                np.testing.assert_array_equal(recording.numbers(Source("/joint_states"), span).values, arm.values)

    def test_a_topic_without_messages_in_a_run_is_named_with_the_run(self, tmp_path):
        samples = [*samples_of(ARM), *samples_of(ARM), *samples_of(ARM, "/late")]
        with open_mcap(write_samples(tmp_path / "0.mcap", "ros2", samples)) as recording:
            first, second = recording.spans()
            assert len(recording.numbers(Source("/late"), second).values) == len(ARM.values)
            with pytest.raises(StreamNotFoundError, match=r"no messages in this episode \[episode run_0, stream /late\]"):
                recording.numbers(Source("/late"), first)

    def test_only_the_streams_that_will_be_read_divide_a_file(self, tmp_path):
        other = Joints(np.concatenate([ARM.stamps_ns[:10], ARM.stamps_ns[:10]]), ARM.values[:20])
        path = write_mcap(tmp_path / "0.mcap", "ros2", joints={"/arm": ARM, "/other": other}, topic_after_topic=True)
        with open_mcap(path, streams=frozenset({"/arm.position[0:3]"})) as recording:
            assert [span.clock_jump for span in recording.spans()] == [None]
        for streams in (None, frozenset({"/arm", "/other"})):
            with open_mcap(path, streams=streams) as recording:
                assert len(recording.spans()) == 2

    def test_a_stream_that_a_divided_file_was_not_opened_for_is_refused(self, tmp_path):
        other = Joints(np.concatenate([ARM.stamps_ns[:10], ARM.stamps_ns[:10]]), ARM.values[:20])
        path = write_mcap(tmp_path / "0.mcap", "ros2", joints={"/arm": ARM, "/other": other}, topic_after_topic=True)
        with open_mcap(path, streams=frozenset({"/other"})) as recording:
            assert [s.name for s in recording.streams()] == ["/arm", "/other"]
            with pytest.raises(RecordingError, match=r"was not among those it was opened for \[episode run_0, stream /arm\]"):
                recording.numbers(Source.parse("/arm"), recording.spans()[0])

    def test_a_video_cannot_be_divided_among_runs(self, tmp_path):
        video = mp4_bytes(CAMERAS["/cam/high"].pictures, CAMERAS["/cam/high"].stamps_ns)
        extras = Extras(attachments=[("/video", "video/mp4", video)])
        path = write_samples(tmp_path / "0.mcap", "ros2", samples_of(ARM) * 2, extras=extras)
        with open_mcap(path) as recording, pytest.raises(RecordingError, match="divided among the runs"):
            recording.images(Source("/video"), recording.spans()[0])


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


def test_stamps_begin_where_the_files_say():
    assert stamps(3, 100).tolist() == [START_NS, START_NS + 10_000_000, START_NS + 20_000_000]
