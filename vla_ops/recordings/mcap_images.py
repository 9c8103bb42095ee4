"""The images of one topic as an image stream: read chunk by chunk, decoded as messages but never as images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vla_ops.errors import RecordingError, VlaOpsError
from vla_ops.recordings.base import EncodedImage, ImageCodec, Int64
from vla_ops.recordings.mcap_index import Batch, McapIndex
from vla_ops.recordings.mcap_runs import Rows
from vla_ops.recordings.message_images import image_of
from vla_ops.recordings.messages import MessageKind
from vla_ops.recordings.video_images import checked_indices


@dataclass(frozen=True)
class TopicImages:
    """An ImageStream over messages `rows` of a topic. Holds no state, so that cameras can be read from several threads."""

    name: str
    codec: ImageCodec
    stamps_ns: Int64
    index: McapIndex
    kind: MessageKind
    rows: Rows
    bgr: bool = False

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the images at non-decreasing `indices`, holding one chunk in memory."""
        wanted = checked_indices(self.name, indices, self.rows.stop - self.rows.start)
        table = self.index.table(self.name).part(self.rows.start, self.rows.stop)
        self.index.prefetch(self.name, np.array(wanted, np.int64) + self.rows.start)
        batch, position, image, shown = None, -1, None, -1
        for k in wanted:
            if image is None or k != shown:
                if batch is None or table.chunks[k] != table.chunks[position]:
                    batch = None  # Freed before the next is read, so that two are never held.
                    batch, position = self._batch_from(k), k
                image, shown = self._image(batch, k - position, k), k
            yield image

    def _batch_from(self, k: int) -> Batch:
        """The messages from image `k` to the end of its chunk."""
        return next(self.index.batches(self.name, self.rows.start + k, self.rows.stop))

    def _image(self, batch: Batch, position: int, k: int) -> EncodedImage:
        try:
            return image_of(self.kind, self.kind.decode(batch.message(position)), bgr=self.bgr)
        except VlaOpsError as error:
            raise error.at(stream=self.name, frame=k, message=self.rows.start + k) from error.__cause__


def open_images(name: str, index: McapIndex, kind: MessageKind, rows: Rows, *, stamps_ns: Int64, bgr: bool) -> TopicImages:
    """Open the images of a topic. Its codec is that of the first image; every packet says its own."""
    probe = TopicImages(name, "raw", stamps_ns, index, kind, rows, bgr)
    first = next(probe.packets([0]), None)
    if first is None:
        raise RecordingError("the topic has no images", stream=name)
    return TopicImages(name, first.codec, stamps_ns, index, kind, rows, bgr)
