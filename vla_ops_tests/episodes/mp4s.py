"""Write the videos of one camera in tests, and look into mp4s."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

from vla_ops.episodes.video import Track, WrittenVideo, write_videos
from vla_ops.spec import VideoSpec
from vla_ops_tests.episodes.streams import Frames, read_barcode

RATE_HZ = 30
AV1, H264, COPY = (VideoSpec(codec=codec) for codec in ("av1", "h264", "copy"))
EACH = pytest.mark.parametrize("spec", [AV1, H264, COPY], ids=lambda spec: spec.codec)
ENCODED = pytest.mark.parametrize("spec", [AV1, H264], ids=lambda spec: spec.codec)


def write(folder: Path, stream: Frames, spec: VideoSpec, indices: list[int] | None = None, rate_hz: int = RATE_HZ) -> WrittenVideo:
    track = Track(stream, np.array(range(stream.count) if indices is None else indices))
    return write_videos(folder, {"cam": track}, rate_hz=rate_hz, settings=spec)["cam"]


def shown(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def barcodes(path: Path) -> list[int]:
    return [read_barcode(image) for image in shown(path)]


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.pts is not None]


def plain(data: bytes) -> np.ndarray:
    """A JPEG as an image library decodes it."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
