"""Write recordings exactly as the collectors of ALOHA, Piper, Flexiv and RealMan do, with h5py and small pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from vla_ops_tests.recordings.hdf5_files import Images, write_images
from vla_ops_tests.recordings.pictures import Picture, as_jpeg, frame_picture

type Array = npt.NDArray[Any]

# Autumn 2025, and the size of pictures here: large enough for a bar code.
_START_S = 1_760_000_000.0
_SIZE = (48, 80)

# The wide layout of RDT's unified action space.
RIGHT, RIGHT_GRIPPER, LEFT, LEFT_GRIPPER = slice(0, 7), 10, slice(50, 57), 60


def next_rows(rows: Array) -> Array:
    """What collectors without commands store as action: the next row, and the last one twice."""
    return np.concatenate([rows[1:], rows[-1:]])


def shots(cameras: Sequence[str], frames: int, *, every: float = 1.0, first: int = 0) -> dict[str, list[Picture]]:
    """Pictures of each camera by stream name; below 1, `every` lets pictures repeat as those of a camera slower than the steps do."""
    return {
        f"/observations/images/{camera}": [frame_picture((first + int(k * every)) % 1024, camera=i, size=_SIZE) for k in range(frames)]
        for i, camera in enumerate(cameras)
    }


def clock(frames: int, rate_hz: float, *, late_s: float = 0.0, seed: int = 0) -> Array:
    """Stamps in s since 1970 as a host takes them: up to 1 ms late."""
    jitter = np.random.default_rng(seed).uniform(0, 1e-3, frames)
    return _START_S + np.arange(frames) / rate_hz + late_s + jitter


def _fixed_text(text: str, frames: int) -> Array:
    """The same text in every row, `S<n>` with n the number of characters."""
    return np.full(frames, text.encode("utf-8"), dtype=f"S{len(text)}")


@contextmanager
def _file(path: Path) -> Iterator[h5py.File]:
    """Write or add to a file that was finished long ago: what has just been changed is left alone, as someone may still be writing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "a") as file:
        yield file
    os.utime(path, (_START_S, _START_S))


def _write(path: Path, arrays: Mapping[str, Array], pictures: Mapping[str, Sequence[Picture]], **how: Any) -> None:
    with _file(path) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        for name, pics in pictures.items():
            write_images(file, name, pics, **how)


def write_aloha_real(path: Path, state: Array, action: Array, *, cameras: Sequence[str], compress: bool = False) -> None:
    """ACT and Mobile ALOHA: no stamps, no task; raw images, or JPEGs padded to one width with their lengths as float32."""
    frames = len(state)
    pictures = shots(cameras, frames)
    arrays = {"/observations/qpos": state, "/observations/qvel": np.gradient(state, axis=0), "/action": action}
    _write(path, arrays, pictures, images="jpeg_padded" if compress else "raw")
    with _file(path) as file:
        file.attrs["sim"], file.attrs["compress"] = False, compress
        file["/observations/effort"] = np.zeros_like(state)
        if compress:
            file["compress_len"] = np.array([[len(as_jpeg(p)) for p in pics] for pics in pictures.values()], np.float32)


def write_cobot_magic(path: Path, state: Array, action: Array, *, cameras: Sequence[str], compress: bool = False) -> None:
    """AgileX's Cobot Magic: as Mobile ALOHA, with base_action, and without the lengths of its JPEGs."""
    write_aloha_real(path, state, action, cameras=cameras, compress=compress)
    with _file(path) as file:
        file["/base_action"] = np.zeros((len(state), 2))
        if compress:
            del file["compress_len"]


def write_piper(path: Path, qpos: Array, *, cameras: Sequence[str], task: str, rate_hz: float = 50, lost: Sequence[int] = ()) -> None:
    """The openpi forks for Piper, one arm or two. `lost` rows are reads of the arm that failed: zeros, in the action one row earlier."""
    frames, qpos = len(qpos), qpos.astype(np.float32)
    qpos[list(lost)] = 0
    stamps = {name: clock(frames, rate_hz, late_s=0.002 * k, seed=k) for k, name in enumerate(("start", "robot", *cameras))}
    arrays = {"/observations/qpos": qpos, "/action": next_rows(qpos), "/task": _fixed_text(task, frames)}
    _write(path, arrays | {f"/observations/timestamps/{name}": times for name, times in stamps.items()}, shots(cameras, frames))


def write_piper_ros2(path: Path, state: Array, action: Array, *, cameras: Sequence[str], rate_hz: float = 30, start_s: float = 0.0) -> None:
    """piper_dual_ros2_v1: float32 in chunks of one row, float32 seconds, JPEG rows of any length."""
    frames = len(state)
    with _file(path) as file:
        file.attrs.update(schema_version="piper_dual_ros2_v1", frame_count=frames, jpeg_quality=90, metadata_json="{}", units_json="{}")
        for name, values in (("/observations/state", state), ("/action", action)):
            file.create_dataset(name, data=values.astype(np.float32), chunks=(1, values.shape[1]))
        stamps = (start_s + np.arange(frames) / rate_hz).astype(np.float32)
        file["/observations/timestamp"] = stamps
        for name, pics in shots(cameras, frames).items():
            write_images(file, name, pics, "jpeg_rows")
            sensor = name.rsplit("/", 1)[1]
            file[f"/observations/sensor_timestamps/{sensor}"] = stamps
            file[f"/observations/sync_error/{sensor}"] = np.zeros(frames, np.float32)


def write_flexiv(
    path: Path, qpos: Array, pose: Array, *, cameras: Sequence[str], task: str, rate_hz: float = 50, compression: str | None = None
) -> None:
    """Rizon arms, `qpos` and `pose` (T, 8) for each arm; cameras at 30 fps, so that pictures repeat."""
    frames = len(qpos)
    rows = {"qpos": qpos.astype(np.float32), "pose": pose.astype(np.float32)}
    arrays: dict[str, Array] = {f"/observations/{name}": values for name, values in rows.items()}
    arrays |= {f"/observations/prev_{name}": np.concatenate([values[:1], values[:-1]]) for name, values in rows.items()}
    arrays |= {"/action": next_rows(rows["qpos"]), "/action_pose": next_rows(rows["pose"]), "/task": _fixed_text(task, frames)}
    stamps = {name: clock(frames, rate_hz, late_s=0.003 * k, seed=k) for k, name in enumerate(("robot", *cameras))}
    arrays |= {f"/observations/timestamps/{name}": times for name, times in stamps.items()}
    _write(path, arrays, shots(cameras, frames, every=0.6), compression=compression)


def write_realman(
    path: Path, wide: Array, *, cameras: Sequence[str], images: Images = "raw", task: str | None = None, action: Array | None = None
) -> None:
    """RealMan in RDT's wide layout; the stored action is the state of the same row unless `action` is given."""
    arrays = {"/observations/qpos": wide, "/action": wide if action is None else action, "/observations/qvel": np.zeros_like(wide)}
    _write(path, arrays, shots(cameras, len(wide)), images=images)
    if task is not None:
        with _file(path) as file:
            file["task"] = task


def wide(right: Array, left: Array | None = None) -> Array:
    """RDT's row of 128 numbers from arms of 7 joints and a gripper (T, 8); what is not there is 0."""
    rows = np.zeros((len(right), 128), np.float32)
    rows[:, RIGHT], rows[:, RIGHT_GRIPPER] = right[:, :7], right[:, 7]
    if left is not None:
        rows[:, LEFT], rows[:, LEFT_GRIPPER] = left[:, :7], left[:, 7]
    return rows
