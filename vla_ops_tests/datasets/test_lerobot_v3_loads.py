"""What LeRobot itself makes of the datasets: every frame at its index, its own statistics, its own tools."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.lerobot_v3 import DatasetVersion, order_episodes, write_lerobot_v3
from vla_ops_tests.datasets.episode_folders import Kind, barcode, image, spec, write_episodes

KIND = Kind(codec="mjpeg", cameras=("cam_high", "cam_wrist"))
HIGH, WRIST = "observation.images.cam_high", "observation.images.cam_wrist"


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    import datasets

    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("huggingface"))
    yield
    patch.undo()


def load(version: DatasetVersion, **options):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/arm", root=version.folder, **options)


def backends():
    from lerobot.utils.import_utils import get_safe_default_video_backend

    return ["pyav"] + ["torchcodec"] * (get_safe_default_video_backend() == "torchcodec")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("episodes"), [20, 31, 25, 8, 16], kind=KIND, tasks=["pick", "place"])


@pytest.fixture(scope="module")
def history(tmp_path_factory, episodes):
    """A dataset, one appended to it, and one with an episode removed."""
    root = tmp_path_factory.mktemp("store") / "lerobot_v3"
    lists = [episodes[:3], episodes, [e for e in episodes if e.meta.recording != "rec_1"]]
    return [(given, write_lerobot_v3(root, given, spec=spec(KIND), robot="arm")) for given in lists]


def assert_every_frame_is_in_place(dataset, episodes, cameras):
    assert (dataset.num_episodes, dataset.num_frames) == (len(episodes), sum(e.meta.length for e in episodes))
    index = 0
    for number, episode in enumerate(episodes):
        first = int(pq.read_table(episode.frames)["observation.state"][0].as_py()[0])
        for k in range(episode.meta.length):
            item = dataset[index]
            assert [barcode(item[key]) for key in cameras] == [first + k + 1000 * c for c in range(len(cameras))]
            assert int(item["observation.state"][0]) == first + k
            assert int(item["action"][0]) == first + k + 1
            assert (int(item["episode_index"]), int(item["frame_index"]), int(item["index"])) == (number, k, index)
            assert item["timestamp"].item() == np.float32(k / episode.meta.rate_hz)
            assert item["task"] == episode.meta.task
            index += 1


@pytest.mark.parametrize("backend", ["pyav", "torchcodec"])
def test_every_frame_is_at_its_index_when_new_after_an_append_and_after_a_removal(history, backend):
    if backend not in backends():
        pytest.skip(f"{backend} does not load here")
    for given, version in history:
        assert_every_frame_is_in_place(load(version, video_backend=backend), given, [HIGH, WRIST])


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_encoded_videos_of_many_episodes_show_every_frame(codec, tmp_path):
    kind = Kind(codec=codec)
    episodes = write_episodes(tmp_path / "e", [14, 9, 15, 4], kind=kind)
    version = write_lerobot_v3(tmp_path / "v3", episodes, spec=spec(kind), robot="arm")
    for backend in backends():
        assert_every_frame_is_in_place(load(version, video_backend=backend), episodes, [HIGH])


def test_lerobot_3177_the_last_of_200_episodes_is_within_a_tight_tolerance(tmp_path):
    kind = Kind(codec="mjpeg", rate_hz=50)
    episodes = write_episodes(tmp_path / "e", [11] * 200, kind=kind)
    version = write_lerobot_v3(tmp_path / "v3", episodes, spec=spec(kind), robot="arm")
    for backend in backends():
        dataset = load(version, video_backend=backend, tolerance_s=1e-5)
        for index in [0, 10, 11, 1099, 1100, 2188, 2189, 2198, 2199]:
            assert barcode(dataset[index][HIGH]) == index


def test_delta_timestamps_look_ahead_and_pad_at_the_end_of_an_episode(history):
    given, version = history[1]
    deltas = {"action": [0, 1 / 30, 2 / 30], HIGH: [-1 / 30, 0]}
    dataset = load(version, delta_timestamps=deltas, video_backend="pyav")
    last = given[0].meta.length - 1
    item = dataset[last]
    assert item["action"][:, 0].tolist() == [last + 1] * 3
    assert item["action_is_pad"].tolist() == [False, True, True]
    assert [barcode(i) for i in item[HIGH]] == [last - 1, last]
    assert [barcode(i) for i in dataset[last + 1][HIGH]] == [last + 1, last + 1]


def test_a_selection_of_episodes_loads(history):
    dataset = load(history[1][1], episodes=[1, 3], video_backend="pyav")
    assert [barcode(dataset[k][HIGH]) for k in (0, 30, 31, 38)] == [20, 50, 76, 83]


def test_a_data_loader_walks_through_it(history):
    from torch.utils.data import DataLoader

    seen = [barcode(i) for batch in DataLoader(load(history[1][1], video_backend="pyav"), batch_size=16) for i in batch[WRIST]]
    assert seen == list(range(1000, 1100))


def test_statistics_of_episodes_and_dataset_are_those_of_lerobot(history):
    from lerobot.datasets.compute_stats import aggregate_stats, compute_episode_stats
    from lerobot.datasets.io_utils import load_stats

    given, version = history[1]
    table = pq.read_table(version.folder / "data")
    features = json.loads((version.folder / "meta/info.json").read_text())["features"]
    rows = [r for p in sorted((version.folder / "meta/episodes").rglob("*.parquet")) for r in pq.read_table(p).to_pylist()]
    parts = [
        {name: {s: np.array(row[f"stats/{name}/{s}"]) for s in stats} for name, stats in load_stats(version.folder).items()} for row in rows
    ]
    for row, part in zip(rows, parts, strict=True):
        frames = table.slice(row["dataset_from_index"], row["length"])
        columns = {name: np.array(frames[name].to_pylist()) for name in table.column_names}
        for name, expected in compute_episode_stats(columns, features).items():
            for statistic, value in expected.items():
                bin_width = np.ptp(columns[name], axis=0).max() / 5000
                np.testing.assert_allclose(part[name][statistic], value, rtol=1e-4, atol=1e-4 + bin_width, err_msg=f"{name} {statistic}")
    whole, expected = load_stats(version.folder), aggregate_stats(parts)
    assert set(whole) == set(expected) == set(features)
    for name, values in expected.items():
        for statistic, value in values.items():
            np.testing.assert_allclose(whole[name][statistic], value, rtol=1e-9, atol=1e-9, err_msg=f"{name} {statistic}")
    assert whole["observation.state"]["count"].tolist() == [sum(e.meta.length for e in given)]


def test_lerobot_merges_it_with_another(history, tmp_path):
    from lerobot.datasets.aggregate import aggregate_datasets

    first, last = history[0][1], history[2][1]
    aggregate_datasets(["local/a", "local/b"], "local/both", roots=[first.folder, last.folder], aggr_root=tmp_path / "both")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    merged = LeRobotDataset("local/both", root=tmp_path / "both", video_backend="pyav")
    assert [barcode(merged[k][HIGH]) for k in range(len(merged))] == [*range(76), *range(20), *range(51, 100)]


def test_schemas_are_those_of_a_dataset_that_lerobot_wrote_itself(history, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    ours = history[1][1].folder
    info = json.loads((ours / "meta/info.json").read_text())
    wanted = {k: v for k, v in info["features"].items() if k in ("observation.state", "action", HIGH, WRIST)}
    wanted = {k: {n: tuple(x) if n == "shape" else x for n, x in v.items() if n != "info"} for k, v in wanted.items()}
    theirs = LeRobotDataset.create("local/theirs", 30, wanted, root=tmp_path / "theirs", robot_type="arm", use_videos=True)
    for k in range(4):
        vector = np.full(3, k, np.float32)
        theirs.add_frame({"observation.state": vector, "action": vector, HIGH: image(k), WRIST: image(k), "task": "pick"})
    theirs.save_episode()
    theirs.finalize()
    reference = json.loads((tmp_path / "theirs/meta/info.json").read_text())
    assert set(info) == set(reference)
    for name, feature in reference["features"].items():
        assert (info["features"][name]["dtype"], info["features"][name]["shape"]) == (feature["dtype"], feature["shape"])
        assert set(info["features"][name].get("info", {})) <= set(feature.get("info", {}))
    for part in ("data", "meta/episodes"):
        mine, other = (pq.read_schema(root / part / "chunk-000/file-000.parquet") for root in (ours, tmp_path / "theirs"))
        differing = {n for n in other.names if n not in mine.names or mine.field(n).type != other.field(n).type}
        assert differing == set(), part
        assert set(mine.names) == set(other.names)
        assert (mine.metadata or {}).keys() >= (other.metadata or {}).keys()


def test_the_order_of_a_dataset_survives_an_append(history, episodes):
    ordered = order_episodes(episodes[::-1], history[0][1].folder)
    assert [e.id for e in ordered] == [e.id for e in episodes]
