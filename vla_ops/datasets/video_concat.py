"""Put the mp4s of episodes one after another into one mp4: packets are copied, nothing is decoded.

Frame k of the result is at exactly k / rate. Adding up rounded packet durations instead is what makes the timestamps of
other tools' datasets drift away from their videos over thousands of frames (huggingface/lerobot #3177).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from vla_ops.datasets.video_packets import PacketWriter, extradata_digest
from vla_ops.episodes.store import VideoInfo
from vla_ops.errors import DatasetError, SchemaMismatchError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_RECONVERT = "Delete the episode's folder and convert its recording again."


@dataclass(frozen=True)
class Clip:
    """One episode's mp4 of one camera and what episode.json says of it."""

    episode: str
    path: Path
    video: VideoInfo


def concatenate(
    clips: Sequence[Clip], target: Path, *, rate_hz: int, extradata: str | None = None, each: Callable[[], None] | None = None
) -> str:
    """Write `clips` into one mp4 at `target` and return the digest of their codec extradata.

    `extradata` is the digest the clips must have, by default the first clip's; `each` is called after every clip. Raise
    DatasetError naming the episode for a clip with other extradata, a missing, additional, reordered or misplaced frame, or
    a first packet that is no keyframe; SchemaMismatchError for a clip that is not what its episode.json says.
    """
    first = clips[0].episode
    with PacketWriter(target, rate=Fraction(rate_hz)) as output:
        for clip in clips:
            with _open(clip) as source:
                video = source.streams.video[0]
                _check_stream(clip, video)
                extradata = _same_extradata(clip, video, extradata, first)
                for packet in _packets(clip, source, rate_hz):
                    output.copy(packet, video, output.count)
            if each is not None:
                each()
    return extradata or ""


def _open(clip: Clip) -> InputContainer:
    import av
    from av.error import FFmpegError

    try:
        return av.open(str(clip.path))
    except (OSError, FFmpegError) as error:
        raise DatasetError("a video cannot be opened", episode=clip.episode, file=clip.path, found=str(error), todo=_RECONVERT) from error


def _check_stream(clip: Clip, stream: VideoStream) -> None:
    found = f"{stream.codec.canonical_name} {stream.height}x{stream.width} {stream.pix_fmt}"
    expected = f"{clip.video.codec} {clip.video.height}x{clip.video.width} {clip.video.pix_fmt}"
    if found != expected:
        raise SchemaMismatchError(
            "a video is not what episode.json says", episode=clip.episode, file=clip.path, found=found, expected=expected, todo=_RECONVERT
        )


def _packets(clip: Clip, source: InputContainer, rate_hz: int) -> Iterator[Packet]:
    """Yield the packets in order, checking that packet k is frame k and that there are as many as the episode has frames."""
    video = source.streams.video[0]
    base, count = video.time_base or Fraction(0), 0
    for packet in source.demux(video):
        if packet.dts is None:  # the demuxer's flush packet
            continue
        _check_packet(clip, packet, count, base=base, rate_hz=rate_hz)
        count += 1
        yield packet
    if count != clip.video.frames:
        raise DatasetError(
            "a video's packet count differs from the length of its episode",
            episode=clip.episode,
            file=clip.path,
            found=f"{count} packets",
            expected=f"{clip.video.frames} frames",
            todo=_RECONVERT,
        )


def _check_packet(clip: Clip, packet: Packet, k: int, *, base: Fraction, rate_hz: int) -> None:
    # In integers: a Fraction for each packet costs as much as copying it.
    if packet.pts is None or packet.pts * base.numerator * rate_hz != k * base.denominator:
        raise DatasetError(
            "a video's frame is not where its episode's timeline has it (reordered, missing or misplaced)",
            episode=clip.episode,
            file=clip.path,
            frame=k,
            found="no time" if packet.pts is None else f"{packet.pts * base} s",
            expected=f"{Fraction(k, rate_hz)} s",
            todo=_RECONVERT,
        )
    if k == 0 and not packet.is_keyframe:
        raise DatasetError("a video does not begin with a keyframe", episode=clip.episode, file=clip.path, todo=_RECONVERT)


def _same_extradata(clip: Clip, video: VideoStream, expected: str | None, first: str) -> str:
    found = extradata_digest(video)
    if expected is not None and found != expected:
        raise DatasetError(
            f"the encoder's stream header (extradata) of a video differs from that of {first} and those before it",
            episode=clip.episode,
            file=clip.path,
            found=f"digest {found}, {len(video.codec_context.extradata or b'')} bytes",
            expected=f"digest {expected}",
            todo="They were encoded with other settings or another encoder version: convert all of the robot's recordings again.",
        )
    return found
