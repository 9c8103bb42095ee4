"""What writing a mixture costs and keeps: links, versions, order, files of one codec header each."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.lerobot_v3 import current_version
from vla_ops.datasets.mixture import refresh as refresh_module
from vla_ops_tests.datasets.lerobot_folders import contents, files
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, Arm, Lab

SOURCES = [{"robot": "left", "weight": 2.0}, {"robot": "right", "weight": 1.0, "cameras": {"cam_top": "cam_high"}}]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.add("left", LEFT)
    made.add("right", RIGHT)
    return made


def same_inode(one: Path, other: Path) -> bool:
    return one.stat().st_ino == other.stat().st_ino


def shared(one: Path, other: Path, below: str) -> set[str]:
    a, b = files(one), files(other)
    return {name for name in a.keys() & b.keys() if name.startswith(below) and same_inode(a[name], b[name])}


def test_videos_are_the_sources_own_files(lab: Lab) -> None:
    made = lab.make(lab.mix("both", *SOURCES)).made
    high = made.folder / "videos/observation.images.cam_high/chunk-000"
    for number, (robot, camera) in enumerate([("left", "cam_high"), ("right", "cam_top")]):
        own = current_version(lab.store(robot).root / "lerobot_v3")
        assert own is not None
        assert same_inode(high / f"file-00{number}.mp4", own.folder / f"videos/observation.images.{camera}/chunk-000/file-000.mp4")


def test_a_second_time_nothing_is_done(lab: Lab) -> None:
    mixture = lab.mix("both", *SOURCES)
    first = lab.make(mixture).made
    before = {name: path.stat().st_mtime_ns for name, path in files(first.folder).items()}
    second = lab.make(mixture).made
    assert (first.created, second.created) == (True, False)
    assert second.version == first.version
    assert {name: path.stat().st_mtime_ns for name, path in files(first.folder).items()} == before


def test_the_same_sources_give_the_same_bytes_elsewhere(lab: Lab, tmp_path: Path) -> None:
    mixture = lab.mix("both", *SOURCES)
    first = contents(lab.make(mixture).made.folder)
    shutil.rmtree(lab.store("both").root)
    assert contents(lab.make(mixture).made.folder) == first


def test_what_a_source_adds_is_appended_and_moves_no_other_episode(lab: Lab) -> None:
    mixture = lab.mix("both", *SOURCES)
    first = lab.make(mixture).made
    lab.add("left", replace(LEFT, episodes=(*LEFT.episodes, (9, "pick"))))
    second = lab.make(mixture)
    assert (second.made.added, second.made.removed, second.made.previous) == (1, 0, first.version)
    ids = [entry["id"] for entry in json.loads((second.made.folder / "meta/vla_ops.json").read_text())["episodes"]]
    assert ids == ["left/rec_0/0", "left/rec_1/0", "right/rec_0/0", "right/rec_1/0", "left/rec_2/0"]
    assert second.sampling.sources[0].episodes == [[0, 2], [4, 5]]
    kept = shared(first.folder, second.made.folder, "videos")
    assert {"videos/observation.images.cam_high/chunk-000/file-000.mp4"} <= kept


def test_other_weights_share_every_data_and_video_file(lab: Lab) -> None:
    first = lab.make(lab.mix("both", *SOURCES)).made
    second = lab.make(lab.mix("both", {**SOURCES[0], "weight": 1.0}, SOURCES[1])).made
    assert second.version != first.version
    for below in ("videos", "data", "meta/episodes"):
        assert shared(first.folder, second.folder, below) == {name for name in files(first.folder) if name.startswith(below)}


def test_a_new_source_with_new_dimensions_writes_numbers_anew_and_links_videos(lab: Lab) -> None:
    first = lab.make(lab.mix("both", SOURCES[0] | {"weight": 1})).made
    second = lab.make(lab.mix("both", *SOURCES)).made
    assert shared(first.folder, second.folder, "data") == set()
    assert len(shared(first.folder, second.folder, "videos/observation.images.cam_left")) == 1


def test_cameras_that_are_exchanged_are_exchanged_in_the_videos_and_their_statistics(lab: Lab) -> None:
    two = Arm(cameras={"cam_a": None, "cam_b": None})
    lab.add("two", two)
    straight = lab.make(lab.mix("both", {"robot": "two"})).made
    crossed = lab.make(lab.mix("both", {"robot": "two", "cameras": {"cam_a": "cam_b", "cam_b": "cam_a"}})).made

    def video(folder: Path, camera: str) -> bytes:
        return (folder / f"videos/observation.images.{camera}/chunk-000/file-000.mp4").read_bytes()

    assert video(straight.folder, "cam_a") == video(crossed.folder, "cam_b") != video(crossed.folder, "cam_a")


def test_videos_of_two_codecs_are_in_files_of_their_own(lab: Lab) -> None:
    import av

    lab.add("jpeg", replace(RIGHT, codec="mjpeg"))
    made = lab.make(lab.mix("both", {"robot": "left"}, {"robot": "jpeg", "cameras": {"cam_top": "cam_high"}})).made
    codecs = []
    for path in sorted((made.folder / "videos/observation.images.cam_high").rglob("*.mp4")):
        with av.open(str(path)) as video:
            codecs.append((video.streams.video[0].codec.canonical_name, sum(packet.size > 0 for packet in video.demux())))
    assert codecs == [("h264", 14), ("mjpeg", 12)]


def test_only_the_episodes_of_the_tasks_are_in_it(lab: Lab) -> None:
    sources = [
        {"robot": "left", "name": "picks", "tasks": ["pick"]},
        {"robot": "right", "tasks": ["push"], "cameras": {"cam_top": "cam_high"}},
    ]
    made = lab.make(lab.mix("both", *sources)).made
    assert pq.read_table(made.folder / "meta/tasks.parquet")["task"].to_pylist() == ["pick", "push"]
    assert (made.episodes, made.frames, made.held_out_episodes) == (2, 13, 0)


def test_a_write_that_fails_leaves_nothing_and_the_version_before(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lab.make(lab.mix("both", *SOURCES)).made

    def full(*args: object, **options: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(refresh_module.MixtureWriter, "_write_summaries", full)
        with pytest.raises(OSError, match="no space left"):
            lab.make(lab.mix("both", {**SOURCES[0], "weight": 9.0}, SOURCES[1]))
    root = lab.store("both").root / "lerobot_v3"
    assert sorted(path.name for path in root.iterdir()) == sorted([first.version, "current.json"])
    assert current_version(root) == replace(first, created=False, bytes_written=0, bytes_linked=0, added=0)


def test_files_that_versions_share_cannot_be_written(lab: Lab) -> None:
    folder = lab.make(lab.mix("both", *SOURCES)).made.folder
    for name, path in files(folder).items():
        if name.startswith(("videos", "data", "meta/episodes")):
            assert path.stat().st_mode & 0o222 == 0, name
