"""Every recording that was not made by this project: what becomes of it, and that each frame lies beside its joints."""

from __future__ import annotations

import ast
import io
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.lerobot_v3 import update_dataset
from vla_ops.episodes.store import Episode
from vla_ops.norm_stats import compute_norm_stats, write_norm_stats
from vla_ops.robot_file import Robot, load_robot
from vla_ops_tests.episodes.ingesting import Run, run

ROBOTS = Path(__file__).parent / "robots"
PTK, OLD, UMI = "airbot_ptk_h264.mcap", "airbot_1-1_h264_oldcollector.mcap", "umi_bimanual.zarr.zip"


@pytest.fixture(scope="session")
def real(recordings_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Robot, Run]]:
    """Ingest the robot of a name, once a session."""
    done: dict[str, tuple[Robot, Run]] = {}
    patch = pytest.MonkeyPatch()

    def ingested(name: str) -> tuple[Robot, Run]:
        if name not in done:
            with patch.context() as environment:
                environment.setenv("VLA_OPS_TEST_RECORDINGS", str(recordings_dir))
                robot = load_robot(ROBOTS / name)
            done[name] = robot, run(robot, tmp_path_factory.mktemp(name))
        return done[name]

    return ingested


def episodes_of(real: Callable[[str], tuple[Robot, Run]], name: str, recording: str) -> list[Episode]:
    return real(name)[1].store.read_episodes(recording)


CONVERTED = {
    "airbot_ptk": (PTK, [99], "fold the cloth in half"),
    "airbot_old_collector": (OLD, [79], "put_cup"),
    "umi_bimanual": (UMI, [34, 49, 27], "fold the towel with both hands"),
    "cartpole_sim": ("cartpole_sim.mcap", [999, 95], "balance the pole"),
    "robosuite_handover": (
        "robosuite_handover_panda_panda.hdf5",
        [641, 522, 376, 307, 253, 247, 429],
        "hand the hammer over to the other arm",
    ),
    "robosuite_wipe": ("robosuite_wipe_panda.hdf5", [174], "wipe the table"),
}


@pytest.mark.parametrize("name", CONVERTED)
def test_it_becomes_episodes_of_the_right_length_with_their_task(real, name: str):
    recording, lengths, task = CONVERTED[name]
    outcome = real(name)[1]
    episodes = outcome.store.read_episodes(recording)
    assert outcome.states == {recording: "converted"}
    assert [e.meta.length for e in episodes] == lengths
    assert {e.meta.task for e in episodes} == {task}
    assert not [f for e in episodes for f in e.meta.findings if f.level == "quarantine"]
    assert outcome.left_behind == []


@pytest.mark.parametrize("name", CONVERTED)
def test_it_becomes_a_dataset_and_norm_stats(real, name: str, tmp_path: Path):
    robot, outcome = real(name)
    recording, lengths, _ = CONVERTED[name]
    dataset = update_dataset(tmp_path / "lerobot_v3", outcome.store.read_episodes(recording), spec=robot.spec, robot=name)
    assert (dataset.episodes, dataset.frames) == (len(lengths), sum(lengths))
    stats = compute_norm_stats(dataset.folder, spec=robot.spec)
    written = json.loads(write_norm_stats(tmp_path / "norm_stats", stats).read_text())
    assert np.isfinite(written["norm_stats"]["state"]["mean"]).all()
    assert len(written["norm_stats"]["actions"]["std"]) == len(robot.spec.action_dims)


# The cart pole while it learns


def test_runs_without_actions_are_rejected_by_name_and_the_others_converted(real):
    outcome = real("cartpole_training")[1]
    (conversion,) = outcome.ingested.converted
    assert (len(conversion.episodes), len(conversion.rejected)) == (43, 15)
    assert [r.name for r in conversion.rejected] == [f"run_{k}" for k in range(15)]
    assert all("/cartpole/action" in r.reason and f"episode {r.name}" in r.reason for r in conversion.rejected)


def test_a_run_whose_actions_begin_late_is_what_both_streams_share(real):
    first, second = episodes_of(real, "cartpole_training", "cartpole_kinda_works.mcap")[:2]
    # In run 15 states begin at 0.1 s and actions at 3.5 s; both end at 10.6 s.
    assert (first.meta.name, first.meta.length) == ("run_15", 72)
    assert (second.meta.name, second.meta.length) == ("run_16", 32)


def test_states_and_actions_of_a_run_are_those_that_were_logged_at_the_same_time(real, recordings_dir: Path):
    from mcap.reader import make_reader

    logged: dict[str, list[tuple[int, dict]]] = {"/cartpole/state": [], "/cartpole/action": []}
    with open(recordings_dir / "mcap/cartpole_kinda_works.mcap", "rb") as file:
        for _, channel, message in make_reader(file).iter_messages(topics=list(logged), log_time_order=False):
            logged[channel.topic].append((message.log_time, json.loads(message.data)))
    runs = {topic: _split_at_jumps(messages) for topic, messages in logged.items()}
    state, action = runs["/cartpole/state"][22], runs["/cartpole/action"][22 - 15]
    assert [t for t, _ in state] == [t for t, _ in action]
    (episode,) = [e for e in episodes_of(real, "cartpole_training", "cartpole_kinda_works.mcap") if e.meta.name == "run_22"]
    table = pq.read_table(episode.frames)
    expected = np.array([[m["cart_position"], m["pole_angle"]] for _, m in state], np.float32)[: episode.meta.length]
    found = np.array(table["observation.state"].to_pylist(), np.float32)[:, [0, 2]]
    np.testing.assert_array_equal(found, expected)
    (key,) = action[0][1]
    expected = np.array([[m[key]] for _, m in action], np.float32)[: episode.meta.length]
    np.testing.assert_array_equal(np.array(table["action"].to_pylist(), np.float32), expected)


def _split_at_jumps(messages: list[tuple[int, dict]]) -> list[list[tuple[int, dict]]]:
    cuts = [0, *(k for k in range(1, len(messages)) if messages[k][0] < messages[k - 1][0]), len(messages)]
    return [messages[a:b] for a, b in pairwise(cuts)]


# Frame and joints, by barcode


def barcodes(video: Path | io.BytesIO, cells: int, cell: int) -> list[int]:
    """The numbers drawn across the top, most significant bit left, `cells` squares of `cell` pixels, of every frame of an mp4."""
    import av

    middle = cell // 2 + cell * np.arange(cells)
    with av.open(video if isinstance(video, io.BytesIO) else str(video)) as container:
        images = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return [int("".join("1" if bright else "0" for bright in image[cell // 2, middle] > 127), 2) for image in images]


@dataclass(frozen=True)
class Log:
    """What an AIRBOT recording holds, read without this project's reader: stamps [n] and values [n, d] by topic, videos by name."""

    stamps_ns: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    videos: dict[str, bytes]

    def frames_ns(self, robot: Robot, frames: int) -> np.ndarray:
        """When the frames of the timeline are: from the latest of the mapped streams' first samples on."""
        start = max(self.stamps_ns[stream][0] for stream in robot.spec.streams_mapped)
        return start + np.round(np.arange(frames) * 1e9 / robot.spec.timeline.rate_hz).astype(np.int64)


def read_log(path: Path) -> Log:
    import av
    from mcap.reader import make_reader

    stamps: dict[str, list[int]] = defaultdict(list)
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    videos: dict[str, bytes] = {}
    with open(path, "rb") as file:
        reader = make_reader(file)
        for _, channel, message in reader.iter_messages():
            stamps[channel.topic].append(message.log_time)
            values[channel.topic].append(_float_array(message.data))
        for attachment in reader.iter_attachments():
            if attachment.media_type == "video/mp4":
                videos[attachment.name] = attachment.data
                with av.open(io.BytesIO(attachment.data)) as container:
                    base = ast.literal_eval(container.metadata["comment"])["base_stamp"]
                    stamps[attachment.name] = sorted((base + p.pts) * 1000 for p in container.demux(video=0) if p.pts is not None)
    return Log({k: np.array(v) for k, v in stamps.items()}, {k: np.array(v) for k, v in values.items()}, videos)


def _float_array(data: bytes) -> np.ndarray:
    """The only vector of a FlatBuffers table with one field."""
    table = int.from_bytes(data[:4], "little")
    vtable = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    at = table + int.from_bytes(data[vtable + 4 : vtable + 6], "little")
    vector = at + int.from_bytes(data[at : at + 4], "little")
    count = int.from_bytes(data[vector : vector + 4], "little")
    return np.frombuffer(data, "<f4" if (len(data) - vector - 4) // count < 8 else "<f8", count, vector + 4)


@pytest.fixture(scope="module", params=[("airbot_ptk", PTK), ("airbot_old_collector", OLD)], ids=lambda param: param[0])
def airbot(request: pytest.FixtureRequest, real, recordings_dir: Path) -> tuple[Robot, Episode, Log]:
    name, recording = request.param
    (episode,) = episodes_of(real, name, recording)
    return real(name)[0], episode, read_log(recordings_dir / "mcap" / recording)


def test_each_frame_of_every_camera_shows_the_image_nearest_in_time(airbot: tuple[Robot, Episode, Log]):
    robot, episode, log = airbot
    frames = log.frames_ns(robot, episode.meta.length)
    for camera, spec in robot.spec.cameras.items():
        images = log.stamps_ns[spec.source]
        nearest = np.abs(images[None] - frames[:, None]).argmin(axis=1)
        recorded = np.array(barcodes(io.BytesIO(log.videos[spec.source]), 16, 32))
        assert recorded.tolist() == list(range(len(images)))
        assert barcodes(episode.video(camera), 16, 32) == recorded[nearest].tolist()
        skew = np.array(pq.read_table(episode.frames)[f"skew_ns/{spec.source}"])
        np.testing.assert_array_equal(skew, images[nearest] - frames)


def test_each_joint_row_is_the_recorded_joints_at_that_time(airbot: tuple[Robot, Episode, Log]):
    robot, episode, log = airbot
    frames = log.frames_ns(robot, episode.meta.length)
    table = pq.read_table(episode.frames)
    for vector, parts in (("observation.state", robot.spec.state), ("action", robot.spec.action_parts)):
        columns = [np.interp(frames, log.stamps_ns[p.source], column) for p in parts for column in log.values[p.source].T]
        np.testing.assert_allclose(np.array(table[vector].to_pylist()), np.stack(columns, axis=1), atol=1e-6)


def test_each_umi_frame_shows_the_row_its_pose_is_of(real, recordings_dir: Path):
    poses = _umi_array(recordings_dir, "robot0_eef_pos")
    ends = [0, *_umi_array(recordings_dir, "meta/episode_ends")]
    for episode, (start, stop) in zip(episodes_of(real, "umi_bimanual", UMI), pairwise(ends), strict=True):
        table = pq.read_table(episode.frames)
        # The action is the next pose, so the last row has none. The number drawn in an image is its row in the buffer.
        rows = np.arange(start, stop - 1)
        np.testing.assert_array_equal(np.array(table["observation.state"].to_pylist(), np.float32)[:, :3], poses[rows])
        np.testing.assert_array_equal(np.array(table["action"].to_pylist(), np.float32)[:, :3], poses[rows + 1])
        for camera in ("camera0", "camera1"):
            assert barcodes(episode.video(camera), 14, 16) == rows.tolist()


def _umi_array(recordings_dir: Path, name: str) -> np.ndarray:
    import zarr

    path = name if name.startswith("meta/") else f"data/{name}"
    with zarr.storage.ZipStore(recordings_dir / "zarr" / UMI, mode="r") as store:
        return np.asarray(zarr.open_group(store, mode="r", zarr_format=2)[path])


# Not of a robot


REFUSED = {
    "foxglove_sdk_empty.mcap": ("the recording is empty",),
    "nomyze_bad_magic.mcap": ("not an MCAP file", "PACM"),
    "rosbag2_wrong_rmw_test_0.mcap": ("wrong_format", "stream /test_topic", "cdr", "protobuf"),
    "rosbag2_topics_and_services.mcap": ("/test_topic", "/add_two_ints/_service_event"),
    "rosbag2_wbag_0.mcap": ("/test_topic", "AAA"),
    "nebius_sim2real_sample.mcap": ("/test_topic", "/heldout/points"),
    "lichtblick_custom-camera-model.mcap": ("/test_topic", "/image/compressed"),
    "lichtblick_example.mcap": ("/test_topic", "mouse"),
}


@pytest.mark.parametrize("recording", REFUSED)
def test_a_file_without_robot_is_quarantined_with_its_reason(real, recording: str):
    reason = real("foreign_mcaps")[1].reason(recording)
    missing = [word for word in (f"file {recording}", *REFUSED[recording]) if word not in reason]
    assert not missing, f"{missing} not in: {reason}"
    assert reason.count("[file") == 1


def test_the_one_ros_bag_with_the_mapped_topic_is_converted(real):
    outcome = real("foreign_mcaps")[1]
    assert [key for key, state in outcome.states.items() if state == "converted"] == ["rosbag2_cdr_test_0.mcap"]
    assert set(outcome.states) == {"rosbag2_cdr_test_0.mcap", *REFUSED}
    assert outcome.left_behind == []


# Slow: the whole of Push-T, and LeRobot itself


@pytest.mark.slow
def test_push_t_is_converted_whole(real, recordings_dir: Path, tmp_path: Path):
    robot, outcome = real("pusht")
    episodes = outcome.store.read_episodes("pusht_cchi_v7_replay.zarr.zip")
    assert (len(episodes), sum(e.meta.length for e in episodes)) == (206, 25_650)
    dataset = update_dataset(tmp_path / "lerobot_v3", episodes, spec=robot.spec, robot="pusht")
    states = np.concatenate([np.array(pq.read_table(e.frames)["observation.state"].to_pylist(), np.float32) for e in episodes])
    import zarr

    with zarr.storage.ZipStore(recordings_dir / "zarr/pusht_cchi_v7_replay.zarr.zip", mode="r") as store:
        np.testing.assert_array_equal(states, np.asarray(zarr.open_group(store, mode="r", zarr_format=2)["data/state"]))
    assert compute_norm_stats(dataset.folder, spec=robot.spec).state.count == 25_650


@dataclass(frozen=True)
class Loaded:
    name: str
    cells: int
    cell: int
    camera: str


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [Loaded("airbot_ptk", 16, 32, "cam_high"), Loaded("umi_bimanual", 14, 16, "camera0")], ids=lambda c: c.name
)
def test_lerobot_loads_it_with_every_frame_in_its_place(real, case: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "huggingface")
    robot, outcome = real(case.name)
    recording, lengths, task = CONVERTED[case.name]
    episodes = outcome.store.read_episodes(recording)
    version = update_dataset(tmp_path / "lerobot_v3", episodes, spec=robot.spec, robot=case.name)
    dataset = LeRobotDataset(robot.spec.dataset.repo_id, root=version.folder, video_backend="pyav")
    assert (dataset.num_episodes, dataset.num_frames) == (len(lengths), sum(lengths))
    expected = [number for e in episodes for number in barcodes(e.video(case.camera), case.cells, case.cell)]
    middle = case.cell // 2 + case.cell * np.arange(case.cells)
    for k in range(0, dataset.num_frames, 7):
        item = dataset[k]
        bits = item[f"observation.images.{case.camera}"][:, case.cell // 2, middle].mean(0) > 0.5
        assert int("".join(str(int(bit)) for bit in bits), 2) == expected[k]
        assert item["task"] == task
