"""One recording -> its episode folders: what is in them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.read import task_text
from vla_ops.episodes.store import EpisodeMeta
from vla_ops.errors import RecordingError
from vla_ops.recordings.base import Span
from vla_ops.spec import TaskFrom
from vla_ops_tests.episodes.ingesting import ALOHA, RATE_HZ
from vla_ops_tests.episodes.workshop import (
    CAMERAS,
    HIGH,
    NAMES,
    QPOS,
    STEP_NS,
    TIMES,
    TWO_JOINTS,
    Workshop,
    column,
    numbers_shown,
    states,
)
from vla_ops_tests.recordings.mcap_files import joints, write_mcap


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


# What is in an episode folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, Conversion, np.ndarray]:
    """Twenty frames of an arm with two cameras, its task in the recording."""
    shop = Workshop(tmp_path_factory.mktemp("plain"))
    qpos = shop.aloha(cameras=("high", "wrist"), task=" pick the cube\n", width=7)
    cameras = CAMERAS | {"wrist": {"source": "/observations/images/wrist"}}
    return shop, shop.convert(state=ALOHA["state"], cameras=cameras, task={"from": "recording"}), qpos


def test_a_recording_becomes_a_folder_of_episodes_and_pictures_and_nothing_else(plain):
    folder = plain[0].store.recording_folder("a.hdf5")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    in_episode = ["0/episode.json", "0/frames.parquet", "0/high.mp4", "0/wrist.mp4"]
    assert found == [*in_episode, "contact_sheet.jpg", "recording.json", "vectors.png"]
    assert not plain[0].store.quarantine.exists()


def test_frames_parquet_has_these_columns_of_these_types(plain):
    (episode,) = plain[0].store.read_episodes("a.hdf5")
    schema = pq.read_schema(episode.frames)
    vector = pa.list_(pa.field("element", pa.float32()), 7)
    types = {name: schema.field(name).type for name in schema.names}
    skews = {f"skew_ns/{stream}": pa.int64() for stream in (QPOS, HIGH, "/observations/images/wrist")}
    assert types == {"observation.state": vector, "action": vector, "timestamp": pa.float32(), **skews}
    assert schema.names[:3] == ["observation.state", "action", "timestamp"]


def test_values_are_those_recorded_and_the_action_is_the_next_state(plain):
    _, _, qpos = plain
    (episode,) = plain[0].store.read_episodes("a.hdf5")
    np.testing.assert_array_equal(states(episode), qpos[:-1])
    np.testing.assert_array_equal(column(episode, "action").astype(np.float32), qpos[1:])
    assert numbers_shown(episode) == numbers_shown(episode, "wrist") == list(range(19))


def test_episode_json_says_what_the_episode_is(plain):
    shop, _, qpos = plain
    (episode,) = shop.store.read_episodes("a.hdf5")
    meta = episode.meta
    assert (meta.recording, meta.index, meta.name, meta.task) == ("a.hdf5", 0, "0", "pick the cube")
    assert (meta.length, meta.rate_hz) == (19, RATE_HZ)
    assert meta.state_names == meta.action_names == NAMES
    assert {name: (v.height, v.width, v.codec, v.frames) for name, v in meta.videos.items()} == dict.fromkeys(
        ("high", "wrist"), (48, 80, "h264", 19)
    )
    assert set(meta.stats) == {"observation.state", "action", "observation.images.high", "observation.images.wrist"}
    assert meta.stats["observation.state"]["count"] == [19]
    np.testing.assert_allclose(meta.stats["observation.state"]["mean"], qpos[:-1].astype(np.float64).mean(axis=0), rtol=1e-5)
    assert np.shape(meta.stats["observation.images.high"]["mean"]) == (3, 1, 1)
    assert (meta.source_version, meta.metadata["attrs.sim"]) == ("v1", "False")
    assert (episode.id, episode.version) == ("a.hdf5/0", f"v1-{meta.spec_fingerprint}-0")


def test_episode_json_and_recording_json_are_read_back_as_they_were_written(plain):
    shop, conversion, _ = plain
    (episode,) = shop.store.read_episodes("a.hdf5")
    assert EpisodeMeta.from_json(json.loads(json.dumps(episode.meta.to_json()))) == episode.meta
    record = shop.store.read_recording("a.hdf5")
    assert record is not None
    # How long it took is not kept: the same recording makes the same files everywhere.
    assert Conversion.from_json(record) == replace(conversion, seconds=0.0)
    assert Conversion.from_json(asdict(conversion)) == conversion


def test_the_outcome_counts_episodes_frames_and_bytes(plain):
    shop, conversion, _ = plain
    folder = shop.store.recording_folder("a.hdf5")
    written = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name != "recording.json")
    assert (conversion.recording, conversion.episodes, conversion.frames, conversion.size) == ("a.hdf5", [0], 19, written)
    assert (conversion.quarantined, conversion.rejected, conversion.traceback) == (None, [], None)


@pytest.mark.parametrize("rate_hz", [7, 30])
def test_timestamps_are_exactly_k_over_the_rate_as_float32(shop: Workshop, rate_hz: int):
    shop.aloha(frames=3001)
    shop.convert(timeline={"rate_hz": rate_hz})
    (episode,) = shop.store.read_episodes("a.hdf5")
    found = pq.read_table(episode.frames)["timestamp"].to_numpy()
    assert found.dtype == np.float32
    assert found.tobytes() == np.array([k / rate_hz for k in range(3000)], np.float32).tobytes()


def test_skew_is_the_samples_time_minus_the_frames_time(shop: Workshop):
    late_ms = np.where(np.arange(21) % 3 == 1, 7.0, 0.0)
    qpos = shop.aloha(frames=21, cameras=("high",), stamps_s=np.arange(21) / RATE_HZ + late_ms / 1e3)
    shop.convert(recordings={"times": {"*": TIMES}}, timeline={"rate_hz": RATE_HZ, "numbers": "nearest"}, cameras=CAMERAS)
    (episode,) = shop.store.read_episodes("a.hdf5")
    expected = np.round(late_ms * 1e6)[: episode.meta.length]
    assert np.abs(column(episode, f"skew_ns/{QPOS}") - expected).max() <= 1
    assert np.abs(column(episode, f"skew_ns/{HIGH}") - expected).max() <= 1
    np.testing.assert_array_equal(states(episode), qpos[: episode.meta.length])
    assert episode.meta.measured[QPOS]["skew_ms"]["max"] == 7.0


def test_a_stream_resampled_in_two_ways_has_two_skews(shop: Workshop):
    qpos = shop.aloha(width=7, stamps_s=(np.arange(20) + np.where(np.arange(20) % 2, 0.2, 0.0)) / RATE_HZ)
    state = [ALOHA["state"][0], ALOHA["state"][1] | {"numbers": "hold"}]
    shop.convert(recordings={"times": {"*": TIMES}}, state=state)
    (episode,) = shop.store.read_episodes("a.hdf5")
    linear, hold = column(episode, f"skew_ns/{QPOS}"), column(episode, f"skew_ns/{QPOS}|hold")
    assert (np.abs(linear) <= STEP_NS // 5 + 1).all()
    assert hold[1] == -STEP_NS
    assert states(episode)[1, 6] == qpos[0, 6]
    assert states(episode)[1, 0] == pytest.approx(qpos[0, 0] + (qpos[1, 0] - qpos[0, 0]) / 1.2, abs=1e-6)


def test_a_cameras_latency_moves_its_images(shop: Workshop):
    shop.aloha(cameras=("high",))
    shop.convert(cameras={"high": {"source": HIGH, "time_offset_ms": -2 * STEP_NS / 1e6}})
    (episode,) = shop.store.read_episodes("a.hdf5")
    assert numbers_shown(episode) == [k + 2 for k in range(episode.meta.length)]


def test_progress_counts_every_camera_frame(shop: Workshop):
    shop.aloha(cameras=("high", "wrist"))
    said: list[tuple[int, float]] = []
    cameras = CAMERAS | {"wrist": {"source": "/observations/images/wrist"}}
    shop.convert(cameras=cameras, progress=lambda frames, part: said.append((frames, part)))
    assert sum(frames for frames, _ in said) == 2 * 19
    parts = [part for _, part in said]
    assert parts == sorted(parts)
    assert 0.9 < parts[-1] <= 1


def test_progress_counts_frames_where_there_are_no_cameras(shop: Workshop):
    shop.aloha()
    said: list[int] = []
    shop.convert(progress=lambda frames, _: said.append(frames))
    assert sum(said) == 19


# Actions


@pytest.mark.parametrize("steps", [1, 3])
def test_the_action_is_the_state_some_steps_later_and_the_last_frames_have_none(shop: Workshop, steps: int):
    qpos = shop.aloha(cameras=("high",))
    shop.convert(action={"from": "next_state", "steps": steps}, cameras=CAMERAS)
    (episode,) = shop.store.read_episodes("a.hdf5")
    assert (episode.meta.length, pq.read_metadata(episode.frames).num_rows) == (20 - steps, 20 - steps)
    np.testing.assert_array_equal(states(episode), qpos[:-steps])
    np.testing.assert_array_equal(column(episode, "action").astype(np.float32), qpos[steps:])
    assert numbers_shown(episode) == list(range(20 - steps))


def test_recorded_actions_keep_every_frame(shop: Workshop):
    qpos = shop.aloha()
    shop.convert(action=[TWO_JOINTS[0] | {"source": "/action"}])
    (episode,) = shop.store.read_episodes("a.hdf5")
    assert episode.meta.length == 20
    np.testing.assert_array_equal(column(episode, "action").astype(np.float32), np.roll(qpos, -1, axis=0))


def test_too_few_frames_for_a_far_next_state_are_refused(shop: Workshop):
    shop.aloha(frames=5)
    shop.convert(action={"from": "next_state", "steps": 4})
    assert "too short [file a.hdf5, episode 0]; found 5 frame(s); expected at least min_frames 2 and 4 more" in shop.reason()
    shop.convert(action={"from": "next_state", "steps": 3})
    assert [e.meta.length for e in shop.store.read_episodes("a.hdf5")] == [2]


# Joints and tasks


def test_joints_are_selected_by_name_whatever_their_order_in_the_messages(shop: Workshop):
    arm = joints(30, 4, RATE_HZ, names=["claw", "elbow", "wrist", "base"])
    write_mcap(shop.raw / "a.mcap", "ros2", joints={"/arm": arm})
    state = [
        {"source": "/arm", "joints": ["base", "elbow", "wrist"], "names": ["j1", "j2", "j3"], "unit": "rad"},
        {"source": "/arm", "joints": ["claw"], "names": ["gripper"], "unit": "ratio", "kind": "gripper"},
    ]
    shop.convert("a.mcap", "mcap", state=state)
    (episode,) = shop.store.read_episodes("a.mcap")
    np.testing.assert_allclose(states(episode), arm.values[:-1, [3, 1, 2, 0]], atol=1e-6)


def test_a_joint_that_no_message_names_is_refused_with_the_nearest(shop: Workshop):
    write_mcap(shop.raw / "a.mcap", "ros2", joints={"/arm": joints(30, 2, RATE_HZ, names=["elbow", "wrist"])})
    shop.convert("a.mcap", "mcap", state=[{"source": "/arm", "joints": ["elbo"], "names": ["j1"], "unit": "rad"}])
    assert "no joint 'elbo' in the recording [file a.mcap, episode a, stream /arm]" in shop.reason("a.mcap")
    assert "Did you mean 'elbow'" in shop.reason("a.mcap")


@pytest.mark.parametrize(
    ("task", "key", "text"),
    [
        ({"text": "stack the cups"}, "a.hdf5", "stack the cups"),
        ({"from": "folder"}, "fold_the_towel/a.hdf5", "fold the towel"),
        ({"from": "folder"}, "station_1/fold_the_towel/a.hdf5", "fold the towel"),
        ({"from": "recording"}, "fold_the_towel/a.hdf5", "put it down"),
    ],
)
def test_the_task_comes_from_where_the_spec_says(shop: Workshop, task: dict[str, str], key: str, text: str):
    shop.aloha(key, task="put it down")
    shop.convert(key, task=task)
    (episode,) = shop.store.read_episodes(key)
    assert episode.meta.task == text


def test_a_recording_without_the_task_that_the_spec_wants_of_it_is_refused(shop: Workshop):
    shop.aloha()
    shop.convert(task={"from": "recording"})
    assert "the recording has no task text [file a.hdf5, episode 0]" in shop.reason()
    shop.convert(task={"from": "folder"})
    assert "no folder to take the task from [file a.hdf5, episode 0]" in shop.reason()


def test_a_task_of_spaces_is_none() -> None:
    with pytest.raises(RecordingError, match="no task text"):
        task_text(TaskFrom.model_validate({"from": "recording"}), Span("0", task="  \n"), "a/b.mcap")
