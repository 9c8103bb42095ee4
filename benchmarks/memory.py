"""Peak resident memory of the worker that converts a long recording, against a recording a tenth as long.

Run: python benchmarks/memory.py [--minutes 10] [--codec av1]
Target: under 1.5 GB for 10 minutes of three 480x640 cameras at 30 Hz, and hardly more than for one minute.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RATE_HZ, CAMERAS = 30, ("cam_high", "cam_left_wrist", "cam_right_wrist")

CONVERT = """
import json, resource, sys, time
from pathlib import Path
from vla_ops.episodes.convert import ConversionJob, convert_recording
from vla_ops.robot import RobotSpec
path, spec, store = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
started = time.perf_counter()
result = convert_recording(ConversionJob(Path(path).name, path, "1", RobotSpec.model_validate(spec), store))
assert result.quarantined is None, result.quarantined
print(result.frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.perf_counter() - started)
"""


def pictures(count: int = 90) -> list[bytes]:
    """JPEGs of a moving pattern with noise, repeated over the recording; their content does not matter to memory."""
    from PIL import Image

    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:480, 0:640]
    made = []
    for k in range(count):
        image = (
            128
            + 90 * np.stack([np.sin((x + 5 * k) / 80), np.sin((y + 3 * k) / 60), np.cos((x + y) / 90)], -1)
            + rng.normal(0, 3, (480, 640, 3))
        )
        with io.BytesIO() as file:
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
            made.append(file.getvalue())
    return made


def write_recording(path: Path, seconds: float, jpegs: list[bytes]) -> None:
    """An MCAP of three cameras and joints at 250 Hz."""
    from mcap_ros2.writer import Writer

    with open(path, "wb") as file, Writer(file) as writer:
        joints = writer.register_msgdef("sensor_msgs/msg/JointState", "string[] name\nfloat64[] position")
        image = writer.register_msgdef("sensor_msgs/msg/CompressedImage", "string format\nuint8[] data")
        names = [f"j{j}" for j in range(7)]
        for k in range(round(seconds * 250) + 9):
            stamp = k * 4_000_000
            writer.write_message(
                "/joint_states", joints, {"name": names, "position": [float(np.sin(k / 99 + j)) for j in range(7)]}, stamp, stamp
            )
            if k * RATE_HZ % 250 < RATE_HZ:
                frame = k * RATE_HZ // 250
                for c, camera in enumerate(CAMERAS):
                    message = {"format": "jpeg", "data": jpegs[(frame + 30 * c) % len(jpegs)]}
                    writer.write_message(f"/{camera}", image, message, stamp, stamp)


def spec(codec: str) -> dict[str, object]:
    part = {"source": "/joint_states.position", "names": [f"j{k}" for k in range(7)], "unit": "rad"}
    return {
        "recordings": {"uri": ".", "pattern": "*.mcap", "format": "mcap"},
        "timeline": {"rate_hz": RATE_HZ},
        "state": [part],
        "action": [part],
        "cameras": {camera: {"source": f"/{camera}"} for camera in CAMERAS},
        "task": {"text": "benchmark"},
        "dataset": {"repo_id": "bench/memory", "video": {"codec": codec}},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--codec", default="av1")
    options = parser.parse_args()
    jpegs = pictures()
    print(f"{'minutes':>8}{'file MB':>10}{'frames':>10}{'peak MB':>10}{'seconds':>10}")
    peaks = []
    for minutes in (options.minutes / 10, options.minutes):
        with tempfile.TemporaryDirectory() as temp:
            path = Path(temp) / "long.mcap"
            write_recording(path, minutes * 60, jpegs)
            command = [sys.executable, "-c", CONVERT, str(path), json.dumps(spec(options.codec)), temp]
            frames, peak, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peaks.append(float(peak))
            print(f"{minutes:8.1f}{path.stat().st_size / 1e6:10.0f}{frames:>10}{float(peak):10.0f}{float(seconds):10.1f}")
    print(f"peak {peaks[1]:.0f} MB (target under 1500), {peaks[1] / peaks[0]:.2f}x that of a tenth of it")


if __name__ == "__main__":
    main()
