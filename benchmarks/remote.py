"""Bytes fetched and time to read one mapped camera of three, and the joints, from S3, against `fs.get` of the whole and reading that.

    python -m benchmarks.remote [--frames 150] [--mbit 400] [--latency-ms 20] [--write FILE]

A real S3 server (SeaweedFS) behind a link that is as slow as a network (`--mbit 0`: the bare loopback, where bytes cost nothing).
Real recordings are read where VLA_OPS_TEST_RECORDINGS (default ../shared/recordings) is there.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import zarr
from rich.console import Console
from rich.table import Table

from benchmarks.slow_link import slow_link
from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Recording, Source
from vla_ops.recordings.inspect import describe
from vla_ops.recordings.remote.folder import RemotePlace
from vla_ops_tests.recordings.mcap_files import Camera, Extras, joints, mp4_bytes, stamps, write_mcap
from vla_ops_tests.services.s3 import Bucket, serve_s3

CAMERAS = ("high", "left", "right")
SHAPE = (240, 320, 3)
ROUNDS = 3
REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Case:
    """A recording, and the streams that are mapped of it."""

    name: str
    path: Path
    format: str
    numbers: str | None
    camera: str | None

    @property
    def size(self) -> int:
        """Bytes of the file, or of the folder's files."""
        return sum(p.stat().st_size for p in self.path.rglob("*")) if self.path.is_dir() else self.path.stat().st_size

    @property
    def options(self) -> OpenOptions:
        """As a robot's YAML that maps only these streams opens it."""
        return OpenOptions(rate_hz=20, streams=frozenset(filter(None, (self.numbers, self.camera))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--mbit", type=float, default=400)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serve_s3(Path(name) / "s3") as server:
        os.environ.update(server.environment)
        bucket = server.make_bucket()
        with reached(server.endpoint, arguments.mbit, arguments.latency_ms) as endpoint:
            os.environ["AWS_ENDPOINT_URL"] = endpoint
            rows = [measured(case, bucket, Path(name)) for case in [*made(Path(name), arguments.frames), *real()]]
    show(rows)
    if arguments.write:
        arguments.write.write_text("\n".join(markdown(rows)) + "\n")


@contextmanager
def reached(endpoint: str, mbit: float, latency_ms: float) -> Iterator[str]:
    """Yield the server's address, behind the link if there is one."""
    if not mbit:
        yield endpoint
        return
    host, _, port = endpoint.removeprefix("http://").partition(":")
    with slow_link(host, int(port), mbit=mbit, latency_s=latency_ms / 1000) as there:
        yield f"http://{host}:{there}"


def made(folder: Path, frames: int) -> Iterator[Case]:
    """Noise does not compress: what is fetched is what is stored."""
    noise = {name: np.random.default_rng(k).integers(0, 256, (frames, *SHAPE), np.uint8) for k, name in enumerate(CAMERAS)}
    cameras = {f"/{name}": Camera(stamps(frames), list(pictures), raw=True) for name, pictures in noise.items()}
    path = write_mcap(folder / "chunks.mcap", "ros2", joints={"/joints": joints(frames)}, cameras=cameras, topic_after_topic=True)
    yield Case("MCAP, a picture a chunk", path, "mcap", "/joints.position", "/high")
    videos = [(f"/{name}", "video/mp4", mp4_bytes(list(noise[name]), stamps(frames))) for name in CAMERAS]
    path = write_mcap(folder / "videos.mcap", "airbot", joints={"/joints": joints(frames)}, extras=Extras(attachments=videos))
    yield Case("MCAP, videos attached", path, "mcap", "/joints", "/high")
    with h5py.File(folder / "a.hdf5", "w") as file:
        file["qpos"] = np.zeros((frames, 14))
        for name, pictures in noise.items():
            file.create_dataset(name, data=pictures, chunks=(1, *SHAPE))
    yield Case("HDF5, chunks", folder / "a.hdf5", "hdf5", "/qpos", "/high")
    group = zarr.open_group(folder / "a.zarr", mode="w", zarr_format=2)
    group.create_array("data/qpos", data=np.ones((frames, 14)))
    for name, pictures in noise.items():
        group.create_array(f"data/{name}", data=pictures, chunks=(1, *SHAPE))
    yield Case("Zarr, a folder", folder / "a.zarr", "zarr", "data/qpos", "data/high")


def real() -> Iterator[Case]:
    root = Path(os.environ.get("VLA_OPS_TEST_RECORDINGS", REPO.parent / "shared" / "recordings"))
    for path in sorted([*root.glob("mcap/*.mcap"), *root.glob("hdf5/*.hdf5"), *root.glob("zarr/*.zarr.zip")], key=_size)[-6:]:
        streams = describe(path, OpenOptions(rate_hz=20)).streams
        camera = next((s.name for s in streams if s.kind == "images" and s.count), None)
        kind = {".mcap": "mcap", ".hdf5": "hdf5"}.get(path.suffix, "zarr")
        numbers = next((s for s in streams if s.kind == "numbers" and s.count), None)
        if numbers is None:
            continue
        field = f"{numbers.name}.{numbers.fields[0]}" if numbers.fields and kind == "mcap" else numbers.name
        yield Case(f"real: {path.name}", path, kind, field, camera)


def _size(path: Path) -> int:
    return path.stat().st_size


def read(recording: Recording, case: Case) -> None:
    (span, *_) = recording.spans()
    recording.notes()
    if case.numbers:
        recording.numbers(Source.parse(case.numbers), span)
    if case.camera:
        images = recording.images(Source.parse(case.camera), span)
        for _ in images.packets(range(len(images.stamps_ns))):
            pass


@dataclass(frozen=True)
class Row:
    """What was fetched of a recording, and how long both ways took."""

    case: Case
    size: int
    fetched: int
    requests: int
    ranged_s: float
    whole_s: float


def measured(case: Case, bucket: Bucket, folder: Path) -> Row:
    uri = bucket.put(case.path.name, case.path)
    fetched: list[tuple[int, int]] = []

    def ranged() -> None:
        place = RemotePlace(uri)
        with closing(place), open_recording(place, case.format, case.options) as recording:
            read(recording, case)
        fetched.append((place.fetched_bytes, place.traffic.requests))

    def whole() -> None:
        import fsspec

        fs, path = fsspec.core.url_to_fs(uri)
        with tempfile.TemporaryDirectory(dir=folder) as name:
            target = Path(name) / case.path.name
            fs.get(path, str(target), recursive=case.path.is_dir())
            with open_recording(str(target), case.format, case.options) as recording:
                read(recording, case)

    # In turns, so that a machine that is busy for a while is so for both.
    times = [(seconds(ranged), seconds(whole)) for _ in range(ROUNDS)]
    return Row(case, case.size, *fetched[-1], statistics.median(t[0] for t in times), statistics.median(t[1] for t in times))


def seconds(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def cells(row: Row) -> list[str]:
    share = row.fetched / row.size
    times = [f"{row.ranged_s:.2f} s", f"{row.whole_s:.2f} s", f"{row.whole_s / row.ranged_s:.2f}x"]
    return [row.case.name, f"{row.size / 1e6:.1f} MB", f"{row.fetched / 1e6:.1f} MB", f"{share:.0%}", str(row.requests), *times]


HEAD = ["recording", "size", "fetched", "share", "requests", "read by ranges", "fs.get and read", "times as fast"]


def markdown(rows: list[Row]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *map(cells, rows))]


def show(rows: list[Row]) -> None:
    table = Table(title=f"one camera of three and the joints, median of {ROUNDS}")
    for name in HEAD:
        table.add_column(name, justify="left" if name == HEAD[0] else "right")
    for row in rows:
        table.add_row(*cells(row))
    Console().print(table)


if __name__ == "__main__":
    main()
