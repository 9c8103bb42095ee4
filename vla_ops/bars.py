"""A progress bar of a conversion for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.pool import Event, Frames, Lost
from vla_ops.episodes.progress import Meter
from vla_ops.recordings.discover import RecordingFile


def bars(files: Sequence[RecordingFile], events: Iterator[Event]) -> Iterator[Conversion | Lost]:
    """Pass the outcomes through and draw one bar over the bytes of `files`."""
    meter = Meter(files, say=lambda _: None)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("converting", total=1.0)
        for event in events:
            meter.count(event)
            progress.update(bar, completed=meter.fraction, description=meter.line())
            if not isinstance(event, Frames):
                yield event
