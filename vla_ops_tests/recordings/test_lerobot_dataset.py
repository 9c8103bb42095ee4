"""LeRobot datasets of all three versions as recordings: real ones, ones written by LeRobot itself, and broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.lerobot_v21 import data_file, video_file, write_lerobot_v21
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import RecordingError, RecordingFormatError, SchemaMismatchError
from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Recording, Source, Span
from vla_ops.recordings.lerobot_index import flat_names
from vla_ops_tests.datasets.episode_folders import Kind, spec, write_episodes
from vla_ops_tests.episodes.ingesting import robot_at, run
from vla_ops_tests.recordings.contract import Contents, RecordingContract

KIND = Kind(codec="h264", cameras=("cam_high", "cam_wrist"))
HIGH = "observation.images.cam_high"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same four episodes as a v3.0 and as a v2.1 dataset."""
    root = tmp_path_factory.mktemp("made")
    episodes = write_episodes(root / "e", [20, 31, 25, 8], kind=KIND, tasks=["pick", "place"])
    v30 = write_lerobot_v3(root / "v3", episodes, spec=spec(KIND), robot="arm")
    v21 = write_lerobot_v21(root / "v21", v30.folder, episodes, spec=spec(KIND), robot="arm")
    return {"v3.0": v30.folder, "v2.1": v21.folder, "episodes": episodes}


class TestContractOfV30(RecordingContract):
    version = "v3.0"

    @pytest.fixture
    def recording(self, made):
        with open_recording(str(made[self.version]), "lerobot") as opened:
            yield opened

    @pytest.fixture
    def contents(self, made) -> Contents:
        state, action = (np.array(pq.read_table(made["episodes"][0].frames)[name].to_pylist()) for name in ("observation.state", "action"))
        cameras = {f"observation.images.{camera}": 20 for camera in KIND.cameras}
        return Contents({"observation.state": state, "action": action}, cameras, episodes=4)


class TestContractOfV21(TestContractOfV30):
    version = "v2.1"


def opened(folder: Path, **options) -> Recording:
    return open_recording(str(folder), "lerobot", OpenOptions(**options))


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_dataset_of_ours_is_converted_to_the_same_numbers_pictures_and_tasks(made, version, tmp_path):
    source = shutil.copytree(made[version], tmp_path / "sources" / "old")
    joints = {"source": "observation.state[0:2]", "names": ["j1", "j2"], "unit": "rad"}
    gripper = {"source": "observation.state[2:3]", "names": ["gripper"], "unit": "m", "kind": "gripper"}
    actions = [{**part, "source": part["source"].replace("observation.state", "action")} for part in (joints, gripper)]
    cameras = {camera: {"source": f"observation.images.{camera}"} for camera in KIND.cameras}
    robot = robot_at(
        source.parent,
        "old",
        "lerobot",
        timeline={"rate_hz": 30},
        state=[joints, gripper],
        action=actions,
        cameras=cameras,
        task={"from": "recording"},
        dataset={"repo_id": "local/arm", "video": {"codec": "copy"}},
    )
    done = run(robot, tmp_path / "home")
    assert done.states == {"old": "converted"}, done.said
    for before, after in zip(made["episodes"], RobotStore(done.store.root).read_episodes("old"), strict=True):
        assert (after.meta.length, after.meta.task) == (before.meta.length, before.meta.task)
        for name in ("observation.state", "action"):
            assert pq.read_table(after.frames)[name].to_pylist() == pq.read_table(before.frames)[name].to_pylist()
        for camera in KIND.cameras:
            assert pictures(after.video(camera)) == pictures(before.video(camera))


def pictures(path: Path) -> list[bytes]:
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray").tobytes() for frame in container.decode(video=0)]


def test_the_real_v20_dataset_of_a_simulated_humanoid_is_read(recordings_dir):
    with opened(recordings_dir / "lerobot/gr00t_robot_sim_PickNPlace_v20") as recording:
        spans = recording.spans()
        assert [span.stop for span in spans] == [416, 470, 470, 412, 328]
        assert spans[0].task == "pick the pear from the counter and place it in the plate"
        assert recording.numbers(Source.parse("observation.state"), spans[1]).values.shape == (470, 44)
        assert len(recording.images(Source.parse("observation.images.ego_view"), spans[4]).stamps_ns) == 328
        assert recording.notes() == ["observation.images.egoview is declared in info.json and there is no video of it"]


def test_the_real_incomplete_v21_dataset_is_refused_or_read_as_far_as_it_is_there(recordings_dir):
    folder = recordings_dir / "lerobot/unitree_g1_v21_partial"
    with opened(folder) as recording, pytest.raises(RecordingFormatError) as refused:
        recording.spans()
    assert all(word in str(refused.value) for word in ("episode_000000.parquet", "2 whole episodes", "100 episodes", "keep_whole"))
    with opened(folder, allow_truncated=True) as recording:
        assert [(span.name, span.stop) for span in recording.spans()] == [("episode_000002", 343), ("episode_000004", 357)]
        numbers = recording.numbers(Source.parse("action"), recording.spans()[1])
        assert numbers.values.shape == (357, 26)
        assert len(numbers.names) == 26  # They stand one list too deep in info.json.
        assert recording.notes() == ["98 of 100 episodes that meta/ lists are not there"]


def test_images_that_stand_in_the_parquet_files_are_streams(golden_dir):
    with opened(golden_dir / "norm_stats/lerobot_v21_aloha_img32") as recording:
        (camera, *_) = [stream for stream in recording.streams() if stream.kind == "images"]
        span = recording.spans()[2]
        image = list(recording.images(Source.parse(camera.name), span).packets([0, span.stop - 1]))
        assert [packet.codec for packet in image] == ["png", "png"]
        assert camera.encoding == "png"


def test_a_missing_video_is_named_and_so_is_one_of_another_length(made, tmp_path):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    shutil.copy(folder / video_file(0, "cam_high"), tmp_path / "short.mp4")
    (folder / video_file(1, "cam_high")).unlink()
    with pytest.raises(RecordingFormatError, match=r"observation.images.cam_high/episode_000001.mp4"):
        opened(folder).spans()
    shutil.copy(tmp_path / "short.mp4", folder / video_file(1, "cam_high"))
    recording = opened(folder)
    with pytest.raises(SchemaMismatchError, match="not as long as its numbers") as refused:
        recording.images(Source.parse(HIGH), recording.spans()[1])
    assert all(word in str(refused.value) for word in ("episode_000001", "20 pictures", "31 frames"))


def test_an_episode_that_is_listed_twice_is_refused(made, tmp_path):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    path = folder / "meta/episodes.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[2] + "\n")
    with pytest.raises(RecordingFormatError, match=r"lists? an episode twice") as refused:
        opened(folder).spans()
    assert "episode_000002" in str(refused.value)


def test_a_parquet_file_of_another_length_than_listed_is_refused(made, tmp_path):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    path = folder / data_file(3)
    table = pq.read_table(path).slice(0, 5)
    path.unlink()
    pq.write_table(table, path)
    recording = opened(folder)
    with pytest.raises(SchemaMismatchError, match="not as long as meta/ says") as refused:
        recording.numbers(Source.parse("action"), recording.spans()[3])
    assert all(word in str(refused.value) for word in ("episode_000003", "5 rows", "8"))


def test_a_v30_dataset_that_was_cut_off_in_a_write_is_refused_by_file(made, tmp_path):
    folder = shutil.copytree(made["v3.0"], tmp_path / "d")
    (path,) = (folder / "data").rglob("*.parquet")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-100])
    recording = opened(folder)
    with pytest.raises(RecordingFormatError, match=r"data/chunk-000/file-000.parquet is not a whole parquet file"):
        recording.spans()


def test_frames_that_are_not_k_over_fps_are_named(made, tmp_path):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    path = folder / data_file(0)
    table = pq.read_table(path)
    stamps = table["timestamp"].to_numpy().copy()
    stamps[7:] += 0.1
    path.unlink()
    pq.write_table(table.set_column(table.column_names.index("timestamp"), "timestamp", pa.array(stamps)), path)
    recording = opened(folder)
    with pytest.raises(RecordingError, match="timestamps are not k / fps") as refused:
        recording.numbers(Source.parse("action"), recording.spans()[0])
    assert "frame 7" in str(refused.value)


def test_a_folder_that_is_no_dataset_and_an_unknown_version_are_refused(tmp_path):
    with pytest.raises(RecordingFormatError, match=r"meta/info.json is missing"):
        opened(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text(json.dumps({"codebase_version": "v1.6", "fps": 30, "features": {}}))
    with pytest.raises(RecordingFormatError, match="unknown LeRobot dataset version"):
        opened(tmp_path)


def rewritten(folder: Path, path: Path, table: pa.Table) -> Path:
    """The dataset with another table at `path`; what it shared with its neighbours is left alone."""
    path.unlink()
    pq.write_table(table, path)
    return folder


def without_first_listed(made, folder: Path) -> Path:
    """A v3.0 dataset whose meta/episodes lacks its first row."""
    shutil.copytree(made["v3.0"], folder)
    (path,) = (folder / "meta/episodes").rglob("*.parquet")
    return rewritten(folder, path, pq.read_table(path).slice(1))


def counting(folder: Path, episodes: int) -> Path:
    """The dataset whose info.json counts another number of episodes."""
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": episodes}))
    return folder


def test_a_v30_dataset_whose_list_of_episodes_is_cut_is_refused(made, tmp_path):
    folder = without_first_listed(made, tmp_path / "d")
    for options in ({}, {"allow_truncated": True}):
        with pytest.raises(RecordingFormatError, match=r"do not list the episodes that info\.json counts") as refused:
            opened(folder, **options).spans()
        assert all(word in str(refused.value) for word in ("3 episodes", "expected 4", str(folder / "meta")))


def test_a_v21_dataset_whose_list_of_episodes_is_cut_is_refused(made, tmp_path):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    path = folder / "meta/episodes.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RecordingFormatError, match="do not list the episodes") as refused:
        opened(folder).spans()
    assert all(word in str(refused.value) for word in ("3 episodes", "expected 4"))


def test_rows_of_another_episode_than_the_one_listed_are_refused_and_not_shifted(made, tmp_path):
    folder = counting(without_first_listed(made, tmp_path / "d"), 3)
    recording = opened(folder)
    with pytest.raises(RecordingFormatError, match="are another one's") as refused:
        recording.spans()
    assert all(word in str(refused.value) for word in ("episode_000001", "frame 0", "episode_index 0", "file-000.parquet", "expected 1"))


def test_a_parquet_file_that_was_copied_over_another_is_refused(made, tmp_path):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    table = pq.read_table(folder / data_file(1))
    column = pa.array([1] * 30 + [2], pa.int64())
    rewritten(folder, folder / data_file(1), table.set_column(table.column_names.index("episode_index"), "episode_index", column))
    recording = opened(folder)
    with pytest.raises(RecordingFormatError, match=r"episode_000001, frame 30.*found episode_index 2 in data/chunk-000/episode_000001"):
        recording.numbers(Source.parse("action"), Span("episode_000001", 1, 0, 31))


def test_a_dataset_without_a_count_or_an_index_column_is_read(made, tmp_path):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    info = json.loads((folder / "meta/info.json").read_text())
    del info["total_episodes"], info["features"]["episode_index"]
    (folder / "meta/info.json").write_text(json.dumps(info))
    for k in range(4):
        rewritten(folder, folder / data_file(k), pq.read_table(folder / data_file(k)).drop_columns(["episode_index"]))
    assert [span.stop for span in opened(folder).spans()] == [20, 31, 25, 8]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        # As many values as three rows of two, or of a 2 x 2 matrix.
        ([[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]], "lengths 1, 2, 3"),
        ([[[1.0, 2.0, 3.0], [4.0]], [[5.0, 6.0], [7.0, 8.0]], [[1.0, 2.0], [3.0, 4.0]]], "lengths 1, 2, 3"),
        ([[[1.0], [2.0]], [[3.0]], [[4.0], [5.0], [6.0]]], "lengths 1, 2, 3"),
        ([[1.0, 2.0], None, [5.0, 6.0]], "2 missing"),
        ([[1.0, 2.0], [3.0, None], [5.0, 6.0]], "2 of 12"),
    ],
)
def test_rows_of_differing_length_are_refused_whatever_they_add_up_to(made, tmp_path, rows, said):
    folder = shutil.copytree(made["v2.1"], tmp_path / "d")
    table = pq.read_table(folder / data_file(3)).slice(0, 6)
    column = pa.array(rows + rows)
    rewritten(folder, folder / data_file(3), table.set_column(table.column_names.index("action"), "action", column))
    path = folder / "meta/episodes.jsonl"
    path.write_text(path.read_text().replace('"length": 8', '"length": 6'))
    recording = opened(folder)
    with pytest.raises(SchemaMismatchError, match=r"missing") as refused:
        recording.numbers(Source.parse("action"), recording.spans()[3])
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (["j1", "j2"], ("j1", "j2")),
        ([["j1", "j2"]], ("j1", "j2")),
        ({"motors": ["j1", "j2"]}, ("j1", "j2")),
        ({"arm": ["j1", "j2"], "hand": ["gripper"]}, ("j1", "j2", "gripper")),
        ({"j1": 0, "j2": 1}, ("j1", "j2")),
        ({"j2": 1, "j1": 0}, ("j1", "j2")),
        ({"gripper": 0}, ("gripper",)),
        ({"j1": "float", "j2": "float"}, ("j1", "j2")),
        ({"motors": None}, ()),
        ({}, ()),
        (None, ()),
        ("j1", ()),
    ],
)
def test_names_of_dimensions_are_read_in_every_form(written, names):
    assert flat_names(written) == names
