"""What the spec maps, read from one span of a recording: numbers by part, images by camera, and the task text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np

from vla_ops.episodes.align import Clocked, Placement, resample
from vla_ops.episodes.clock_names import ClockNames
from vla_ops.episodes.joint_names import check_joint_names
from vla_ops.episodes.keyframes import from_first_keyframe
from vla_ops.episodes.rotations import check_rotations, convert
from vla_ops.episodes.task_file import task_in_file
from vla_ops.errors import RecordingError, SchemaMismatchError
from vla_ops.recordings import missing_stream
from vla_ops.recordings.base import Float64, ImageStream, Numbers, Recording, Source, Span
from vla_ops.robot import RobotSpec
from vla_ops.spec import NextState, TaskFrom, VectorPart


@dataclass(frozen=True)
class SpanStreams:
    """The mapped streams of one span. A part or camera finds its placement under its clock's name. `notes`: what was left out."""

    clocks: dict[str, Clocked]
    parts: dict[int, tuple[str, Float64]]
    cameras: dict[str, tuple[str, ImageStream]]
    notes: list[str] = field(default_factory=list)

    def vector(self, parts: list[VectorPart], placements: Mapping[str, Placement]) -> Float64:
        """The vector made of `parts` on the timeline, float64 [frames, d]."""
        columns = []
        for part in parts:
            clock, values = self.parts[id(part)]
            resampled = resample(values, placements[clock], kind=part.kind, unit=part.unit)
            columns.append(resampled if part.written_as is None else _in_written_form(resampled, part))
        return np.concatenate(columns, axis=1)


def read_span(recording: Recording, span: Span, spec: RobotSpec) -> SpanStreams:
    """Read all mapped numbers of `span` and open its cameras. Raise SpecError for a clock offset or times of no stream."""
    clock_names = ClockNames(recording, spec)
    clocks: dict[str, Clocked] = {}
    parts: dict[int, tuple[str, Float64]] = {}
    read: dict[tuple[str, str], Numbers] = {}
    for part in [*spec.state, *([] if isinstance(spec.action, NextState) else spec.action)]:
        source = Source.parse(part.source)
        key = (source.stream, source.field)
        if key not in read:
            read[key] = recording.numbers(Source(*key), span)
        method = part.numbers or spec.timeline.numbers
        clock = _clock(clocks, Clocked(clock_names.of(source), read[key].stamps_ns, method))
        parts[id(part)] = (clock, _columns(read[key], source, part))
    cameras: dict[str, tuple[str, ImageStream]] = {}
    notes: list[str] = []
    for name, camera in spec.cameras.items():
        source = Source.parse(camera.source)
        stream = from_first_keyframe(recording.images(source, span), notes)
        latency_ns = round(camera.time_offset_ms * 1e6)
        cameras[name] = (_clock(clocks, Clocked(clock_names.of(source), stream.stamps_ns, spec.timeline.images, latency_ns)), stream)
    clock_names.check()
    return SpanStreams(clocks, parts, cameras, notes)


def task_text(task: TaskFrom, span: Span, recording_id: str, *, uri: str = "") -> str:
    """The task text of an episode of the recording at `uri`. Raise RecordingError if it is not where the spec says."""
    if task.text is not None:
        return task.text
    if task.file is not None:
        return task_in_file(uri, task.file)
    if task.origin == "folder":
        folder = PurePosixPath(recording_id).parent.name
        if not folder:
            raise RecordingError(
                "no folder to take the task from", todo="Put the recording in a folder named after its task, or write `task: {text: ...}`."
            )
        return folder.replace("_", " ").strip()
    if not span.task or not span.task.strip():
        raise RecordingError(
            "the recording has no task text", episode=span.name, todo="Write `task: {text: ...}` or `task: {from: folder}`."
        )
    return span.task.strip()


def _clock(clocks: dict[str, Clocked], wanted: Clocked) -> str:
    """Register a clock and return its name; a stream that is resampled in two ways, or with two latencies, has two."""
    use = f"{wanted.name}|{wanted.method}"
    names = (wanted.name, use, f"{use}{wanted.latency_ns / 1e6:+g}ms")
    kept = {name: (clock.method, clock.latency_ns) for name, clock in clocks.items()}
    wants = (wanted.method, wanted.latency_ns)
    name = next(name for name in names if kept.get(name, wants) == wants)
    clocks.setdefault(name, replace(wanted, name=name))
    return name


def _columns(numbers: Numbers, source: Source, part: VectorPart) -> Float64:
    values = numbers.values if part.joints is None else numbers.values[:, _by_name(numbers, source, part.joints)]
    width = values.shape[1]
    highest = max(source.columns, default=0) if isinstance(source.columns, tuple) else 0
    if highest < width:
        values = source.take(values)
    if highest >= width or values.shape[1] != part.width_read:
        raise SchemaMismatchError(
            "the stream is not as wide as the spec says",
            stream=str(source),
            found=f"{width} values a sample, of which {values.shape[1]} selected",
            expected=f"{part.width_read}: {_read_as(part)}",
            todo="Correct `names` or the slice in `source`; `vla-ops inspect` shows the widths.",
        )
    check_joint_names(numbers.names, part, source)
    check_rotations(values, part.kind, part.names, str(source))
    return values


def _read_as(part: VectorPart) -> str:
    names = ", ".join(part.names)
    return names if part.written_as is None else f"one {part.kind}, to be written as {names}"


def _in_written_form(values: Float64, part: VectorPart) -> Float64:
    return convert(values, kind=part.kind, unit=part.unit, written_as=part.kind_written, unit_written=part.unit_written)


def _by_name(numbers: Numbers, source: Source, joints: list[str]) -> list[int]:
    for joint in joints:
        if joint not in numbers.names:
            raise missing_stream(joint, numbers.names, kind="joint").at(stream=source.stream)
    return [numbers.names.index(joint) for joint in joints]
