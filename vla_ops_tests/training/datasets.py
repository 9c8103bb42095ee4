"""Small datasets to load from: v3.0 and v2.1 with videos, images in parquet, and what LeRobot itself makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.lerobot_v21 import write_lerobot_v21
from vla_ops_tests.datasets.episode_folders import Kind, image, spec, write_episodes

CAMERAS = ("cam_high", "cam_wrist")
NAMES = ["j1", "j2", "gripper"]


def write_v3(root: Path, lengths: list[int], *, codec: str = "h264", held_out: tuple[int, ...] = (), **kind: object) -> Path:
    """A v3.0 dataset, two cameras, tasks pick and place in turns."""
    made = Kind(codec=codec, cameras=CAMERAS, **kind)  # pyright: ignore[reportArgumentType]
    episodes = write_episodes(root / "episodes", lengths, kind=made, tasks=["pick", "place"])
    ids = {episodes[k].id for k in held_out}
    return write_lerobot_v3(root / "lerobot_v3", episodes, spec=spec(made), robot="arm", held_out=ids).folder


def write_v21(root: Path, lengths: list[int], *, codec: str = "h264") -> Path:
    """The v2.1 view of such a dataset."""
    made = Kind(codec=codec, cameras=CAMERAS)
    episodes = write_episodes(root / "episodes", lengths, kind=made, tasks=["pick", "place"])
    version = write_lerobot_v3(root / "lerobot_v3", episodes, spec=spec(made), robot="arm")
    return write_lerobot_v21(root / "lerobot_v21", version.folder, episodes, spec=spec(made), robot="arm").folder


def write_stills(root: Path, lengths: list[int]) -> Path:
    """A dataset with its images in parquet, written by LeRobot."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    vector = {"dtype": "float32", "shape": (3,), "names": NAMES}
    features = {"observation.state": vector, "action": vector}
    features |= {
        f"observation.images.{camera}": {"dtype": "image", "shape": (64, 96, 3), "names": ["height", "width", "channels"]}
        for camera in CAMERAS
    }
    made = LeRobotDataset.create("local/stills", 30, features, root=root / "stills", robot_type="arm", use_videos=False)
    number = 0
    for k, length in enumerate(lengths):
        for _ in range(length):
            vectors = {
                name: np.array([number + ahead, np.sin(number), 1], np.float32)
                for ahead, name in enumerate(("observation.state", "action"))
            }
            pictures = {f"observation.images.{camera}": image(number + 1000 * c) for c, camera in enumerate(CAMERAS)}
            made.add_frame({**vectors, **pictures, "task": f"task {k % 2}"})
            number += 1
        made.save_episode()
    made.finalize()
    return root / "stills"


def change_info(folder: Path, change: object) -> None:
    """Rewrite meta/info.json by `change(info)`."""
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)  # pyright: ignore[reportCallIssue]
    path.write_text(json.dumps(info))
