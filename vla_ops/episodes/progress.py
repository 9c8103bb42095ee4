"""A line of progress at least every few seconds: recordings done, frames a second, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.pool import Event, Frames, Lost
from vla_ops.recordings.discover import RecordingFile

EVERY_S = 4.0


@dataclass
class Meter:
    """Counts events of a conversion. The time left is estimated from bytes, since frames are not known before."""

    files: Sequence[RecordingFile]
    say: Callable[[str], None]
    every_s: float = EVERY_S
    done: int = 0
    frames: int = 0
    bytes_done: int = 0
    started_s: float = field(default_factory=time.monotonic)
    said_s: float = field(default_factory=time.monotonic)

    def watch(self, events: Iterator[Event]) -> Iterator[Conversion | Lost]:
        """Pass the outcomes through and say a line now and then."""
        sizes = {file.id: file.size for file in self.files}
        for event in events:
            if isinstance(event, Frames):
                self.frames += event.frames
            else:
                self.done += 1
                self.bytes_done += sizes[event.recording]
                yield event
            if time.monotonic() - self.said_s >= self.every_s:
                self.said_s = time.monotonic()
                self.say(self.line())

    def line(self) -> str:
        """`12/500 recordings, 84,210 camera frames, 412 frames/s, about 3 min 20 s left`."""
        elapsed = max(time.monotonic() - self.started_s, 1e-9)
        total = sum(file.size for file in self.files)
        left = ""
        if self.bytes_done:
            left = f", about {_minutes(elapsed * (total - self.bytes_done) / self.bytes_done)} left"
        return f"{self.done}/{len(self.files)} recordings, {self.frames:,} camera frames, {self.frames / elapsed:,.0f} frames/s{left}"


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
