"""Write Zarr replay buffers, versions 2 and 3, as a folder or (by the path's suffix) a zip. Row k of a camera shows k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore, ZipStore

from vla_ops_tests.recordings.hdf5_files import Written, smooth_numbers
from vla_ops_tests.recordings.pictures import frame_picture

DEFAULT_WIDTHS: Mapping[str, int] = {"robot0_eef_pos": 3, "robot0_eef_rot_axis_angle": 3, "robot0_gripper_width": 1}


def write_replay_buffer(
    path: Path,
    *,
    version: Literal[2, 3] = 2,
    episode_ends: Sequence[int] | None = (10, 25),
    rows: int | None = None,
    cameras: Sequence[str] = ("camera0_rgb",),
    size: tuple[int, int] = (48, 80),
    pixels: Literal["uint8", "float 0..1", "float 0..255"] = "uint8",
    chunk_rows: int = 4,
    widths: Mapping[str, int] = DEFAULT_WIDTHS,
    attributes: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Written:
    """Write a buffer. Without `rows` it has as many as the last episode end."""
    count = rows if rows is not None else (episode_ends or (25,))[-1]
    numbers: dict[str, npt.NDArray[np.generic]] = {
        f"data/{name}": smooth_numbers(count, width, seed + k) for k, (name, width) in enumerate(widths.items())
    }
    pictures = {f"data/{c}": [frame_picture(k, camera=i, size=size) for k in range(count)] for i, c in enumerate(cameras)}
    store = ZipStore(path, mode="w") if path.suffix == ".zip" else LocalStore(path)
    group = zarr.create_group(store, zarr_format=version, attributes=dict(attributes or {}))
    for name, values in numbers.items():
        put(group, name, values, chunk_rows=100)
    for name, shots in pictures.items():
        images = np.stack(shots)
        scaled = images if pixels == "uint8" else (images / (255.0 if pixels == "float 0..1" else 1.0)).astype(np.float32)
        put(group, name, scaled, chunk_rows=chunk_rows)
    if episode_ends is not None:
        put(group, "meta/episode_ends", np.array(episode_ends, np.int64), chunk_rows=max(1, len(episode_ends)))
    store.close()
    return Written(path, numbers, pictures)


def put(group: zarr.Group, name: str, values: npt.NDArray[Any], *, chunk_rows: int, **options: Any) -> zarr.Array[Any]:
    """Create an array of `values` in chunks of whole rows."""
    array = group.create_array(name, shape=values.shape, chunks=(chunk_rows, *values.shape[1:]), dtype=values.dtype, **options)
    array[...] = values
    return array
