"""What is said while recordings are converted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.pool import Event, Frames, Lost
from vla_ops.episodes.progress import Meter
from vla_ops.recordings.discover import RecordingFile

NOW = 1000.0


@pytest.fixture(autouse=True)
def _standing_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes only where a test says so."""
    monkeypatch.setattr("vla_ops.episodes.progress.time", SimpleNamespace(monotonic=lambda: NOW))


def meter_of(files: Sequence[RecordingFile], say: Callable[[str], None]) -> Meter:
    return Meter(files, say, started_s=NOW, said_s=NOW)


def say_nothing(line: str) -> None: ...


def files(*sizes: int) -> list[RecordingFile]:
    return [RecordingFile(str(k), str(k), size, "", 0.0, is_folder=False) for k, size in enumerate(sizes)]


def passing(meter: Meter, events: Sequence[Event], seconds: float) -> Iterator[Event]:
    """The events, `seconds` between one and the next: the meter's clock is set back instead of waiting."""
    for event in events:
        meter.said_s -= seconds
        meter.started_s -= seconds
        yield event


def test_a_line_is_said_at_least_every_five_seconds_also_while_nothing_finishes():
    said: list[str] = []
    meter = meter_of(files(10), said.append)
    lines_after = []
    # The pool sends a heartbeat every second.
    for _ in meter.watch(passing(meter, [Frames("", 0)] * 20, 1.0)):
        pytest.fail("a heartbeat is no outcome")
    assert len(said) == 20 // 4
    for _ in range(12):
        list(meter.watch(passing(meter, [Frames("0", 5, 0.1)], 1.0)))
        lines_after.append(len(said))
    assert max(len(list(group)) for _, group in itertools.groupby(lines_after)) <= 5


def test_many_events_in_a_moment_say_nothing():
    said: list[str] = []
    meter = meter_of(files(*[1] * 500), said.append)
    outcomes: list[Event] = [Conversion(str(k), "", "") for k in range(500)]
    assert list(meter.watch(iter(outcomes))) == outcomes
    assert said == []


def test_the_line_counts_recordings_and_frames_and_estimates_the_time_left_by_bytes():
    said: list[str] = []
    meter = meter_of(files(100, 300), said.append)
    assert meter.line() == "0/2 recordings, 0 camera frames, 0 frames/s"
    events: list[Event] = [Frames("0", 1000, 0.5), Frames("0", 1000, 1.0), Conversion("0", "", ""), Frames("1", 0, 0.0)]
    assert [o.recording for o in meter.watch(passing(meter, events, 10.0))] == ["0"]
    assert said[-1].startswith("1/2 recordings, 2,000 camera frames, ")
    assert "50 frames/s, about 2 min 0 s left" in said[-1]


def test_a_lost_recording_counts_as_done():
    meter = meter_of(files(100), say_nothing)
    assert list(meter.watch(iter([Lost("0", "killed")]))) == [Lost("0", "killed")]
    assert meter.line().startswith("1/1 recordings")
    assert meter.line().endswith("about 0 s left")
