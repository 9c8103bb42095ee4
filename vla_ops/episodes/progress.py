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
    # Recording -> the part of it that is done, 0 to 1.
    fractions: dict[str, float] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    said_s: float = field(default_factory=time.monotonic)

    def watch(self, events: Iterator[Event]) -> Iterator[Conversion | Lost]:
        """Pass the outcomes through and say a line now and then."""
        for event in events:
            self.count(event)
            if not isinstance(event, Frames):
                yield event
            if time.monotonic() - self.said_s >= self.every_s:
                self.said_s = time.monotonic()
                self.say(self.line())

    def count(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, Frames):
            self.frames += event.frames
            self.fractions[event.recording] = event.fraction
        else:
            self.done += 1
            self.fractions[event.recording] = 1.0

    @property
    def fraction(self) -> float:
        """The part of all bytes that is done, 0 to 1."""
        total = sum(file.size for file in self.files)
        return sum(file.size * self.fractions.get(file.id, 0.0) for file in self.files) / max(1, total)

    def line(self) -> str:
        """`12/500 recordings, 84,210 camera frames, 412 frames/s, about 3 min 20 s left`."""
        elapsed = max(time.monotonic() - self.started_s, 1e-9)
        done = self.fraction
        left = f", about {_minutes(elapsed * (1 - done) / done)} left" if done else ""
        return f"{self.done}/{len(self.files)} recordings, {self.frames:,} camera frames, {self.frames / elapsed:,.0f} frames/s{left}"


@dataclass
class Steps:
    """Says every few seconds how far something is that counts its steps."""

    what: str
    say: Callable[[str], None]
    every_s: float = EVERY_S
    said_s: float = field(default_factory=time.monotonic)

    def show(self, done: int, total: int) -> None:
        """Step `done` of `total` is finished."""
        if time.monotonic() - self.said_s >= self.every_s:
            self.said_s = time.monotonic()
            self.say(f"{self.what}: {done:,}/{total:,}")


@dataclass
class Reading:
    """Says every few seconds how much of the recordings was read for their content versions."""

    say: Callable[[str], None]
    every_s: float = EVERY_S
    bytes: int = 0
    said_s: float = field(default_factory=time.monotonic)

    def add(self, count: int) -> None:
        """So many bytes more were read."""
        self.bytes += count
        if time.monotonic() - self.said_s >= self.every_s:
            self.said_s = time.monotonic()
            self.say(f"reading new and changed recordings for their content versions: {self.bytes / 1e9:.2f} GB")


def _minutes(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
