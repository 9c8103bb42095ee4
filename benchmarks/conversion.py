"""JPEG camera frames -> a dataset's videos, camera-frames per second, side by side in one run.

`python benchmarks/conversion.py [--seconds N] [--cameras N]`: three cameras of 480 x 640 at 30 Hz by default. All start from the
same JPEG bytes and use LeRobot's encoder settings (AV1, g 2, crf 30, preset 12):

- LeRobot's own writer as it comes (PNG files, then video) and with `streaming_encoding=True`;
- the limit: FFmpeg's JPEG decoder and SVT-AV1 in a bare loop, a thread a camera, as many encoder threads as ours uses;
- ours, the video alone (from memory, like the others), encoding and with `codec: copy`;
- ours, the whole conversion: from an MCAP file of the cameras and joints to an episode with its quality report and pictures.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vla_ops.episodes.video import Track, write_videos
from vla_ops.recordings.base import EncodedImage, ImageCodec, Int64
from vla_ops.robot import RobotSpec
from vla_ops.spec import VideoSpec

RATE_HZ, HEIGHT, WIDTH = 30, 480, 640

# Camera name -> its JPEGs, one a frame of the timeline.
type Cameras = dict[str, list[bytes]]


def natural_frames(seconds: float, cameras: int) -> Cameras:
    """Moving gradients, a moving texture and sensor noise, as JPEG of quality 90: as hard to encode as a real camera's frames."""
    return {f"cam_{c}": list(_camera_frames(round(seconds * RATE_HZ), seed=c)) for c in range(cameras)}


def _camera_frames(count: int, seed: int) -> Iterator[bytes]:
    from PIL import Image

    rng = np.random.default_rng(seed)
    texture = _smooth(_smooth(rng.normal(0, 1, (HEIGHT, WIDTH, 3)), 2), 2) * 60
    noise = [rng.normal(0, 2, (HEIGHT, WIDTH, 1)) for _ in range(8)]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    for k in range(count):
        waves = [np.sin((x + 3 * k) / 90), np.sin((y + 2 * k) / 70), np.cos((x + y - k) / 110)]
        image = 128 + 80 * np.stack(waves, axis=-1) + np.roll(texture, (k, 2 * k), (0, 1)) + noise[k % len(noise)]
        with io.BytesIO() as file:
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
            yield file.getvalue()


def _smooth(image: npt.NDArray[np.float64], radius: int) -> npt.NDArray[np.float64]:
    for axis in (0, 1):
        image = sum((np.roll(image, shift, axis) for shift in range(-radius, radius + 1)), np.zeros_like(image)) / (2 * radius + 1)
    return image


@dataclass
class JpegsInMemory:
    """The ImageStream of JPEGs that were read already."""

    name: str
    jpegs: Sequence[bytes]
    codec: ImageCodec = "jpeg"

    @property
    def stamps_ns(self) -> Int64:
        """Stamps at the rate exactly."""
        return np.arange(len(self.jpegs), dtype=np.int64) * 1_000_000_000 // RATE_HZ

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Hand out the bytes."""
        for index in indices:
            yield EncodedImage("jpeg", self.jpegs[int(index)])


def lerobot(frames: Cameras, folder: Path, *, streaming: bool) -> None:
    """LeRobot's writer, fed with decoded images as its documentation shows."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from PIL import Image

    shape = (HEIGHT, WIDTH, 3)
    features = {f"observation.images.{c}": {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]} for c in frames}
    features["action"] = {"dtype": "float32", "shape": (1,), "names": ["x"]}
    dataset = LeRobotDataset.create(
        "bench/conversion", RATE_HZ, features, root=folder / "dataset", use_videos=True, streaming_encoding=streaming,
        # A full queue makes LeRobot drop frames, which would flatter it.
        encoder_queue_maxsize=1_000_000,
    )  # fmt: skip
    for row in zip(*frames.values(), strict=True):
        images = {f"observation.images.{c}": np.asarray(Image.open(io.BytesIO(data))) for c, data in zip(frames, row, strict=True)}
        dataset.add_frame({**images, "action": np.zeros(1, np.float32), "task": "benchmark"})
    dataset.save_episode()
    dataset.finalize()


def bare_loop(frames: Cameras, folder: Path) -> None:
    """Decode and encode and nothing else: no statistics, no checks."""
    threads = [threading.Thread(target=_bare_camera, args=(jpegs, folder / f"{c}.mp4", len(frames))) for c, jpegs in frames.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _bare_camera(jpegs: Sequence[bytes], path: Path, cameras: int) -> None:
    import av

    threads = 2 if cameras < len(os.sched_getaffinity(0)) else 1
    options = {"g": "2", "crf": "30", "preset": "12", "svtav1-params": f"fast-decode=0:lp={threads}"}
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", RATE_HZ, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k, data in enumerate(jpegs):
            for frame in decoder.decode(av.Packet(data)):
                limited = frame.reformat(format="yuv420p")
                limited.pict_type, limited.pts, limited.time_base = 0, k, Fraction(1, RATE_HZ)
                container.mux(stream.encode(limited))
        container.mux(stream.encode(None))


def ours(frames: Cameras, folder: Path, *, codec: str) -> None:
    """Our writer, from a stream of the same JPEGs."""
    tracks = {name: Track(JpegsInMemory(name, jpegs), np.arange(len(jpegs))) for name, jpegs in frames.items()}
    write_videos(folder, tracks, rate_hz=RATE_HZ, settings=VideoSpec.model_validate({"codec": codec}))


def whole_conversion(frames: Cameras, folder: Path, *, codec: str) -> None:
    """Everything that the asset does for one recording."""
    from vla_ops.episodes.convert import ConversionJob, convert_recording

    cameras = {name: {"source": f"/{name}"} for name in frames}
    spec = RobotSpec.model_validate(SPEC | {"cameras": cameras, "dataset": {"repo_id": "bench/ours", "video": {"codec": codec}}})
    result = convert_recording(ConversionJob("recording.mcap", str(_recording(frames)), "1", spec, folder))
    assert result.quarantined is None, result.quarantined
    assert result.frames == len(frames["cam_0"])


SPEC = {
    "recordings": {"uri": ".", "pattern": "*.mcap", "format": "mcap"},
    "timeline": {"rate_hz": RATE_HZ},
    "state": [{"source": "/joint_states.position", "names": [f"j{k}" for k in range(7)], "unit": "rad"}],
    "action": [{"source": "/joint_states.position", "names": [f"j{k}" for k in range(7)], "unit": "rad"}],
    "task": {"text": "benchmark"},
}
_RECORDINGS = Path(tempfile.mkdtemp(prefix="conversion-recordings-"))


def _recording(frames: Cameras) -> Path:
    """The MCAP of `frames` and of joints at 250 Hz, written at the first call (before anything is timed)."""
    path = _RECORDINGS / f"{len(frames['cam_0'])}.mcap"
    if not path.exists():
        _write_mcap(path, frames)
    return path


def _write_mcap(path: Path, frames: Cameras) -> None:
    from mcap_ros2.writer import Writer

    with open(path, "wb") as file, Writer(file) as writer:
        joints = writer.register_msgdef("sensor_msgs/msg/JointState", _JOINT_STATE + _HEADER)
        image = writer.register_msgdef("sensor_msgs/msg/CompressedImage", _COMPRESSED_IMAGE + _HEADER)
        last = len(frames["cam_0"]) - 1
        events = [(k * 4_000_000, None, k) for k in range(round(last / RATE_HZ * 250) + 2)]
        events += [(k * 1_000_000_000 // RATE_HZ, camera, k) for camera in frames for k in range(last + 1)]
        for stamp, camera, k in sorted(events, key=lambda event: event[0]):
            if camera is None:
                position = [float(np.sin(k / 100 + j)) for j in range(7)]
                message = {"name": [f"j{j}" for j in range(7)], "position": position, "velocity": [0.0] * 7, "effort": []}
                writer.write_message("/joint_states", joints, _headed(stamp) | message, stamp, stamp)
            else:
                message = {"format": "jpeg", "data": frames[camera][k]}
                writer.write_message(f"/{camera}", image, _headed(stamp) | message, stamp, stamp)


_JOINT_STATE = "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n"
_COMPRESSED_IMAGE = "std_msgs/Header header\nstring format\nuint8[] data\n"
_HEADER = (
    f"{'=' * 80}\nMSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
    f"{'=' * 80}\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
)


def _headed(stamp_ns: int) -> dict[str, object]:
    return {"header": {"stamp": {"sec": stamp_ns // 10**9, "nanosec": stamp_ns % 10**9}, "frame_id": ""}}


@dataclass(frozen=True)
class Contender:
    """A way to make the videos of `frames` in `folder`."""

    name: str
    run: Callable[[Cameras, Path], None]


CONTENDERS = [
    Contender("lerobot default", lambda frames, folder: lerobot(frames, folder, streaming=False)),
    Contender("lerobot streaming_encoding", lambda frames, folder: lerobot(frames, folder, streaming=True)),
    Contender("bare decode-and-encode loop", bare_loop),
    Contender("vla_ops av1", lambda frames, folder: ours(frames, folder, codec="av1")),
    Contender("vla_ops copy", lambda frames, folder: ours(frames, folder, codec="copy")),
    Contender("vla_ops av1, whole conversion", lambda frames, folder: whole_conversion(frames, folder, codec="av1")),
    Contender("vla_ops copy, whole conversion", lambda frames, folder: whole_conversion(frames, folder, codec="copy")),
]


@dataclass(frozen=True)
class Timing:
    """One run: camera-frames per second, and CPU milliseconds per camera-frame, which other load disturbs less."""

    frames_per_s: float
    cpu_ms: float


def timed(contender: Contender, frames: Cameras) -> Timing:
    """Run once in an empty folder."""
    folder = Path(tempfile.mkdtemp(prefix="conversion-"))
    count = sum(map(len, frames.values()))
    start, cpu = time.perf_counter(), _cpu_s()
    contender.run(frames, folder)
    timing = Timing(count / (time.perf_counter() - start), 1e3 * (_cpu_s() - cpu) / count)
    shutil.rmtree(folder)
    return timing


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    """Print the table."""
    import av.logging

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["SVT_LOG"] = "0"
    av.logging.set_libav_level(av.logging.ERROR)  # LeRobot turns FFmpeg's messages on.
    cores = len(os.sched_getaffinity(0))
    print(f"{options.cameras} cameras, {HEIGHT} x {WIDTH}, {options.seconds:g} s at {RATE_HZ} Hz, {cores} cores, best of {options.rounds}")
    frames = natural_frames(options.seconds, options.cameras)
    for contender in CONTENDERS:
        timed(contender, {name: jpegs[:4] for name, jpegs in frames.items()})
    _recording(frames)
    # Round by round, and the best of each: other load on the machine comes and goes, and can only slow a run down.
    rounds = [{contender.name: timed(contender, frames) for contender in CONTENDERS} for _ in range(options.rounds)]
    print_table(
        {
            contender.name: Timing(max(r[contender.name].frames_per_s for r in rounds), min(r[contender.name].cpu_ms for r in rounds))
            for contender in CONTENDERS
        }
    )


def print_table(timings: dict[str, Timing]) -> None:
    """Print speeds and ratios, and whether the targets are met."""
    speeds = {name: timing.frames_per_s for name, timing in timings.items()}
    default, streaming, bare = (speeds[contender.name] for contender in CONTENDERS[:3])
    print(f"\n{'':32}{'camera-frames/s':>16}{'x default':>11}{'x streaming':>13}{'bare / this':>13}{'CPU ms/frame':>14}")
    for name, speed in speeds.items():
        ratios = f"{speed / default:11.1f}{speed / streaming:13.2f}{bare / speed:13.2f}"
        print(f"{name:32}{speed:16.0f}{ratios}{timings[name].cpu_ms:14.2f}")
    encoding, copying = speeds["vla_ops av1, whole conversion"], speeds["vla_ops copy, whole conversion"]
    print("\ntargets: av1 >= 5 x default, >= 1.2 x streaming, bare / av1 <= 1.3; copy >= 50 x default")
    met = encoding >= 5 * default and encoding >= 1.2 * streaming and bare <= 1.3 * encoding and copying >= 50 * default
    print("all met" if met else "NOT all met")


if __name__ == "__main__":
    main()
