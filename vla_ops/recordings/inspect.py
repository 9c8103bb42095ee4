"""Say what is in a recording: its format by content, its streams, episodes and metadata, as data and as a plain text table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from statistics import median

from vla_ops.errors import RecordingError, RecordingFormatError, VlaOpsError
from vla_ops.recordings import FORMATS, format_of, leading, open_recording
from vla_ops.recordings.base import OpenOptions, Span, StreamInfo
from vla_ops.recordings.place import Place, as_place, saying_failure

_EXTENSIONS = {".hdf5": "hdf5", ".h5": "hdf5", ".hdf": "hdf5", ".partial": "hdf5", ".mcap": "mcap", ".zarr": "zarr", ".zip": "zarr"}
# Streams that begin this far from the others are on another clock, not late.
_ANOTHER_CLOCK_NS = 3600 * 10**9
_WIDEST_NAME = 60
_WIDEST_ENCODING = 24
_MOST_METADATA = 20
_MOST_JUMPS = 5
# No sensor is faster: such a rate comes from stamps that are all alike.
_FASTEST_HZ = 100_000


@dataclass(frozen=True)
class Description:
    """What is in one recording. `streams` are those of its first episode."""

    path: str
    format: str
    size_bytes: int
    streams: tuple[StreamInfo, ...]
    spans: tuple[Span, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    # What a person should know of how it is read.
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> str | None:
        """The task text of the first episode that has one."""
        return next((span.task for span in self.spans if span.task), None)

    @property
    def is_convertible(self) -> bool:
        """False where nothing in it can be a robot's state, action or camera."""
        return any(stream.kind != "other" for stream in self.streams)

    @property
    def has_stamps(self) -> bool:
        """False where only a rate from the robot's YAML can give the samples their times."""
        return any(stream.first_ns is not None for stream in self.streams)

    @property
    def other_clocks(self) -> tuple[str, ...]:
        """Streams that begin more than an hour from the middle of all beginnings: their clock is another."""
        starts = {s.name: s.first_ns for s in self.streams if s.first_ns is not None and s.kind != "other"}
        # The higher of two middles: epochs are large, and the odd clock counts from power-on.
        middle = sorted(starts.values())[len(starts) // 2] if starts else 0
        return tuple(name for name, start in starts.items() if abs(start - middle) > _ANOTHER_CLOCK_NS)


def describe(recording: str | Path | Place, options: OpenOptions | None = None) -> Description:
    """Open a recording of any known format and list what is in it. Raise RecordingError if it cannot be opened."""
    place = as_place(recording)
    try:
        with closing(place), saying_failure(place):
            kind = sniff_format(place)
            with open_recording(place, kind, options) as opened:
                streams, spans = tuple(opened.streams()), tuple(opened.spans())
                return Description(place.path, kind, place.size_bytes, streams, spans, dict(opened.metadata()), tuple(opened.notes()))
    except VlaOpsError as error:
        error.at(file=place.path)
        raise


def rate_of(stream: StreamInfo) -> float | None:
    """The mean rate in Hz, or None where the stamps do not tell: there are none, or all are the same moment."""
    rate = stream.rate_hz
    return rate if rate is not None and rate <= _FASTEST_HZ else None


def sniff_format(recording: str | Path | Place) -> str:
    """Tell the format by the first bytes or, for folders and damaged files, by the names. Raise RecordingFormatError if it is none."""
    place = as_place(recording)
    try:
        return format_of(place) or _by_suffix(place)
    except RecordingError as error:
        raise error.at(file=place.path) from error.__cause__


def _by_suffix(place: Place) -> str:
    name = PurePosixPath(place.path)
    if place.is_folder:
        if name.suffix == ".zarr":
            return "zarr"
        raise RecordingFormatError(
            "a folder that is no recording",
            file=place.path,
            expected="an .mcap or .hdf5 file, a Zarr store, or a LeRobot dataset (with meta/info.json in it)",
            todo="Name one of the files in it.",
        )
    with closing(place.file()) as file:
        size, head = file.size, file.read(0, 8)
    if size == 0:
        todo = "The recorder wrote nothing: remove it or copy it again."
        raise RecordingFormatError("the file is empty", file=place.path, found="0 bytes", todo=todo)
    if name.suffix.lower() in _EXTENSIONS:
        return _EXTENSIONS[name.suffix.lower()]
    raise RecordingFormatError(
        "not a recording of a known format",
        file=place.path,
        found=leading(head, size),
        expected=" | ".join(FORMATS),
    )


def render(description: Description) -> str:
    """The description as aligned plain text, at most about 140 characters wide, with what to do next."""
    parts = [_head_lines(description), [*_whose(description.spans), *_table(description.streams)]]
    if len(description.spans) > 1:
        parts.append(_episodes(description.spans))
    if description.metadata:
        parts.append(_metadata(description.metadata))
    parts.append([f"note: {note}" for note in description.notes])
    parts.append(_next_steps(description))
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _head_lines(description: Description) -> list[str]:
    numbers = sum(s.kind == "numbers" for s in description.streams)
    images = sum(s.kind == "images" for s in description.streams)
    return [
        description.path,
        f"{description.format}, {_bytes(description.size_bytes)}, {_plural(len(description.spans), 'episode')}, "
        f"{_plural(numbers, 'numeric stream')}, {_plural(images, 'camera')}",
        f"task: {description.task}" if description.task else "task: none in the recording",
    ]


def _whose(spans: Sequence[Span]) -> list[str]:
    return [f"streams of episode 0 of {len(spans)}"] if len(spans) > 1 else []


def _table(streams: Sequence[StreamInfo]) -> list[str]:
    origin = min((s.first_ns for s in streams if s.first_ns is not None), default=0)
    middle = median([s.first_ns for s in streams if s.first_ns is not None] or [0])
    zero = origin if middle - origin < _ANOTHER_CLOCK_NS else round(middle)
    header = ("stream", "kind", "encoding", "sample", "count", "rate", "first .. last")
    return aligned([header, *(_row(s, zero) for s in streams)], right={4, 5})


def _row(stream: StreamInfo, zero_ns: int) -> tuple[str, ...]:
    sample = f"{stream.dtype} {list(stream.shape)}" if stream.shape else stream.dtype
    encoding = " ".join(part for part in (stream.encoding, stream.schema.rpartition("/")[2]) if part)
    rate = rate_of(stream)
    return (
        _shortened(stream.name, _WIDEST_NAME),
        stream.kind,
        _shortened(encoding, _WIDEST_ENCODING) or "-",
        sample,
        str(stream.count),
        f"{rate:.2f} Hz" if rate else "-",
        _times(stream, zero_ns),
    )


def _times(stream: StreamInfo, zero_ns: int) -> str:
    if stream.first_ns is None or stream.last_ns is None:
        return "-"
    if abs(stream.first_ns - zero_ns) > _ANOTHER_CLOCK_NS:
        return f"another clock, {(stream.last_ns - stream.first_ns) / 1e9:.2f} s"
    return f"{(stream.first_ns - zero_ns) / 1e9:.3f} .. {(stream.last_ns - zero_ns) / 1e9:.3f} s"


def _episodes(spans: Sequence[Span]) -> list[str]:
    lengths = [span.stop - span.start for span in spans if span.stop is not None]
    steps = f" of {min(lengths)} to {max(lengths)} steps, {sum(lengths)} in all" if lengths else ""
    names = f"{spans[0].name}, {spans[1].name} .. {spans[-1].name}" if len(spans) > 3 else ", ".join(s.name for s in spans)
    jumps = [f"  {span.name} begins at a clock that jumped back: {span.clock_jump}" for span in spans if span.clock_jump]
    more = [f"  and {len(jumps) - _MOST_JUMPS} more"] if len(jumps) > _MOST_JUMPS else []
    return [f"{len(spans)} episodes{steps}: {names}", *jumps[:_MOST_JUMPS], *more]


def _metadata(metadata: Mapping[str, str]) -> list[str]:
    rows = [(f"  {key}", _shortened(" ".join(value.split()), 90)) for key, value in list(metadata.items())[:_MOST_METADATA]]
    more = len(metadata) - len(rows)
    return ["metadata", *aligned(rows), *([f"  and {more} more"] if more else [])]


def _next_steps(description: Description) -> list[str]:
    if not description.is_convertible:
        return ["There is nothing in it to convert."]
    steps = []
    if not description.has_stamps:
        steps.append("The samples have no stamps: set `recordings.source_rate_hz`, or name an array of times in `recordings.times`.")
    steps += [f"{name} is on another clock: `timeline: {{clock_offsets: {{{name}: start}}}}`." for name in description.other_clocks]
    steps.append("Next: save the YAML (--only-yaml prints it alone) as robots/ROBOT/defs.yaml, and decide where it says DECIDE.")
    steps.append("Check it with `uv run dg check defs`, then `uv run vla-ops status ROBOT`.")
    return steps


def aligned(rows: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> list[str]:
    """Return the rows as lines with columns of one width; those in `right` end at the same place."""
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(w) if c in right else cell.ljust(w) for c, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _shortened(text: str, width: int) -> str:
    """Keep both ends of a long name: the robot stands at its beginning, the field at its end."""
    if len(text) <= width:
        return text
    half = (width - 3) // 2
    return f"{text[: width - 3 - half]}...{text[len(text) - half :]}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
