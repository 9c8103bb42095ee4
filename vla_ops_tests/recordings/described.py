"""Descriptions of recordings that were never written, and the robots suggested for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import yaml

from vla_ops.recordings.base import Span, StreamInfo
from vla_ops.recordings.inspect import Description
from vla_ops.robot import RobotSpec

EPOCH = 1_700_000_000 * 10**9

NO_TASK = "DECIDE: what the robot does, in one sentence"


def filled_in(text: str) -> dict[str, Any]:
    """The attributes after a person decided what only a person can: the task and, where there is none, the state."""
    document = yaml.safe_load(text)
    assert document["type"] == "vla_ops.RobotPipeline"
    attributes = document["attributes"]
    if attributes["task"] == {"text": NO_TASK}:
        attributes["task"] = {"text": "fold the towel"}
    if not attributes["state"]:
        attributes["state"] = [{"source": "/arm/q", "names": ["q1"], "unit": "rad"}]
        attributes["norm_stats"] = {"action_space": "absolute"}
    return attributes


def loaded(text: str) -> RobotSpec:
    return RobotSpec.model_validate(filled_in(text))


def stream(name: str, *, width: int = 1, kind: str = "numbers", start: int = EPOCH, **more: object) -> StreamInfo:
    info = StreamInfo(name, "numbers", "float32", (width,), 100, start, start + 99 * 40_000_000)
    return replace(info, kind=kind, **more)  # pyright: ignore[reportArgumentType]


def described(*streams: StreamInfo, task: str | None = None) -> Description:
    return Description("/recordings/0.mcap", "mcap", 1000, streams, (Span("0", task=task),))


def ptk_streams() -> list[StreamInfo]:
    """A two-arm AIRBOT station, its cameras on the clock that counts from power-on."""
    joints = [
        stream(f"/{side}/{arm}/{part}/joint_state/position", width=width)
        for side in ("right", "left")
        for arm in ("lead", "follow")
        for part, width in (("eef", 1), ("arm", 6))
    ]
    velocities = [stream(f"/{side}/follow/arm/joint_state/velocity", width=6) for side in ("left", "right")]
    cameras = [
        stream(f"/{c}_camera/color/image_raw", kind="images", shape=(480, 640, 3), dtype="uint8", encoding="h264", start=8_225 * 10**9)
        for c in ("env", "left", "right")
    ]
    return joints + velocities + cameras
