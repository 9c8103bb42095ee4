from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from vla_ops.datasets.video_concat import Clip, concatenate
from vla_ops.episodes.store import VideoInfo
from vla_ops.errors import DatasetError, SchemaMismatchError
from vla_ops_tests.datasets.episode_folders import ENCODERS, HEIGHT, WIDTH, Kind, barcode, write_video


def clip(path, first, length, kind, *, frames=None):
    write_video(path, first, length, kind)
    return Clip(path.stem, path, VideoInfo(HEIGHT, WIDTH, kind.codec, ENCODERS[kind.codec][1], length if frames is None else frames))


def times(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [packet.pts * stream.time_base for packet in container.demux(stream) if packet.dts is not None]


@pytest.mark.parametrize("codec", ["h264", "mjpeg", "av1"])
def test_packets_are_copied_bit_for_bit_and_every_frame_is_in_its_place(codec, tmp_path):
    kind = Kind(codec=codec)
    lengths = [5, 12, 2, 9]
    clips = [clip(tmp_path / f"{k}.mp4", sum(lengths[:k]), n, kind) for k, n in enumerate(lengths)]
    concatenate(clips, tmp_path / "out" / "all.mp4", rate_hz=30)
    assert times(tmp_path / "out" / "all.mp4") == [Fraction(k, 30) for k in range(28)]
    with av.open(str(tmp_path / "out" / "all.mp4")) as container:
        shown = [barcode(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)) for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 30
    assert shown == list(range(28))
    copied = b"".join(data for c in clips for data in packets(c.path))
    assert b"".join(packets(tmp_path / "out" / "all.mp4")) == copied


def packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.dts is not None]


@pytest.mark.parametrize("rate", [7, 30, 50])
def test_lerobot_3177_timestamps_of_200_episodes_do_not_drift(rate, tmp_path):
    kind = Kind(codec="mjpeg", rate_hz=rate)
    source = clip(tmp_path / "rec.mp4", 0, 17, kind)
    concatenate([source] * 200, tmp_path / "all.mp4", rate_hz=rate)
    assert times(tmp_path / "all.mp4") == [Fraction(k, rate) for k in range(200 * 17)]
    with av.open(str(tmp_path / "all.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == rate
        assert stream.duration * stream.time_base == Fraction(200 * 17, rate)


@pytest.mark.parametrize("frames", [11, 13])
def test_a_packet_count_that_differs_from_the_episode_is_refused(frames, tmp_path):
    bad = clip(tmp_path / "rec_3.mp4", 0, 12, Kind(codec="mjpeg"), frames=frames)
    with pytest.raises(DatasetError, match=rf"episode rec_3\]; found 12 packets; expected {frames} frames"):
        concatenate([bad], tmp_path / "all.mp4", rate_hz=30)


def test_another_rate_than_the_timeline_is_refused_with_the_frame(tmp_path):
    bad = clip(tmp_path / "rec_3.mp4", 0, 12, Kind(codec="mjpeg", rate_hz=25))
    with pytest.raises(DatasetError, match=r"episode rec_3, .*frame 1\]; found 1/25 s; expected 1/30 s"):
        concatenate([bad], tmp_path / "all.mp4", rate_hz=30)


def test_reordered_frames_are_refused(tmp_path):
    kind = Kind(codec="h264", options=(("bf", "2"), ("g", "12"), ("preset", "medium")))
    with pytest.raises(DatasetError, match=r"reordered.*episode b_frames"):
        concatenate([clip(tmp_path / "b_frames.mp4", 0, 24, kind)], tmp_path / "all.mp4", rate_hz=30)


def test_another_stream_header_is_refused_with_both_digests(tmp_path):
    plain = clip(tmp_path / "plain.mp4", 0, 6, Kind())
    other = clip(tmp_path / "other.mp4", 0, 6, Kind(options=(("profile", "baseline"), ("level", "3.1"))))
    digest = concatenate([plain], tmp_path / "one.mp4", rate_hz=30)
    with pytest.raises(DatasetError, match=rf"differs from that of plain .*episode other\]; .*expected digest {digest}"):
        concatenate([plain, other], tmp_path / "two.mp4", rate_hz=30)
    with pytest.raises(DatasetError, match="extradata"):
        concatenate([other], tmp_path / "three.mp4", rate_hz=30, extradata=digest)


def test_a_file_that_is_no_video_is_refused(tmp_path):
    (tmp_path / "rec.mp4").write_bytes(np.random.default_rng(0).bytes(500))
    with pytest.raises(DatasetError, match=r"cannot be opened \[file .*rec.mp4, episode rec/0\]"):
        concatenate([Clip("rec/0", tmp_path / "rec.mp4", VideoInfo(HEIGHT, WIDTH, "av1", "yuv420p", 5))], tmp_path / "all.mp4", rate_hz=30)


def test_a_video_that_is_not_what_its_episode_says_is_refused(tmp_path):
    good = clip(tmp_path / "rec.mp4", 0, 4, Kind(codec="mjpeg"))
    for said, fields in {
        "h264 64x96 yuvj420p": {"codec": "h264"},
        "mjpeg 48x96 yuvj420p": {"height": 48},
        "mjpeg 64x96 yuv420p": {"pix_fmt": "yuv420p"},
    }.items():
        with pytest.raises(SchemaMismatchError, match=rf"episode rec\]; found mjpeg 64x96 yuvj420p; expected {said}"):
            concatenate([replace(good, video=replace(good.video, **fields))], tmp_path / "all.mp4", rate_hz=30)
