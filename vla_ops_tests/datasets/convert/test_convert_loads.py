"""What LeRobot itself makes of converted datasets: the present release of v3.0, and of v2.1 the last one that reads it."""

from __future__ import annotations

import json
from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.convert import convert_dataset
from vla_ops.errors import DatasetError
from vla_ops_tests.datasets.convert.lerobot_sources import (
    HIGH,
    QUANTILES,
    TASKS,
    WRIST,
    Kind,
    all_rows,
    packets,
    shown,
    stats_of,
    write_source,
)
from vla_ops_tests.datasets.episode_folders import image
from vla_ops_tests.isolated import run_isolated

KIND = Kind(cameras={HIGH: "h264 with B-frames", WRIST: "av1"})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "d", KIND)


def pictures(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in container.decode(video=0)]


def of_source(source, camera):
    files = sorted((source / "videos/chunk-000" / camera).glob("*.mp4"))
    return [picture for path in files for picture in pictures(path)]


def test_statistics_of_images_that_the_source_has_not_are_lerobots_of_decoded_pictures(tmp_path):
    from lerobot.datasets.compute_stats import get_feature_stats

    source = write_source(tmp_path / "s", Kind(version="v2.0", cameras={HIGH: "h264 with B-frames"}, lengths=(6, 130)))
    report = convert_dataset(source, tmp_path / "v30", to="v3.0")
    assert any(line.startswith("statistics computed from the pictures") and line.endswith(HIGH) for line in report.done)
    for k, row in enumerate(stats_of(tmp_path / "v30")):
        with av.open(str(source / f"videos/chunk-000/{HIGH}/episode_{k:06d}.mp4")) as container:
            pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).transpose(0, 3, 1, 2)
        sampled = pictures if k == 0 else pictures[np.round(np.linspace(0, 129, 100)).astype(int)]
        expected = get_feature_stats(sampled, axis=(0, 2, 3), keepdims=True)
        assert row[f"stats/{HIGH}/count"] == [len(sampled)]
        for kind in ("min", "max", "mean", "std", *QUANTILES):
            np.testing.assert_allclose(row[f"stats/{HIGH}/{kind}"], np.squeeze(expected[kind], 0) / 255, atol=0.02)


def loaded(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/arm", root=root, video_backend="pyav")


@pytest.mark.parametrize("way", [("v3.0",), ("v3.0", "v2.0", "v3.0")], ids=" ".join)
def test_the_present_lerobot_reads_the_same_rows_and_pictures_from_v30(source, way, tmp_path):
    folder = source
    for k, version in enumerate(way):
        convert_dataset(folder, tmp_path / str(k), to=version)
        folder = tmp_path / str(k)
    dataset, rows = loaded(folder), all_rows(source)
    expected = {camera: of_source(source, camera) for camera in KIND.cameras}
    assert len(dataset) == len(rows) == sum(KIND.lengths)
    for k, row in enumerate(rows):
        item = dataset[k]
        assert item["task"] == TASKS[row["task_index"]]
        for name in ("observation.state", "action", "timestamp", "index", "episode_index", "next.reward", "observation.environment_state"):
            np.testing.assert_array_equal(item[name].numpy(), np.array(row[name], item[name].numpy().dtype))
        for camera in KIND.cameras:
            np.testing.assert_array_equal(np.round(item[camera].numpy() * 255), expected[camera][k])
    assert dataset.meta.stats["action"]["q99"].shape == (3,)


@pytest.mark.parametrize("codec", ["libsvtav1", "h264", "hevc"])
def test_what_lerobot_itself_wrote_goes_to_v21_and_back(codec, tmp_path):
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {HIGH: {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]}}
    features["action"] = {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}
    encoder = RGBEncoderConfig(vcodec=codec, g=None if codec == "hevc" else 2)
    written = LeRobotDataset.create("local/arm", 30, features, root=tmp_path / "d", rgb_encoder=encoder, streaming_encoding=True)
    numbers = iter(range(1000))
    for task, length in (("pick", 33), ("place", 17), ("pick", 21)):
        for _ in range(length):
            k = next(numbers)
            written.add_frame({HIGH: image(k), "action": np.array([k, k / 3], np.float32), "task": task})
        written.save_episode()
    written.finalize()
    report = convert_dataset(tmp_path / "d", tmp_path / "v21", to="v2.1")
    convert_dataset(tmp_path / "v21", tmp_path / "back", to="v3.0")
    assert report.not_kept == ["q01, q10, q50, q90, q99 of the episodes' statistics: this version has no place for them"]
    for folder in (tmp_path / "v21", tmp_path / "back"):
        assert all_rows(folder) == all_rows(tmp_path / "d")
        assert packets(folder, HIGH) == packets(tmp_path / "d", HIGH)
    (joined,) = (tmp_path / "d/videos").rglob("*.mp4")
    expected, first = pictures(joined), 0
    for k, length in enumerate((33, 17, 21)):
        path = tmp_path / f"v21/videos/chunk-000/{HIGH}/episode_{k:06d}.mp4"
        assert [time for time, _ in shown(path)] == [Fraction(j, 30) for j in range(length)]
        np.testing.assert_array_equal(pictures(path), expected[first : first + length])
        first += length
    given, back = loaded(tmp_path / "d"), loaded(tmp_path / "back")
    for k in (0, 32, 33, 49, 50, 70):
        assert (given[k][HIGH] == back[k][HIGH]).all()


READER = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("local/arm", root=sys.argv[1], video_backend="pyav")
cameras = dataset.meta.video_keys
items = []
for k in range(len(dataset)):
    item = dataset[k]
    row = {name: item[name].tolist() for name in ("observation.state", "action", "timestamp", "index", "next.reward", "next.done")}
    items.append(row | {camera: (item[camera] * 255).round().int().tolist() for camera in cameras} | {"task": item["task"]})
stats = {name: {kind: value.tolist() for kind, value in one.items()} for name, one in dataset.meta.stats.items()}
json.dump({"version": dataset.meta.info["codebase_version"], "items": items, "stats": stats}, open(sys.argv[2], "w"))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # The environment may have to be fetched first.
def test_the_last_lerobot_that_reads_v21_sees_the_same_rows_and_pictures(source, tmp_path):
    convert_dataset(source, tmp_path / "v30", to="v3.0")
    convert_dataset(tmp_path / "v30", tmp_path / "v21", to="v2.1")
    packages, out = ["lerobot==0.3.3", "av<16"], tmp_path / "items.json"
    run_isolated(packages, READER, tmp_path / "v21", out, HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(tmp_path / "cache"))
    found, rows = json.loads(out.read_text()), all_rows(source)
    expected = {camera: of_source(source, camera) for camera in KIND.cameras}
    assert found["version"] == "v2.1"
    assert len(found["items"]) == len(rows)
    for k, (item, row) in enumerate(zip(found["items"], rows, strict=True)):
        assert item["task"] == TASKS[row["task_index"]]
        for name in ("observation.state", "action", "timestamp", "index", "next.reward", "next.done"):
            assert np.float32(item[name]).tolist() == np.float32(row[name]).tolist()
        for camera in KIND.cameras:
            np.testing.assert_array_equal(item[camera], expected[camera][k])
    assert found["stats"]["action"]["count"] == [sum(KIND.lengths)]


def test_the_real_gr1_dataset_with_b_frames_and_late_timestamps(recordings_dir, tmp_path):
    source = recordings_dir / "lerobot/gr00t_robot_sim_PickNPlace_v20"
    report = convert_dataset(source, tmp_path / "v30", to="v3.0", without=["observation.images.egoview"])
    assert any(line.startswith("timestamp of episode_000000") for line in report.not_kept)
    given, made = all_rows(source), all_rows(tmp_path / "v30")
    assert [{**row, "timestamp": 0} for row in given] == [{**row, "timestamp": 0} for row in made]
    dataset, first = loaded(tmp_path / "v30"), 0
    for path, length in zip(sorted(source.glob("videos/*/observation.images.ego_view/*.mp4"))[:2], (416, 470), strict=True):
        expected = pictures(path)
        for k in (0, 1, 249, 250, length - 1):
            item = dataset[first + k]["observation.images.ego_view"]
            np.testing.assert_array_equal(np.round(item.numpy() * 255), expected[k])
        first += length


def test_the_real_partial_copy_is_refused_with_its_missing_files(recordings_dir, tmp_path):
    with pytest.raises(DatasetError, match=r"196 missing: data/chunk-000/episode_000000\.parquet") as refused:
        convert_dataset(recordings_dir / "lerobot/unitree_g1_v21_partial", tmp_path / "t", to="v3.0")
    assert refused.value.where["episode"] == "episode_000000"
    assert not list(tmp_path.iterdir())


def test_images_in_parquet_keep_their_bytes(golden_dir, tmp_path):
    source = golden_dir / "norm_stats/lerobot_v21_aloha_img32"
    convert_dataset(source, tmp_path / "v30", to="v3.0")
    convert_dataset(tmp_path / "v30", tmp_path / "v21", to="v2.1")
    assert all_rows(tmp_path / "v30") == all_rows(tmp_path / "v21") == all_rows(source)
    for path in source.rglob("*.parquet"):
        assert pq.read_schema(tmp_path / "v21" / path.relative_to(source)).equals(pq.read_schema(path), check_metadata=True)
    item = loaded(tmp_path / "v30")[558]
    assert item["observation.images.top"].shape == (3, 32, 32)
    assert item["episode_index"] == 5
