"""MCAP recordings: ROS 2, ROS 1, protobuf, JSON and FlatBuffer messages, and videos kept as attachments.

Only the messages of the streams that are asked for are read; images stay encoded until someone decodes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vla_ops.errors import RecordingError, RecordingFormatError, SchemaMismatchError, VlaOpsError
from vla_ops.recordings import messages as msg
from vla_ops.recordings import missing_stream
from vla_ops.recordings.attachments import LOG_STAMPS, AttachedVideo
from vla_ops.recordings.base import EncodedImage, ImageCodec, Int64, Numbers, OpenOptions, Source, Span, StreamInfo
from vla_ops.recordings.clock_runs import ClockRun, clock_runs
from vla_ops.recordings.mcap_index import AttachmentEntry, Locations, McapFile, RawMessage

if TYPE_CHECKING:
    from mcap.records import Channel


class McapRecording:
    """An open MCAP file. See `vla_ops.recordings.base.Recording`."""

    def __init__(self, path: str, options: OpenOptions) -> None:
        self.path, self._options = path, options
        self._file = McapFile(path, allow_truncated=options.allow_truncated)

    def streams(self) -> list[StreamInfo]:
        """List topics and attached videos; the first message of a topic is decoded for its fields, no other."""
        topics = [self._describe(topic) for topic in self._topics]
        return [*topics, *(self._describe_video(entry) for entry in self._videos.values())]

    def spans(self) -> list[Span]:
        """One episode, or one for each run of a clock that jumps back."""
        if not any(len(where.log_ns) for where in self._topics.values()):
            return []
        task, runs = self._task(), self._runs
        if len(runs) == 1:
            return [Span(Path(self.path).stem, task=task)]
        return [Span(str(k), index=k, task=task, clock_jump=run.jump) for k, run in enumerate(runs)]

    def metadata(self) -> Mapping[str, str]:
        """Metadata records as `record.key`, and the recorder's library."""
        flat: dict[str, str] = {}
        for record in self._file.metadata():
            for key, value in record.metadata.items():
                flat[f"{record.name}.{key}"] = _plain(value)[:200]
        return flat

    def numbers(self, source: Source, span: Span) -> Numbers:
        """Read the numbers of a topic's messages; joints are put in the order of the first message's names."""
        topic = self._topic(source.stream)
        decoder, schema = self._decoder(topic)
        where = self._within(topic, span)
        reading = _NumberReading(topic, source.field, schema)
        values: list[np.ndarray] = []
        stamps = np.empty(len(where.log_ns), np.int64)
        for number, raw in enumerate(self._file.messages(where)):
            message = msg.decode(decoder, raw.data, stream=topic, number=number)
            values.append(reading.read(message, number))
            stamps[number] = self._stamp(raw, message, topic)
        return Numbers(stamps, np.stack(values), reading.names or self._joint_names(topic))

    def images(self, source: Source, span: Span) -> TopicImages | AttachedVideo:
        """Open the images of a topic or an attached video."""
        if source.stream in self._videos and source.stream not in self._topics:
            return AttachedVideo(self._file, self._videos[source.stream], self._log_stamps())
        topic = self._topic(source.stream)
        decoder, schema = self._decoder(topic)
        if not msg.is_image(schema):
            raise RecordingFormatError(
                "not images", stream=topic, found=f"messages of type {schema}", expected="CompressedImage, Image or video"
            )
        where = self._within(topic, span)
        stamps = where.log_ns if self._options.clock == "log" else self._image_stamps(topic, where, decoder)
        return TopicImages(self._file, topic, where, stamps, decoder=decoder, schema=schema, bgr=topic in self._options.bgr_streams)

    def close(self) -> None:
        """Close the file; twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @cached_property
    def _channels(self) -> dict[str, list[Channel]]:
        by_topic: dict[str, list[Channel]] = {}
        for channel in sorted(self._file.channels.values(), key=lambda c: c.id):
            by_topic.setdefault(channel.topic, []).append(channel)
        return by_topic

    @cached_property
    def _topics(self) -> dict[str, Locations]:
        return {topic: Locations.joined([self._file.locations(c.id) for c in channels]) for topic, channels in self._channels.items()}

    @cached_property
    def _videos(self) -> dict[str, AttachmentEntry]:
        return {e.name: e for e in self._file.attachments() if e.media_type.startswith("video/")}

    @cached_property
    def _runs(self) -> list[ClockRun]:
        return clock_runs({topic: where for topic, where in self._topics.items() if len(where.log_ns)})

    def _topic(self, name: str) -> str:
        if name in self._topics:
            return name
        raise missing_stream(name, [*self._topics, *self._videos], kind="topic")

    def _decoder(self, topic: str) -> tuple[msg.Decoder, str]:
        channels = self._channels[topic]
        schemas = [self._file.schema(c) for c in channels]
        names = sorted({s.name if s else "" for s in schemas})
        if len(names) > 1:
            raise RecordingFormatError("two message types on one topic", stream=topic, found=" and ".join(names), expected="one type")
        return msg.make_decoder(channels[0], schemas[0]), names[0]

    def _within(self, topic: str, span: Span) -> Locations:
        where = self._topics[topic]
        if len(self._runs) > 1:
            where = where.take(self._runs[span.index].messages.get(topic, np.zeros(0, np.int64)))
        if not len(where.log_ns):
            raise missing_stream(topic, [t for t, w in self._topics.items() if len(w.log_ns) and t != topic], kind="message on topic").at(
                episode=span.name
            )
        return where

    def _stamp(self, raw: RawMessage, message: Any, topic: str) -> int:
        match self._options.clock:
            case "log":
                return raw.log_ns
            case "publish":
                return raw.publish_ns
            case "header":
                stamp = msg.header_stamp_ns(message)
                if stamp is None:
                    raise RecordingError(
                        "messages without a header stamp", stream=topic, todo="Write `recordings: {clock: log}` (or publish)."
                    )
                return stamp

    def _image_stamps(self, topic: str, where: Locations, decoder: msg.Decoder) -> Int64:
        stamps = np.empty(len(where.log_ns), np.int64)
        for number, raw in enumerate(self._file.messages(where)):
            message = msg.decode(decoder, raw.data, stream=topic, number=number) if self._options.clock == "header" else None
            stamps[number] = self._stamp(raw, message, topic)
        return stamps

    def _task(self) -> str | None:
        about = self.metadata()
        return next((about[k] for k in ("task_info.task_description", "task_info.task_name") if about.get(k, "").strip()), None)

    def _log_stamps(self) -> Int64 | None:
        found = self._json_attachment(LOG_STAMPS)
        return np.array(found, np.int64) if isinstance(found, list) else None

    def _json_attachment(self, name: str) -> Any:
        entry = next((e for e in self._file.attachments() if e.name == name), None)
        return None if entry is None else json.loads(self._file.read(entry.offset, entry.size))

    def _joint_names(self, topic: str) -> tuple[str, ...]:
        """AIRBOT names the joints of a component in the attachment `component_info`, not in its messages."""
        info = self._json_attachment("component_info")
        for component, about in (info or {}).items():
            for part in ("arm", "eef"):
                if topic.startswith(f"{component}/{part}/joint_state/") and isinstance(about, dict):
                    return tuple(about.get(f"{part}/joint_names", ()))
        return ()

    def _describe(self, topic: str) -> StreamInfo:
        where, channel = self._topics[topic], self._channels[topic][0]
        schema = self._file.schema(channel)
        name = schema.name if schema else ""
        stamps = {"first_ns": int(where.log_ns.min()), "last_ns": int(where.log_ns.max())} if len(where.log_ns) else {}
        common: dict[str, Any] = {"count": len(where.log_ns), "encoding": channel.message_encoding, "schema": name, **stamps}
        if msg.is_image(name):
            return StreamInfo(topic, "images", "uint8", (), **common)
        try:
            fields, names = self._first(topic)
        except VlaOpsError:
            # Listing a recording must show also what cannot be read of it; reading it says why.
            fields, names = {}, ()
        if not fields:
            return StreamInfo(topic, "other", "", (), **common)
        chosen = msg.default_field(name)
        width = fields[chosen] if chosen in fields else next(iter(fields.values())) if len(fields) == 1 else sum(fields.values())
        names = names or self._joint_names(topic)
        return StreamInfo(topic, "numbers", "float64", (width,), fields=tuple(fields), joint_names=names, **common)

    def _first(self, topic: str) -> tuple[dict[str, int], tuple[str, ...]]:
        decoder, _ = self._decoder(topic)
        raw = next(self._file.messages(self._topics[topic].take(slice(0, 1))), None)
        if raw is None:
            return {}, ()
        message = msg.decode(decoder, raw.data, stream=topic, number=0)
        return msg.numeric_fields(message), msg.joint_names(message)

    def _describe_video(self, entry: AttachmentEntry) -> StreamInfo:
        video = AttachedVideo(self._file, entry, self._log_stamps())
        first, last = (int(video.stamps_ns[i]) for i in (0, -1))
        return StreamInfo(
            entry.name, "images", "uint8", video.shape, len(video.stamps_ns), first, last, encoding=f"{video.codec} attachment"
        )


class _NumberReading:
    """Reads one field of a topic's messages, all of one width and with joints in one order."""

    def __init__(self, topic: str, field: str, schema: str) -> None:
        self.topic, self.field, self.schema = topic, field, schema
        self.names: tuple[str, ...] = ()
        self.width: int | None = None

    def read(self, message: Any, number: int) -> np.ndarray:
        if self.width is None:
            self._begin(message)
        try:
            values = msg.numbers_of(message, self.field)
        except KeyError as error:
            raise missing_stream(self.field, msg.numeric_fields(message), kind="field").at(stream=self.topic) from error
        if values is None:
            raise missing_stream(self.field, msg.numeric_fields(message), kind="numeric field").at(stream=self.topic)
        self.width = len(values) if self.width is None else self.width
        if len(values) != self.width:
            found = f"{len(values)} values in message {number}"
            raise SchemaMismatchError("the width changes midway", stream=self.topic, found=found, expected=f"{self.width} as in the first")
        names = msg.joint_names(message) if self.names else ()
        return values if names == self.names else self._reordered(values, names, number)

    def _begin(self, message: Any) -> None:
        if not self.field:
            chosen = msg.default_field(self.schema)
            fields = msg.numeric_fields(message)
            if chosen is None and len(fields) != 1:
                raise missing_stream("", fields, kind="single numeric field").at(stream=self.topic)
            self.field = next(iter(fields)) if chosen is None else chosen
        names = msg.joint_names(message)
        values = msg.numbers_of(message, self.field) if self.field in msg.numeric_fields(message) else None
        self.names = names if values is not None and len(names) == len(values) else ()

    def _reordered(self, values: np.ndarray, names: tuple[str, ...], number: int) -> np.ndarray:
        missing = [name for name in self.names if name not in names]
        if missing:
            where = f"message {number} has {', '.join(names)}"
            raise SchemaMismatchError("a joint is missing midway", stream=self.topic, dimension=", ".join(missing), found=where)
        return values[[names.index(name) for name in self.names]]


class TopicImages:
    """The image messages of one topic as an ImageStream."""

    def __init__(
        self, file: McapFile, topic: str, where: Locations, stamps_ns: Int64, *, decoder: msg.Decoder, schema: str, bgr: bool
    ) -> None:
        self.name, self.stamps_ns = topic, stamps_ns
        self._file, self._where, self._decoder, self._schema, self._bgr = file, where, decoder, schema, bgr
        self.codec: ImageCodec = next(self.packets([0])).codec

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the images at non-decreasing `indices`; a repeated one is read once."""
        wanted = np.asarray(indices, np.int64)
        chosen, repeats = np.unique(wanted, return_counts=True)
        for number, raw, times in zip(chosen, self._file.messages(self._where.take(chosen)), repeats, strict=True):
            message = msg.decode(self._decoder, raw.data, stream=self.name, number=int(number))
            try:
                image = msg.image_of(message, self._schema, bgr=self._bgr)
            except VlaOpsError as error:
                raise error.at(stream=self.name, frame=f"image {number}") from error.__cause__
            except msg.MESSAGE_ERRORS as error:
                raise RecordingFormatError(f"image {number} is not one: {error!r}", stream=self.name) from error
            for _ in range(int(times)):
                yield image


def _plain(value: str) -> str:
    """New AIRBOT collectors JSON-encode every value, old ones write plain text."""
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, str) else value
