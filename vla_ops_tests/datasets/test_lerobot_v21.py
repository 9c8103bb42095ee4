"""The v2.1 view of a v3.0 dataset: its files, what it shares, what it refuses, and what the last LeRobot that reads v2.1 makes of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.datasets.lerobot_v21 import data_file, differences, video_file, write_lerobot_v21
from vla_ops.errors import DatasetError
from vla_ops_tests.datasets.episode_folders import Kind, spec, write_episode, write_episodes
from vla_ops_tests.isolated import run_isolated

KIND = Kind(codec="mjpeg", cameras=("cam_high", "cam_wrist"))
LENGTHS = [20, 31, 25]


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    return write_episodes(tmp_path_factory.mktemp("episodes"), [*LENGTHS, 8], kind=KIND, tasks=["pick", "place"])


def views(root, given, *, held_out=()):
    """The v3.0 dataset of the episodes, and its v2.1 view."""
    v30 = write_lerobot_v3(root / "lerobot_v3", given, spec=spec(KIND), robot="arm", held_out=held_out)
    return v30, write_lerobot_v21(root / "lerobot_v21", v30.folder, given, spec=spec(KIND), robot="arm")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_folder_is_laid_out_as_v21_and_has_the_version_of_the_v30_dataset(episodes, tmp_path):
    v30, view = views(tmp_path, episodes[:3])
    assert view.version == v30.version
    meta = view.folder / "meta"
    info = json.loads((meta / "info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"], info["total_videos"]) == ("v2.1", 3, 76, 6)
    assert (info["total_chunks"], info["chunks_size"], info["fps"], info["splits"]) == (1, 1000, 30, {"train": "0:3"})
    assert lines(meta / "tasks.jsonl") == [{"task_index": 0, "task": "pick"}, {"task_index": 1, "task": "place"}]
    assert lines(meta / "episodes.jsonl")[1] == {"episode_index": 1, "tasks": ["place"], "length": 31}
    for k in range(3):
        assert (view.folder / f"data/chunk-000/episode_{k:06d}.parquet").is_file()
        for camera in KIND.cameras:
            assert (view.folder / f"videos/chunk-000/observation.images.{camera}/episode_{k:06d}.mp4").is_file()


def test_rows_and_statistics_are_those_of_the_v30_dataset(episodes, tmp_path):
    v30, view = views(tmp_path, episodes[:3])
    whole = pq.read_table(v30.folder / "data")
    apart = [pq.read_table(view.folder / data_file(k)) for k in range(3)]
    for name in whole.column_names:
        joined = [row for table in apart for row in table[name].to_pylist()]
        assert joined == whole[name].to_pylist()
    (path,) = (v30.folder / "meta/episodes").rglob("*.parquet")
    for row, line in zip(pq.read_table(path).to_pylist(), lines(view.folder / "meta/episodes_stats.jsonl"), strict=True):
        for feature, stats in line["stats"].items():
            assert set(stats) == {"min", "max", "mean", "std", "count"}
            for name, value in stats.items():
                np.testing.assert_array_equal(row[f"stats/{feature}/{name}"], value)


def test_videos_are_the_episodes_own_files_and_cannot_be_written_to(episodes, tmp_path):
    _, view = views(tmp_path, episodes[:2])
    for k, episode in enumerate(episodes[:2]):
        linked = view.folder / video_file(k, "cam_high")
        assert linked.stat().st_ino == episode.video("cam_high").stat().st_ino
        assert linked.stat().st_mode & 0o222 == 0


def test_what_is_unchanged_is_shared_with_the_view_before_and_a_second_run_does_nothing(episodes, tmp_path):
    _, first = views(tmp_path, episodes[:3])
    _, again = views(tmp_path, episodes[:3])
    _, longer = views(tmp_path, episodes)
    assert (first.written, again.created, longer.written) == ([0, 1, 2], False, [3])
    for k in range(3):
        assert (first.folder / data_file(k)).stat().st_ino == (longer.folder / data_file(k)).stat().st_ino


def test_after_a_removal_the_rows_of_the_later_episodes_are_written_again(episodes, tmp_path):
    views(tmp_path, episodes)
    v30, view = views(tmp_path, [episodes[0], *episodes[2:]])
    assert view.written == [1, 2]
    joined = [row for k in range(3) for row in pq.read_table(view.folder / data_file(k))["index"].to_pylist()]
    assert joined == pq.read_table(v30.folder / "data")["index"].to_pylist()


def test_a_changed_task_is_written_again(episodes, tmp_path):
    views(tmp_path, episodes[:2])
    renamed = [episodes[0], replace(episodes[1], meta=replace(episodes[1].meta, task="put it down"))]
    _, view = views(tmp_path, renamed)
    assert lines(view.folder / "meta/episodes.jsonl")[1]["tasks"] == ["put it down"]


def test_other_episodes_than_those_of_the_v30_dataset_are_refused_by_name(episodes, tmp_path):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", episodes, spec=spec(KIND), robot="arm")
    with pytest.raises(DatasetError, match=f"not among them: {episodes[3].id}"):
        write_lerobot_v21(tmp_path / "lerobot_v21", v30.folder, episodes[:3], spec=spec(KIND), robot="arm")
    assert not list((tmp_path / "lerobot_v21").glob("*"))


@pytest.mark.parametrize(("held_out", "splits"), [([2], {"train": "0:2", "val": "2:3"}), ([0], {"train": "1:3", "val": "0:1"})])
def test_held_out_episodes_are_not_called_training_ones(episodes, tmp_path, held_out, splits):
    v30, view = views(tmp_path, episodes[:3], held_out=[episodes[k].id for k in held_out])
    assert json.loads((view.folder / "meta/info.json").read_text())["splits"] == splits
    assert json.loads((view.folder / "meta/vla_ops.json").read_text())["held_out"] == held_out
    assert "1 of the 3 episodes are held out for validation" in (view.folder / "README.md").read_text()
    assert [*differences(view.folder, v30.folder)] == []


def test_the_card_names_the_file_that_has_the_other_tasks(episodes, tmp_path):
    many = [write_episode(tmp_path / "e", f"rec_{k}", 2, kind=Kind(cameras=()), task=f"task {k}") for k in range(51)]
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", many, spec=spec(Kind(cameras=())), robot="arm")
    view = write_lerobot_v21(tmp_path / "lerobot_v21", v30.folder, many, spec=spec(Kind(cameras=())), robot="arm")
    for folder, file in ((v30.folder, "meta/tasks.parquet"), (view.folder, "meta/tasks.jsonl")):
        assert f"- and 1 more, in `{file}`" in (folder / "README.md").read_text()
        assert (folder / file).is_file()


@pytest.mark.parametrize("cameras", [("cam_high",), ("cam_high", "cam_wrist", "cam_low"), ("cam_wrist", "cam_high")])
def test_the_view_has_the_cameras_of_its_v30_dataset_whatever_the_yaml_says_since(episodes, tmp_path, cameras):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", episodes[:2], spec=spec(KIND), robot="arm")
    now = spec(replace(KIND, cameras=cameras))
    view = write_lerobot_v21(tmp_path / "lerobot_v21", v30.folder, episodes[:2], spec=now, robot="arm")
    features = [json.loads((folder / "meta/info.json").read_text())["features"] for folder in (view.folder, v30.folder)]
    assert list(features[0].items()) == list(features[1].items())
    assert all((view.folder / video_file(k, camera)).is_file() for k in range(2) for camera in KIND.cameras)
    assert [*differences(view.folder, v30.folder)] == []


def test_an_episode_with_other_cameras_than_the_v30_dataset_is_refused_by_name(episodes, tmp_path):
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", episodes[:2], spec=spec(KIND), robot="arm")
    videos = {"cam_high": episodes[1].meta.videos["cam_high"]}
    given = [episodes[0], replace(episodes[1], meta=replace(episodes[1].meta, videos=videos))]
    with pytest.raises(DatasetError, match="differ in a camera") as refused:
        write_lerobot_v21(tmp_path / "lerobot_v21", v30.folder, given, spec=spec(KIND), robot="arm")
    assert refused.value.where["stream"] == "cam_wrist"
    assert refused.value.where["episode"] == episodes[1].id


def test_an_episode_whose_video_is_gone_is_refused_by_name(tmp_path):
    given = write_episodes(tmp_path / "e", [4, 5], kind=KIND)
    v30 = write_lerobot_v3(tmp_path / "lerobot_v3", given, spec=spec(KIND), robot="arm")
    given[1].video("cam_wrist").unlink()
    with pytest.raises(DatasetError, match=f"a video is missing.*{given[1].id}.*cam_wrist"):
        write_lerobot_v21(tmp_path / "lerobot_v21", v30.folder, given, spec=spec(KIND), robot="arm")


def replace_lines(path, edit):
    path.write_text("".join(json.dumps(line) + "\n" for line in edit(lines(path))))


def other_text(folder):
    replace_lines(folder / "meta/tasks.jsonl", lambda rows: [row | {"task": "another"} for row in rows])


def other_feature(folder):
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    info["features"]["action"]["names"].reverse()
    del info["features"]["observation.images.cam_wrist"]
    path.write_text(json.dumps(info))


def other_info(folder):
    path = folder / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_episodes": 3, "splits": {"train": "0:3"}}))


def cut_video(folder):
    path = folder / video_file(1, "cam_high")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])


def other_number(folder):
    path = folder / data_file(0)
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table.set_column(table.column_names.index("index"), "index", table["frame_index"].take(list(range(19, -1, -1)))), path)


DAMAGES = {
    "nothing": (lambda folder: None, []),
    "a line of episodes.jsonl": (
        lambda folder: replace_lines(folder / "meta/episodes.jsonl", lambda rows: rows[:1]),
        ["episode 1: length or task: not listed"],
    ),
    "episodes.jsonl": (
        lambda folder: (folder / "meta/episodes.jsonl").unlink(),
        [f"episode {k}: length or task: not listed" for k in range(2)],
    ),
    "a line too much": (
        lambda folder: replace_lines(folder / "meta/episodes.jsonl", lambda rows: [*rows, rows[1] | {"episode_index": 2}]),
        ["episode 2: in meta/, and not in the v3.0 dataset"],
    ),
    "a feature's statistics": (
        lambda folder: replace_lines(
            folder / "meta/episodes_stats.jsonl",
            lambda rows: [{**row, "stats": {n: s for n, s in row["stats"].items() if n != "action"}} for row in rows],
        ),
        ["episode 0: statistics of action", "episode 1: statistics of action"],
    ),
    "tasks": (other_text, ["the tasks in meta/tasks.jsonl"]),
    "features": (other_feature, ["info.json: feature action", "info.json: feature observation.images.cam_wrist"]),
    "counts": (other_info, ["info.json: total_episodes: 3, not 2", "info.json: splits: {'train': '0:3'}, not {'train': '0:2'}"]),
    "numbers": (other_number, ["episode 0: index"]),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_differences_from_the_v30_dataset_are_said(episodes, tmp_path, damage, said):
    v30, view = views(tmp_path, episodes[:2])
    damage(view.folder)
    assert [*differences(view.folder, v30.folder)] == said


def test_a_missing_file_and_a_cut_video_are_differences(episodes, tmp_path):
    v30, view = views(tmp_path, episodes[:2])
    (view.folder / data_file(1)).unlink()
    (view.folder / video_file(0, "cam_wrist")).unlink()
    cut_video(view.folder)
    parquet, cut, gone = differences(view.folder, v30.folder)
    size = episodes[1].video("cam_high").stat().st_size
    assert parquet.startswith(f"episode 1: {data_file(1)} cannot be read")
    assert cut == f"episode 1: video of cam_high: {size - 1} bytes, not {size} bytes"
    assert gone == f"episode 0: video of cam_wrist: missing, not {episodes[0].video('cam_wrist').stat().st_size} bytes"


def test_a_video_that_is_cut_through_its_link_is_a_difference(tmp_path):
    given = write_episodes(tmp_path / "e", [4, 5], kind=KIND)
    v30, view = views(tmp_path, given)
    path = given[0].video("cam_high")
    path.chmod(0o644)
    os.truncate(path, 100)
    (said,) = differences(view.folder, v30.folder)
    assert said.startswith("episode 0: video of cam_high: 100 bytes")


def test_a_line_that_is_cut_off_is_refused_by_file(episodes, tmp_path):
    v30, view = views(tmp_path, episodes[:2])
    path = view.folder / "meta/episodes_stats.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DatasetError, match=r"a line is not valid JSON.*episodes_stats\.jsonl"):
        list(differences(view.folder, v30.folder))


READER = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
found = []
dataset = LeRobotDataset("local/arm", root=sys.argv[1], video_backend="pyav")
for k in range(len(dataset)):
    item = dataset[k]
    row = {name: item[name].tolist() for name in ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index")}
    row |= {c: item[f"observation.images.{c}"][:, :12].mean(0).mean(0).tolist() for c in ("cam_high", "cam_wrist")}
    found.append(row | {"task": item["task"]})
json.dump({"version": dataset.meta.info["codebase_version"], "items": found}, open(sys.argv[2], "w"))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # The environment may have to be fetched first.
def test_the_last_lerobot_that_reads_v21_sees_every_frame_as_the_present_one_sees_the_v30_dataset(episodes, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    v30, view = views(tmp_path, episodes)
    # Later releases of PyAV have dropped an option that this LeRobot's decoder passes.
    packages, out = ["lerobot==0.3.3", "av<16"], tmp_path / "items.json"
    run_isolated(packages, READER, view.folder, out, HF_HUB_OFFLINE="1", HF_DATASETS_CACHE=str(tmp_path / "cache"))
    old = json.loads(out.read_text())
    new = LeRobotDataset("local/arm", root=v30.folder, video_backend="pyav")
    assert old["version"] == "v2.1"
    assert len(old["items"]) == len(new) == sum(e.meta.length for e in episodes)
    for k, item in enumerate(old["items"]):
        expected = new[k]
        assert item["task"] == expected["task"]
        for name in ("observation.state", "action", "timestamp", "frame_index", "episode_index", "index"):
            np.testing.assert_array_equal(np.float32(item[name]), expected[name].numpy().astype(np.float32))
        for camera in KIND.cameras:
            pixels = expected[f"observation.images.{camera}"][:, :12].mean(0).mean(0)
            np.testing.assert_allclose(item[camera], pixels, atol=1e-6)
