"""Streams of different rates and clocks onto one fixed-rate timeline over their common span.

The timeline begins at the latest of the streams' first samples and ends at the earliest of their last ones; frame k is at
exactly k / rate after its beginning. Every frame of every stream carries its skew: sample time minus frame time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_ops.episodes.rotation_continuity import continuous
from vla_ops.episodes.rotations import slerp
from vla_ops.errors import AlignmentError
from vla_ops.recordings.base import Float64, Int64
from vla_ops.spec import ROTATION_WIDTHS, Kind, Resample, TimelineSpec, Unit

_MS = 1_000_000
# Recorders round stamps to nano- or microseconds; the last frame must not be lost to that.
_ROUNDING_NS = 1_000
_TURN: dict[str, float] = {"rad": 2 * np.pi, "deg": 360.0}


@dataclass(frozen=True)
class Clocked:
    """One stream to be aligned: its stamps, int64 [n] in the order recorded, and how to resample it.

    `latency_ns` is added to the stamps after its clock has been brought to the others': `clock_offsets: start` does not undo it.
    """

    name: str
    stamps_ns: Int64
    method: Resample
    latency_ns: int = 0


@dataclass(frozen=True)
class Placement:
    """Where each frame falls in a stream.

    `index` int64 [frames]: the sample taken, or for `linear` the one before the frame. `fraction` float64 [frames], only
    for `linear`: how far the frame is on the way to the next sample. `skew_ns` int64 [frames]: time of the (nearer) sample
    minus time of the frame.
    """

    index: Int64
    skew_ns: Int64
    fraction: Float64 | None = None

    def cut(self, start: int, stop: int) -> Placement:
        """The placement of frames start..stop."""
        fraction = None if self.fraction is None else self.fraction[start:stop]
        return Placement(self.index[start:stop], self.skew_ns[start:stop], fraction)


@dataclass(frozen=True)
class Timeline:
    """One unbroken stretch of frames. `stamps_ns` int64 [frames] on the recording's clock; a placement for each stream."""

    stamps_ns: Int64
    placements: Mapping[str, Placement]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.stamps_ns)

    def cut(self, start: int, stop: int) -> Timeline:
        """Frames start..stop."""
        return Timeline(self.stamps_ns[start:stop], {name: p.cut(start, stop) for name, p in self.placements.items()})


@dataclass(frozen=True)
class Alignment:
    """The episodes found, and what a person should know: gaps split at, stretches too short to keep, clocks that look shifted."""

    timelines: list[Timeline]
    notes: list[str]


def align(streams: Sequence[Clocked], spec: TimelineSpec) -> Alignment:
    """Bring `streams` onto one timeline. Raise AlignmentError naming the stream, the time and both values if they do not fit one."""
    for stream in streams:
        _check_stamps(stream)
    streams = _on_one_clock(streams, spec)
    frames_ns = _timeline(streams, spec)
    notes = _shifted_clocks(streams, spec)
    placements = {s.name: place(s.stamps_ns, frames_ns, s.method) for s in streams}
    in_gap = np.zeros(len(frames_ns), bool)
    for stream in streams:
        in_gap |= _gaps(stream, frames_ns, spec, notes)
    _check_skew(placements, frames_ns, in_gap, spec)
    timelines = []
    for start, stop in runs(~in_gap):
        if stop - start < spec.min_frames:
            notes.append(
                f"{stop - start} frame(s) at {_seconds(frames_ns[start] - frames_ns[0])} dropped: fewer than min_frames {spec.min_frames}"
            )
            continue
        timelines.append(Timeline(frames_ns[start:stop], {name: p.cut(start, stop) for name, p in placements.items()}))
    if not timelines:
        raise _too_short(streams, frames_ns, notes, spec)
    return Alignment(timelines, notes)


def place(stamps_ns: Int64, frames_ns: Int64, method: Resample) -> Placement:
    """Find the sample(s) for each frame in non-decreasing `stamps_ns`."""
    after = np.searchsorted(stamps_ns, frames_ns, side="right")
    before = np.maximum(after - 1, 0)
    following = np.minimum(after, len(stamps_ns) - 1)
    to_before, to_following = stamps_ns[before] - frames_ns, stamps_ns[following] - frames_ns
    # Equal distances go to the earlier sample, so that the result does not depend on rounding.
    nearer = np.where(np.abs(to_following) < np.abs(to_before), following, before)
    match method:
        case "hold":
            return Placement(before, to_before)
        case "nearest":
            return Placement(nearer, stamps_ns[nearer] - frames_ns)
        case "linear":
            width = (stamps_ns[following] - stamps_ns[before]).astype(np.float64)
            fraction = np.divide(-to_before, width, out=np.zeros(len(frames_ns)), where=width > 0)
            return Placement(before, stamps_ns[nearer] - frames_ns, fraction)


def resample(values: Float64, placement: Placement, *, kind: Kind = "other", unit: Unit = "1") -> Float64:
    """Values [n, d] -> [frames, d]. Angles go the short way round and stay on the turn they were recorded on; rotations are slerped."""
    if kind in ROTATION_WIDTHS:
        return _resample_rotations(values, placement, kind, unit)
    if placement.fraction is None:
        return values[placement.index]
    before = values[placement.index]
    after = values[np.minimum(placement.index + 1, len(values) - 1)]
    fraction = placement.fraction[:, None]
    # On a sample the next one has no say: 0 * NaN is NaN.
    step = np.where(fraction > 0, after - before, 0.0)
    if unit in _TURN and kind not in ("velocity", "other"):
        turns = np.round(step / _TURN[unit]) * _TURN[unit]
        # Past the middle the value belongs to the later sample's turn: no value between two branches is invented.
        return before + fraction * (step - turns) + np.where(fraction > 0.5, turns, 0.0)
    return before + fraction * step


def _resample_rotations(values: Float64, placement: Placement, kind: Kind, unit: Unit) -> Float64:
    taken = values[placement.index]
    if placement.fraction is not None:
        following = values[np.minimum(placement.index + 1, len(values) - 1)]
        taken = slerp(taken, following, placement.fraction[:, None], kind=kind, unit=unit)
    return continuous(taken, values[placement.index[0]], kind=kind, unit=unit)


def _check_stamps(stream: Clocked) -> None:
    stamps = stream.stamps_ns
    if len(stamps) == 0:
        raise AlignmentError("the stream has no samples", stream=stream.name)
    steps = np.diff(stamps)
    if (steps >= 0).all():
        return
    at = int(np.argmin(steps))
    raise AlignmentError(
        "the clock jumps back",
        stream=stream.name,
        found=f"{-steps[at] / 1e9:.3f} s back at sample {at + 1} of {len(stamps)} ({(steps < 0).sum()} jump(s) in all)",
        expected="stamps that do not decrease",
        todo="For MCAP, `timeline: {on_clock_jump: split}` begins an episode at each jump; else look at the collector's clock.",
    )


def _on_one_clock(streams: Sequence[Clocked], spec: TimelineSpec) -> list[Clocked]:
    """Add offsets, then what `start` asks for, then latencies: those of sensors are no part of how two clocks lie to each other."""
    offsets = {s.name: spec.clock_offsets.get(_stream_of(s.name)) for s in streams}
    anchored = [s for s in streams if offsets[s.name] != "start"]
    if not anchored:
        raise AlignmentError("every stream has `clock_offsets: start`", todo="Leave one stream without it: its clock is the timeline's.")
    first = max(int(s.stamps_ns[0]) + _offset_ns(s, offsets[s.name]) for s in anchored)
    return [replace(s, stamps_ns=s.stamps_ns + _offset_ns(s, offsets[s.name], first) + s.latency_ns, latency_ns=0) for s in streams]


def _stream_of(name: str) -> str:
    """Drop what follows the `|` that a caller may add to tell two uses of one stream apart."""
    return name.partition("|")[0]


def _offset_ns(stream: Clocked, offset: str | float | None, first: int = 0) -> int:
    if offset == "start":
        return first - int(stream.stamps_ns[0])
    return round(float(offset or 0.0) * _MS)


def _timeline(streams: Sequence[Clocked], spec: TimelineSpec) -> Int64:
    latest = max(streams, key=lambda s: s.stamps_ns[0])
    earliest = min(streams, key=lambda s: s.stamps_ns[-1])
    start, stop = int(latest.stamps_ns[0]), int(earliest.stamps_ns[-1])
    if stop < start:
        raise _no_overlap(latest, earliest)
    # Integers: k * 1e9 / rate rounded to a nanosecond, so that no error adds up over a long recording.
    last = (stop + _ROUNDING_NS - start) * spec.rate_hz // 1_000_000_000 + 1
    k = np.arange(last + 1, dtype=np.int64)
    stamps = start + (2 * k * 1_000_000_000 + spec.rate_hz) // (2 * spec.rate_hz)
    return stamps[stamps <= stop + _ROUNDING_NS]


def _no_overlap(late: Clocked, early: Clocked) -> AlignmentError:
    shift = (int(late.stamps_ns[0]) - int(early.stamps_ns[0])) / 1e9
    lengths = [_duration_s(s) for s in (late, early)]
    todo = f"If it lies on another clock, write `timeline: {{clock_offsets: {{{_stream_of(early.name)}: start}}}}` (or a number of ms)."
    return AlignmentError(
        f"streams have no time in common: {late.name} begins after {early.name} has ended",
        stream=early.name,
        found=f"clocks {shift:.3f} s apart, durations {lengths[0]:.2f} s and {lengths[1]:.2f} s",
        expected="overlapping spans on one clock",
        todo=todo,
    )


def _shifted_clocks(streams: Sequence[Clocked], spec: TimelineSpec) -> list[str]:
    """Streams that begin *and* end later than the rest by the same time look like one on a clock with a constant offset."""
    starts, stops = (np.array([s.stamps_ns[i] for s in streams]) for i in (0, -1))
    notes = []
    for stream, start, stop in zip(streams, starts, stops, strict=True):
        begins, ends = (int(start) - int(np.median(starts))) / _MS, (int(stop) - int(np.median(stops))) / _MS
        if min(abs(begins), abs(ends)) > spec.max_gap_ms and abs(begins - ends) < 0.1 * abs(begins):
            todo = f"timeline: {{clock_offsets: {{{_stream_of(stream.name)}: {-begins:.0f}}}}}"
            shift = f"it begins {begins:.0f} ms and ends {ends:.0f} ms after the others"
            notes.append(f"the clock of {stream.name} may be off by {begins:.0f} ms: {shift}; if so write `{todo}`")
    return notes


def _too_short(streams: Sequence[Clocked], frames_ns: Int64, notes: Sequence[str], spec: TimelineSpec) -> AlignmentError:
    shortest = min(streams, key=_duration_s)
    return AlignmentError(
        "the time that all streams share is too short" + (f" ({'; '.join(notes[:3])})" if notes else ""),
        stream=shortest.name,
        found=f"{len(frames_ns)} frame(s) at {spec.rate_hz} Hz; this stream, the shortest, lasts {_duration_s(shortest):.3f} s",
        expected=f"at least min_frames {spec.min_frames}",
        todo="Does the stream begin late or stop early (`vla-ops inspect`)?",
    )


def _duration_s(stream: Clocked) -> float:
    return (int(stream.stamps_ns[-1]) - int(stream.stamps_ns[0])) / 1e9


def _gaps(stream: Clocked, frames_ns: Int64, spec: TimelineSpec, notes: list[str]) -> np.ndarray:
    """Frames [bool] inside a gap of this stream; raise if gaps quarantine."""
    steps = np.diff(stream.stamps_ns)
    inside = np.zeros(len(frames_ns), bool)
    for at in np.flatnonzero(steps > spec.max_gap_ms * _MS):
        frames = (frames_ns > stream.stamps_ns[at]) & (frames_ns < stream.stamps_ns[at + 1])
        if not frames.any():
            continue
        when, long = _seconds(stream.stamps_ns[at] - frames_ns[0]), f"{steps[at] / _MS:.0f} ms"
        if spec.on_gap == "quarantine":
            raise AlignmentError(
                f"a gap at {when}",
                stream=stream.name,
                found=f"{long} between samples {at} and {at + 1}",
                expected=f"at most max_gap_ms {spec.max_gap_ms:g}",
                todo="`timeline: {on_gap: split}` ends the episode there and begins another; or raise max_gap_ms.",
            )
        notes.append(f"split at a gap of {long} in {stream.name} at {when}")
        inside |= frames
    return inside


def _check_skew(placements: Mapping[str, Placement], frames_ns: Int64, in_gap: np.ndarray, spec: TimelineSpec) -> None:
    for name, placement in placements.items():
        skew = np.where(in_gap, 0, np.abs(placement.skew_ns))
        if not len(skew) or skew.max() <= spec.max_skew_ms * _MS:
            continue
        worst = int(np.argmax(skew))
        late = int((skew > spec.max_skew_ms * _MS).sum())
        when = _seconds(frames_ns[worst] - frames_ns[0])
        raise AlignmentError(
            f"{late} of {len(skew)} frames have no sample close enough; the worst is at {when}",
            stream=name,
            frame=worst,
            found=f"{skew[worst] / _MS:.1f} ms",
            expected=f"at most max_skew_ms {spec.max_skew_ms:g}",
            todo="Is the stream's rate as expected (`vla-ops inspect`)? A slower stream needs a larger max_skew_ms.",
        )


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """[start, stop) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _seconds(ns: np.int64 | int) -> str:
    return f"{int(ns) / 1e9:.3f} s"
