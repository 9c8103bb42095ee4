"""Read MCAP recordings: messages of any known encoding by topic, and videos kept as attachments.

Only the chunks that hold a mapped topic are decompressed. Samples come in the order recorded, so that a clock that jumps
back can be seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from vla_ops.errors import RecordingError, SchemaMismatchError, StreamNotFoundError, VlaOpsError
from vla_ops.recordings import missing_stream
from vla_ops.recordings.base import ImageStream, Int64, Numbers, OpenOptions, Source, Span, StreamInfo
from vla_ops.recordings.mcap_images import open_images
from vla_ops.recordings.mcap_index import McapIndex
from vla_ops.recordings.mcap_notes import McapNotes
from vla_ops.recordings.mcap_numbers import NumberReader, stamps_of
from vla_ops.recordings.mcap_runs import Rows, Runs, find_runs
from vla_ops.recordings.mcap_topics import McapTopics
from vla_ops.recordings.message_images import holds_images
from vla_ops.recordings.messages import MessageKind
from vla_ops.recordings.place import Place, as_place
from vla_ops.recordings.video_images import VideoImages


class McapRecording:
    """One MCAP file. Listing it reads its indexes and the first message of each topic."""

    def __init__(self, recording: str | Place, options: OpenOptions) -> None:
        self._place = as_place(recording)
        self.path = self._place.path
        self.options = options
        self._index = McapIndex(self._place, allow_truncated=options.allow_truncated)
        self._notes = McapNotes(self._index)
        self._topics = McapTopics(self._index, self._notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._index.close()
        self._place.close()

    def streams(self) -> list[StreamInfo]:
        """List all topics and videos of the first episode."""
        videos = self._notes.videos
        topics = [self._topics.info(topic, self._runs_of(topic, 0)) for topic in self._index.topics if topic not in videos]
        return [*topics, *(video.info() for video in videos.values())]

    def spans(self) -> list[Span]:
        """One episode, or one for each run of the clock where it jumps back; none where nothing is recorded."""
        if not self._notes.videos and not any(len(self._index.table(topic)) for topic in self._index.topics):
            return []
        jumps, task = self._runs.jumps, self._notes.task
        if not jumps:
            return [Span(Path(self.path).stem, task=task)]
        return [Span(f"run_{k}", k, task=task, clock_jump=jump) for k, jump in enumerate([None, *jumps])]

    def notes(self) -> list[str]:
        """That the file was cut off, and where."""
        cut_at = self._index.contents.cut_at
        return [] if cut_at is None else [f"the file was cut off; its whole part was read, {cut_at:,} of {self._index.file.size:,} bytes"]

    def metadata(self) -> Mapping[str, str]:
        """The metadata records as flat text: task_info.task_name, version.collector, ..."""
        return self._notes.metadata

    def numbers(self, source: Source, span: Span) -> Numbers:
        """Read a field of a topic. Raise StreamNotFoundError with the nearest names if it is not there."""
        name, field = self._find(source)
        with _naming(name):
            kind = None if name in self._notes.videos else self._topics.kind(name)
            if kind is None or holds_images(kind):
                raise SchemaMismatchError("not a numeric stream", found="images", expected="numbers", todo="Map images under `cameras`.")
            return self._numbers(name, field, source, kind, self._rows(name, span))

    def _numbers(self, name: str, field: str, source: Source, kind: MessageKind, rows: Rows) -> Numbers:
        stamps: list[Int64] = []
        values, reader = [], None
        self._index.prefetch(name, np.arange(rows.start, rows.stop))
        for batch in self._index.batches(name, rows.start, rows.stop):
            reader = reader or NumberReader(kind, field, batch.message(0))
            values.append(reader.read(batch))
            stamps.append(stamps_of(batch, kind, self.options.clock))
        if reader is None:
            raise StreamNotFoundError("there are no messages", found="0 messages")
        width = reader.first.width
        names = reader.first.names or self._notes.joint_names(name, width)
        try:
            columns = source.take(np.arange(width, dtype=np.float64)[None])[0].astype(int)
        except IndexError as error:
            raise SchemaMismatchError(
                "a column is selected that the stream does not have", source=str(source), found=f"{width} values a message"
            ) from error
        return Numbers(np.concatenate(stamps), np.concatenate(values)[:, columns], tuple(names[c] for c in columns) if names else ())

    def images(self, source: Source, span: Span) -> ImageStream:
        """Open a topic or a video attachment. Raise StreamNotFoundError with the nearest names if it is not there."""
        name, _ = self._find(source)
        with _naming(name):
            if name in self._notes.videos:
                return self._video(name)
            kind, rows = self._topics.kind(name), self._rows(name, span)
            return open_images(
                name, self._index, kind, rows, stamps_ns=self._stamps(name, kind, rows), bgr=str(source) in self.options.bgr_sources
            )

    def _stamps(self, name: str, kind: MessageKind, rows: Rows) -> Int64:
        if self.options.clock == "log":
            # The message indexes have them: nothing is decompressed.
            return self._index.table(name).log_ns[rows.start : rows.stop]
        self._index.prefetch(name, np.arange(rows.start, rows.stop))
        batches = self._index.batches(name, rows.start, rows.stop)
        return np.concatenate([stamps_of(batch, kind, self.options.clock) for batch in batches])

    def _video(self, name: str) -> VideoImages:
        if self._runs.count > 1:
            found = f"{self._runs.count} runs"
            raise RecordingError("a video cannot be divided among the runs of a clock that jumps back", found=found)
        return self._notes.videos[name].images()

    @cached_property
    def _runs(self) -> Runs:
        return find_runs({topic: self._index.table(topic) for topic in self._topics_read})

    @property
    def _topics_read(self) -> Iterable[str]:
        """The topics that may divide the file; one that is not there is named when it is read."""
        if self.options.streams is None:
            return self._index.topics
        names = {self._resolve(Source.parse(text))[0] for text in self.options.streams}
        return [topic for topic in self._index.topics if topic in names]

    def _runs_of(self, topic: str, run: int) -> Rows:
        return self._runs.rows(topic, run, len(self._index.table(topic)))

    def _rows(self, topic: str, span: Span) -> Rows:
        """The topic's messages in a span. Raise StreamNotFoundError if there are none."""
        if not 0 <= span.index < self._runs.count:
            raise RecordingError("there is no such episode", episode=span.name, expected=f"0..{self._runs.count - 1}")
        if self._runs.count > 1 and topic not in self._runs.starts and topic not in self._topics_read:
            raise RecordingError(
                "the file has several runs, and the stream was not among those it was opened for",
                episode=span.name,
                found=f"{self._runs.count} runs",
                expected="its source in OpenOptions.streams",
            )
        rows = self._runs_of(topic, span.index)
        if rows.start == rows.stop:
            total = len(self._index.table(topic))
            found = f"{total} in the whole file" if total else "none in the whole file"
            raise StreamNotFoundError("the topic has no messages in this episode", episode=span.name, found=found)
        return rows

    def stream_name(self, source: Source) -> str:
        """The topic or video a source names. Raise StreamNotFoundError with the nearest names if it is not there."""
        return self._find(source)[0]

    def _find(self, source: Source) -> tuple[str, str]:
        """The stream and field that a source names."""
        name, field = self._resolve(source)
        if name is None:
            raise missing_stream(source.stream, self._known)
        return name, field

    @property
    def _known(self) -> Collection[str]:
        return {**self._index.topics, **self._notes.videos}

    def _resolve(self, source: Source) -> tuple[str | None, str]:
        """The stream, or None, and the field. Names of streams may hold dots: the longest one that is there is meant."""
        names, known = source.beginnings, self._known
        name = next((name for name in reversed(names) if name in known), None)
        return name, source.field if name is None else names[-1][len(name) + 1 :]


@contextmanager
def _naming(stream: str) -> Iterator[None]:
    """Name the stream in every error raised within."""
    try:
        yield
    except VlaOpsError as error:
        raise error.at(stream=stream) from error.__cause__
