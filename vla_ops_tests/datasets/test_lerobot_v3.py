from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.dataset_card import dataset_card
from vla_ops.datasets.lerobot_v3 import current_version, order_episodes, write_lerobot_v3
from vla_ops.episodes.store import Episode
from vla_ops_tests.datasets.episode_folders import Kind, changed, spec, write_episode, write_episodes
from vla_ops_tests.datasets.lerobot_folders import HIGH, KIND, contents, files, rows, shared, small_files, write


@pytest.fixture
def episodes(tmp_path):
    return write_episodes(tmp_path / "episodes", [20, 31, 25, 8, 40, 12], kind=KIND, tasks=["pick", "place"])


def test_the_layout_is_that_of_lerobot(episodes, tmp_path):
    made = write(tmp_path, episodes)
    assert set(files(made.folder)) == {
        "README.md",
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "meta/vla_ops.json",
        "videos/observation.images.cam_high/chunk-000/file-000.mp4",
        "videos/observation.images.cam_wrist/chunk-000/file-000.mp4",
    }
    assert (made.episodes, made.frames, made.added, made.removed, made.previous, made.created) == (6, 136, 6, 0, None, True)
    assert made.bytes_written == sum(p.stat().st_size for p in files(made.folder).values())
    assert current_version(tmp_path / "lerobot_v3") == replace(made, created=False, bytes_written=0, added=0)


def test_info_says_what_the_videos_are(episodes, tmp_path):
    info = json.loads((write(tmp_path, episodes).folder / "meta/info.json").read_text())
    assert info["features"]["observation.images.cam_wrist"] == {
        "dtype": "video",
        "shape": [64, 96, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": 64,
            "video.width": 96,
            "video.codec": "mjpeg",
            "video.pix_fmt": "yuvj420p",
            "video.fps": 30,
            "video.channels": 3,
            "has_audio": False,
            "is_depth_map": False,
        },
    }
    assert info["features"]["action"] == {"dtype": "float32", "shape": [3], "names": ["j1", "j2", "gripper"]}
    assert (info["robot_type"], info["fps"], info["total_tasks"], info["splits"]) == ("arm", 30, 2, {"train": "0:6"})


def test_encoder_settings_are_in_the_info_as_far_as_all_episodes_share_them(tmp_path):
    kind = Kind(codec="h264")
    first, second = write_episodes(tmp_path / "e", [5, 6], kind=kind)
    videos = {"cam_high": replace(second.meta.videos["cam_high"], encoder={"g": 2, "crf": 23, "preset": "ultrafast"})}
    made = write_lerobot_v3(tmp_path / "v3", [first, changed(second, videos=videos)], spec=spec(kind), robot="arm")
    info = json.loads((made.folder / "meta/info.json").read_text())["features"]["observation.images.cam_high"]["info"]
    assert info["video.g"] == 2
    assert "video.crf" not in info
    assert (info["video.video_backend"], info["video.fast_decode"], info["video.extra_options"]) == ("pyav", 0, {})


def test_data_has_one_row_group_an_episode_and_the_features_huggingface_reads(episodes, tmp_path):
    file = pq.ParquetFile(write(tmp_path, episodes).folder / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [20, 31, 25, 8, 40, 12]
    features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert features["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 3, "_type": "List"}
    table = file.read().to_pydict()
    assert list(table) == ["observation.state", "action", "timestamp", "frame_index", "episode_index", "index", "task_index"]
    assert table["index"] == list(range(136))
    assert [row[0] for row in table["observation.state"]] == list(range(136))
    assert table["task_index"] == [k % 2 for k, e in enumerate(episodes) for _ in range(e.meta.length)]
    assert table["timestamp"][20 + 30] == np.float32(30 / 30)


def test_times_in_the_videos_come_from_frame_counts(episodes, tmp_path):
    found = rows(write(tmp_path, episodes).folder)
    bounds = np.cumsum([0, *(e.meta.length for e in episodes)]).tolist()
    for k, row in enumerate(found):
        assert (row["dataset_from_index"], row["dataset_to_index"], row["length"]) == (bounds[k], bounds[k + 1], episodes[k].meta.length)
        assert (row[f"{HIGH}/from_timestamp"], row[f"{HIGH}/to_timestamp"]) == (bounds[k] / 30, bounds[k + 1] / 30)


def test_a_second_write_of_the_same_does_nothing(episodes, tmp_path):
    first = write(tmp_path, episodes)
    stamps = {name: path.stat().st_mtime_ns for name, path in files(tmp_path / "lerobot_v3").items()}
    again = write(tmp_path, episodes)
    assert again == replace(first, created=False, bytes_written=0, added=0)
    assert {name: path.stat().st_mtime_ns for name, path in files(tmp_path / "lerobot_v3").items()} == stamps


def test_the_version_depends_on_episodes_order_robot_and_licence_but_not_on_the_repo_id(episodes, tmp_path):
    def version(place, given, robot="arm", **dataset):
        return write_lerobot_v3(tmp_path / place, given, spec=spec(KIND, **dataset), robot=robot).version

    base = version("a", episodes[:2])
    assert version("b", episodes[:2], repo_id="other/name") == base
    others = {
        version("c", episodes[:3]),
        version("d", episodes[1::-1]),
        version("e", episodes[:2], robot="leg"),
        version("f", episodes[:2], licence="mit"),
        version("g", [episodes[0], changed(episodes[1], source_version="new")]),
        version("h", [episodes[0], changed(episodes[1], task="push")]),
    }
    assert len(others) == 6
    assert base not in others


def test_an_append_shares_full_files_and_leaves_the_old_version_untouched(episodes, tmp_path, monkeypatch):
    small_files(monkeypatch)
    first = write(tmp_path, episodes[:4])
    before = contents(first.folder)
    second = write(tmp_path, episodes[:5])
    assert contents(first.folder) == before
    parts = ("data", "meta/episodes", HIGH, "videos/observation.images.cam_wrist")
    assert {f"{p}/chunk-000/file-00{k}.{'mp4' if 'videos' in p else 'parquet'}" for p in parts for k in (0, 1)} <= shared(
        first.folder, second.folder
    )
    assert (second.added, second.removed, second.previous) == (1, 0, first.version)
    assert second.bytes_linked == sum(files(second.folder)[name].stat().st_size for name in shared(first.folder, second.folder))
    assert second.bytes_linked + second.bytes_written == sum(p.stat().st_size for p in files(second.folder).values())


def test_files_that_versions_share_are_read_only(episodes, tmp_path):
    found = files(write(tmp_path, episodes).folder)
    assert {oct(p.stat().st_mode & 0o777) for n, p in found.items() if n.startswith(("data", "videos", "meta/episodes"))} == {"0o444"}


def test_an_append_gives_what_writing_all_at_once_gives(episodes, tmp_path):
    for count in range(1, 7):
        grown = write(tmp_path, episodes[:count])
    whole = write(tmp_path / "at_once", episodes)
    assert grown.version == whole.version
    assert rows(grown.folder) == rows(whole.folder)
    stats = [json.loads((v.folder / "meta/stats.json").read_text()) for v in (grown, whole)]
    for feature, values in stats[1].items():
        for name in values:
            np.testing.assert_allclose(stats[0][feature][name], values[name], rtol=1e-12, atol=1e-12)


def test_a_removal_shifts_indices_keeps_other_videos_and_drops_the_removed_one(episodes, tmp_path, monkeypatch):
    small_files(monkeypatch)
    first = write(tmp_path, episodes)
    second = write(tmp_path, [e for k, e in enumerate(episodes) if k != 2])
    assert (second.added, second.removed) == (0, 1)
    assert {f"{HIGH}/chunk-000/file-000.mp4", f"{HIGH}/chunk-000/file-002.mp4"} <= shared(first.folder, second.folder)
    assert f"{HIGH}/chunk-000/file-001.mp4" not in shared(first.folder, second.folder)
    assert shared(first.folder, second.folder) & {"data/chunk-000/file-001.parquet", "data/chunk-000/file-002.parquet"} == set()
    with av.open(str(episodes[2].video("cam_high"))) as container:
        removed = next(bytes(packet) for packet in container.demux(video=0))
    assert any(removed in path.read_bytes() for path in first.folder.rglob("*.mp4"))
    assert not any(removed in path.read_bytes() for path in second.folder.rglob("*.mp4"))
    found = rows(second.folder)
    assert [row["episode_index"] for row in found] == list(range(5))
    assert [row["stats/episode_index/min"] for row in found] == [[k] for k in range(5)]


def test_a_changed_recording_moves_to_the_end_and_its_old_video_is_gone(episodes, tmp_path):
    first = write(tmp_path, episodes)
    new = write_episode(tmp_path / "again", "rec_2", 9, kind=KIND, first=500)
    given = [*episodes[:2], new, *episodes[3:]]
    ordered = order_episodes(given, first.folder)
    assert [e.id for e in ordered] == ["rec_0/0", "rec_1/0", "rec_3/0", "rec_4/0", "rec_5/0", "rec_2/0"]
    second = write(tmp_path, ordered)
    assert (second.added, second.removed, second.frames) == (1, 1, 120)


def test_order_is_natural_and_stable(tmp_path):
    made = [write_episode(tmp_path / "e", name, 3, kind=KIND) for name in ("rec_10", "rec_9", "a/rec_1", "rec_2")]
    assert [e.meta.recording for e in order_episodes(made, None)] == ["a/rec_1", "rec_2", "rec_9", "rec_10"]
    first = write(tmp_path, order_episodes(made[:2], None))
    assert [e.meta.recording for e in order_episodes(made, first.folder)] == ["rec_9", "rec_10", "a/rec_1", "rec_2"]


def test_an_earlier_version_becomes_current_again_without_being_written(episodes, tmp_path):
    first = write(tmp_path, episodes[:3])
    second = write(tmp_path, episodes[:2])
    back = write(tmp_path, episodes[:3])
    assert (back.created, back.version, back.previous) == (False, first.version, second.version)
    assert current_version(tmp_path / "lerobot_v3").version == first.version


def test_a_deleted_version_folder_is_written_anew(episodes, tmp_path):
    import shutil

    shutil.rmtree(write(tmp_path, episodes[:3]).folder)
    assert current_version(tmp_path / "lerobot_v3") is None
    assert write(tmp_path, episodes[:4]).created


def test_files_are_copied_where_links_cannot_be_made(episodes, tmp_path, monkeypatch):
    small_files(monkeypatch)
    write(tmp_path, episodes[:4])

    def no_link(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    second = write(tmp_path, episodes[:5])
    assert second.bytes_linked == 0
    assert len(rows(second.folder)) == 5


def test_progress_counts_each_stream_of_what_is_new(episodes, tmp_path):
    seen = []
    write(tmp_path, episodes, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k + 1, 18) for k in range(18)]


def test_files_roll_over_before_float32_times_lose_their_place(tmp_path):
    # LeRobot compares float32 times with a tolerance of 1e-4 s; beyond 1024 s the steps of float32 are wider than that.
    kind = Kind(codec="mjpeg", rate_hz=7)
    source = write_episode(tmp_path / "e", "rec", 3000, kind=kind)
    episodes = [changed(source, recording=f"rec_{k}") for k in range(5)]
    folder = write_lerobot_v3(tmp_path / "v3", episodes, spec=spec(kind), robot="arm").folder
    found = rows(folder)
    assert [row[f"{HIGH}/file_index"] for row in found] == [0, 0, 1, 1, 2]
    k = np.arange(3000)
    for row in found:
        start = row[f"{HIGH}/from_timestamp"]
        asked = (start + (k / 7).astype(np.float32).astype(np.float64)).astype(np.float32)
        shown = ((round(start * 7) + k) / 7).astype(np.float32)
        assert np.abs(asked - shown).max() < 1e-4


def test_a_vector_of_one_number_is_a_plain_column(tmp_path):
    kind = Kind(codec="mjpeg", names=("gripper",))
    episode = write_episode(tmp_path / "e", "rec", 6, kind=kind)
    folder = write_lerobot_v3(tmp_path / "v3", [episode], spec=spec(kind), robot="arm").folder
    assert pq.read_table(folder / "data/chunk-000/file-000.parquet")["action"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_a_dataset_without_cameras_has_no_video_path(tmp_path):
    kind = Kind(cameras=())
    made = write_lerobot_v3(tmp_path / "v3", [write_episode(tmp_path / "e", "rec", 6, kind=kind)], spec=spec(kind), robot="arm")
    assert json.loads((made.folder / "meta/info.json").read_text())["video_path"] is None


def test_the_card_says_how_to_load_it_what_is_in_it_and_its_licence(episodes, tmp_path):
    card = (write(tmp_path, episodes).folder / "README.md").read_text()
    head = card.split("---")[1]
    assert 'license: "apache-2.0"' in head
    assert '"LeRobot", "robotics"' in head
    assert 'LeRobotDataset("local/arm", root=' in card
    assert "6 episodes" in card
    assert "- `pick`" in card
    info = json.loads((current_version(tmp_path / "lerobot_v3").folder / "meta/info.json").read_text())
    hub = dataset_card(info, ["a `b`\n# c"], robot="arm", licence="mit", repo_id="my-lab/arm")
    assert 'LeRobotDataset("my-lab/arm")' in hub
    assert "- `a 'b' # c`" in hub


def test_episode_ids_and_versions_are_recorded(episodes, tmp_path):
    about = json.loads((write(tmp_path, episodes).folder / "meta/vla_ops.json").read_text())
    assert [(e["id"], e["version"]) for e in about["episodes"]] == [(e.id, e.version) for e in episodes]
    assert (about["robot"], about["spec_fingerprint"]) == ("arm", spec(KIND).conversion_fingerprint)
    assert isinstance(episodes[0], Episode)
