"""Streams that are video already are copied where they can be and decoded in the order they are shown where not."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from vla_ops.errors import RecordingFormatError, SpecError
from vla_ops.spec import VideoSpec
from vla_ops_tests.episodes.mp4s import AV1, COPY, H264, barcodes, packets, shown, write
from vla_ops_tests.episodes.streams import VideoFrames, encode_packets


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
