"""Single images out of the videos of a dataset, RGB as LeRobot's PyAV backend makes them, resized as policies do.

That is `exact`: Pillow's bilinear, which is two thirds of the work for a 480x640 video; validation takes it. `fast` is FFmpeg's, from
YUV on, a sixth of that time; training takes it unless its `resize` is `exact`. The bars are the same, and pixels differ from what a
policy is served by 0.8 of 255 in the mean, by at most 5 to 8 in 99 of 100 (videos of real cameras and of a simulator), and by up to 47
at single sharp edges of colour.

A video stays open for the next image of it. Reading starts at the keyframe before the image, or goes on from where the last one was
where that is nearer.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vla_ops.errors import DatasetError, VlaOpsError
from vla_ops.spec.training import Resize
from vla_ops.training.data.batch import UInt8
from vla_ops.training.data.columns import episode_name
from vla_ops.training.data.frames import Frames

if TYPE_CHECKING:
    import av

    from vla_ops.training.data.kept import FrameCache

# Videos a process keeps open: a decoder and its pictures are a few MB.
_OPEN = 24
_DAMAGED = "The dataset's copy is damaged: copy or make it again, or leave the episode out."


@dataclass(frozen=True)
class ImageRequest:
    """One image: frame `frame` of an episode of `length` frames that begins `from_s` seconds into the video at `path`.

    With `span` it is the image file at these bytes of `path`. `into` is its place among the images of shared memory.
    """

    into: int
    row: int
    # By number, and its name for messages.
    camera: int
    stream: str
    path: str
    episode: int
    frame: int
    length: int
    from_s: float = 0.0
    fps: float = 1.0
    span: tuple[int, int] | None = None

    @property
    def where(self) -> dict[str, object]:
        """What messages say of it."""
        return {"file": self.path, "episode": episode_name(self.episode), "stream": self.stream, "frame": self.frame}


class ImageReader:
    """Reads images of [size, size, 3], keeping videos open, and what it decodes in the cache."""

    def __init__(self, size: int, cache: FrameCache | None = None, *, resize: Resize = "exact") -> None:
        self.size, self.cache, self.resize = size, cache, resize
        self._videos: OrderedDict[str, Video] = OrderedDict()

    def read(self, request: ImageRequest, into: UInt8) -> None:
        """Put the image into `into`. Raise DatasetError naming file, episode, camera and frame."""
        if self.cache is not None and self.cache.get(request.row, request.camera, into):
            return
        with _named(request):
            into[:] = self._still(request, request.span) if request.span else self._from_video(request)
        if self.cache is not None:
            self.cache.put(request.row, request.camera, into)

    def close(self) -> None:
        """Close all videos."""
        while self._videos:
            self._videos.popitem()[1].close()

    def _still(self, request: ImageRequest, span: tuple[int, int]) -> UInt8:
        from PIL import Image

        with open(request.path, "rb") as file:
            file.seek(span[0])
            data = file.read(span[1] - span[0])
        with Image.open(io.BytesIO(data)) as image:
            return self._resized(np.asarray(image.convert("RGB")))

    def _from_video(self, request: ImageRequest) -> UInt8:
        video = self._video(request.path)
        frame = video.read(request.from_s + request.frame / request.fps, 1 / request.fps, passed=self._keeper(request, video))
        return self._picture(video, frame)

    def _picture(self, video: Video, frame: av.VideoFrame) -> UInt8:
        return video.small_rgb(frame, self.size) if self.resize == "fast" else self._resized(video.rgb(frame))

    def _resized(self, pixels: UInt8) -> UInt8:
        from vla_ops.policies.images import resize_with_pad

        return resize_with_pad(pixels, height=self.size, width=self.size)

    def _keeper(self, request: ImageRequest, video: Video) -> Callable[[float, av.VideoFrame], None] | None:
        """What is done with the pictures on the way to the one that was asked for: with a cache they are not decoded in vain."""
        cache = self.cache
        if cache is None:
            return None

        def keep(seconds: float, frame: av.VideoFrame) -> None:
            k = round((seconds - request.from_s) * request.fps)
            row = request.row - request.frame + k
            if 0 <= k < request.length and cache.wants(row, request.camera):
                cache.put(row, request.camera, self._picture(video, frame))

        return keep

    def _video(self, path: str) -> Video:
        if path in self._videos:
            self._videos.move_to_end(path)
            return self._videos[path]
        if len(self._videos) >= _OPEN:
            self._videos.popitem(last=False)[1].close()
        self._videos[path] = Video(path)
        return self._videos[path]


class Video:
    """An open video file."""

    def __init__(self, path: str) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.container = av.open(path, "r", format="mp4", metadata_errors="replace")
        if not self.container.streams.video:
            raise DatasetError("the file holds no video", file=path, todo=_DAMAGED)
        self.stream = self.container.streams.video[0]
        # Threads within a decoder delay its pictures; images are decoded side by side in several processes.
        self.stream.codec_context.thread_count = 1
        # One for each conversion: they keep what is prepared for it.
        self.reformatter, self.shrinker = VideoReformatter(), VideoReformatter()
        self.tick_s = float(self.stream.time_base or 1)
        self.first = self.stream.start_time or 0
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._last: av.VideoFrame | None = None
        # The most pictures it took to get from a keyframe to the one that was wanted.
        self._longest_run = 1

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def rgb(self, frame: av.VideoFrame) -> UInt8:
        """A picture as uint8 [height, width, 3]."""
        return np.asarray(self.reformatter.reformat(frame, format="rgb24").to_ndarray(), np.uint8)

    def small_rgb(self, frame: av.VideoFrame, size: int) -> UInt8:
        """A picture as uint8 [size, size, 3], placed as `resize_with_pad` places it."""
        ratio = max(frame.width / size, frame.height / size)
        height, width = max(int(frame.height / ratio), 1), max(int(frame.width / ratio), 1)
        top, left = (size - height) // 2, (size - width) // 2
        small = self.shrinker.reformat(frame, width=width, height=height, format="rgb24", interpolation="BILINEAR")
        padded = np.zeros((size, size, 3), np.uint8)
        padded[top : top + height, left : left + width] = small.to_ndarray()
        return padded

    def read(self, seconds: float, step_s: float, *, passed: Callable[[float, av.VideoFrame], None] | None = None) -> av.VideoFrame:
        """The picture at `seconds` from the video's start, of pictures that are `step_s` apart; `passed` gets those before it.

        Raise DatasetError if there is none within half a step.
        """
        target, half = self.first + seconds / self.tick_s, step_s / self.tick_s / 2
        if self._last is not None and abs(_pts(self._last) - target) < half:
            return self._last
        if not self._is_near(target, half):
            self._seek(target, half)
        frame, run = self._last, 0
        while frame is None or _pts(frame) < target - half:
            if frame is not None and passed is not None:
                passed((_pts(frame) - self.first) * self.tick_s, frame)
            frame = self._next(seconds)
            run += 1
        self._longest_run = max(self._longest_run, run)
        if _pts(frame) > target + half:
            found = f"the next is at {(_pts(frame) - self.first) * self.tick_s:.4f} s"
            raise DatasetError("the video has no picture there", found=found, expected=f"one at {seconds:.4f} s", todo=_DAMAGED)
        return frame

    def _is_near(self, target: float, half: float) -> bool:
        """Whether going on is no longer than from a keyframe: where keyframes are is seen only by what it took before."""
        return self._last is not None and 0 < target - _pts(self._last) <= 2 * half * self._longest_run + half

    def _seek(self, target: float, half: float) -> None:
        """Go to a keyframe that is not after `target`. Where pictures are reordered the first try can be too late."""
        back = 0.0
        while True:
            place = max(target + half / 2 - back, self.first)
            self.container.seek(int(place), stream=self.stream, backward=True)
            self._frames = self.container.decode(self.stream)
            self._last = None
            frame = self._next(None)
            if place <= self.first or _pts(frame) <= target + half:
                return
            back = max(2 * back, 16 * half)

    def _next(self, seconds: float | None) -> av.VideoFrame:
        """The next picture that has a time. Raise DatasetError at the end, where one at `seconds` was still wanted."""
        for frame in self._frames:
            if frame.pts is not None:
                if frame.is_corrupt:
                    raise DatasetError("the video is damaged", found=f"a picture at {_pts(frame) * self.tick_s:.3f} s", todo=_DAMAGED)
                self._last = frame
                return frame
        last = "nothing" if self._last is None else f"its last picture at {(_pts(self._last) - self.first) * self.tick_s:.4f} s"
        self._last = None
        expected = "a picture" if seconds is None else f"a picture at {seconds:.4f} s"
        raise DatasetError("the video ends before its episode", found=last, expected=expected, todo=_DAMAGED)


def check_videos(frames: Frames) -> None:
    """Raise DatasetError naming every video that cannot be opened, or is shorter than its episodes, as its header says."""
    last: dict[Path, tuple[float, int, str]] = {}
    for place in frames.places:
        for camera, feature in frames.cameras.items():
            if camera not in frames.stills:
                video = place.videos[feature]
                ends = video.from_s + (place.length - 0.5) / frames.fps
                last[video.path] = max(last.get(video.path, (0.0, 0, "")), (ends, place.index, camera))
    with ThreadPoolExecutor(8) as pool:
        found = [problem for problem in pool.map(lambda item: _problem(*item), last.items()) if problem]
    if found:
        more = [f"and {len(found) - 20} more"] if len(found) > 20 else []
        said = "\n".join([f"- {problem}" for problem in found[:20]] + more)
        raise DatasetError(f"{len(found)} video(s) cannot be trained on\n{said}", todo=_DAMAGED)


def _problem(path: Path, needed: tuple[float, int, str]) -> str | None:
    import av.error

    seconds, episode, camera = needed
    where = f"{path}, {camera}, {episode_name(episode)}"
    try:
        video = Video(str(path))
    except (VlaOpsError, av.error.FFmpegError, OSError) as error:
        return f"{where}: damaged ({error})"
    found = None if video.stream.duration is None else video.stream.duration * video.tick_s
    video.close()
    return f"{where}: ends at {found:.3f} s, needed to {seconds:.3f} s" if found is not None and found < seconds else None


def _pts(frame: av.VideoFrame) -> int:
    return frame.pts or 0


@contextmanager
def _named(request: ImageRequest) -> Iterator[None]:
    import av.error

    try:
        yield
    except VlaOpsError as error:
        raise error.at(**request.where) from error.__cause__
    except (av.error.FFmpegError, OSError, ValueError) as error:
        missing = not os.path.exists(request.path)  # noqa: PTH110
        what = "a video is missing" if missing else "an image cannot be decoded"
        raise DatasetError(what, **request.where, found=f"{type(error).__name__}: {error}", todo=_DAMAGED) from error
