"""Write replay buffers as UMI and diffusion policy publish them: Zarr version 2 in a zip, episodes one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from zarr.storage import ZipStore

from vla_ops_tests.recordings.pictures import frame_picture
from vla_ops_tests.recordings.zarr_files import put
from vla_ops_tests.robots.motions import sway
from vla_ops_tests.robots.shipped import Float64

POSE = ((-0.3, 0.3), (-0.3, 0.3), (0.0, 0.5), (1.5, 2.5), (-0.4, 0.4), (-0.4, 0.4), (0.0, 0.08))


def write_umi(path: Path, lengths: Sequence[int], *, seed: int = 0) -> list[Float64]:
    """One hand: pose and gripper width without compression, pictures as JPEG-XL. Return [rows, 7] of each episode."""
    from imagecodecs.numcodecs import Jpegxl, register_codecs

    register_codecs(verbose=False)
    episodes = [sway(POSE, rows, seed=seed + k).state for k, rows in enumerate(lengths)]
    rows = np.concatenate(episodes).astype(np.float32)
    pictures = np.stack([frame_picture(k, size=(64, 80)) for length in lengths for k in range(length)])
    path.parent.mkdir(parents=True, exist_ok=True)
    store = ZipStore(path, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    for name, values in (("eef_pos", rows[:, :3]), ("eef_rot_axis_angle", rows[:, 3:6]), ("gripper_width", rows[:, 6:])):
        put(group, f"data/robot0_{name}", values, chunk_rows=len(rows), compressors=None)
    put(group, "data/camera0_rgb", pictures, chunk_rows=1, compressors=Jpegxl(level=90))
    put(group, "meta/episode_ends", np.cumsum(lengths), chunk_rows=len(lengths), compressors=None)
    store.close()
    return episodes


def cut_pusht(source: Path, path: Path, episodes: int) -> tuple[list[Float64], list[Float64]]:
    """The first episodes of the published buffer in one of their own. Return state [rows, 5] and action [rows, 2] of each."""
    with ZipStore(source, mode="r") as store:
        published = zarr.open_group(store, mode="r", zarr_format=2)
        ends = np.asarray(published["meta/episode_ends"])[:episodes]  # pyright: ignore[reportArgumentType]
        names = ("action", "state", "img", "keypoint", "n_contacts")
        arrays = {name: np.asarray(published[f"data/{name}"][: ends[-1]]) for name in names}  # pyright: ignore[reportIndexIssue, reportArgumentType]
    path.parent.mkdir(parents=True, exist_ok=True)
    store = ZipStore(path, mode="w")
    group = zarr.create_group(store, zarr_format=2)
    for name, values in arrays.items():
        put(group, f"data/{name}", values, chunk_rows=161)
    put(group, "meta/episode_ends", ends, chunk_rows=len(ends))
    store.close()
    state, action = (np.split(arrays[name].astype(np.float64), ends[:-1]) for name in ("state", "action"))
    return state, action
