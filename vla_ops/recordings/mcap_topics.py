"""What each topic of an MCAP file holds, told from its schema and its first message."""

from __future__ import annotations

from dataclasses import replace
from threading import RLock
from typing import Any

from vla_ops.errors import RecordingFormatError, StreamNotFoundError, UnknownEncodingError, VlaOpsError
from vla_ops.recordings.base import StreamInfo
from vla_ops.recordings.mcap_index import McapIndex
from vla_ops.recordings.mcap_notes import McapNotes
from vla_ops.recordings.mcap_runs import Rows
from vla_ops.recordings.message_images import describe_image, holds_images
from vla_ops.recordings.messages import MessageKind, as_vector, default_field, follow, joint_names, message_kind, numeric_fields


class McapTopics:
    """The topics of a file: how their messages are decoded, and their lines in a listing."""

    def __init__(self, index: McapIndex, notes: McapNotes) -> None:
        self._index, self._notes = index, notes
        self._lock = RLock()
        self._kinds: dict[str, MessageKind] = {}

    def kind(self, topic: str) -> MessageKind:
        """How the messages of `topic` are decoded. Raise UnknownEncodingError naming the encoding if it is not known."""
        with self._lock:
            if topic not in self._kinds:
                try:
                    self._kinds[topic] = message_kind(self._index.topics[topic][0].message_encoding, self._index.schema(topic))
                except VlaOpsError as error:
                    raise error.at(stream=topic) from error.__cause__
            return self._kinds[topic]

    def info(self, topic: str, rows: Rows) -> StreamInfo:
        """The topic's line in a listing. What cannot be read is `other`, and the reason stands behind its encoding."""
        log_ns = self._index.table(topic).log_ns[rows.start : rows.stop]
        channel = self._index.topics[topic][0]
        schema = self._index.contents.schemas.get(channel.schema_id)
        ends = (int(log_ns[0]), int(log_ns[-1])) if len(log_ns) else (None, None)
        plain = StreamInfo(topic, "other", "", (), len(log_ns), *ends, channel.message_encoding, schema.name if schema else "")
        try:
            return self._described(plain, rows)
        except UnknownEncodingError as error:
            reason = "" if str(error.found).startswith(plain.encoding) else f": {error.found}"
            return replace(plain, encoding=plain.encoding + reason)
        except RecordingFormatError as error:
            return replace(plain, encoding=f"{plain.encoding}: {error.what}")

    def _described(self, plain: StreamInfo, rows: Rows) -> StreamInfo:
        kind = self.kind(plain.name)
        if not plain.count:
            return plain
        message = kind.decode(next(self._index.batches(plain.name, rows.start, rows.start + 1)).message(0))
        if holds_images(kind):
            encoding, shape = describe_image(kind, message)
            return replace(plain, kind="images", dtype="uint8", shape=shape, encoding=encoding)
        fields = numeric_fields(message)
        if not fields:
            return plain
        path, width = _usual(kind, message, fields)
        names = joint_names(message, path, width) or self._notes.joint_names(plain.name, width)
        return replace(plain, kind="numbers", dtype="float64", shape=(width,), fields=tuple(fields), joint_names=names)


def _usual(kind: MessageKind, message: Any, fields: dict[str, int]) -> tuple[str, int]:
    """The field that a source without one means and its width, or the first one where that is not clear."""
    try:
        path = default_field(kind, message)
    except StreamNotFoundError:
        path = ""
    values = as_vector(follow(message, path)) if path else None
    return (path, len(values)) if values is not None and len(values) else next(iter(fields.items()))
