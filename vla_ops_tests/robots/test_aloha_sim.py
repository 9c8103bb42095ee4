"""The default robot: its committed recordings hold what its YAML maps, and the script beside them records more."""

from __future__ import annotations

import ctypes.util
import hashlib
import importlib.util
import io
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from PIL import Image

from vla_ops.recordings.base import Source
from vla_ops.robot_file import load_robot

REPO = Path(__file__).resolve().parents[2]
FOLDER = REPO / "robots" / "aloha_sim"
RECORDINGS = sorted((FOLDER / "recordings").glob("*.mcap"))
OTHER_FORMATS = REPO / "vla_ops_tests" / "data" / "aloha_sim"
GRIPPERS = (6, 13)


@dataclass(frozen=True)
class Topic:
    """What a topic of a recording holds, in log order."""

    log_ns: list[int]
    header_ns: list[int]
    messages: list


def read(path: Path) -> dict[str, Topic]:
    topics: dict[str, Topic] = defaultdict(lambda: Topic([], [], []))
    with open(path, "rb") as file:
        for _, channel, message, decoded in make_reader(file, decoder_factories=[DecoderFactory()]).iter_decoded_messages():
            topic = topics[channel.topic]
            topic.log_ns.append(message.log_time)
            topic.header_ns.append(decoded.header.stamp.sec * 1_000_000_000 + decoded.header.stamp.nanosec)
            topic.messages.append(decoded)
    return topics


@pytest.fixture(scope="module", params=RECORDINGS, ids=lambda p: p.stem)
def topics(request: pytest.FixtureRequest) -> dict[str, Topic]:
    return read(request.param)


@pytest.fixture(scope="module")
def spec():
    return load_robot(FOLDER).spec


def test_six_recordings_are_committed_and_small():
    assert len(RECORDINGS) == 6
    committed = [p for folder in (FOLDER, OTHER_FORMATS) for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in committed) < 8_000_000


def test_recordings_differ_in_content():
    assert len({hashlib.sha256(p.read_bytes()).digest() for p in RECORDINGS}) == len(RECORDINGS)


def test_the_yaml_gives_fourteen_dimensions_two_grippers_and_three_camera_slots(spec):
    assert [d.name for d in spec.state_dims] == [d.name for d in spec.action_dims]
    assert len(spec.state_dims) == 14
    assert tuple(k for k, d in enumerate(spec.delta_mask) if not d) == GRIPPERS
    assert list(spec.camera_slots) == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]


def test_the_yaml_finds_the_recordings():
    robot = load_robot(FOLDER)
    assert sorted(Path(robot.recordings_uri).glob(robot.spec.recordings.pattern)) == RECORDINGS


def test_every_mapped_topic_is_there_at_its_rate(topics, spec):
    assert set(spec.streams_mapped) == set(topics)
    for name, topic in topics.items():
        expected_hz = 50 if name.endswith("joint_states") else 25
        for stamps in (topic.log_ns, topic.header_ns):
            assert np.all(np.diff(stamps) > 0)
            assert 1e9 / np.median(np.diff(stamps)) == pytest.approx(expected_hz, rel=0.05)


def test_log_stamps_come_later_than_the_sensors_by_a_latency_that_varies(topics):
    for name, topic in topics.items():
        late_ms = (np.array(topic.log_ns) - np.array(topic.header_ns)) / 1e6
        low, high = (1, 3) if name.endswith("joint_states") else (9, 11)
        assert low <= late_ms.min() < late_ms.max() <= high
        assert np.std(late_ms) > 0.3


def test_joints_are_those_the_yaml_selects_and_within_its_limits(topics, spec):
    for part in [*spec.state, *spec.action_parts]:
        messages = topics[Source.parse(part.source).stream].messages
        columns = [messages[0].name.index(joint) for joint in part.joints]
        values = np.array([m.position for m in messages])[:, columns]
        for name, column, (low, high) in zip(part.names, values.T, part.each_limits(), strict=True):
            assert low <= column.min() <= column.max() <= high, name
            assert np.ptp(column) > 1e-3, f"{name} does not move"


def test_grippers_open_and_close(topics):
    for side in ("left", "right"):
        # The fingers stop at the cube, the command does not.
        for role, fall in (("follower", 0.2), ("leader", 0.99)):
            opening = np.array([m.position[6] for m in topics[f"/{side}_{role}/joint_states"].messages])
            assert np.ptp(opening) > 0.5
            assert opening.max() > 0.9
            assert (np.maximum.accumulate(opening) - opening).max() > fall


def test_arms_do_what_they_are_told_sixty_milliseconds_before(topics):
    for side in ("left", "right"):
        told, done = (np.array([m.position[:6] for m in topics[f"/{side}_{r}/joint_states"].messages]) for r in ("leader", "follower"))
        assert np.sqrt(np.mean((told[:-3] - done[3:]) ** 2)) < 0.03
        assert np.any(told != done)


def test_images_are_jpegs_that_show_the_red_cube(topics):
    for name in ("cam_high", "cam_left_wrist", "cam_right_wrist"):
        messages = topics[f"/{name}/image_raw/compressed"].messages
        assert {m.format for m in messages} == {"jpeg"}
        # At 4.2 s the right hand holds it up for the left one.
        pixels = np.asarray(Image.open(io.BytesIO(bytes(messages[105].data)))).astype(int)
        assert pixels.shape == (120, 160, 3)
        red = (pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)
        assert red.sum() > 5, name


def test_cameras_keep_moving(topics):
    for name in ("cam_high", "cam_left_wrist", "cam_right_wrist"):
        frames = [bytes(m.data) for m in topics[f"/{name}/image_raw/compressed"].messages]
        repeats = sum(a == b for a, b in pairwise(frames))
        assert repeats < len(frames) // 10


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda p: p.stem)
def test_recordings_are_chunked_indexed_and_name_their_task(path: Path):
    with open(path, "rb") as file:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None
        assert {chunk.compression for chunk in summary.chunk_indexes} == {"zstd"}
        assert len(summary.chunk_indexes) > 1
        task_info = {m.name: m.metadata for m in reader.iter_metadata()}["task_info"]
    assert task_info["task_description"] == "Transfer the red cube from the right arm to the left arm"
    assert (task_info["operator"], task_info["station"]) == ("scripted", "sim")


def test_the_hdf5_demonstration_has_the_aloha_layout():
    with h5py.File(OTHER_FORMATS / "transfer_cube_000.hdf5", "r") as file:
        steps = file["/action"].shape[0]
        assert file["/action"].shape == file["/observations/qpos"].shape == file["/observations/qvel"].shape == (steps, 14)
        assert np.diff(file["/observations/timestamp"][:]) == pytest.approx(0.1, abs=1e-6)
        assert set(file["/observations/images"]) == {"cam_high", "cam_left_wrist", "cam_right_wrist"}
        for k, name in enumerate(("cam_high", "cam_left_wrist", "cam_right_wrist")):
            row, length = file[f"/observations/images/{name}"][10], file["/compress_len"][k, 10]
            assert not row[length:].any()
            assert Image.open(io.BytesIO(row[:length].tobytes())).size == (160, 120)
        assert np.all(np.ptp(file["/observations/qpos"][:][:, GRIPPERS], axis=0) > 0.5)


def test_the_zarr_replay_buffer_has_two_episodes():
    import zarr
    from imagecodecs.numcodecs import register_codecs

    register_codecs(verbose=False)
    with zarr.storage.ZipStore(OTHER_FORMATS / "transfer_cube.zarr.zip", mode="r") as store:
        group = zarr.open_group(store, mode="r")
        ends = np.asarray(group["meta/episode_ends"])
        assert len(ends) == 2
        state, image = np.asarray(group["data/state"]), np.asarray(group["data/cam_high"][0])
        assert state.shape == group["data/action"].shape == (ends[-1], 14)
        assert group["data/cam_high"].shape == (ends[-1], 120, 160, 3)
    assert image.std() > 10
    for start, stop in zip([0, ends[0]], ends, strict=True):
        assert np.all(np.ptp(state[start:stop][:, GRIPPERS], axis=0) > 0.5)


def test_the_expert_is_the_same_for_the_same_seed_and_reaches_the_cube():
    from robots.aloha_sim.expert import Scene, script

    one, again, other = (script(Scene.draw(np.random.default_rng(seed))) for seed in (7, 7, 8))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.isfinite(one).all()
    # No command jumps: at most 0.2 rad (10 rad/s) from one 50 Hz step to the next.
    assert np.abs(np.diff(one, axis=0)).max() < 0.2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gym_aloha") is None, reason="needs the `sim` extra")
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="needs EGL to render without a display")
def test_the_script_records_all_three_formats_and_the_same_bytes_for_the_same_seed(tmp_path: Path):
    def record(out: str, format: str) -> bytes:
        command = [sys.executable, "-m", "robots.aloha_sim.record", "--out", str(tmp_path / out), "--format", format]
        command += ["--episodes", "1", "--seed", "3", "--fps", "2", "--height", "48", "--width", "64"]
        ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        assert "reward 4 of 4" in ran.stdout
        (file,) = (tmp_path / out).iterdir()
        return file.read_bytes()

    assert record("a", "mcap") == record("b", "mcap")
    assert record("c", "hdf5").startswith(b"\x89HDF")
    assert record("d", "zarr") == record("e", "zarr")
