"""One recording -> its episode folders: what is in them, where they begin and end, and what is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_ops.episodes.convert import Conversion, ConversionJob, convert_recording
from vla_ops.episodes.read import task_text
from vla_ops.episodes.store import Episode, EpisodeMeta, RobotStore, load_episode
from vla_ops.errors import RecordingError, StoreError
from vla_ops.recordings.base import Span
from vla_ops.spec import TaskFrom
from vla_ops_tests.episodes.ingesting import ALOHA, RATE_HZ, robot_at
from vla_ops_tests.episodes.mp4s import shown
from vla_ops_tests.recordings.hdf5_files import write_aloha, write_robomimic
from vla_ops_tests.recordings.mcap_files import START_NS, Joints, Sample, joints, write_mcap, write_samples
from vla_ops_tests.recordings.pictures import frame_number

QPOS, TIMES, HIGH = "/observations/qpos", "/observations/timestamps/robot", "/observations/images/high"
CAMERAS = {"high": {"source": HIGH, "role": "base"}}
NAMES = ["j1", "j2", "j3", "j4", "j5", "j6", "gripper"]
STEP_NS = 10**9 // RATE_HZ
# Few dimensions: most of the time of a small conversion goes into their plots.
TWO_JOINTS = [{"source": QPOS, "names": ["j1", "j2"], "unit": "rad"}]


class Workshop:
    """A folder of recordings and a store to convert them into."""

    def __init__(self, root: Path) -> None:
        self.raw, self.store = root / "raw", RobotStore.of("arm", root / "home")
        self.raw.mkdir()

    def aloha(self, key: str = "a.hdf5", *, frames: int = 20, cameras: tuple[str, ...] = (), **options: Any) -> np.ndarray:
        """Write an ALOHA recording; return its qpos [frames, 2]."""
        (self.raw / key).parent.mkdir(parents=True, exist_ok=True)
        written = write_aloha(
            self.raw / key, **{"frames": frames, "cameras": cameras, "size": (48, 80), "images": "jpeg_rows", "width": 2} | options
        )
        return np.asarray(written.numbers[QPOS])

    def convert(
        self, key: str = "a.hdf5", format: str = "hdf5", *, version: str = "v1", progress: Any = None, **sections: Any
    ) -> Conversion:
        robot = robot_at(self.raw, "*", format, **{"state": TWO_JOINTS, **sections})
        return convert_recording(ConversionJob(key, str(self.raw / key), version, robot.spec, self.store.root), progress)

    def reason(self, key: str = "a.hdf5") -> str:
        entry = self.store.read_quarantine(key)
        assert entry is not None
        return entry["quarantined"]

    def left_behind(self) -> list[Path]:
        return [path for path in self.store.root.rglob("*") if ".tmp-" in path.name]


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def column(episode: Episode, name: str) -> np.ndarray:
    return np.array(pq.read_table(episode.frames)[name].to_pylist())


def states(episode: Episode) -> np.ndarray:
    return column(episode, "observation.state").astype(np.float32)


def put(file: h5py.File, name: str, at: tuple[int, int], value: float) -> None:
    dataset = file[name]
    assert isinstance(dataset, h5py.Dataset)
    dataset[at] = value


def numbers_shown(episode: Episode, camera: str = "high") -> list[int]:
    return [frame_number(image) for image in shown(episode.video(camera))]


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
    assert Conversion.from_json(record) == conversion
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


# Gaps and clocks


def gapped(frames: int = 24, at: int = 10, gap_s: float = 0.5) -> np.ndarray:
    stamps = np.arange(frames) / RATE_HZ
    stamps[at:] += gap_s
    return stamps


def convert_gapped(shop: Workshop, **timeline: Any) -> Conversion:
    read = {"times": {"*": TIMES}}
    return shop.convert(recordings=read, timeline={"rate_hz": RATE_HZ, "on_gap": "split", **timeline}, cameras=CAMERAS)


def test_both_sides_of_a_gap_are_episodes_with_their_own_values_images_and_timestamps(shop: Workshop):
    qpos = shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    conversion = convert_gapped(shop)
    first, second = shop.store.read_episodes("a.hdf5")
    assert (first.id, second.id, conversion.episodes) == ("a.hdf5/0", "a.hdf5/1", [0, 1])
    np.testing.assert_allclose(states(first), qpos[:9], atol=1e-6)
    np.testing.assert_allclose(states(second), qpos[10:23], atol=1e-6)
    assert (numbers_shown(first), numbers_shown(second)) == (list(range(9)), list(range(10, 23)))
    assert column(second, "timestamp")[0] == 0
    assert any("split at a gap of 550 ms" in note for note in conversion.notes)


def test_a_gap_quarantines_the_recording_where_the_spec_does_not_split(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    assert convert_gapped(shop, on_gap="quarantine").episodes == []
    assert "a gap at 0.450 s [file a.hdf5, episode 0, stream" in shop.reason()
    assert shop.store.read_episodes("a.hdf5") == []
    assert shop.left_behind() == []


def test_a_step_as_long_as_max_gap_is_no_gap(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped(gap_s=0.45))
    convert_gapped(shop, on_gap="quarantine", max_gap_ms=500, max_skew_ms=300)
    assert [e.meta.length for e in shop.store.read_episodes("a.hdf5")] == [32]


def test_a_side_of_a_gap_below_min_frames_is_dropped_and_said(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped(at=20))
    conversion = convert_gapped(shop, min_frames=6)
    assert [e.meta.length for e in shop.store.read_episodes("a.hdf5")] == [19]
    assert any("4 frame(s) at 1.500 s dropped: fewer than min_frames 6" in note for note in conversion.notes)


def test_where_every_side_is_below_min_frames_nothing_is_kept(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    convert_gapped(shop, min_frames=15)
    assert "too short" in shop.reason()
    assert "min_frames 15" in shop.reason()


def test_a_bad_side_of_a_gap_is_rejected_by_its_number_and_the_good_one_kept(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        put(file, QPOS, (3, 1), np.nan)
    conversion = convert_gapped(shop)
    (episode,) = shop.store.read_episodes("a.hdf5")
    assert (episode.meta.index, episode.meta.length, conversion.episodes) == (1, 13, [1])
    (rejected,) = conversion.rejected
    assert (rejected.index, rejected.name) == (0, "0")
    assert "state j2" in rejected.reason
    assert rejected.reason.count("[file a.hdf5, episode 0]") == 1
    entry = shop.store.read_quarantine("a.hdf5")
    assert entry is not None
    assert (entry["quarantined"], [r["index"] for r in entry["rejected"]]) == (None, [0])
    assert not (shop.store.recording_folder("a.hdf5") / "0").exists()


JSON_STATE = {"state": [{"source": "/arm.position", "names": ["a", "b", "c"], "unit": "rad"}], "task": {"text": "wave"}}


def two_runs(shop: Workshop) -> list[Joints]:
    """A file of two runs of different length and values, both from the same time on."""
    runs = [joints(30, 3, RATE_HZ), joints(18, 3, RATE_HZ)]
    runs[1] = Joints(runs[1].stamps_ns, runs[1].values + 5)
    samples = [
        Sample("/arm", "JointState", stamp, {"name": ["a", "b", "c"], "position": row, "velocity": row})
        for run in runs
        for stamp, row in zip(run.stamps_ns.tolist(), run.values.tolist(), strict=True)
    ]
    write_samples(shop.raw / "a.mcap", "json", samples)
    return runs


def test_each_run_of_the_clock_is_an_episode_where_the_spec_splits(shop: Workshop):
    runs = two_runs(shop)
    shop.convert("a.mcap", "mcap", timeline={"rate_hz": RATE_HZ, "on_clock_jump": "split"}, **JSON_STATE)
    episodes = shop.store.read_episodes("a.mcap")
    assert [e.meta.name for e in episodes] == ["run_0", "run_1"]
    for episode, run in zip(episodes, runs, strict=True):
        np.testing.assert_allclose(states(episode), run.values[:-1], atol=1e-6)


def test_a_clock_that_jumps_quarantines_the_recording_by_default(shop: Workshop):
    two_runs(shop)
    shop.convert("a.mcap", "mcap", **JSON_STATE)
    assert "the clock jumps back 1 time(s) [file a.mcap]; found the clock of /arm jumps back 1.450 s at message 30" in shop.reason("a.mcap")
    assert shop.store.read_episodes("a.mcap") == []


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


# Several demos in one file


DEMOS = {
    "state": [{"source": "obs/robot0_joint_pos", "names": [*NAMES[:6], "j7"], "unit": "rad"}],
    "action": [{"source": "actions", "names": [*NAMES[:6], "j7"], "unit": "1", "kind": "other"}],
    "norm_stats": {"action_space": "absolute"},
    "cameras": {"front": {"source": "obs/agentview_rgb"}},
    "task": {"from": "recording"},
}


def test_each_demo_is_an_episode_in_the_order_of_their_numbers(shop: Workshop):
    written = write_robomimic(shop.raw / "a.hdf5", demos=(10, 2, 1))
    conversion = shop.convert(**DEMOS)
    episodes = shop.store.read_episodes("a.hdf5")
    assert [e.meta.name for e in episodes] == ["demo_1", "demo_2", "demo_10"]
    assert (conversion.episodes, conversion.frames) == ([0, 1, 2], 14 + 13 + 12)
    for episode in episodes:
        numbers = written[episode.meta.name].numbers
        np.testing.assert_array_equal(states(episode), numbers["obs/robot0_joint_pos"])
        np.testing.assert_array_equal(column(episode, "action").astype(np.float32), numbers["actions"])
        assert numbers_shown(episode, "front") == list(range(episode.meta.length))
        assert episode.meta.task == "put the bowl on the plate"


def test_one_bad_demo_is_rejected_by_name_and_the_others_are_kept(shop: Workshop):
    write_robomimic(shop.raw / "a.hdf5")
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        put(file, "data/demo_2/actions", (7, 3), np.inf)
    conversion = shop.convert(**DEMOS)
    assert [(e.id, e.meta.name) for e in shop.store.read_episodes("a.hdf5")] == [("a.hdf5/0", "demo_1"), ("a.hdf5/2", "demo_10")]
    (rejected,) = conversion.rejected
    assert (rejected.index, rejected.name) == (1, "demo_2")
    assert "action j4: 1 of 13 values are NaN or Inf, the first at frame 7" in rejected.reason
    assert "[file a.hdf5, episode demo_2]" in rejected.reason
    assert conversion.quarantined is None


def test_where_every_demo_is_bad_the_recording_is_quarantined_with_each_reason(shop: Workshop):
    write_robomimic(shop.raw / "a.hdf5", demos=(1, 2, 3, 4, 5))
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        for k in range(1, 6):
            put(file, f"data/demo_{k}/actions", (k, 0), np.nan)
    conversion = shop.convert(**DEMOS)
    assert conversion.quarantined == shop.reason()
    assert "none of 5 episodes is usable" in shop.reason()
    assert all(f"episode demo_{k}" in shop.reason() for k in (1, 2, 3))
    assert shop.reason().endswith("and 2 more")
    assert [r.name for r in conversion.rejected] == [f"demo_{k}" for k in range(1, 6)]


# What becomes of what was there before


def test_a_recording_that_is_no_longer_usable_loses_its_episodes(shop: Workshop):
    shop.aloha()
    shop.convert()
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        put(file, QPOS, (2, 0), np.nan)
    shop.convert(version="v2")
    assert shop.store.read_episodes("a.hdf5") == []
    assert not shop.store.recording_folder("a.hdf5").exists()
    assert "state j1" in shop.reason()


def test_a_recording_that_was_repaired_leaves_quarantine(shop: Workshop):
    shop.aloha()
    shop.convert(state=[{"source": "/observations/qpsition", "names": ["x"], "unit": "rad"}])
    assert "no stream '/observations/qpsition'" in shop.reason()
    shop.convert(version="v2")
    assert shop.store.read_quarantine("a.hdf5") is None
    assert [e.meta.source_version for e in shop.store.read_episodes("a.hdf5")] == ["v2"]


def test_fewer_episodes_than_before_leave_none_of_the_old_ones(shop: Workshop):
    write_robomimic(shop.raw / "a.hdf5", demos=(1, 2, 3))
    shop.convert(**DEMOS)
    write_robomimic(shop.raw / "a.hdf5", demos=(7,))
    shop.convert(version="v2", **DEMOS)
    assert [e.meta.name for e in shop.store.read_episodes("a.hdf5")] == ["demo_7"]
    assert sorted(p.name for p in shop.store.recording_folder("a.hdf5").iterdir() if p.is_dir()) == ["0"]


def test_what_nobody_foresaw_is_quarantined_with_its_traceback_and_nothing_is_left(shop: Workshop):
    def breaks(done: int, _: float) -> None:
        raise ZeroDivisionError(f"after {done} frames")

    shop.aloha()
    conversion = shop.convert(progress=breaks)
    assert conversion.quarantined == shop.reason()
    assert "unexpected ZeroDivisionError: after 19 frames [file a.hdf5]" in shop.reason()
    entry = shop.store.read_quarantine("a.hdf5")
    assert entry is not None
    assert "Traceback (most recent call last)" in entry["traceback"]
    assert "in breaks" in entry["traceback"]
    assert not shop.store.recording_folder("a.hdf5").exists()
    assert shop.left_behind() == []


def test_being_interrupted_leaves_what_was_there_as_it_was(shop: Workshop):
    def interrupt(*_: float) -> None:
        raise KeyboardInterrupt

    shop.aloha()
    shop.convert()
    with pytest.raises(KeyboardInterrupt):
        shop.convert(version="v2", progress=interrupt)
    assert [e.meta.source_version for e in shop.store.read_episodes("a.hdf5")] == ["v1"]
    assert shop.left_behind() == []


def test_a_recording_without_an_episode_is_refused(shop: Workshop):
    write_samples(shop.raw / "a.mcap", "json", [])
    shop.convert("a.mcap", "mcap", **JSON_STATE)
    assert "the recording is empty [file a.mcap]; found no episode" in shop.reason("a.mcap")


def test_a_number_too_large_for_a_float_is_a_damaged_message(shop: Workshop):
    samples = [Sample("/arm", "JointState", START_NS + k * STEP_NS, {"position": [0.0, 1.0, 10**400 if k == 7 else k]}) for k in range(20)]
    write_samples(shop.raw / "a.mcap", "json", samples)
    conversion = shop.convert("a.mcap", "mcap", **JSON_STATE)
    assert conversion.traceback is None
    assert "stream /arm, message 7" in shop.reason("a.mcap")


# Reading the store


def test_what_was_never_converted_is_none_and_no_episodes(shop: Workshop):
    assert shop.store.read_recording("a.hdf5") is None
    assert shop.store.read_quarantine("a.hdf5") is None
    assert (shop.store.read_episodes("a.hdf5"), list(shop.store.quarantined())) == ([], [])


def test_a_folder_without_episode_json_is_named(tmp_path: Path):
    with pytest.raises(StoreError, match=r"episode.json is missing.*file .*the next run converts that recording again"):
        load_episode(tmp_path)


def test_a_record_that_is_no_json_is_named(shop: Workshop):
    shop.aloha()
    shop.convert()
    path = shop.store.recording_folder("a.hdf5") / "recording.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(StoreError, match=r"not valid JSON.*recording.json"):
        shop.store.read_episodes("a.hdf5")


def test_quarantine_entries_are_listed_with_their_recordings_also_in_folders(shop: Workshop):
    for key in ("b/c.hdf5", "a.hdf5"):
        shop.store.write_quarantine(key, {"quarantined": f"why {key}"})
    assert [(e["recording"], e["quarantined"]) for e in shop.store.quarantined()] == [
        ("a.hdf5", "why a.hdf5"),
        ("b/c.hdf5", "why b/c.hdf5"),
    ]


def test_the_store_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "x"))
    assert RobotStore.of("arm").recording_folder("s/a.mcap") == tmp_path / "x/arm/episodes/s/a.mcap"
