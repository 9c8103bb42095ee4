"""Write small LeRobot v2.x datasets as they are found elsewhere, with pyarrow and PyAV, and read any version back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ops.recordings.lerobot_index import LeRobotIndex
from vla_ops_tests.datasets.episode_folders import barcode, image

ENCODERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "yuv420p", {"g": "2", "crf": "18", "preset": "ultrafast", "bf": "0"}),
    "h264 with B-frames": ("libx264", "yuv420p", {"g": "30", "crf": "18", "preset": "veryfast", "bf": "3", "x264-params": "b-adapt=0"}),
    "hevc": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params": "keyint=8:bframes=2:log-level=none:open-gop=0"}),
    "av1": ("libsvtav1", "yuv420p", {"g": "2", "crf": "30", "preset": "12"}),
    "mjpeg": ("mjpeg", "yuvj420p", {"qscale": "2"}),
}
TASKS = ["put it down", "pick"]
QUANTILES = ("q01", "q10", "q50", "q90", "q99")
HIGH, WRIST = "observation.images.cam_high", "observation.images.wrist"


@dataclass(frozen=True)
class Kind:
    """What a dataset is like."""

    version: str = "v2.1"
    fps: float = 30
    cameras: dict[str, str] = field(default_factory=lambda: {HIGH: "h264"})
    lengths: tuple[int, ...] = (12, 7, 20)
    # Columns beyond LeRobot's own: strings, ragged lists, matrices, booleans.
    odd_columns: bool = True


def write_source(folder: Path, kind: Kind | None = None) -> Path:
    """Write the dataset; the barcodes of an episode's pictures count through all episodes, those of the second camera from 1000."""
    kind = kind or Kind()
    (folder / "meta").mkdir(parents=True)
    firsts = np.cumsum([0, *kind.lengths])
    stats = []
    for k, length in enumerate(kind.lengths):
        table = rows(k, length, int(firsts[k]), kind)
        write(folder / f"data/chunk-000/episode_{k:06d}.parquet", table)
        for number, (camera, codec) in enumerate(kind.cameras.items()):
            write_video(folder / f"videos/chunk-000/{camera}/episode_{k:06d}.mp4", int(firsts[k]) + 1000 * number, length, codec, kind.fps)
        stats.append({"episode_index": k, "stats": base_stats(table, kind)})
    info = {
        "codebase_version": kind.version,
        "robot_type": "arm",
        "total_episodes": len(kind.lengths),
        "total_frames": int(firsts[-1]),
        "total_tasks": 2,
        "total_videos": len(kind.lengths) * len(kind.cameras),
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": kind.fps,
        "splits": {"train": "0:2", "val": "2:3"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4" if kind.cameras else None,
        "features": features(kind),
        "collected_by": "a robot in Ulm",
    }
    save(folder / "meta/info.json", info)
    save_lines(folder / "meta/tasks.jsonl", [{"task_index": k, "task": text} for k, text in enumerate(TASKS)])
    entries = [{"episode_index": k, "tasks": sorted({TASKS[k % 2], TASKS[0]}), "length": n} for k, n in enumerate(kind.lengths)]
    save_lines(folder / "meta/episodes.jsonl", entries)
    if kind.version == "v2.1":
        save_lines(folder / "meta/episodes_stats.jsonl", stats)
    else:
        save(folder / "meta/stats.json", {"action": {"mean": [0.0], "std": [1.0], "min": [0.0], "max": [1.0]}})
    (folder / "README.md").write_text("# Picked in Ulm\n")
    return folder


def features(kind: Kind) -> dict[str, Any]:
    made: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": [3], "names": {"motors": ["j1", "j2", "gripper"]}},
        "action": {"dtype": "float32", "shape": [3], "names": ["j1", "j2", "gripper"]},
    }
    about = {"video.fps": kind.fps, "video.pix_fmt": "yuv420p", "has_audio": False}
    names = ["height", "width", "channels"]
    made |= {camera: {"dtype": "video", "shape": [64, 96, 3], "names": names, "info": about} for camera in kind.cameras}
    if kind.odd_columns:
        made |= {
            "observation.environment_state": {"dtype": "float64", "shape": [2, 2], "names": None},
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            "next.reward": {"dtype": "float32", "shape": [1], "names": None},
            "note": {"dtype": "string", "shape": [1], "names": None},
        }
    index = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
    return made | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in index.items()}


def rows(k: int, length: int, first: int, kind: Kind) -> pa.Table:
    n = np.arange(length)
    state = np.stack([n + first, np.sin(n + k), np.cos(n * k)], axis=1).astype(np.float32)

    def vector(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), values.shape[1])

    columns: dict[str, Any] = {"observation.state": vector(state), "action": vector(state[::-1])}
    if kind.odd_columns:
        matrices = [[[float(v), 1.0], [2.0, float(-v)]] for v in n]
        columns["observation.environment_state"] = pa.array(matrices, pa.list_(pa.list_(pa.float64())))
        columns["next.done"] = pa.array((n == length - 1).tolist())
        columns["next.reward"] = pa.array((n / 7).astype(np.float32))
        columns["note"] = pa.array([f"row {v} of {k}, ü" if v % 3 else None for v in n.tolist()], pa.string())
    columns["timestamp"] = pa.array((n / kind.fps).astype(np.float32))
    columns |= {"frame_index": n, "episode_index": np.full(length, k), "index": n + first, "task_index": np.full(length, k % 2)}
    hf = {"observation.state": {"feature": {"dtype": "float32", "_type": "Value"}, "length": 3, "_type": "Sequence"}}
    hf["action"] = hf["observation.state"]
    table = pa.table(columns)
    for name in table.column_names:
        type_ = table.schema.field(name).type
        if name not in hf and not pa.types.is_nested(type_):
            hf[name] = {"dtype": str(type_).replace("float", "float32").replace("double", "float64"), "_type": "Value"}
    if kind.odd_columns:
        inner = {"feature": {"dtype": "float64", "_type": "Value"}, "length": -1, "_type": "Sequence"}
        hf["observation.environment_state"] = {"feature": inner, "length": -1, "_type": "Sequence"}
    ordered = {name: hf[name] for name in table.column_names}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": ordered}})})


def base_stats(table: pa.Table, kind: Kind) -> dict[str, Any]:
    """Those of v2.1, of the images made up."""
    found: dict[str, Any] = {}
    for name in ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index", "task_index"):
        values = np.array(table[name].to_pylist(), np.float64).reshape(len(table), -1)
        measures = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
        found[name] = {measure: value.tolist() for measure, value in measures.items()} | {"count": [len(table)]}
    if kind.odd_columns:
        found["next.done"] = {"min": [False], "max": [True], "mean": [0.5], "std": [0.5], "count": [len(table)]}
    for camera in kind.cameras:
        grey = {measure: [[[0.25]], [[0.5]], [[0.75]]] for measure in ("min", "max", "mean", "std")}
        found[camera] = grey | {"count": [len(table)]}
    return found


def write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_video(
    path: Path, first: int, length: int, codec: str, fps: float, *, size: tuple[int, int] = (64, 96), options: dict[str, str] | None = None
) -> None:
    encoder, pix_fmt, settings = ENCODERS[codec]
    path.parent.mkdir(parents=True, exist_ok=True)
    tick = 1 / Fraction(str(fps))
    with av.open(str(path), "w") as output:
        stream = output.add_stream(encoder, rate=Fraction(str(fps)), options=settings | (options or {}))
        (stream.height, stream.width), stream.pix_fmt = size, pix_fmt
        stream.time_base = tick
        for k in range(length):
            frame = av.VideoFrame.from_ndarray(image(first + k, *size), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = k, tick
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def save(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def save_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def edit_lines(path: Path, edit: Callable[[list[Any]], list[Any]]) -> None:
    save_lines(path, edit(lines(path)))


def edit_info(folder: Path, **values: Any) -> None:
    save(folder / "meta/info.json", load(folder / "meta/info.json") | values)


def all_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of all episodes in their order, whatever the version."""
    tables = {path: pq.ParquetFile(path).read() for path in (folder / "data").rglob("*.parquet")}
    places = LeRobotIndex(folder).episodes
    return [row for place in places for row in tables[place.data].slice(place.first_row, place.length).to_pylist()]


def packets(folder: Path, camera: str) -> list[bytes]:
    """The packets of a camera's files in their order, as stored."""
    held = []
    for path in sorted((folder / "videos").rglob("*.mp4")):
        if camera in path.parts:
            with av.open(str(path)) as container:
                held += [bytes(packet) for packet in container.demux(video=0) if packet.size]
    return held


def shown(path: Path) -> list[tuple[Fraction, int]]:
    """Time and barcode of every picture in the order decoded."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [(frame.pts * frame.time_base, barcode(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))) for frame in frames]


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def stats_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of meta/episodes of a small v3.0 dataset."""
    (path,) = (folder / "meta/episodes").rglob("*.parquet")
    return pq.read_table(path).to_pylist()
