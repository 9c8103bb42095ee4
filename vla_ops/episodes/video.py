"""Image streams -> one mp4 a camera, with LeRobot's image statistics and what the quality report wants to know of images.

Cameras are written in parallel, each frame encoded as soon as it is decoded: no image is ever on disk, and memory does not
grow with the length of the episode. How a camera is written:

==================  ======================================  =====================================================
recorded as         `codec: av1` or `h264`                  `codec: copy`
==================  ======================================  =====================================================
JPEG                decoded and encoded                     packets bit for bit into an MJPEG mp4
PNG, raw            decoded and encoded                     refused
H.264, AV1          copied if that is the codec asked for   copied
                    and every image is one frame, else
                    decoded and encoded
H.265               decoded and encoded                     copied
==================  ======================================  =====================================================

A recorded video can be copied if each frame of the timeline shows the image after the previous frame's, the first one is a
keyframe that carries its parameter sets, and nothing is reordered (no B-frames).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_ops.episodes.copying import copy_jpegs, copy_video, why_not_copied
from vla_ops.episodes.decode import INTER_CODECS, Picture, ToYuv420, decoded
from vla_ops.episodes.encode import FrameEncoder
from vla_ops.episodes.pipe import Pipe, Stopped
from vla_ops.episodes.store import VideoInfo
from vla_ops.episodes.track import Track
from vla_ops.episodes.watch import ImageWatch
from vla_ops.errors import SpecError, VlaOpsError
from vla_ops.spec import VideoSpec

__all__ = ["Track", "WrittenVideo", "write_videos"]

# Decoded frames that may wait for the encoder, per camera: enough to ride out a slow read, 4 MB at 480 x 640.
_WAITING = 8
_REPORT_EVERY_S = 0.25


@dataclass(frozen=True)
class WrittenVideo:
    """One camera's mp4, and what was seen of its images while it was written."""

    info: VideoInfo
    # LeRobot's image statistics of this episode: min, max, mean, std, q01, q10, q50, q90, q99 as [3][1][1] in 0..1, count [n].
    stats: dict[str, Any]
    # frozen_frames: longest run of frames in which newly recorded images are all the same. black_fraction: of sampled images,
    # those with a mean below 4/255. luma_mean: 0..1. signature, motion: see `PictureSignature.measured`.
    measured: dict[str, Any]


@dataclass
class _Job:
    """One camera's work; `done` frames are counted by its thread alone."""

    camera: str
    track: Track
    path: Path
    settings: VideoSpec
    rate_hz: int
    # Whether there are more cores than cameras, so that one camera can use two.
    spare_cores: bool
    stop: threading.Event
    watch: ImageWatch = field(init=False)
    done: int = 0

    def __post_init__(self) -> None:
        self.watch = ImageWatch(len(self.track.indices))

    def count(self, frames: int) -> None:
        """Count finished frames; raise Stopped if another camera has failed."""
        self.done += frames
        if self.stop.is_set():
            raise Stopped


def available_cores() -> int:
    """Cores this process may run on; in a container or a Slurm job fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_videos(
    folder: Path,
    tracks: Mapping[str, Track],
    *,
    rate_hz: int,
    settings: VideoSpec,
    progress: Callable[[int], None] | None = None,
    cores: int | None = None,
) -> dict[str, WrittenVideo]:
    """Write `<camera>.mp4` to `folder` for each track, all cameras at once; frame k is at exactly k / rate_hz.

    `cores` is how many this call may keep busy, by default all that the process may run on; a pool of workers shares them out.
    `progress(n)` is called in this thread when n more camera frames are done. The first error of a camera, with the camera's
    name, stops the others; what they wrote is left unfinished in `folder`.
    """
    if not tracks:
        return {}
    stop = threading.Event()
    spare = len(tracks) < (cores or available_cores())
    jobs = [_Job(name, track, folder / f"{name}.mp4", settings, rate_hz, spare, stop) for name, track in tracks.items()]
    with ThreadPoolExecutor(2 * len(jobs), thread_name_prefix="video") as pool:
        futures = [pool.submit(_write_video, job, pool) for job in jobs]
        try:
            _await(futures, jobs, progress or (lambda _: None))
        finally:
            stop.set()
    return {job.camera: future.result() for job, future in zip(jobs, futures, strict=True)}


def _await(futures: list[Future[WrittenVideo]], jobs: list[_Job], progress: Callable[[int], None]) -> None:
    pending, reported = set(futures), 0
    while pending:
        finished, pending = wait(pending, timeout=_REPORT_EVERY_S, return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()
        done = sum(job.done for job in jobs)
        if done > reported:
            progress(done - reported)
        reported = done


def _write_video(job: _Job, pool: ThreadPoolExecutor) -> WrittenVideo:
    try:
        info = _write_as_set(job, pool)
        return WrittenVideo(info, job.watch.stats(), job.watch.measured())
    except VlaOpsError as error:
        raise error.at(stream=job.track.stream.name, camera=job.camera) from error.__cause__
    except Exception as error:
        error.add_note(f"while writing the video of camera {job.camera}")
        raise


def _write_as_set(job: _Job, pool: ThreadPoolExecutor) -> VideoInfo:
    source, asked = job.track.stream.codec, job.settings.codec
    if source in INTER_CODECS and asked in {source, "copy"}:
        reason = why_not_copied(job.track)
        if reason is None:
            return copy_video(job.path, job.track, rate_hz=job.rate_hz, watch=job.watch, count=job.count)
        if asked == "copy":
            todo = "Set dataset.video.codec to av1 or h264."
            raise SpecError(f"{source} video cannot be copied: {reason}", found="dataset.video.codec copy", todo=todo)
    if asked == "copy":
        return copy_jpegs(job.path, job.track, rate_hz=job.rate_hz, watch=job.watch, count=job.count)
    return _encode(job, pool)


def _encode(job: _Job, pool: ThreadPoolExecutor) -> VideoInfo:
    if not job.spare_cores:
        # On cores that the cameras keep busy, handing frames from thread to thread costs a fifth of the speed.
        return _encode_all(_prepared(job), job)
    pipe: Pipe[Picture] = Pipe(_WAITING, job.stop)
    decoding = pool.submit(pipe.fill, _prepared(job))
    try:
        return _encode_all(iter(pipe), job)
    finally:
        pipe.abandon()
        wait([decoding])


def _prepared(job: _Job) -> Iterator[Picture]:
    """Decode, look at, and convert each image: all that the encoder need not do."""
    convert = ToYuv420().convert
    for picture in decoded(job.track):
        job.watch.see(picture)
        yield Picture(picture.run, convert(picture.frame), b"")


def _encode_all(pictures: Iterator[Picture], job: _Job) -> VideoInfo:
    first = next(pictures)
    # SVT-AV1 does least work a frame with one thread, and gains little from more than two.
    threads = 2 if job.spare_cores else 1
    with FrameEncoder(job.path, first.frame, settings=job.settings, rate_hz=job.rate_hz, threads=threads) as encoder:
        encoder.encode(first.frame, first.run.times)
        job.count(first.run.times)
        for picture in pictures:
            encoder.encode(picture.frame, picture.run.times)
            job.count(picture.run.times)
        return encoder.finish()
