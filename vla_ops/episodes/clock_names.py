"""Which stream each clock offset and array of times in the spec speaks of, as one recording resolves them; none is ignored."""

from __future__ import annotations

from vla_ops.errors import SpecError, StreamNotFoundError
from vla_ops.recordings.base import Recording, Source
from vla_ops.robot import RobotSpec


class ClockNames:
    """The names of a recording's clocks: that of the stream, or, where the spec has an offset for it, as the offset spells it."""

    def __init__(self, recording: Recording, spec: RobotSpec) -> None:
        self._recording, self._spec = recording, spec
        self._read: set[str] = set()
        self._spelled: dict[str, str] = {}
        for key in spec.timeline.clock_offsets:
            stream = self._stream_of("timeline.clock_offsets", Source.parse(key), key)
            if stream in self._spelled:
                raise SpecError("timeline.clock_offsets names one stream twice", stream=stream, found=f"{self._spelled[stream]} and {key}")
            self._spelled[stream] = key

    def of(self, source: Source) -> str:
        """The name of the clock of what `source` names."""
        stream = self._recording.stream_name(source)
        self._read.add(stream)
        return self._spelled.get(stream, stream)

    def check(self) -> None:
        """Raise SpecError for an offset of a stream that no source named, and for times of a stream that the recording does not have."""
        for stream, key in self._spelled.items():
            if stream not in self._read:
                mapped = ", ".join(sorted(self._read))
                raise SpecError("timeline.clock_offsets names a stream that is not mapped", found=key, expected=f"one of: {mapped}")
        for key in self._spec.recordings.times:
            if key != "*":
                self._stream_of("recordings.times", Source(key), key)

    def _stream_of(self, setting: str, source: Source, key: str) -> str:
        try:
            return self._recording.stream_name(source)
        except StreamNotFoundError as error:
            raise SpecError(f"{setting} names no stream of the recording", found=key, expected=error.expected, todo=error.todo) from error
