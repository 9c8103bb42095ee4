"""Streams that are video already are copied where they can be and decoded in the order they are shown where not."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from mcap.writer import Writer

from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.episodes.keyframes import from_first_keyframe
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import RecordingFormatError, SpecError
from vla_ops.spec import VideoSpec
from vla_ops_tests.episodes.ingesting import robot_at
from vla_ops_tests.episodes.mp4s import AV1, COPY, H264, barcodes, packets, shown, write
from vla_ops_tests.episodes.streams import JpegFrames, VideoFrames, encode_packets


class TestRecordedVideo:
    @pytest.mark.parametrize(("codec", "spec"), [("h264", H264), ("h264", COPY), ("hevc", COPY), ("av1", AV1), ("av1", COPY)])
    def test_video_in_the_codec_asked_for_is_copied(self, codec, spec, tmp_path):
        stream = VideoFrames(25, codec=codec)
        video = write(tmp_path, stream, spec)
        assert barcodes(tmp_path / "cam.mp4") == list(range(25))
        assert (video.info.codec, video.info.frames, video.info.encoder) == (codec, 25, {})
        copied, recorded = sum(map(len, packets(tmp_path / "cam.mp4"))), sum(map(len, stream.coded))
        assert abs(copied - recorded) <= 4 * 25
        assert video.stats["count"] == [25]

    def test_video_may_be_copied_from_a_later_keyframe_on(self, tmp_path):
        video = write(tmp_path, VideoFrames(30), H264, list(range(10, 26)))
        assert video.info.encoder == {}
        assert barcodes(tmp_path / "cam.mp4") == list(range(10, 26))

    @pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
    @pytest.mark.parametrize("b_frames", [0, 2])
    def test_video_that_cannot_be_copied_is_decoded_from_its_start_and_encoded(self, codec, b_frames, tmp_path):
        indices = [3, 3, 4, 8, 9, 17, 17, 24]
        video = write(tmp_path, VideoFrames(25, codec=codec, b_frames=b_frames), H264, indices)
        assert barcodes(tmp_path / "cam.mp4") == indices
        assert video.info.encoder["preset"] == "veryfast"

    def test_video_with_b_frames_is_encoded_again(self, tmp_path):
        video = write(tmp_path, VideoFrames(25, b_frames=2), H264)
        assert video.info.encoder["preset"] == "veryfast"
        assert barcodes(tmp_path / "cam.mp4") == list(range(25))

    @pytest.mark.parametrize("codec", ["h264", "av1"])
    @pytest.mark.parametrize("matrix", [1, 5], ids=["bt709", "bt601"])
    @pytest.mark.parametrize("full_range", [False, True], ids=["limited", "full"])
    def test_colors_of_video_are_right_whatever_its_matrix_and_range(self, codec, matrix, full_range, tmp_path):
        stream = VideoFrames(4, codec=codec)
        images = [np.full((96, 128, 3), color, np.uint8) for color in [(200, 40, 40), (40, 200, 40), (40, 40, 200), (250, 250, 250)]]
        stream.coded = encode_packets(images, codec, matrix=matrix, full_range=full_range)
        video = write(tmp_path, stream, VideoSpec(codec="h264" if codec == "av1" else "av1", crf=10))
        for image, expected in zip(shown(tmp_path / "cam.mp4"), images, strict=True):
            assert np.abs(image.astype(int) - expected).max() <= 8
        mean = np.mean([image.mean(axis=(0, 1)) for image in images], axis=0)
        assert np.ravel(video.stats["mean"]) == pytest.approx(mean / 255, abs=3 / 255)

    @pytest.mark.parametrize(
        ("stream", "indices", "reason"),
        [
            (VideoFrames(12), [0, 1, 1, 2], "repeat or skip"),
            (VideoFrames(12), [1, 2, 3], "not a keyframe"),
            (VideoFrames(12, b_frames=2), list(range(12)), "B-frames"),
        ],
    )
    def test_copy_says_why_video_cannot_be_copied_and_what_to_set(self, stream, indices, reason, tmp_path):
        with pytest.raises(SpecError, match=reason) as caught:
            write(tmp_path, stream, COPY, indices)
        assert "Set dataset.video.codec to av1 or h264" in str(caught.value)

    def test_a_recording_that_starts_between_keyframes_is_read_from_its_first_keyframe(self, tmp_path):
        stream = VideoFrames(25)
        del stream.coded[:4]
        stream.count = 21
        write(tmp_path, stream, AV1, [6, 7, 9, 20])
        assert barcodes(tmp_path / "cam.mp4") == [10, 11, 13, 24]
        with pytest.raises(RecordingFormatError, match=r"before the first keyframe.*image 5") as caught:
            write(tmp_path, stream, AV1, [5, 6])
        assert "/camera" in str(caught.value)

    def test_length_prefixed_packets_are_refused(self, tmp_path):
        stream = VideoFrames(5)
        stream.coded = [len(packet).to_bytes(4, "big") + packet[4:] for packet in stream.coded]
        with pytest.raises(RecordingFormatError, match="length-prefixed"):
            write(tmp_path, stream, AV1)

    def test_video_that_ends_early_is_refused(self, tmp_path):
        stream = VideoFrames(25)
        stream.replaced = {24: b"\x00\x00\x00\x01\x09\x10"}
        with pytest.raises(RecordingFormatError, match="/camera"):
            write(tmp_path, stream, AV1, [0, 24])

    @pytest.mark.parametrize("spec", [AV1, H264], ids=["encoded", "copied"])
    def test_frozen_video_is_seen_in_its_pictures(self, spec, tmp_path):
        stream = VideoFrames(20, gop=20)
        stream.coded = encode_packets([stream.scene(min(k, 8)) for k in range(20)], "h264", gop=20)
        assert write(tmp_path, stream, spec).measured["frozen_frames"] >= 10


def test_the_h264_of_a_real_robot_is_decoded_in_the_order_it_is_shown(recordings_dir, tmp_path):
    """The collector's x264 makes B-frames, so packets are not in the order of the images."""
    from av.bitstream import BitStreamFilterContext
    from mcap.reader import make_reader

    with open(recordings_dir / "mcap" / "airbot_ptk_h264.mcap", "rb") as file:
        recorded = next(each.data for each in make_reader(file).iter_attachments() if each.media_type == "video/mp4")
    with av.open(io.BytesIO(recorded)) as container:
        expected = [frame.to_ndarray(format="gray")[::4, ::4] for frame in container.decode(video=0)]
    with av.open(io.BytesIO(recorded)) as container:
        to_annexb = BitStreamFilterContext("h264_mp4toannexb", container.streams.video[0])
        coded = [bytes(out) for packet in container.demux(video=0) for out in to_annexb.filter(packet)]
    stream = VideoFrames(len(coded))
    stream.coded = coded
    indices = list(range(0, len(coded), 3))
    video = write(tmp_path, stream, VideoSpec(codec="h264", crf=10), indices)
    assert video.info.frames == len(indices)
    with av.open(str(tmp_path / "cam.mp4")) as container:
        written = [frame.to_ndarray(format="gray")[::4, ::4].astype(int) for frame in container.decode(video=0)]
    for image, index in zip(written, indices, strict=True):
        errors = [np.abs(image - other).mean() for other in expected]
        assert errors[index] == min(errors)


class TestVideoThatBeginsBetweenKeyframes:
    @pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
    def test_it_is_as_if_recording_had_begun_at_the_first_keyframe(self, codec):
        stream, notes = cut_in(VideoFrames(25, codec=codec), 4), list[str]()
        later = from_first_keyframe(stream, notes)
        assert later.stamps_ns.tolist() == stream.stamps_ns[6:].tolist()
        assert [image.data for image in later.packets([0, 0, 3])] == [stream.coded[k] for k in (6, 6, 9)]
        assert (later.name, later.codec) == ("/camera", codec)
        assert notes == ["the 6 image(s) of /camera before its first keyframe (0.200 s) cannot be decoded and are not used"]

    def test_a_stream_that_begins_at_a_keyframe_or_is_no_video_is_left_alone_and_read_no_further(self):
        for stream in (VideoFrames(25), JpegFrames(25, replaced=dict.fromkeys(range(25), b""))):
            notes: list[str] = []
            assert from_first_keyframe(stream, notes) is stream
            assert notes == []

    def test_without_any_keyframe_the_decoder_says_what_is_missing(self, tmp_path):
        stream, notes = cut_in(VideoFrames(6, gop=12), 2), list[str]()
        assert from_first_keyframe(stream, notes) is stream
        assert notes == []
        with pytest.raises(RecordingFormatError, match="no keyframe with its parameter sets"):
            write(tmp_path, stream, AV1)

    @pytest.mark.parametrize("codec", ["av1", "h264", "copy"])
    def test_the_episode_begins_at_the_first_keyframe_and_says_why(self, codec, tmp_path):
        """Images 3 to 39 of an H.264 camera with a keyframe every 10, and a joint sample for each."""
        (tmp_path / "raw").mkdir()
        recorded = range(3, 40)
        record_video(tmp_path / "raw" / "a.mcap", VideoFrames(40), recorded)
        sections = {
            "state": [{"source": "/q.position", "names": ["a", "b"], "unit": "rad"}],
            "cameras": {"front": {"source": "/cam", "role": "base"}},
            "dataset": {"repo_id": "local/arm", "video": {"codec": codec}},
        }
        robot = robot_at(tmp_path / "raw", "*.mcap", "mcap", **sections)
        store = RobotStore.of("arm", tmp_path / "home")
        result = convert_recording(ConversionJob("a.mcap", str(tmp_path / "raw" / "a.mcap"), "v1", robot.spec, store.root))
        assert result.quarantined is None
        assert result.notes == [
            "episode a: the 7 image(s) of /cam before its first keyframe (0.350 s) cannot be decoded and are not used",
        ]
        (episode,) = store.read_episodes("a.mcap")
        assert barcodes(episode.video("front")) == list(range(10, 39))
        states = np.array(pq.read_table(episode.frames)["observation.state"].to_pylist())
        assert np.allclose(states[:, 0], np.arange(10, 39) / 100)
        assert (episode.meta.videos["front"].encoder == {}) == (codec in ("h264", "copy"))


def cut_in(stream: VideoFrames, missing: int) -> VideoFrames:
    """The stream as recorded by one that missed its first images."""
    stream.coded = stream.coded[missing:]
    stream.count -= missing
    return stream


def record_video(path: Path, stream: VideoFrames, images: range) -> None:
    """Some images of a stream as foxglove.CompressedVideo on /cam at 20 Hz, and with each the joints [k / 100, 0] on /q."""
    with open(path, "wb") as file:
        writer = Writer(file)
        writer.start()
        channels = {
            topic: writer.register_channel(topic, "json", writer.register_schema(schema, "jsonschema", b'{"type": "object"}'))
            for topic, schema in (("/cam", "foxglove.CompressedVideo"), ("/q", "Joints"))
        }
        for k in images:
            stamp = 10**18 + k * 50_000_000
            video = {"timestamp": {"sec": 0, "nsec": 0}, "format": "h264", "data": base64.b64encode(stream.coded[k]).decode()}
            for topic, message in (("/cam", video), ("/q", {"position": [k / 100, 0.0]})):
                writer.add_message(channels[topic], stamp, json.dumps(message).encode(), stamp)
        writer.finish()
