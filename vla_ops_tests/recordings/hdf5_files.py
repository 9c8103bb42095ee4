"""Write HDF5 recordings as collectors and benchmarks do: ALOHA and robomimic, raw or JPEG. Frame k of a camera shows k."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt

from vla_ops.recordings.base import OpenOptions
from vla_ops.recordings.hdf5 import Hdf5Recording
from vla_ops_tests.recordings.pictures import Picture, as_jpeg, frame_picture

type Float32 = npt.NDArray[np.float32]
type Images = Literal["raw", "jpeg_padded", "jpeg_rows"]

AT_50_HZ = OpenOptions(rate_hz=50)
ALOHA_CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


@dataclass(frozen=True)
class Written:
    """What a writer put into the file: arrays by stream name, and the pictures by camera as they were before any encoding."""

    path: Path
    numbers: dict[str, npt.NDArray[np.generic]]
    pictures: dict[str, list[Picture]]


def smooth_numbers(frames: int, width: int, seed: int = 0) -> Float32:
    """Slow sines of different phase, float32 [frames, width]."""
    phases = np.random.default_rng(seed).uniform(0, 6.28, width)
    return np.sin(np.arange(frames)[:, None] / 20 + phases).astype(np.float32)


def write_aloha(
    path: Path,
    *,
    frames: int = 30,
    cameras: Sequence[str] = ALOHA_CAMERAS,
    size: tuple[int, int] = (48, 80),
    images: Images = "raw",
    width: int = 14,
    task: str | None = None,
    stamps_s: npt.NDArray[np.generic] | None = None,
    compress_len: bool = False,
    compression: str | None = None,
    chunk_rows: int | None = None,
    seed: int = 0,
) -> Written:
    """Write an ALOHA episode: `/observations/qpos`, `/qvel`, `/action`, `/observations/images/*`, with or without times and task."""
    qpos = smooth_numbers(frames, width, seed)
    numbers = {"/observations/qpos": qpos, "/observations/qvel": np.gradient(qpos, axis=0), "/action": np.roll(qpos, -1, axis=0)}
    if stamps_s is not None:
        numbers["/observations/timestamps/robot"] = stamps_s
    pictures = {f"/observations/images/{c}": [frame_picture(k, camera=i, size=size) for k in range(frames)] for i, c in enumerate(cameras)}
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = False
        file.attrs["compress"] = images != "raw"
        for name, values in numbers.items():
            file.create_dataset(name, data=values)
        for name, shots in pictures.items():
            write_images(file, name, shots, images, compression=compression, chunk_rows=chunk_rows)
        if compress_len:
            lengths = [[len(as_jpeg(p)) for p in shots] for shots in reversed(pictures.values())]
            file.create_dataset("compress_len", data=np.array(lengths, np.float32))
        if task is not None:
            file.create_dataset("task", data=np.array([task.encode()] * frames))
    return Written(path, numbers, pictures)


def write_robomimic(
    path: Path,
    *,
    demos: Sequence[int] = (1, 2, 10),
    frames: int = 12,
    cameras: Sequence[str] = ("agentview_rgb", "eye_in_hand_rgb"),
    size: tuple[int, int] = (48, 80),
    images: Images = "raw",
    task: str | None = "put the bowl on the plate",
    seed: int = 0,
) -> dict[str, Written]:
    """Write demos of growing length (`frames` + position); return what is in each by demo name."""
    written = {}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = '{"env_name": "Lift", "env_kwargs": {"control_freq": 20}}'
        if task is not None:
            data.attrs["problem_info"] = f'{{"problem_name": "libero", "language_instruction": "{task}"}}'
        for position, number in enumerate(demos):
            demo = data.create_group(f"demo_{number}")
            written[f"demo_{number}"] = _write_demo(
                demo, frames + position, path=path, cameras=cameras, size=size, images=images, seed=seed + number
            )
    return written


def _write_demo(
    demo: h5py.Group, frames: int, *, path: Path, cameras: Sequence[str], size: tuple[int, int], images: Images, seed: int
) -> Written:
    widths = {"actions": 7, "obs/robot0_joint_pos": 7, "obs/robot0_eef_pos": 3, "obs/robot0_eef_quat": 4, "obs/robot0_gripper_qpos": 2}
    numbers = {name: smooth_numbers(frames, width, seed + k) for k, (name, width) in enumerate(widths.items())}
    pictures = {f"obs/{c}": [frame_picture(k, camera=i, size=size) for k in range(frames)] for i, c in enumerate(cameras)}
    demo.attrs["num_samples"] = frames
    for name, values in numbers.items():
        demo.create_dataset(name, data=values)
    for name, shots in pictures.items():
        write_images(demo, name, shots, images)
    return Written(path, dict(numbers), pictures)


def write_images(
    group: h5py.Group,
    name: str,
    pictures: Sequence[Picture],
    images: Images = "raw",
    *,
    compression: str | None = None,
    chunk_rows: int | None = None,
) -> h5py.Dataset:
    """Write one camera as raw pixels, as JPEG rows padded to one width, or as JPEG rows of any length."""
    if images == "raw":
        chunks = (chunk_rows, *pictures[0].shape) if chunk_rows else None
        return group.create_dataset(name, data=np.stack(pictures), compression=compression, chunks=chunks)
    rows = [np.frombuffer(as_jpeg(p), np.uint8) for p in pictures]
    if images == "jpeg_padded":
        padded = np.zeros((len(rows), max(map(len, rows)) + 64), np.uint8)
        for row, target in zip(rows, padded, strict=True):
            target[: len(row)] = row
        return group.create_dataset(name, data=padded)
    dataset = group.create_dataset(name, (len(rows),), dtype=h5py.vlen_dtype(np.uint8))
    for k, row in enumerate(rows):
        dataset[k] = row
    return dataset


def open_at(path: Path, **options: object) -> Hdf5Recording:
    """Open a recording whose steps are at 50 Hz unless `options` say otherwise."""
    return Hdf5Recording(str(path), OpenOptions(**{"rate_hz": 50, **options}))  # pyright: ignore[reportArgumentType]
