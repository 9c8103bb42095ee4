"""One aligned stretch of a recording -> one episode folder, with its statistics and quality report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.align import Timeline
from vla_ops.episodes.quality import QualityReport, judge_camera, judge_stream, judge_vector
from vla_ops.episodes.read import SpanStreams, task_text
from vla_ops.episodes.store import EPISODE, FRAMES, EpisodeMeta
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.episodes.video import Track, WrittenVideo, write_videos
from vla_ops.errors import AlignmentError
from vla_ops.recordings.base import Float64, Span
from vla_ops.robot import RobotSpec
from vla_ops.spec import NextState, VectorPart

# Called with the number of camera frames (or frames, without cameras) that are newly done.
type Progress = Callable[[int], None]


@dataclass(frozen=True)
class EpisodeSource:
    """Where an episode comes from: `index` counts the episodes of the recording, `untrimmed` is a stretch of `span`."""

    recording: str
    index: int
    span: Span
    streams: SpanStreams
    untrimmed: Timeline
    # The frames of it that are kept.
    kept: slice
    metadata: Mapping[str, str]
    source_version: str
    # Of all that it is converted with.
    fingerprint: str
    # Where the recording itself is, which is not where a copy of it was opened.
    uri: str = ""

    @property
    def timeline(self) -> Timeline:
        """What is kept."""
        return self.untrimmed.cut(self.kept.start, self.kept.stop)

    def vector(self, parts: list[VectorPart]) -> Float64:
        """The vector made of `parts`, float64 [kept frames, d].

        Cut after it is brought to the whole timeline: the numbers of a rotation depend on all frames before.
        """
        return self.streams.vector(parts, self.untrimmed.placements)[self.kept]


@dataclass(frozen=True)
class _Vectors:
    """State and action on the timeline, float64 [frames, d]; `frames` is less than the timeline's for next_state."""

    state: Float64
    action: Float64

    @property
    def frames(self) -> int:
        return len(self.action)


def write_episode(
    folder: Path, source: EpisodeSource, spec: RobotSpec, *, cores: int | None = None, progress: Progress | None = None
) -> EpisodeMeta:
    """Write the episode to `folder`. What cannot be used raises, before any image is touched where possible."""
    vectors = _vectors(source, spec)
    report = _judge_numbers(source, vectors, spec)
    report.refuse()
    task = task_text(spec.task, source.span, source.recording, uri=source.uri)
    folder.mkdir()
    tracks = _tracks(source, vectors.frames)
    if not tracks and progress:
        progress(vectors.frames)
    videos = write_videos(folder, tracks, rate_hz=spec.timeline.rate_hz, settings=spec.dataset.video, progress=progress, cores=cores)
    for camera, video in videos.items():
        seen = source.timeline.placements[source.streams.cameras[camera][0]].index[: vectors.frames]
        report.add(camera, judge_camera(camera, seen, video.measured, rate_hz=spec.timeline.rate_hz, spec=spec.quality))
    report.refuse()
    skews = {name: p.skew_ns[: vectors.frames] for name, p in source.timeline.placements.items()}
    _write_frames(folder / FRAMES, vectors, skews, spec.timeline.rate_hz)
    meta = _meta(source, spec, vectors, task=task, videos=videos, report=report)
    (folder / EPISODE).write_text(json.dumps(meta.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
    return meta


def _vectors(source: EpisodeSource, spec: RobotSpec) -> _Vectors:
    state = source.vector(spec.state)
    if not isinstance(spec.action, NextState):
        return _Vectors(state, source.vector(spec.action))
    frames = len(state) - spec.action.steps
    if frames < spec.timeline.min_frames:
        raise AlignmentError(
            "the episode is too short",
            found=f"{len(state)} frame(s)",
            expected=f"at least min_frames {spec.timeline.min_frames} and {spec.action.steps} more for next_state",
        )
    return _Vectors(state[:frames], state[spec.action.steps :])


def _judge_numbers(source: EpisodeSource, vectors: _Vectors, spec: RobotSpec) -> QualityReport:
    report = QualityReport()
    for name, clock in source.streams.clocks.items():
        placement = source.timeline.placements[name]
        first, last = placement.index[0], min(placement.index[-1] + 2, len(clock.stamps_ns))
        report.add(name, judge_stream(name, clock.stamps_ns[first:last], placement.skew_ns, spec.quality))
    for vector, values, dims in (("state", vectors.state, spec.state_dims), ("action", vectors.action, spec.action_dims)):
        for dim, judged in judge_vector(vector, values, dims, rate_hz=spec.timeline.rate_hz, spec=spec.quality).items():
            report.add(dim, judged)
    return report


def _tracks(source: EpisodeSource, frames: int) -> dict[str, Track]:
    """Which image each frame shows, by camera."""
    placements = source.timeline.placements
    return {name: Track(stream, placements[clock].index[:frames]) for name, (clock, stream) in source.streams.cameras.items()}


def _write_frames(path: Path, vectors: _Vectors, skews: Mapping[str, npt.NDArray[np.int64]], rate_hz: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, pa.Array] = {}
    for name, values in (("observation.state", vectors.state), ("action", vectors.action)):
        flat = pa.array(values.astype(np.float32).ravel())
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    columns["timestamp"] = pa.array((np.arange(vectors.frames) / rate_hz).astype(np.float32))
    for name, skew in skews.items():
        columns[f"skew_ns/{name}"] = pa.array(skew)
    pq.write_table(pa.table(columns), path)


def _meta(
    source: EpisodeSource,
    spec: RobotSpec,
    vectors: _Vectors,
    *,
    task: str,
    videos: Mapping[str, WrittenVideo],
    report: QualityReport,
) -> EpisodeMeta:
    stats = {"observation.state": vector_stats(vectors.state.astype(np.float32)), "action": vector_stats(vectors.action.astype(np.float32))}
    stats |= {f"observation.images.{camera}": video.stats for camera, video in videos.items()}
    return EpisodeMeta(
        recording=source.recording,
        index=source.index,
        name=source.span.name,
        task=task,
        length=vectors.frames,
        rate_hz=spec.timeline.rate_hz,
        state_names=[d.name for d in spec.state_dims],
        action_names=[d.name for d in spec.action_dims],
        videos={camera: video.info for camera, video in videos.items()},
        stats=stats,
        measured=report.measured,
        findings=report.findings,
        source_version=source.source_version,
        spec_fingerprint=source.fingerprint,
        metadata=dict(source.metadata),
    )
