"""Episodes that a dataset refuses, and what a full disk or a killed process leaves."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_ops.datasets.lerobot_v3 import current_version, write_lerobot_v3
from vla_ops.episodes.store import load_episode
from vla_ops.errors import DatasetError, SchemaMismatchError, StoreError
from vla_ops_tests.datasets.episode_folders import Kind, changed, spec, write_episode, write_episodes, write_frames
from vla_ops_tests.datasets.lerobot_folders import KIND, contents, small_files, write


@pytest.fixture
def episodes(tmp_path):
    return write_episodes(tmp_path / "episodes", [20, 31, 25, 8, 40, 12], kind=KIND, tasks=["pick", "place"])


class TestRefused:
    def test_an_empty_list(self, tmp_path):
        with pytest.raises(DatasetError, match="at least one episode"):
            write(tmp_path, [])

    def test_the_same_episode_twice(self, episodes, tmp_path):
        with pytest.raises(DatasetError, match=r"more than once \[episode rec_0/0\]"):
            write(tmp_path, [episodes[0], episodes[1], episodes[0]])

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"rate_hz": 20}, r"differ in rate \[episode rec_1/0\]; found 20 Hz; expected 30 Hz as in episode rec_0/0"),
            ({"state_names": ["j1", "j9", "gripper"]}, r"differ in state names .*j9.*expected .*j2.*rec_0/0"),
            ({"action_names": ["j1"]}, r"differ in action names .*rec_0/0"),
        ],
    )
    def test_other_metadata(self, episodes, tmp_path, fields, said):
        with pytest.raises(SchemaMismatchError, match=said):
            write(tmp_path, [episodes[0], changed(episodes[1], **fields)])

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"width": 128}, r"resolution \[episode rec_1/0, stream cam_wrist\]; found 64x128; expected 64x96 as in episode rec_0/0"),
            ({"codec": "h264"}, r"video codec .*found h264; expected mjpeg"),
            ({"pix_fmt": "yuv420p"}, r"pixel format .*found yuv420p; expected yuvj420p"),
        ],
    )
    def test_another_kind_of_video(self, episodes, tmp_path, fields, said):
        videos = episodes[1].meta.videos | {"cam_wrist": replace(episodes[1].meta.videos["cam_wrist"], **fields)}
        with pytest.raises(SchemaMismatchError, match=said):
            write(tmp_path, [episodes[0], changed(episodes[1], videos=videos)])

    def test_a_missing_camera(self, episodes, tmp_path):
        videos = {"cam_high": episodes[1].meta.videos["cam_high"]}
        with pytest.raises(SchemaMismatchError, match=r"cameras \[episode rec_1/0\]; found \['cam_high'\]; expected .*cam_wrist"):
            write(tmp_path, [episodes[0], changed(episodes[1], videos=videos)])

    def test_names_that_are_not_the_spec_s(self, episodes, tmp_path):
        other = spec(replace(KIND, names=("j1", "elbow", "gripper")))
        with pytest.raises(SchemaMismatchError, match=r"spec differ in state names .*j2.*expected .*elbow.* convert the recordings again"):
            write_lerobot_v3(tmp_path / "v3", episodes, spec=other, robot="arm")

    def test_a_video_shorter_than_its_episode_says_so_before_anything_is_written(self, episodes, tmp_path):
        videos = episodes[1].meta.videos | {"cam_high": replace(episodes[1].meta.videos["cam_high"], frames=30)}
        with pytest.raises(DatasetError, match=r"episode rec_1/0, stream cam_high\]; found 30 frames; expected 31 frames"):
            write(tmp_path, [episodes[0], changed(episodes[1], videos=videos)])
        assert not (tmp_path / "lerobot_v3").exists()

    def test_a_video_file_shorter_than_it_says(self, episodes, tmp_path):
        first = write(tmp_path, episodes[:1])
        episodes[1].video("cam_high").write_bytes(episodes[0].video("cam_high").read_bytes())
        with pytest.raises(DatasetError, match=r"episode rec_1/0\]; found 20 packets; expected 31 frames"):
            write(tmp_path, episodes[:2])
        assert current_version(tmp_path / "lerobot_v3").version == first.version
        assert {p.name for p in (tmp_path / "lerobot_v3").iterdir()} == {first.version, "current.json"}

    def test_another_stream_header_than_the_shared_files_have(self, tmp_path, monkeypatch):
        small_files(monkeypatch, 1)
        kind = Kind(codec="h264")
        first = write_episode(tmp_path / "e", "rec_0", 6, kind=kind)
        other = write_episode(tmp_path / "e", "rec_1", 6, kind=replace(kind, options=(("profile", "baseline"), ("level", "3.1"))))
        write_lerobot_v3(tmp_path / "v3", [first], spec=spec(kind), robot="arm")
        with pytest.raises(DatasetError, match=r"extradata.*episode rec_1/0"):
            write_lerobot_v3(tmp_path / "v3", [first, other], spec=spec(kind), robot="arm")
        assert write_lerobot_v3(tmp_path / "v3", [other], spec=spec(kind), robot="arm").created

    def test_missing_statistics(self, episodes, tmp_path):
        with pytest.raises(DatasetError, match=r"no statistics .*rec_0/0.*observation.images.cam_wrist"):
            write(tmp_path, [changed(episodes[0], stats={k: v for k, v in episodes[0].meta.stats.items() if "wrist" not in k})])

    def test_frames_of_another_length(self, episodes, tmp_path):
        rewrite(episodes[1], 30, 3, 30)
        with pytest.raises(DatasetError, match=r"differ in length .*rec_1/0\]; found 30 rows; expected 31 frames"):
            write(tmp_path, episodes)

    def test_frames_of_another_width(self, episodes, tmp_path):
        rewrite(episodes[1], 31, 4, 30)
        with pytest.raises(SchemaMismatchError, match=r"not as wide .*rec_1/0, stream observation.state\]; found .*\[4\]; expected 3"):
            write(tmp_path, episodes)

    def test_timestamps_off_the_timeline(self, episodes, tmp_path):
        rewrite(episodes[1], 31, 3, 29)
        with pytest.raises(DatasetError, match=r"timestamps are not k / rate \[.*rec_1/0\]; expected k / 30"):
            write(tmp_path, episodes)

    def test_a_video_that_is_not_there(self, episodes, tmp_path):
        episodes[1].video("cam_wrist").unlink()
        with pytest.raises(DatasetError, match=r"a video is missing \[file .*cam_wrist.mp4, episode rec_1/0, stream cam_wrist\]"):
            write(tmp_path, episodes)

    def test_frames_that_are_no_parquet(self, episodes, tmp_path):
        episodes[1].frames.write_bytes(b"")
        with pytest.raises(DatasetError, match=r"cannot be read .*rec_1/0"):
            write(tmp_path, episodes)

    def test_a_current_json_that_is_not_one(self, episodes, tmp_path):
        write(tmp_path, episodes[:1])
        (tmp_path / "lerobot_v3/current.json").write_text("{")
        with pytest.raises(DatasetError, match=r"cannot be read \[file .*current.json"):
            write(tmp_path, episodes)


def rewrite(episode, length, width, rate):
    values = np.zeros((length, width), np.float32)
    write_frames(episode.frames, values, values, rate)


def test_a_full_disk_is_said_and_leaves_the_old_version_current(episodes, tmp_path, monkeypatch):
    first = write(tmp_path, episodes[:2])
    from vla_ops.datasets import lerobot_version as module

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_tasks", full)
    with pytest.raises(StoreError, match="the store is full"):
        write(tmp_path, episodes)
    assert current_version(tmp_path / "lerobot_v3").version == first.version
    assert {p.name for p in (tmp_path / "lerobot_v3").iterdir()} == {first.version, "current.json"}


SLOW_WRITE = """
import sys, time
from pathlib import Path
from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.episodes.store import load_episode
from vla_ops_tests.datasets.episode_folders import Kind, spec
kind = Kind(codec="mjpeg", cameras=("cam_high", "cam_wrist"))
def progress(done, total):
    print(done, flush=True)
    time.sleep(60)
episodes = [load_episode(Path(p)) for p in sys.argv[2:]]
write_lerobot_v3(Path(sys.argv[1]), episodes, spec=spec(kind), robot="arm", progress=progress)
"""


def test_a_killed_process_leaves_the_old_version_current_and_the_next_run_cleans_up(episodes, tmp_path):
    first = write(tmp_path, episodes[:2])
    before = contents(first.folder)
    root = tmp_path / "lerobot_v3"
    arguments = [sys.executable, "-c", SLOW_WRITE, str(root), *(str(e.folder) for e in episodes)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        process.send_signal(signal.SIGKILL)
    assert any(".tmp-" in p.name for p in root.iterdir())
    assert current_version(root).version == first.version
    assert contents(first.folder) == before
    second = write(tmp_path, [load_episode(e.folder) for e in episodes])
    assert second.created
    assert {p.name for p in root.iterdir()} == {first.version, second.version, "current.json"}
