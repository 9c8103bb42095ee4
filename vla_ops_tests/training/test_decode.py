from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vla_ops.errors import DatasetError
from vla_ops.training.data.decode import ImageReader, ImageRequest, Video
from vla_ops.training.data.kept import FrameCache, unnamed_file
from vla_ops_tests.datasets.episode_folders import barcode, image

FRAMES, RATE = 60, 30


def write(path: Path, *, first: int = 0, **options: str) -> Path:
    """An H.264 video of FRAMES numbered pictures."""
    import av

    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options={"crf": "18", "preset": "ultrafast", **options})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for k in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(image(first + k), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


VIDEOS = {
    "every second picture a keyframe": {"g": "2", "bf": "0"},
    "one keyframe": {"g": "999", "bf": "0"},
    "reordered pictures": {"g": "24", "bf": "3", "b_strategy": "0", "preset": "veryfast"},
    "open groups": {"g": "12", "bf": "2", "b_strategy": "0", "preset": "veryfast", "x264-params": "open-gop=1"},
}


@pytest.mark.parametrize("options", VIDEOS.values(), ids=VIDEOS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_picture_is_found_in_any_order(tmp_path: Path, options: dict[str, str], seed: int) -> None:
    video = Video(str(write(tmp_path / "v.mp4", **options)))
    for k in [*range(10), *np.random.default_rng(seed).permutation(FRAMES).tolist(), 20, 20, 21, 19, 59, 0]:
        frame = video.read(k / RATE, 1 / RATE)
        assert barcode(video.rgb(frame).transpose(2, 0, 1)) == k
    video.close()


def test_after_the_end_and_between_pictures_there_is_none(tmp_path: Path) -> None:
    video = Video(str(write(tmp_path / "v.mp4", g="10", bf="0")))
    with pytest.raises(DatasetError, match=r"ends before its episode.*last picture at 1\.9667 s; expected a picture at 2\.0000 s"):
        video.read(FRAMES / RATE, 1 / RATE)
    assert barcode(video.rgb(video.read(5 / RATE, 1 / RATE)).transpose(2, 0, 1)) == 5
    with pytest.raises(DatasetError, match="no picture there"):
        video.read(5.5 / RATE, 1 / RATE / 4)
    video.close()


def request(path: Path, frame: int, **fields: object) -> ImageRequest:
    known = {"into": 0, "row": 100 + frame, "camera": 1, "stream": "cam", "path": str(path), "episode": 4, "length": 30, "fps": RATE}
    return ImageRequest(**{**known, "frame": frame, **fields})  # pyright: ignore[reportArgumentType]


def test_pictures_on_the_way_are_kept_if_they_are_of_the_episode(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", g="999", bf="0")
    cache = FrameCache(images=unnamed_file("i"), marks=unnamed_file("m"), cameras=2, size=96, capacity=500, checked=True)
    reader, into = ImageReader(96, cache), np.zeros((96, 96, 3), np.uint8)
    # The episode begins with picture 20 of the video.
    reader.read(request(path, 15, from_s=20 / RATE), into)
    assert barcode(into[16:80].transpose(2, 0, 1)) == 35
    for frame in range(16):
        assert not cache.wants(100 + frame, 1)
        assert cache.get(100 + frame, 1, into)
        assert barcode(into[16:80].transpose(2, 0, 1)) == 20 + frame
    assert cache.wants(99, 1)
    assert cache.wants(116, 1)
    assert cache.wants(110, 0)
    reader.close()
    cache.close()


def test_more_videos_than_stay_open_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_ops.training.data import decode

    monkeypatch.setattr(decode, "_OPEN", 2)
    paths = [write(tmp_path / f"{k}.mp4", first=100 * k, g="5", bf="0") for k in range(4)]
    reader, into = ImageReader(96), np.zeros((96, 96, 3), np.uint8)
    for k in [0, 1, 2, 3, 0, 2, 1]:
        reader.read(request(paths[k], 7), into)
        assert barcode(into[16:80].transpose(2, 0, 1)) == 100 * k + 7
    assert len(reader._videos) == 2
    reader.close()


def test_a_video_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"a video is missing.*gone\.mp4, episode episode_000004, stream cam, frame 3"):
        ImageReader(96).read(request(tmp_path / "gone.mp4", 3), np.zeros((96, 96, 3), np.uint8))
