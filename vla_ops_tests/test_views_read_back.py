"""The three views of one version, each read by its own reader: LeRobot's of today, the last one that reads v2.1, and TFDS."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vla_ops.datasets.refresh import refresh_lerobot_v3, refresh_views
from vla_ops.datasets.rlds_features import image_keys
from vla_ops.episodes.store import Episode, RobotStore
from vla_ops.robot_file import Robot, load_robot
from vla_ops_tests.conftest import REPO
from vla_ops_tests.episodes.ingesting import run
from vla_ops_tests.isolated import run_isolated
from vla_ops_tests.robots.buffer_files import cut_pusht

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # The environments may have to be fetched first.

NUMBERS = ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index", "task_index")
# Every so many frames the whole picture is compared; numbers are compared in all.
PICTURE_EVERY = 23
RLDS_SIZE = 64


@dataclass(frozen=True)
class Views:
    """A robot's datasets, and the episodes they are of, in order."""

    robot: Robot
    episodes: list[Episode]
    v30: Path
    v21: Path
    rlds: Path

    @property
    def frames(self) -> int:
        """How many there are."""
        return sum(episode.meta.length for episode in self.episodes)

    @property
    def pictured(self) -> list[int]:
        """Indices of the frames whose pictures are compared."""
        return sorted({*range(0, self.frames, PICTURE_EVERY), self.frames - 1})

    @property
    def cameras(self) -> list[str]:
        """Their names."""
        return list(self.robot.spec.cameras)


def _aloha_sim(folder: Path, recordings: Path) -> Path:
    return Path(shutil.copytree(REPO / "robots/aloha_sim", folder / "aloha_sim"))


def _pusht(folder: Path, recordings: Path) -> Path:
    """The first demonstrations of the real replay buffer."""
    made = Path(shutil.copytree(REPO / "robots/pusht", folder / "pusht"))
    cut_pusht(recordings / "zarr/pusht_cchi_v7_replay.zarr.zip", made / "recordings/pusht.zarr.zip", 8)
    return made


def _unitree_g1(folder: Path, recordings: Path) -> Path:
    return REPO / "vla_ops_tests/robots/unitree_g1"


@pytest.fixture(scope="module", params=[_aloha_sim, _pusht, _unitree_g1], ids=["aloha_sim", "pusht", "unitree_g1"])
def views(request, recordings_dir, tmp_path_factory) -> Views:
    folder = tmp_path_factory.mktemp("views")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VLA_OPS_TEST_RECORDINGS", str(recordings_dir))
        robot = in_all_formats(load_robot(request.param(folder, recordings_dir)))
    outcome = run(robot, folder / "home")
    assert set(outcome.states.values()) == {"converted"}
    store = RobotStore.of(robot.name, folder / "home")
    refreshed = refresh_lerobot_v3(robot, store, say=outcome.said.append)
    v21, rlds = refresh_views(robot, store, say=outcome.said.append)
    return Views(robot, refreshed.episodes, refreshed.made.folder, v21, rlds)


def in_all_formats(robot: Robot) -> Robot:
    """The robot with all three formats and small pictures; its recordings may have been written just now."""
    written = robot.spec.model_dump(by_alias=True)
    written["dataset"] |= {"formats": ["lerobot_v3.0", "lerobot_v2.1", "rlds"], "rlds": {"image_size": RLDS_SIZE}}
    written["recordings"]["settle_s"] = 0
    spec = robot.spec.model_validate(written)
    return Robot(robot.name, robot.folder, spec, robot.curation)


def expected_numbers(views: Views) -> dict[str, npt.NDArray[np.float32]]:
    """What every reader should give of the vectors, from the episode folders."""
    tables = [pq.read_table(episode.frames) for episode in views.episodes]
    lengths = [episode.meta.length for episode in views.episodes]
    tasks = list(dict.fromkeys(episode.meta.task for episode in views.episodes))
    found = {name: np.concatenate([np.stack(table[name].to_numpy()) for table in tables]) for name in ("observation.state", "action")}
    found["timestamp"] = np.concatenate([np.arange(n) / views.robot.spec.timeline.rate_hz for n in lengths])
    found["frame_index"] = np.concatenate([np.arange(n) for n in lengths])
    found["episode_index"] = np.repeat(np.arange(len(lengths)), lengths)
    found["index"] = np.arange(sum(lengths))
    found["task_index"] = np.repeat([tasks.index(episode.meta.task) for episode in views.episodes], lengths)
    return {name: values.astype(np.float32) for name, values in found.items()}


def pictures(episode: Episode, camera: str) -> list[npt.NDArray[np.uint8]]:
    """Every frame of the episode's own mp4, [height, width, 3]."""
    with av.open(str(episode.video(camera))) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def shown(views: Views, camera: str, indices: Sequence[int]) -> list[npt.NDArray[np.uint8]]:
    """The frames at these indices of the dataset."""
    wanted, first, found = set(indices), 0, []
    for episode in views.episodes:
        found += [image for k, image in enumerate(pictures(episode, camera), first) if k in wanted]
        first += episode.meta.length
    return found


READER = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
folder, names, keys, indices, out = sys.argv[1], *map(json.loads, sys.argv[2:5]), sys.argv[5]
dataset = LeRobotDataset("local/robot", root=folder, video_backend="pyav")
rows = dataset.hf_dataset.with_format("numpy")
found = {name: np.stack([np.asarray(row, np.float32) for row in rows[:][name]]).reshape(len(dataset), -1) for name in names}
for key in keys:
    found[key] = np.stack([np.round(dataset[k][key].numpy() * 255).astype(np.uint8).transpose(1, 2, 0) for k in indices])
found["task"] = np.array([dataset[k]["task"] for k in indices])
np.savez(out, **found)
"""


def assert_lerobot_read_what_the_episodes_hold(views: Views, out: Path) -> None:
    with np.load(out) as found:
        for name, values in expected_numbers(views).items():
            np.testing.assert_array_equal(found[name], values.reshape(views.frames, -1), err_msg=name)
        for camera in views.cameras:
            np.testing.assert_array_equal(found[f"observation.images.{camera}"], shown(views, camera, views.pictured), err_msg=camera)
        tasks = np.repeat([e.meta.task for e in views.episodes], [e.meta.length for e in views.episodes])
        assert found["task"].tolist() == tasks[views.pictured].tolist()


def reader_arguments(views: Views, folder: Path, out: Path) -> list[object]:
    keys = [f"observation.images.{camera}" for camera in views.cameras]
    return [folder, *map(json.dumps, (NUMBERS, keys, views.pictured)), out]


def test_lerobot_reads_every_number_and_picture_of_the_v30_view(views: Views, tmp_path: Path):
    out = tmp_path / "found.npz"
    command = [sys.executable, "-W", "ignore", "-c", READER, *map(str, reader_arguments(views, views.v30, out))]
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert_lerobot_read_what_the_episodes_hold(views, out)


def test_the_last_lerobot_that_reads_v21_reads_every_number_and_picture_of_that_view(views: Views, tmp_path: Path):
    out = tmp_path / "found.npz"
    # Later releases of PyAV have dropped an option that this LeRobot's decoder passes.
    packages, environment = ["lerobot==0.3.3", "av<16"], {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    run_isolated(packages, READER, *reader_arguments(views, views.v21, out), **environment)
    assert_lerobot_read_what_the_episodes_hold(views, out)


TFDS_READER = """
import sys
import numpy as np, tensorflow_datasets as tfds
folder, out = sys.argv[1:]
builder, found = tfds.builder_from_directory(folder), {}
for split in builder.info.splits:
    dataset = builder.as_dataset(split=split, shuffle_files=False)
    for k, episode in enumerate(tfds.as_numpy(dataset)):
        steps = list(episode["steps"])
        rows = {key: [step[key] for step in steps] for key in steps[0] if key != "observation"}
        rows |= {key: [step["observation"][key] for step in steps] for key in steps[0]["observation"]}
        rows |= {key: [value] for key, value in episode["episode_metadata"].items()}
        found |= {f"{split}/{k}/{key}": np.stack(values) for key, values in rows.items()}
    raw = builder.as_dataset(split=split, shuffle_files=False, decoders={"steps": tfds.decode.SkipDecoding()})
    for k, episode in enumerate(tfds.as_numpy(raw)):
        images = {key: jpegs for key, jpegs in episode["steps"]["observation"].items() if "image" in key}
        found |= {f"{split}/{k}/jpeg/{key}": np.array(jpegs, object) for key, jpegs in images.items()}
np.savez(out, **found)
"""


def as_jpeg(picture: npt.NDArray[np.uint8]) -> bytes:
    """The picture as Pillow alone resizes and encodes it."""
    buffer = io.BytesIO()
    Image.fromarray(picture).resize((RLDS_SIZE,) * 2, Image.Resampling.LANCZOS).save(buffer, "jpeg", quality=95, subsampling="4:2:0")
    return buffer.getvalue()


def rlds_places(views: Views) -> Iterator[tuple[str, Episode]]:
    """`train/<k>` or, of what the robot's curation holds out, `val/<k>` of each episode."""
    held_out, counts = views.robot.curation.spec.held_out, {"train": 0, "val": 0}
    for episode in views.episodes:
        split = "val" if held_out is not None and episode.meta.recording in held_out.episodes else "train"
        yield f"{split}/{counts[split]}", episode
        counts[split] += 1


def test_tensorflow_datasets_reads_every_step_of_the_rlds_view(views: Views, tmp_path: Path):
    out, (dataset,) = tmp_path / "found.npz", views.rlds.glob("*/1.0.0")
    packages = ["tensorflow-datasets==4.9.10", "tensorflow-cpu==2.21.0"]
    run_isolated(packages, TFDS_READER, dataset, out, TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")
    with np.load(out, allow_pickle=True) as found:
        read = dict(found)
    assert sum(len(values) for key, values in read.items() if key.endswith("/state")) == views.frames
    for place, episode in rlds_places(views):
        table, length = pq.read_table(episode.frames), episode.meta.length
        np.testing.assert_array_equal(read[f"{place}/state"], np.stack(table["observation.state"].to_numpy()))
        np.testing.assert_array_equal(read[f"{place}/action"], np.stack(table["action"].to_numpy()))
        assert read[f"{place}/language_instruction"].tolist() == [episode.meta.task.encode()] * length
        assert read[f"{place}/is_first"].tolist() == [True] + [False] * (length - 1)
        assert read[f"{place}/is_last"].tolist() == [False] * (length - 1) + [True]
        for key, camera in image_keys(views.robot.spec).items():
            jpegs = [as_jpeg(picture) for picture in pictures(episode, camera)]
            assert read[f"{place}/jpeg/{key}"].tolist() == jpegs
            decoded = np.float32([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])
            # TensorFlow decodes with a faster, coarser transform than Pillow.
            assert np.abs(np.float32(read[f"{place}/{key}"]) - decoded).mean() < 2, (episode.id, camera)
