"""Image streams become mp4s whose every frame is the right one at exactly the right time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla_ops.episodes.video import Track, write_videos
from vla_ops.errors import RecordingFormatError, SchemaMismatchError, SpecError, UnknownEncodingError
from vla_ops.spec import VideoSpec
from vla_ops_tests.episodes.mp4s import AV1, COPY, EACH, ENCODED, H264, RATE_HZ, barcodes, packets, plain, shown, write
from vla_ops_tests.episodes.streams import Frames, JpegFrames, PngFrames, jpeg, read_barcode, scene


def extradata(path: Path) -> bytes | None:
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.extradata


def no_video_threads() -> bool:
    return not any(thread.name.startswith("video") for thread in threading.enumerate())


class TestTime:
    @EACH
    @pytest.mark.parametrize("rate_hz", [7, 10, 20, 30, 50, 120])
    def test_every_packet_is_at_exactly_k_over_rate_and_lasts_one_step(self, spec, rate_hz, tmp_path):
        write(tmp_path, JpegFrames(11), spec, rate_hz=rate_hz)
        with av.open(str(tmp_path / "cam.mp4")) as container:
            stream = container.streams.video[0]
            found = [
                (packet.pts * stream.time_base, packet.dts * stream.time_base, packet.duration * stream.time_base)
                for packet in container.demux(stream)
                if packet.pts is not None
            ]
            assert found == [(Fraction(k, rate_hz), Fraction(k, rate_hz), Fraction(1, rate_hz)) for k in range(11)]
            assert stream.duration * stream.time_base == Fraction(11, rate_hz)
            assert (stream.start_time, stream.average_rate) == (0, rate_hz)

    @EACH
    def test_there_is_no_edit_list(self, spec, tmp_path):
        write(tmp_path, JpegFrames(5), spec)
        assert b"elst" not in (tmp_path / "cam.mp4").read_bytes()

    @EACH
    def test_an_episode_of_one_frame_has_one_frame(self, spec, tmp_path):
        video = write(tmp_path, JpegFrames(3), spec, indices=[1])
        assert (video.info.frames, video.stats["count"], barcodes(tmp_path / "cam.mp4")) == (1, [1], [1])

    @ENCODED
    def test_keyframes_are_every_gop_frames(self, spec, tmp_path):
        write(tmp_path, JpegFrames(9), spec.model_copy(update={"gop": 3}))
        with av.open(str(tmp_path / "cam.mp4")) as container:
            keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.pts is not None]
        assert keys == [k % 3 == 0 for k in range(9)]


class TestContent:
    @EACH
    def test_repeated_and_skipped_images_are_at_their_frames(self, spec, tmp_path):
        indices = [0, 0, 1, 1, 1, 2, 5, 6, 9, 9, 29, 29]
        write(tmp_path, JpegFrames(30), spec, indices)
        assert barcodes(tmp_path / "cam.mp4") == indices

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.integers(0, 1999), min_size=1, max_size=40).map(sorted), st.sampled_from([H264, COPY]))
    def test_any_placement_shows_the_right_images(self, tmp_path, indices, spec):
        write(tmp_path, JpegFrames(2000, height=64), spec, indices)
        assert barcodes(tmp_path / "cam.mp4") == indices

    @EACH
    @pytest.mark.parametrize("subsampling", [0, 1, 2])
    def test_colors_are_those_of_a_plain_jpeg_decode(self, spec, subsampling, tmp_path):
        stream = JpegFrames(4, height=192, width=256, subsampling=subsampling)
        write(tmp_path, stream, spec.model_copy(update={"crf": 15}))
        for number, image in enumerate(shown(tmp_path / "cam.mp4")):
            difference = image[12:].astype(int) - plain(stream.encoded(number))[12:]
            assert np.abs(difference).mean() < 3
            assert np.abs(difference.mean(axis=(0, 1))).max() < 2

    @ENCODED
    @pytest.mark.parametrize(
        "stream", [PngFrames(6), PngFrames(6, mode="RGBA"), PngFrames(6, mode="P"), Frames(6)], ids=["png", "rgba", "palette", "raw"]
    )
    def test_png_and_raw_images_keep_their_colors(self, stream, spec, tmp_path):
        write(tmp_path, stream, spec.model_copy(update={"crf": 15}))
        assert barcodes(tmp_path / "cam.mp4") == list(range(6))
        tolerance = 12 if getattr(stream, "mode", "") == "P" else 3
        assert np.abs(shown(tmp_path / "cam.mp4")[3][12:].astype(int) - scene(3, 96, 128)[12:]).mean() < tolerance

    @EACH
    def test_a_grey_jpeg_is_a_grey_video(self, spec, tmp_path):
        stream = JpegFrames(4, mode="L")
        write(tmp_path, stream, spec)
        image = shown(tmp_path / "cam.mp4")[2].astype(int)
        assert read_barcode(image) == 2
        assert np.abs(image[12:] - plain(stream.encoded(2))[12:]).mean() < 3
        assert np.ptp(image[12:], axis=-1).max() <= 6

    def test_the_copied_packets_are_the_recorded_bytes_without_padding(self, tmp_path):
        stream = JpegFrames(5)
        stream.replaced[3] = stream.encoded(3) + bytes(50)
        info = write(tmp_path, stream, COPY, [0, 1, 1, 3, 4]).info
        assert packets(tmp_path / "cam.mp4") == [stream.encoded(k) for k in (0, 1, 1, 3, 4)]
        assert (info.codec, info.pix_fmt, info.encoder) == ("mjpeg", "yuvj420p", {})

    def test_the_encoder_settings_are_described_as_lerobot_does(self, tmp_path):
        info = write(tmp_path, JpegFrames(3), AV1).info
        assert (info.height, info.width, info.codec, info.pix_fmt, info.frames) == (96, 128, "av1", "yuv420p", 3)
        assert info.encoder == {"g": 2, "crf": 30, "preset": 12, "fast_decode": 0, "video_backend": "pyav", "extra_options": {}}

    @EACH
    def test_two_episodes_have_the_same_stream_parameters(self, spec, tmp_path):
        (tmp_path / "one").mkdir()
        (tmp_path / "other").mkdir()
        write(tmp_path / "one", JpegFrames(4), spec)
        write(tmp_path / "other", JpegFrames(31, quality=60), spec, list(range(7, 31)))
        assert extradata(tmp_path / "one" / "cam.mp4") == extradata(tmp_path / "other" / "cam.mp4")

    def test_jpeg_and_raw_cameras_have_the_same_stream_parameters(self, tmp_path):
        for name, stream in {"one": JpegFrames(4), "other": Frames(4)}.items():
            (tmp_path / name).mkdir()
            write(tmp_path / name, stream, AV1)
        assert extradata(tmp_path / "one" / "cam.mp4") == extradata(tmp_path / "other" / "cam.mp4")


class TestBadInput:
    @EACH
    def test_a_resolution_that_changes_midway_names_camera_frame_and_both_sizes(self, spec, tmp_path):
        stream = JpegFrames(20, replaced={13: jpeg(scene(13, 96, 160))})
        with pytest.raises(SchemaMismatchError) as caught:
            write(tmp_path, stream, spec, [0, 0, *range(1, 20)])
        said = str(caught.value)
        assert all(part in said for part in ("camera cam", "frame 14", "160 x 96", "128 x 96")), said

    @EACH
    @pytest.mark.parametrize("damage", ["garbage", "empty", "cut off", "cut off in the header"])
    def test_a_jpeg_that_is_damaged_names_camera_stream_and_image(self, damage, spec, tmp_path):
        good = jpeg(scene(7, 96, 128))
        bad = {"garbage": b"garbage" * 99, "empty": b"", "cut off": good[: len(good) // 2], "cut off in the header": good[:30]}[damage]
        with pytest.raises(RecordingFormatError) as caught:
            write(tmp_path, JpegFrames(20, replaced={7: bad}), spec)
        said = str(caught.value)
        assert all(part in said for part in ("stream /camera", "camera cam", "image 7")), said

    @EACH
    def test_a_jpeg_with_a_hole_in_it_is_refused_where_it_is_decoded(self, spec, tmp_path):
        good = jpeg(scene(7, 96, 128))
        hole = good[: len(good) // 2] + b"\xff\xd9"
        with pytest.raises(RecordingFormatError, match=r"does not decode.*image 7"):
            write(tmp_path, JpegFrames(20, replaced={7: hole}), spec)

    @ENCODED
    def test_an_odd_size_is_refused_with_what_to_do(self, spec, tmp_path):
        with pytest.raises(SchemaMismatchError, match=r"odd size.*camera cam.*129 x 96") as caught:
            write(tmp_path, JpegFrames(3, width=129), spec)
        assert "codec: copy" in str(caught.value)

    def test_an_odd_size_can_be_copied(self, tmp_path):
        write(tmp_path, JpegFrames(3, width=161, height=97), COPY)
        assert shown(tmp_path / "cam.mp4")[2].shape == (97, 161, 3)

    def test_a_size_that_ends_the_av1_encoder_s_process_is_refused(self, tmp_path):
        with pytest.raises(SchemaMismatchError, match="too small"):
            write(tmp_path, JpegFrames(3, height=16, width=64), AV1)
        write(tmp_path, JpegFrames(3, height=16, width=64), H264)

    @pytest.mark.parametrize("stream", [PngFrames(3), Frames(3)], ids=["png", "raw"])
    def test_copy_of_what_is_no_jpeg_is_refused_with_what_to_set(self, stream, tmp_path):
        with pytest.raises(SpecError, match=r"only JPEG.*Set dataset.video.codec to av1 or h264"):
            write(tmp_path, stream, COPY)

    def test_copy_of_progressive_jpegs_is_refused_and_encoding_them_works(self, tmp_path):
        stream = JpegFrames(3, replaced={k: jpeg(scene(k, 96, 128), progressive=True) for k in range(3)})
        with pytest.raises(UnknownEncodingError, match="progressive"):
            write(tmp_path, stream, COPY)
        write(tmp_path, stream, H264)
        assert barcodes(tmp_path / "cam.mp4") == [0, 1, 2]

    def test_copy_of_jpegs_whose_subsampling_changes_is_refused(self, tmp_path):
        stream = JpegFrames(5, replaced={3: jpeg(scene(3, 96, 128), subsampling=0)})
        with pytest.raises(SchemaMismatchError, match="subsampling"):
            write(tmp_path, stream, COPY)

    def test_a_depth_map_is_no_color_video(self, tmp_path):
        from io import BytesIO

        from PIL import Image

        with BytesIO() as file:
            Image.fromarray(np.full((96, 128), 4000, np.uint16)).save(file, "PNG")
            data = file.getvalue()
        with pytest.raises(UnknownEncodingError, match="16-bit"):
            write(tmp_path, PngFrames(2, replaced={0: data, 1: data}), H264)

    def test_a_crf_that_h264_does_not_have_is_refused(self, tmp_path):
        with pytest.raises(SpecError, match="crf"):
            write(tmp_path, JpegFrames(2), VideoSpec(codec="h264", crf=60))

    @pytest.mark.parametrize("indices", [[], [2, 1], [-1, 0], [0, 3]])
    def test_a_track_refuses_indices_that_are_none(self, indices):
        with pytest.raises(ValueError, match="non-decreasing"):
            Track(JpegFrames(3), np.array(indices, dtype=np.int64))


class TestMeasured:
    @EACH
    def test_a_frozen_camera_is_one_that_records_the_same_image_again(self, spec, tmp_path):
        still = jpeg(scene(5, 96, 128))
        stream = JpegFrames(20, replaced=dict.fromkeys(range(5, 10), still))
        assert write(tmp_path, stream, spec).measured["frozen_frames"] == 5
        assert write(tmp_path, stream, spec, [4, 5, 5, 6, 6, 7, 7, 12]).measured["frozen_frames"] == 6

    @EACH
    def test_a_camera_that_is_only_slow_is_not_frozen(self, spec, tmp_path):
        assert write(tmp_path, JpegFrames(5), spec, [0, 0, 0, 1, 1, 1, 2, 2, 2]).measured["frozen_frames"] == 0

    def test_black_images_are_counted(self, tmp_path):
        black = np.zeros((96, 128, 3), np.uint8)
        measured = write(tmp_path, Frames(8, replaced=dict.fromkeys(range(6), black)), H264).measured
        assert measured["black_fraction"] == 0.75
        assert 0.1 < measured["luma_mean"] < 0.2

    @EACH
    def test_statistics_are_of_the_frames_that_are_shown_not_of_the_images_recorded(self, spec, tmp_path):
        dark, light = (jpeg(np.full((96, 128, 3), value, np.uint8)) for value in (50, 200))
        stream = JpegFrames(2, replaced={0: dark, 1: light})
        stats = write(tmp_path, stream, spec, [0, 1, 1, 1]).stats
        assert stats["count"] == [4]
        assert np.ravel(stats["mean"]) == pytest.approx((50 + 3 * 200) / 4 / 255, abs=1 / 255)
        assert np.ravel(stats["q01"]) == pytest.approx(50 / 255, abs=1 / 255)
        assert np.shape(stats["q50"]) == (3, 1, 1)


class SlowFrames(JpegFrames):
    """Takes its time, so that others fail first; counts the images that were asked for."""

    given = 0

    def packets(self, indices) -> Iterator:
        for image in super().packets(indices):
            time.sleep(0.02)
            self.given += 1
            yield image


class FailingFrames(JpegFrames):
    """Ends with the error that a reader may raise."""

    error: Exception

    def packets(self, indices) -> Iterator:
        yield from super().packets(indices[:5])
        raise self.error


class TestTogether:
    @pytest.mark.parametrize("cores", [1, 16])
    def test_all_cameras_are_written_and_progress_adds_up(self, cores, tmp_path):
        tracks = {f"cam_{k}": Track(JpegFrames(20 + k), np.arange(20)) for k in range(3)}
        reports: list[tuple[int, str]] = []
        done = write_videos(
            tmp_path,
            tracks,
            rate_hz=20,
            settings=H264,
            progress=lambda n: reports.append((n, threading.current_thread().name)),
            cores=cores,
        )
        assert list(done) == list(tracks)
        assert sum(n for n, _ in reports) == 60
        assert {name for _, name in reports} == {threading.current_thread().name}
        assert all(barcodes(tmp_path / f"{name}.mp4") == list(range(20)) for name in tracks)

    def test_no_cameras_are_no_videos(self, tmp_path):
        assert write_videos(tmp_path, {}, rate_hz=20, settings=AV1) == {}

    @EACH
    @pytest.mark.parametrize("kind", [RecordingFormatError, RuntimeError])
    @pytest.mark.parametrize("cores", [1, 16])
    def test_an_error_of_one_camera_names_it_and_stops_the_others(self, spec, kind, cores, tmp_path):
        failing = FailingFrames(20, name="/wrist")
        failing.error = kind("chunk 3 is damaged")
        slow = SlowFrames(2000)
        tracks = {"slow": Track(slow, np.arange(2000)), "wrist": Track(failing, np.arange(20))}
        with pytest.raises(kind, match="chunk 3 is damaged") as caught:
            write_videos(tmp_path, tracks, rate_hz=RATE_HZ, settings=spec, cores=cores)
        assert slow.given < 2000
        assert no_video_threads()
        said = str(caught.value) if kind is RecordingFormatError else "".join(caught.value.__notes__)
        assert "camera wrist" in said

    @EACH
    @pytest.mark.parametrize("cores", [1, 16])
    def test_an_interrupt_leaves_no_threads(self, spec, cores, tmp_path):
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        tracks = {"one": Track(SlowFrames(2000), np.arange(2000)), "other": Track(SlowFrames(2000), np.arange(2000))}
        with pytest.raises(KeyboardInterrupt):
            write_videos(tmp_path, tracks, rate_hz=RATE_HZ, settings=spec, progress=interrupt, cores=cores)
        assert no_video_threads()

    def test_a_folder_that_cannot_be_written_is_an_oserror(self, tmp_path):
        with pytest.raises(OSError, match=r"cam\.mp4|No such file"):
            write(tmp_path / "missing", JpegFrames(3), H264)
        assert no_video_threads()


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_lerobot_reads_the_right_frame_at_every_timestamp(backend, spec, tmp_path):
    video_utils = pytest.importorskip("lerobot.datasets.video_utils")
    if backend == "torchcodec":
        try:
            import torchcodec  # noqa: F401
        except (ImportError, RuntimeError) as error:
            pytest.skip(f"torchcodec needs FFmpeg's shared libraries: {str(error).splitlines()[0]}")
    indices = [0, 0, 1, 2, 2, 5, 6, 7, 9, 9, 12, 19]
    stream = JpegFrames(20, height=128, width=160)
    write(tmp_path, stream, spec.model_copy(update={"crf": 15}), indices)
    stamps = [k / RATE_HZ for k in range(len(indices))]
    for chosen in (stamps, stamps[5:6], stamps[-1:], stamps[::-3]):
        frames = video_utils.decode_video_frames(tmp_path / "cam.mp4", chosen, 1e-4, backend, return_uint8=True)
        images = [frame.permute(1, 2, 0).numpy() for frame in frames]
        expected = [indices[round(stamp * RATE_HZ)] for stamp in chosen]
        assert [read_barcode(image) for image in images] == expected
        for image, number in zip(images, expected, strict=True):
            assert np.abs(image[12:].astype(int) - plain(stream.encoded(number))[12:]).mean() < 3
