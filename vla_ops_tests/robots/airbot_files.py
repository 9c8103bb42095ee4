"""Write AIRBOT recordings as its collector does: joints as FlatBuffers, videos as H.264 attachments, the task as JSON in metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vla_ops_tests.recordings.mcap_files import START_NS, Extras, Joints, mp4_bytes, stamps, write_mcap
from vla_ops_tests.recordings.pictures import frame_picture
from vla_ops_tests.robots.motions import sway
from vla_ops_tests.robots.shipped import Float64, Motion

FRAMES = 64
ARM = ((-2.0, 1.5), (-2.5, 0.1), (0.0, 3.0), (-2.8, 2.8), (-1.5, 1.5), (-2.8, 2.8))
GRIPPER_M = ((0.0, 0.072),)


@dataclass(frozen=True)
class Layout:
    """The topics of what the robot did and of what it was told, each with the limits of its values, and the names of the videos."""

    follow: Mapping[str, Sequence[tuple[float, float]]]
    lead: Sequence[str]
    cameras: Sequence[str]
    components: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def limits(self) -> list[tuple[float, float]]:
        """Of all values in order."""
        return [pair for pairs in self.follow.values() for pair in pairs]


def _component(product_type: str, serial: str) -> dict[str, object]:
    names = {"arm/joint_names": [f"joint{k}" for k in range(1, 7)], "eef/joint_names": ["gripper"]}
    return {"product_type": product_type, "sn": serial, "is_sim": False, **names}


def _arms(*sides: str) -> Layout:
    position = "joint_state/position"
    follow = {f"{s}/follow/{part}/{position}": limits for s in sides for part, limits in (("arm", ARM), ("eef", GRIPPER_M))}
    cameras = ("env", "left", "right") if len(sides) == 2 else ("env", "follow")
    components = {f"{s}/{who}": _component(kind, f"PZ{s}{who}") for s in sides for who, kind in (("lead", "replay"), ("follow", "play"))}
    return Layout(follow, [t.replace("/follow/", "/lead/") for t in follow], [f"/{c}_camera/color/image_raw" for c in cameras], components)


PLAY, PTK = _arms(""), _arms("/left", "/right")


def _mmk() -> Layout:
    parts = {"left_arm": ARM, "left_arm_eef": ((0.0, 1.0),), "right_arm": ARM, "right_arm_eef": ((0.0, 1.0),)}
    parts |= {"head": ((-0.5, 0.5), (-1.1, 0.1)), "spine": ((0.0, 0.8),)}
    topics = {f"mmk/observation/{part}/joint_state/position": limits for part, limits in parts.items()}
    lead = [topic.replace("observation", "action") for topic in topics]
    return Layout(topics, lead, [f"mmk/{camera}_camera/color/video" for camera in ("head", "left", "right")])


MMK = _mmk()


def write_round(path: Path, layout: Layout, *, task: str, station: str, description: str = "", seed: int = 0) -> Motion:
    """Write one recording at 20 Hz and return what was told and done."""
    motion = sway(layout.limits, FRAMES, seed=seed)
    # Every round at a time of its own.
    ticks = stamps(FRAMES, 20, START_NS + seed * 60_000_000_000)
    widths = [len(limits) for limits in layout.follow.values()]
    topics: dict[str, Joints] = {}
    for names, values in ((layout.follow, motion.state), (layout.lead, motion.command)):
        topics |= {name: Joints(ticks, part) for name, part in zip(names, _split(values, widths), strict=True)}
    said = {"task_name": task, "task_description": description, "task_id": 135, "station": station, "operator": "op"}
    pictures = {name: [frame_picture(k, camera=i) for k in range(FRAMES)] for i, name in enumerate(layout.cameras)}
    attached = [(name, "video/mp4", mp4_bytes(shots, ticks)) for name, shots in pictures.items()]
    attached.append(("log_stamps", "application/json", json.dumps(ticks.tolist()).encode()))
    if layout.components:
        attached.append(("component_info", "application/json", json.dumps(layout.components).encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    extras = Extras({"task_info": {k: json.dumps(v) for k, v in said.items()}, "version": {"collector": '"0.6.9"'}}, attached)
    write_mcap(path, "airbot", joints=topics, extras=extras)
    return motion


def _split(values: Float64, widths: Sequence[int]) -> list[Float64]:
    return np.split(values, np.cumsum(widths)[:-1], axis=1)
