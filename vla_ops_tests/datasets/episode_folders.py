"""Write small valid episode folders directly with PyAV and pyarrow, each frame's number drawn as a barcode in its top rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.episodes.store import EPISODE, FRAMES, Episode, EpisodeMeta, VideoInfo
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops.robot import RobotSpec

BITS, BLOCK, BAR_ROWS = 16, 6, 16
HEIGHT, WIDTH = 64, BITS * BLOCK

ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "av1": ("libsvtav1", "yuv420p", {"g": "2", "crf": "30", "preset": "12"}),
    "h264": ("libx264", "yuv420p", {"g": "2", "crf": "18", "preset": "ultrafast", "bf": "0"}),
    "mjpeg": ("mjpeg", "yuvj420p", {"qscale": "2"}),
}


@dataclass(frozen=True)
class Kind:
    """What a set of episodes has in common."""

    codec: str = "h264"
    cameras: tuple[str, ...] = ("cam_high",)
    names: tuple[str, ...] = ("j1", "j2", "gripper")
    rate_hz: int = 30
    height: int = HEIGHT
    width: int = WIDTH
    options: tuple[tuple[str, str], ...] = ()


def spec(kind: Kind | None = None, **dataset: Any) -> RobotSpec:
    """A robot spec that fits episodes of `kind`."""
    kind = kind or Kind()
    joints = [n for n in kind.names if n != "gripper"]
    state = [{"source": "/arm.position", "names": joints, "unit": "rad"}] if joints else []
    if "gripper" in kind.names:
        state.append({"source": "/gripper.position", "names": ["gripper"], "unit": "m", "kind": "gripper"})
    return RobotSpec.model_validate(
        {
            "recordings": {"uri": "recordings", "pattern": "*.mcap", "format": "mcap"},
            "timeline": {"rate_hz": kind.rate_hz},
            "state": state,
            "action": {"from": "next_state"},
            "cameras": {c: {"source": f"/{c}/image"} for c in kind.cameras},
            "task": {"from": "recording"},
            "dataset": {"repo_id": "my-lab/arm", "licence": "apache-2.0", **dataset},
        }
    )


def write_episode(
    root: Path, recording: str, length: int, *, kind: Kind | None = None, first: int = 0, task: str = "pick", index: int = 0
) -> Episode:
    """Write an episode of `length` frames whose barcodes count from `first`."""
    kind = kind or Kind()
    folder = root / recording / str(index)
    folder.mkdir(parents=True)
    state, action = vectors(first, length, len(kind.names))
    write_frames(folder / FRAMES, state, action, kind.rate_hz)
    for number, camera in enumerate(kind.cameras):
        write_video(folder / f"{camera}.mp4", first + 1000 * number, length, kind)
    stats = {"observation.state": vector_stats(state), "action": vector_stats(action)}
    stats |= {f"observation.images.{c}": image_stats(first) for c in kind.cameras}
    info = VideoInfo(kind.height, kind.width, kind.codec, ENCODERS[kind.codec][1], length, _settings(kind))
    meta = EpisodeMeta(
        recording=recording,
        index=index,
        name=f"demo_{index}",
        task=task,
        length=length,
        rate_hz=kind.rate_hz,
        state_names=list(kind.names),
        action_names=list(kind.names),
        videos=dict.fromkeys(kind.cameras, info),
        stats=stats,
        measured={},
        findings=[],
        source_version=hashlib.sha256(f"{recording} {first} {length}".encode()).hexdigest()[:16],
        spec_fingerprint="0" * 16,
    )
    return save(Episode(folder, meta))


def save(episode: Episode) -> Episode:
    """Write episode.json."""
    (episode.folder / EPISODE).write_text(json.dumps(episode.meta.to_json()))
    return episode


def changed(episode: Episode, **fields: Any) -> Episode:
    """The same folder with other metadata."""
    return replace(episode, meta=replace(episode.meta, **fields))


def write_episodes(
    root: Path, lengths: list[int], *, kind: Kind | None = None, tasks: list[str] | None = None, first: int = 0
) -> list[Episode]:
    """Write recordings rec_0, rec_1, ... with barcodes that count through all of them."""
    episodes = []
    for k, length in enumerate(lengths):
        task = tasks[k % len(tasks)] if tasks else "pick"
        episodes.append(write_episode(root, f"rec_{k}", length, kind=kind, first=first, task=task))
        first += length
    return episodes


def vectors(first: int, length: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """State [n, width] float32 whose column 0 is the barcode number, and the action one frame later."""
    k = np.arange(first, first + length + 1, dtype=np.float64)[:, None]
    values = np.concatenate([k, np.sin(k / 7 + np.arange(1, width))], axis=1).astype(np.float32)[:, :width]
    return values[:-1], values[1:]


def write_frames(path: Path, state: np.ndarray, action: np.ndarray, rate_hz: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def vector(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), values.shape[1])

    k = np.arange(len(state))
    columns = {
        "observation.state": vector(state),
        "action": vector(action),
        "timestamp": pa.array((k / rate_hz).astype(np.float32)),
        "skew_ns//arm": pa.array(k.astype(np.int64)),
    }
    pq.write_table(pa.table(columns), path)


def image(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """RGB [height, width, 3] with `number` as 16 blocks of black or white in the top rows."""
    bits = (number >> np.arange(BITS)) & 1
    pixels = np.full((height, width, 3), 40 + number % 100, dtype=np.uint8)
    pixels[:BAR_ROWS, : BITS * BLOCK] = np.repeat(bits * 255, BLOCK)[None, :, None]
    return pixels


def barcode(pixels: Any) -> int:
    """Read the number from an image [3, H, W] in 0..1 or 0..255."""
    bar = np.asarray(pixels, dtype=np.float64)[:, 4 : BAR_ROWS - 4, : BITS * BLOCK].mean(axis=(0, 1))
    blocks = bar.reshape(BITS, BLOCK)[:, 2:4].mean(axis=1)
    return int(((blocks > blocks.max() / 2) << np.arange(BITS)).sum()) if blocks.max() > 0.3 else 0


def write_video(path: Path, first: int, length: int, kind: Kind) -> None:
    import av

    encoder, pix_fmt, options = ENCODERS[kind.codec]
    with av.open(str(path), "w") as output:
        stream = output.add_stream(encoder, rate=kind.rate_hz, options=options | dict(kind.options))
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, pix_fmt
        stream.time_base = Fraction(1, kind.rate_hz)
        for k in range(length):
            frame = av.VideoFrame.from_ndarray(image(first + k, kind.height, kind.width), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = k, Fraction(1, kind.rate_hz)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def _settings(kind: Kind) -> dict[str, Any]:
    return (
        {} if kind.codec == "mjpeg" else {name: int(v) if v.isdigit() else v for name, v in ENCODERS[kind.codec][2].items() if name != "bf"}
    )


def image_stats(seed: int) -> dict[str, Any]:
    """Plausible image statistics [3][1][1] in 0..1."""
    ordered = np.sort(np.random.default_rng(seed).random((8, 3)), axis=0)
    names = ("min", "q01", "q10", "q50", "mean", "q90", "q99", "max")
    stats: dict[str, Any] = {name: ordered[k][:, None, None].tolist() for k, name in enumerate(names)}
    return stats | {"std": [[[0.1]], [[0.2]], [[0.3]]], "count": [100]}
