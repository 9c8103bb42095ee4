"""Black videos are black, as long as asked, at exact times, and small."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from vla_ops.datasets.mixture.black_video import BlackVideos
from vla_ops.episodes.store import VideoInfo

LENGTHS = [1, 2, 63, 64, 65, 127, 128, 321]


@pytest.mark.parametrize(("codec", "made"), [("av1", "av1"), ("h264", "h264"), ("hevc", "h264"), ("mjpeg", "mjpeg")])
def test_every_frame_is_black_and_at_its_time(tmp_path: Path, codec: str, made: str) -> None:
    import av

    black = BlackVideos(tmp_path, VideoInfo(48, 80, codec, "yuv420p", 0), rate_hz=30)
    for frames in LENGTHS if codec != "av1" else [1, 65, 130]:
        target = tmp_path / f"target_{frames}.mp4"
        black.write(target, frames)
        with av.open(str(target)) as video:
            stream = video.streams.video[0]
            assert (stream.codec.canonical_name, stream.height, stream.width) == (made, 48, 80)
            shown = list(video.decode(stream))
        assert [Fraction(frame.pts or 0) * (frame.time_base or 0) for frame in shown] == [Fraction(k, 30) for k in range(frames)]
        assert all(frame.to_ndarray(format="rgb24").max() == 0 for frame in shown)


def test_a_long_one_is_a_few_bytes_a_frame(tmp_path: Path) -> None:
    black = BlackVideos(tmp_path, VideoInfo(480, 640, "h264", "yuv420p", 0), rate_hz=30)
    black.write(tmp_path / "long.mp4", 3000)
    assert (tmp_path / "long.mp4").stat().st_size < 3000 * 100
