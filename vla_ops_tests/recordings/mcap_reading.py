"""Write a standard MCAP recording and read it as the tests of the reader do."""

from __future__ import annotations

from pathlib import Path

from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Source
from vla_ops.recordings.mcap import McapRecording
from vla_ops_tests.recordings.mcap_files import (
    Joints,
    Sample,
    camera,
    joints,
    write_mcap,
)

ENCODINGS = ("ros2", "ros1", "protobuf", "json", "airbot")

ARM = joints()

CAMERAS = {"/cam/high": camera(), "/cam/wrist": camera(number=1, rate_hz=25)}


def open_mcap(path: Path, **options) -> McapRecording:
    recording = open_recording(str(path), "mcap", OpenOptions(**options))
    assert isinstance(recording, McapRecording)
    return recording


def read(path: Path, source: str, **options):
    with open_mcap(path, **options) as recording:
        return recording.numbers(Source.parse(source), recording.spans()[0])


def standard(path: Path, encoding="ros2", **options) -> Path:
    return write_mcap(path, encoding, joints={"/joint_states": ARM}, cameras=CAMERAS, **options)


def samples_of(arm: Joints, topic: str = "/joint_states") -> list[Sample]:
    return [
        Sample(topic, "JointState", stamp, {"name": list(arm.joint_names), "position": row, "velocity": row})
        for stamp, row in zip(arm.stamps_ns.tolist(), arm.values.tolist(), strict=True)
    ]
