"""Packets of episodes, copied; and statistics of an episode's pictures, for which alone some are decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.datasets.video_packets import Cut, PacketWriter, opened_video, packets_of
from vla_ops.episodes.decode import StillDecoder
from vla_ops.episodes.image_stats import ImageStats, pixel_step, sampled_frames, thinned_rgb
from vla_ops.errors import DatasetError
from vla_ops.recordings.base import EncodedImage

if TYPE_CHECKING:
    from fractions import Fraction

    import av
    import pyarrow as pa
    from av.packet import Packet
    from av.video.stream import VideoStream

_PNG = b"\x89PNG"


def join(cuts: Sequence[Cut], target: Path, rate: Fraction) -> Iterator[None]:
    """Write episodes one after another into one mp4; yield after each."""
    with PacketWriter(target, rate=rate, delay=max(cut.delay for cut in cuts)) as output:
        for cut in cuts:
            start = output.count
            for _, stream, packets in cut_packets([cut]):
                for shown, packet in packets:
                    output.copy(packet, stream, start + shown)
            yield


def split(cuts: Sequence[Cut], targets: Sequence[Path], rate: Fraction) -> Iterator[None]:
    """Write episodes of one mp4 into an mp4 each, reading it once; yield after each."""
    by_place = dict(zip((cut.stored_from for cut in cuts), targets, strict=True))
    for cut, stream, packets in cut_packets(cuts):
        with PacketWriter(by_place[cut.stored_from], rate=rate, delay=cut.delay) as output:
            for shown, packet in packets:
                output.copy(packet, stream, shown)
        yield


def cut_packets(cuts: Sequence[Cut]) -> Iterator[tuple[Cut, VideoStream, Iterator[tuple[int, Packet]]]]:
    """Yield each of the cuts of one file, as stored, with its packets as (number of the picture shown in the cut, packet)."""
    with opened_video(cuts[0].table.path) as (container, stream):
        stored = enumerate(packets_of(container, stream))
        for cut in sorted(cuts, key=lambda cut: cut.stored_from):
            yield cut, stream, _of_cut(cut, stored)


def _of_cut(cut: Cut, stored: Iterator[tuple[int, Packet]]) -> Iterator[tuple[int, Packet]]:
    first, order = cut.stored_from, cut.table.order
    for number, packet in stored:
        if number >= first:
            yield (number if order is None else int(order[number])) - cut.first, packet
        if number == first + cut.length - 1:
            return
    raise DatasetError("a video became shorter while it was read", file=cut.table.path)


def video_stats(cut: Cut) -> dict[str, Any]:
    """LeRobot's statistics of an episode's video, from the frames that LeRobot samples."""
    wanted, stats = set(sampled_frames(cut.length).tolist()), ImageStats()
    for number, frame in _decoded(cut):
        if number in wanted:
            _add(stats, frame)
            wanted.discard(number)
        if not wanted:
            return stats.stats()
    what = "pictures of a video do not decode"
    raise DatasetError(what, file=cut.table.path, frame=min(wanted), found=f"{len(wanted)} of the sampled pictures are missing")


def _decoded(cut: Cut) -> Iterator[tuple[int, av.VideoFrame]]:
    times = cut.table.times
    with opened_video(cut.table.path) as (container, stream):
        if cut.first:
            container.seek(int(times[cut.first]), stream=stream, backward=True)
        for frame in container.decode(stream):
            number = int(times.searchsorted(frame.pts)) - cut.first if frame.pts is not None else -1
            if 0 <= number < cut.length:
                yield number, frame


def still_stats(column: pa.ChunkedArray) -> dict[str, Any]:
    """LeRobot's statistics of an episode's images in a parquet column, from the ones that LeRobot samples."""
    stats, decoder = ImageStats(), StillDecoder()
    for k in sampled_frames(len(column)).tolist():
        stored = column[k].as_py()
        data = stored["bytes"] if isinstance(stored, dict) else stored
        _add(stats, decoder.decode(EncodedImage("png" if data.startswith(_PNG) else "jpeg", data)))
    return stats.stats()


def _add(stats: ImageStats, frame: av.VideoFrame) -> None:
    stats.add(thinned_rgb(frame, pixel_step(frame.height, frame.width)))
