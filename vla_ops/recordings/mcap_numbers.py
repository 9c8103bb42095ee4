"""Messages of one topic -> one array of numbers, a chunk at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ops.errors import RecordingError, RecordingFormatError, SchemaMismatchError, VlaOpsError
from vla_ops.recordings.base import Clock, Float64, Int64
from vla_ops.recordings.mcap_index import Batch, gather
from vla_ops.recordings.message_layout import STAMP_RANGE, NumbersPlace, has_ros_header, numbers_place, stamps_of_headers
from vla_ops.recordings.messages import MessageKind, as_vector, default_field, follow, joint_names, stamp_ns


@dataclass(frozen=True)
class _First:
    """What the first message says; all others must agree."""

    field: str
    width: int
    names: tuple[str, ...]
    place: NumbersPlace | None
    # The bytes of the place's fixed ranges.
    fixed: tuple[bytes, ...]


class NumberReader:
    """Reads one field of a topic's messages. Columns keep the order that the first message names its joints in."""

    def __init__(self, kind: MessageKind, field: str, first: bytes) -> None:
        self.kind = kind
        message = kind.decode(first)
        path = field or default_field(kind, message)
        values = as_vector(follow(message, path))
        if values is None or not len(values):
            found = "none" if values is not None else type(follow(message, path)).__name__
            raise SchemaMismatchError("the field holds no numbers", field=path, found=found, expected="a number or a list of numbers")
        place = numbers_place(kind, first, path)
        if place is not None and place.count != len(values):
            place = None
        fixed = tuple(first[a:b] for a, b in place.fixed) if place else ()
        self.first = _First(path, len(values), joint_names(message, path, len(values)), place, fixed)

    def read(self, batch: Batch) -> Float64:
        """The numbers of all messages of a batch, float64 [n, width]. Raise SchemaMismatchError where width or joints change."""
        values = np.empty((len(batch), self.first.width))
        alike = self._alike(batch)
        if self.first.place is not None and alike.any():
            place = self.first.place
            values[alike] = place.read(gather(batch.buffer, batch.starts[alike] + place.start, place.stop - place.start))
        for k in np.flatnonzero(~alike).tolist():
            try:
                values[k] = self._decode(batch.message(k))
            except VlaOpsError as error:
                raise error.at(message=batch.first + k) from error.__cause__
        return values

    def _alike(self, batch: Batch) -> np.ndarray:
        """Which messages have their numbers in the same place as the first."""
        place = self.first.place
        if place is None:
            return np.zeros(len(batch), bool)
        # A FlatBuffers layout may lie behind the numbers.
        alike = batch.lengths >= max(place.stop, *(stop for _, stop in place.fixed))
        for (start, stop), expected in zip(place.fixed, self.first.fixed, strict=True):
            rows = np.flatnonzero(alike)
            same = gather(batch.buffer, batch.starts[rows] + start, stop - start) == np.frombuffer(expected, np.uint8)
            alike[rows] = same.all(axis=1)
        return alike

    def _decode(self, data: bytes) -> Float64:
        message, path, width = self.kind.decode(data), self.first.field, self.first.width
        values = as_vector(follow(message, path))
        if values is None or len(values) != width:
            found = "no numbers" if values is None else f"{len(values)} values"
            raise SchemaMismatchError(
                "the number of values changes midway",
                field=path,
                found=found,
                expected=f"{width} values, as in the first message",
                todo="Two publishers may share the topic, or the collector was reconfigured: leave the recording out, or cut it there.",
            )
        names = joint_names(message, path, width)
        return values if names == self.first.names else values[self._order(names)]

    def _order(self, names: tuple[str, ...]) -> list[int]:
        missing = [name for name in self.first.names if name not in names]
        if missing:
            raise SchemaMismatchError(
                f"joint {missing[0]!r} is missing from a message",
                found=", ".join(names) or "no names",
                expected=", ".join(self.first.names),
                todo="Two publishers may share the topic: record them on topics of their own.",
            )
        return [names.index(name) for name in self.first.names] if self.first.names else list(range(len(names)))


def stamps_of(batch: Batch, kind: MessageKind, clock: Clock) -> Int64:
    """The stamps of a batch by `clock`, int64 [n]. Raise RecordingError if its messages have no such stamp."""
    match clock:
        case "log":
            return batch.log_ns
        case "publish":
            return batch.publish_ns
    if has_ros_header(kind) and (batch.lengths >= STAMP_RANGE[1]).all():
        is_little = kind.encoding == "ros1" or (batch.columns(1, 2) == 1).all()
        if is_little:
            return stamps_of_headers(batch.columns(*STAMP_RANGE), kind)
    return np.array([_header_stamp(batch, k, kind) for k in range(len(batch))], np.int64)


def _header_stamp(batch: Batch, k: int, kind: MessageKind) -> int:
    try:
        stamp = stamp_ns(kind.decode(batch.message(k)))
    except RecordingFormatError as error:
        raise error.at(message=batch.first + k) from error.__cause__
    if stamp is None:
        raise RecordingError(
            "the messages have no stamp of their own",
            message=batch.first + k,
            found=kind.schema or kind.encoding,
            expected="a header.stamp or a timestamp",
            todo="Set `recordings: {clock: log}` or `publish`.",
        )
    return stamp
