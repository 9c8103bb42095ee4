"""Write demonstrations as robots' collectors do: ROS 2 MCAP, ALOHA HDF5, and a UMI-like Zarr replay buffer.

MCAP keeps every stream at its own rate and with its own stamps. HDF5 and Zarr have one row per camera frame.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from robots.aloha_sim.simulate import TASK, Demonstration

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
_SIDES = {"left": slice(0, 7), "right": slice(7, 14)}

_TIME = "\n" + "=" * 80 + "\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
_HEADER = "\n" + "=" * 80 + "\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n" + _TIME
_JOINT_STATE = "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n" + _HEADER
_COMPRESSED_IMAGE = "std_msgs/Header header\nstring format\nuint8[] data\n" + _HEADER


@dataclass(frozen=True)
class _Message:
    log_ns: int
    topic: str
    stamp_ns: int
    body: dict[str, object]


def write_mcap(path: Path, demonstration: Demonstration, rng: np.random.Generator) -> None:
    """Write one demonstration. Header and publish stamps are the sensor's time; log stamps come later by a random latency."""
    from mcap_ros2.writer import Writer

    messages = sorted([*_joint_messages(demonstration, rng), *_image_messages(demonstration, rng)], key=lambda m: (m.log_ns, m.topic))
    with open(path, "wb") as file:
        writer = Writer(file, chunk_size=256 * 1024)
        task_info = {"task_name": "transfer_cube", "task_description": TASK, "operator": "scripted", "station": "sim"}
        writer.add_metadata("task_info", task_info)
        joint_state = writer.register_msgdef("sensor_msgs/msg/JointState", _JOINT_STATE)
        image = writer.register_msgdef("sensor_msgs/msg/CompressedImage", _COMPRESSED_IMAGE)
        for message in messages:
            schema = image if "data" in message.body else joint_state
            writer.write_message(message.topic, schema, message.body, log_time=message.log_ns, publish_time=message.stamp_ns)
        writer.finish()


def _joint_messages(demonstration: Demonstration, rng: np.random.Generator) -> Iterator[_Message]:
    for side, columns in _SIDES.items():
        position, velocity, command = (
            a[:, columns].tolist() for a in (demonstration.position, demonstration.velocity, demonstration.command)
        )
        for role, values, rates in (("follower", position, velocity), ("leader", command, [[]] * len(command))):
            # Serial bus and driver: 1 to 3 ms.
            for stamp, late, value, rate in zip(
                demonstration.stamps_ns.tolist(), _latency_ns(rng, 1, len(values)), values, rates, strict=True
            ):
                body = {"header": _header(stamp, ""), "name": JOINTS, "position": value, "velocity": rate, "effort": []}
                yield _Message(stamp + late, f"/{side}_{role}/joint_states", stamp, body)


def _image_messages(demonstration: Demonstration, rng: np.random.Generator) -> Iterator[_Message]:
    for name, track in demonstration.cameras.items():
        # Exposure, compression and transport: 9 to 11 ms.
        for stamp, late, jpeg in zip(track.stamps_ns.tolist(), _latency_ns(rng, 9, len(track.jpegs)), track.jpegs, strict=True):
            body = {"header": _header(stamp, name), "format": "jpeg", "data": jpeg}
            yield _Message(stamp + late, f"/{name}/image_raw/compressed", stamp, body)


def _latency_ns(rng: np.random.Generator, least_ms: float, count: int) -> list[int]:
    return [int(ms * 1e6) for ms in least_ms + rng.uniform(0, 2, count)]


def _header(stamp_ns: int, frame_id: str) -> dict[str, object]:
    return {"stamp": {"sec": stamp_ns // 1_000_000_000, "nanosec": stamp_ns % 1_000_000_000}, "frame_id": frame_id}


def write_hdf5(path: Path, demonstration: Demonstration) -> None:
    """Write one demonstration in the ALOHA layout, images as rows of JPEG bytes padded with zeros."""
    import h5py

    rows = _rows(demonstration)
    with h5py.File(path, "w") as file:
        file.attrs.update({"sim": True, "compress": True, "task": TASK})
        file["/observations/qpos"] = demonstration.position[rows]
        file["/observations/qvel"] = demonstration.velocity[rows]
        file["/observations/timestamp"] = demonstration.stamps_ns[rows] / 1e9
        file["/action"] = demonstration.command[rows]
        lengths = np.array([[len(jpeg) for jpeg in track.jpegs[: len(rows)]] for track in demonstration.cameras.values()])
        file["/compress_len"] = lengths
        for name, track in demonstration.cameras.items():
            padded = [np.frombuffer(jpeg.ljust(lengths.max(), b"\0"), np.uint8) for jpeg in track.jpegs[: len(rows)]]
            file[f"/observations/images/{name}"] = np.stack(padded)


def write_zarr(path: Path, demonstrations: list[Demonstration]) -> None:
    """Write a replay buffer of all demonstrations; a `path` that ends with .zip becomes one file."""
    if path.suffix != ".zip":
        _write_zarr_folder(path, demonstrations)
        return
    with TemporaryDirectory() as work:
        folder = Path(work) / "buffer"
        _write_zarr_folder(folder, demonstrations)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                # An entry of its own keeps the day out of the bytes.
                archive.writestr(zipfile.ZipInfo(file.relative_to(folder).as_posix(), (2025, 1, 1, 0, 0, 0)), file.read_bytes())


def _write_zarr_folder(folder: Path, demonstrations: list[Demonstration]) -> None:
    import zarr
    from imagecodecs.numcodecs import Jpegxl, register_codecs

    register_codecs(verbose=False)
    group = zarr.open_group(folder, mode="w", zarr_format=2)
    group.attrs["task"] = TASK
    rows = [_rows(d) for d in demonstrations]
    columns = {
        "state": np.concatenate([d.position[r] for d, r in zip(demonstrations, rows, strict=True)]).astype(np.float32),
        "action": np.concatenate([d.command[r] for d, r in zip(demonstrations, rows, strict=True)]).astype(np.float32),
        "timestamp": np.concatenate([d.stamps_ns[r] / 1e9 for d, r in zip(demonstrations, rows, strict=True)]),
    }
    for name, values in columns.items():
        group.create_array(f"data/{name}", data=values, compressors=None)
    for name in demonstrations[0].cameras:
        images = np.stack([_decode(jpeg) for d, r in zip(demonstrations, rows, strict=True) for jpeg in d.cameras[name].jpegs[: len(r)]])
        group.create_array(f"data/{name}", data=images, chunks=(1, *images.shape[1:]), compressors=Jpegxl(level=80, lossless=False))
    group.create_array("meta/episode_ends", data=np.cumsum([len(r) for r in rows]).astype(np.int64), compressors=None)


def _rows(demonstration: Demonstration) -> npt.NDArray[np.int64]:
    """The control step nearest to each frame of the first camera, as far as all cameras have frames."""
    tracks = list(demonstration.cameras.values())
    count = min(len(track.jpegs) for track in tracks)
    since_start = tracks[0].stamps_ns[:count] - demonstration.stamps_ns[0]
    period_ns = demonstration.stamps_ns[1] - demonstration.stamps_ns[0]
    return np.round(since_start / period_ns).astype(np.int64)


def _decode(jpeg: bytes) -> npt.NDArray[np.uint8]:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg)))
