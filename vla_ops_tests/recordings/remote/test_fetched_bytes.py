"""Of a recording of which one camera of three is mapped, the other two are not fetched."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Source
from vla_ops.recordings.remote.folder import RemotePlace
from vla_ops_tests.recordings.mcap_files import Camera, Extras, camera, joints, mp4_bytes, stamps, write_mcap
from vla_ops_tests.services.http import HttpServer

FRAMES, SHAPE = 40, (96, 160, 3)
IMAGE = int(np.prod(SHAPE))
CAMERAS = ("high", "left", "right")
# Indexes, and what lies between the chunks and comes with them.
OVERHEAD = 200_000
NOISE = {name: np.random.default_rng(k).integers(0, 256, (FRAMES, *SHAPE), np.uint8) for k, name in enumerate(CAMERAS)}


@dataclass(frozen=True)
class Written:
    path: Path
    format: str
    numbers: str
    camera: str


def mcap(folder: Path) -> Written:
    cameras = {f"/{name}": Camera(stamps(FRAMES), list(pictures), raw=True) for name, pictures in NOISE.items()}
    path = write_mcap(folder / "a.mcap", "ros2", joints={"/joints": joints(200)}, cameras=cameras, topic_after_topic=True)
    return Written(path, "mcap", "/joints.position", "/high")


def mcap_with_videos(folder: Path) -> Written:
    shown = camera(FRAMES, 20.0)
    videos = [(f"/{name}", "video/mp4", mp4_bytes(list(NOISE[name]), shown.stamps_ns)) for name in CAMERAS]
    path = write_mcap(folder / "a.mcap", "airbot", joints={"/joints": joints(200)}, extras=Extras(attachments=videos))
    return Written(path, "mcap", "/joints", "/high")


def hdf5(folder: Path, *, chunks: tuple[int, ...] | None = (1, *SHAPE)) -> Written:
    with h5py.File(folder / "a.hdf5", "w") as file:
        file["qpos"] = np.zeros((FRAMES, 7))
        for name, pictures in NOISE.items():
            file.create_dataset(name, data=pictures, chunks=chunks, compression="gzip" if chunks else None)
    return Written(folder / "a.hdf5", "hdf5", "/qpos", "/high")


def hdf5_not_chunked(folder: Path) -> Written:
    return hdf5(folder, chunks=None)


def hdf5_interleaved(folder: Path) -> Written:
    """As a recorder writes that appends a step at a time."""
    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("qpos", (FRAMES, 7), maxshape=(None, 7), chunks=(1, 7), dtype=np.float64)
        for name in CAMERAS:
            file.create_dataset(name, (0, *SHAPE), maxshape=(None, *SHAPE), chunks=(1, *SHAPE), dtype=np.uint8)
        for k in range(FRAMES):
            for name in CAMERAS:
                dataset = file[name]
                dataset.resize(k + 1, axis=0)  # pyright: ignore[reportAttributeAccessIssue]
                dataset[k] = NOISE[name][k]  # pyright: ignore[reportIndexIssue]
    return Written(folder / "a.hdf5", "hdf5", "/qpos", "/high")


def zarr_folder(folder: Path, store: ZipStore | None = None) -> Written:
    group = zarr.open_group(store or folder / "a.zarr", mode="w", zarr_format=2)
    group.create_array("data/qpos", data=np.ones((FRAMES, 7)))
    for name, pictures in NOISE.items():
        group.create_array(f"data/{name}", data=pictures, chunks=(1, *SHAPE))
    return Written(folder / "a.zarr", "zarr", "data/qpos", "data/high")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def zarr_zip(folder: Path) -> Written:
    with ZipStore(folder / "a.zarr.zip", mode="w") as store:
        zarr_folder(folder, store)
    return Written(folder / "a.zarr.zip", "zarr", "data/qpos", "data/high")


WRITERS = [mcap, mcap_with_videos, hdf5, hdf5_not_chunked, hdf5_interleaved, zarr_folder, zarr_zip]


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_what_is_not_mapped_is_not_fetched(write, http: HttpServer, tmp_path: Path) -> None:
    written: Written = write(http.folder)
    size = sum(p.stat().st_size for p in http.folder.rglob("*") if p.is_file())
    options = OpenOptions(rate_hz=20, streams=frozenset({written.numbers, written.camera}))

    def read() -> int:
        place = RemotePlace(f"{http.uri}/{written.path.name}", cache=tmp_path / "cache")
        with closing(place), open_recording(place, written.format, options) as recording:
            (span,) = recording.spans()
            recording.notes()
            recording.metadata()
            recording.numbers(Source.parse(written.numbers), span)
            images = recording.images(Source.parse(written.camera), span)
            assert sum(1 for _ in images.packets(range(len(images.stamps_ns)))) == FRAMES
        return place.fetched_bytes

    fetched = read()
    mapped = size // 3 if write in (mcap_with_videos, hdf5) else FRAMES * IMAGE
    assert mapped * 0.8 <= fetched <= 1.1 * mapped + OVERHEAD < 0.8 * size
    assert fetched == http.sent_bytes
    assert read() == 0


def test_looking_at_a_recording_and_then_converting_it_fetches_the_beginning_once(http: HttpServer, tmp_path: Path) -> None:
    written = mcap(http.folder)

    def opened() -> tuple[RemotePlace, int]:
        place = RemotePlace(f"{http.uri}/a.mcap", cache=tmp_path / "cache")
        with open_recording(place, written.format, OpenOptions(streams=frozenset({"/joints.position"}))) as recording:
            recording.numbers(Source.parse("/joints.position"), recording.spans()[0])
        return place, place.fetched_bytes

    assert opened()[1] > 0
    assert opened()[1] == 0
