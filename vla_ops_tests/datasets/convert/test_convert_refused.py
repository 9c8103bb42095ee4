"""Datasets that are not whole, or that another version cannot hold, are refused by name, and nothing half-made is left."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vla_ops.cli import main
from vla_ops.datasets.convert import check_dataset, convert_dataset
from vla_ops.errors import StoreError, VlaOpsError
from vla_ops_tests.datasets.convert.lerobot_sources import (
    HIGH,
    Kind,
    contents,
    edit_info,
    edit_lines,
    load,
    write,
    write_source,
    write_video,
)

LENGTHS = (12, 7, 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    write_source(root / "v2.1", Kind(lengths=LENGTHS))
    convert_dataset(root / "v2.1", root / "v3.0", to="v3.0")
    return root


def copied(made, version, tmp_path):
    return Path(shutil.copytree(made / version, tmp_path / "s"))


def data(folder, k=1):
    return folder / f"data/chunk-000/episode_{k:06d}.parquet"


def video(folder, k=1):
    return folder / f"videos/chunk-000/{HIGH}/episode_{k:06d}.mp4"


def joined(folder):
    return folder / f"videos/{HIGH}/chunk-000/file-000.mp4"


def all_data(folder):
    return folder / "data/chunk-000/file-000.parquet"


def listed(folder):
    return folder / "meta/episodes/chunk-000/file-000.parquet"


def column(path, name, values):
    table = pq.read_table(path)
    place = table.column_names.index(name)
    write(path, table.set_column(place, table.schema.field(place), [pa.array(values, table.schema.field(place).type)]))


def cut(path, share=0.6):
    os.truncate(path, int(path.stat().st_size * share))


def rewrite_video(path, first, length, **options):
    path.unlink()
    write_video(path, first, length, "h264", 30, **options)


def twice(rows):
    return [rows[0], rows[0], *rows[2:]]


DAMAGES = {
    "v2.1: an mp4 is missing": ("v2.1", lambda d: video(d).unlink(), "files of the dataset are missing", "episode_000001", HIGH),
    "v2.1: all mp4s of a camera are missing": ("v2.1", lambda d: shutil.rmtree(d / "videos"), "there is no video of it", None, HIGH),
    "v2.1: a parquet file is missing": ("v2.1", lambda d: data(d).unlink(), "files of the dataset are missing", "episode_000001", None),
    "v2.1: a video is shorter": ("v2.1", lambda d: rewrite_video(video(d), 12, 6), "found 6 pictures; expected 7", "episode_000001", HIGH),
    "v2.1: a video is longer": ("v2.1", lambda d: rewrite_video(video(d), 12, 9), "found 9 pictures; expected 7", "episode_000001", HIGH),
    "v2.1: a video is cut off": ("v2.1", lambda d: cut(video(d)), "a video cannot be read", "episode_000001", HIGH),
    "v2.1: fewer rows": ("v2.1", lambda d: write(data(d), pq.read_table(data(d))[:5]), "found 5 rows; expected 7", "episode_000001", None),
    "v2.1: an episode is listed twice": (
        "v2.1",
        lambda d: edit_lines(d / "meta/episodes.jsonl", twice),
        "list an episode twice",
        "episode_000000",
        None,
    ),
    "v2.1: an episode's rows are another's": (
        "v2.1",
        lambda d: column(data(d), "episode_index", [0] * 7),
        "wrong episode_index",
        "episode_000001",
        None,
    ),
    "v2.1: index begins anew": ("v2.1", lambda d: column(data(d), "index", range(7)), "wrong index", "episode_000001", None),
    "v2.1: an unknown task": ("v2.1", lambda d: column(data(d), "task_index", [5] * 7), "found task_index 5", "episode_000001", None),
    "v2.1: times of another rate": (
        "v2.1",
        lambda d: column(data(d), "timestamp", np.arange(7) / 15),
        "timestamps are not k / fps",
        "episode_000001",
        None,
    ),
    "v2.1: pictures of another rate": ("v2.1", lambda d: edit_info(d, fps=15), "pictures are not at k / fps", "episode_000000", HIGH),
    "v2.1: a gap in the numbers": (
        "v2.1",
        lambda d: edit_lines(d / "meta/episodes.jsonl", lambda rows: [rows[0], rows[1], rows[2] | {"episode_index": 3}]),
        "an episode is missing in meta/",
        "episode_000002",
        None,
    ),
    "v2.1: another type": (
        "v2.1",
        lambda d: write(data(d), pq.read_table(data(d)).cast(retyped(data(d), "next.reward", pa.float64()))),
        "differ in the type of a column",
        None,
        "next.reward",
    ),
    "v2.1: a column less": (
        "v2.1",
        lambda d: write(data(d), pq.read_table(data(d)).drop_columns("note")),
        "differ in their columns",
        None,
        "note",
    ),
    "v2.1: no length": (
        "v2.1",
        lambda d: edit_lines(d / "meta/episodes.jsonl", lambda rows: [rows[0], {"episode_index": 1}, rows[2]]),
        "a row of the metadata lacks a value",
        None,
        None,
    ),
    "v2.1: a line is cut off": ("v2.1", lambda d: cut(d / "meta/episodes.jsonl", 0.9), "a line is not valid JSON", None, None),
    "v2.1: fewer frames than counted": ("v2.1", lambda d: edit_info(d, total_frames=40), "found 39 frames; expected 40", None, None),
    "v2.1: tasks with a gap": (
        "v2.1",
        lambda d: edit_lines(d / "meta/tasks.jsonl", lambda rows: [*rows, {"task_index": 7, "task": "wait"}]),
        "the tasks are not numbered 0, 1, 2",
        None,
        None,
    ),
    "v3.0: no meta/episodes": ("v3.0", lambda d: shutil.rmtree(d / "meta/episodes"), "a file of the dataset is missing", None, None),
    "v3.0: meta/episodes is cut off": ("v3.0", lambda d: cut(listed(d)), "not a whole parquet file", None, None),
    "v3.0: meta/episodes lacks an episode": (
        "v3.0",
        lambda d: write(listed(d), pq.read_table(listed(d))[:2]),
        "found 2 episodes; expected 3",
        None,
        None,
    ),
    "v3.0: meta/episodes lists one twice": (
        "v3.0",
        lambda d: write(listed(d), pq.read_table(listed(d)).take([0, 0, 2])),
        "list an episode twice",
        "episode_000000",
        None,
    ),
    "v3.0: fewer frames than counted": ("v3.0", lambda d: edit_info(d, total_frames=50), "found 39 frames; expected 50", None, None),
    "v3.0: data is missing": ("v3.0", lambda d: all_data(d).unlink(), "files of the dataset are missing", "episode_000000", None),
    "v3.0: data is cut off": ("v3.0", lambda d: cut(all_data(d)), "not a whole parquet file", None, None),
    "v3.0: rows are missing": (
        "v3.0",
        lambda d: write(all_data(d), pq.read_table(all_data(d))[:30]),
        "found 30 rows; expected 39",
        "episode_000000 to 000002",
        None,
    ),
    "v3.0: an episode's rows are there twice": (
        "v3.0",
        lambda d: column(all_data(d), "episode_index", [0] * 24 + [1] * 7 + [2] * 8),
        "wrong episode_index",
        "episode_000001",
        None,
    ),
    "v3.0: the mp4 is shorter than the last to_timestamp": (
        "v3.0",
        lambda d: rewrite_video(joined(d), 0, 35),
        "the mp4 ends before its episode does",
        "episode_000002",
        HIGH,
    ),
    "v3.0: the mp4 is cut off": ("v3.0", lambda d: cut(joined(d), 0.9), "cut off within a picture", "episode_000000", HIGH),
    "v3.0: the mp4 lacks its last bytes": (
        "v3.0",
        lambda d: os.truncate(joined(d), joined(d).stat().st_size - 9),
        "cut off within a picture",
        "episode_000000",
        HIGH,
    ),
    "v3.0: the mp4 is missing": ("v3.0", lambda d: joined(d).unlink(), "there is no video of it", None, HIGH),
    "v3.0: an episode begins within a group of pictures": (
        "v3.0",
        lambda d: rewrite_video(joined(d), 0, 39, options={"g": "100"}),
        "it does not begin with a keyframe",
        "episode_000001",
        HIGH,
    ),
    "v3.0: B-frames across the border": (
        "v3.0",
        lambda d: rewrite_video(
            joined(d), 0, 39, options={"preset": "veryfast", "x264-params": "keyint=12:bframes=3:b-adapt=0:open-gop=1:scenecut=0"}
        ),
        "B-frames across the border",
        "episode_000000",
        HIGH,
    ),
    "v3.0: a time is shifted": (
        "v3.0",
        lambda d: column(listed(d), f"videos/{HIGH}/from_timestamp", [0.0, 0.1, 19 / 30]),
        "not as long as the episode",
        "episode_000001",
        HIGH,
    ),
    "v3.0: two episodes have the same pictures": (
        "v3.0",
        lambda d: (
            column(listed(d), f"videos/{HIGH}/from_timestamp", [0.0, 0.2, 19 / 30]),
            column(listed(d), f"videos/{HIGH}/to_timestamp", [12 / 30, 0.2 + 7 / 30, 39 / 30]),
        ),
        "given the same pictures of a video",
        "episode_000001",
        HIGH,
    ),
    "v2.1: statistics are cut off": (
        "v2.1",
        lambda d: cut(d / "meta/episodes_stats.jsonl", 0.9),
        "a line has no statistics of an episode",
        None,
        None,
    ),
    "v2.1: no rate": ("v2.1", lambda d: edit_info(d, fps=0), "info.json has no rate", None, None),
    "v2.1: no features": ("v2.1", lambda d: edit_info(d, features=["action"]), "info.json has no features", None, None),
    "no dataset": ("v2.1", lambda d: (d / "meta/info.json").unlink(), "not a LeRobot dataset", None, None),
}


def retyped(path, name, type_):
    schema = pq.read_schema(path)
    return schema.set(schema.get_field_index(name), pa.field(name, type_))


@pytest.mark.parametrize("case", DAMAGES.values(), ids=DAMAGES)
def test_a_dataset_that_is_not_whole_is_refused_by_name_and_leaves_nothing(made, case, tmp_path):
    version, damage, said, episode, camera = case
    source = copied(made, version, tmp_path)
    damage(source)
    before = contents(source)
    with pytest.raises(VlaOpsError, match=re.escape(said)) as refused:
        convert_dataset(source, tmp_path / "t", to="v3.0" if version == "v2.1" else "v2.1")
    assert "file" in refused.value.where
    assert refused.value.where.get("episode") == episode
    assert refused.value.where.get("stream") == camera
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert contents(source) == before
    if "numbered" not in said:  # Which v2.1 allows.
        with pytest.raises(VlaOpsError, match=re.escape(said)):
            check_dataset(source)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_the_same_version_is_refused(made, version, tmp_path):
    with pytest.raises(VlaOpsError, match=f"the dataset is {version} already"):
        convert_dataset(made / version, tmp_path / "t", to=version)


def test_a_target_that_is_there_or_in_the_source_is_refused(made, tmp_path):
    source = copied(made, "v2.1", tmp_path)
    (tmp_path / "t").mkdir()
    with pytest.raises(VlaOpsError, match="the target is there already"):
        convert_dataset(source, tmp_path / "t", to="v3.0")
    with pytest.raises(VlaOpsError, match="the target is in the source"):
        convert_dataset(source, source / "v30", to="v3.0")
    assert not list((tmp_path / "t").iterdir())


def test_a_camera_to_leave_out_that_is_none_is_refused_with_those_there_are(made, tmp_path):
    with pytest.raises(VlaOpsError, match=re.escape(f"found action; expected {HIGH}")):
        convert_dataset(made / "v2.1", tmp_path / "t", to="v3.0", without=["action"])


def test_a_full_disk_leaves_nothing(made, tmp_path, monkeypatch):
    from vla_ops.datasets.convert import to_v30 as module

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_tasks", full)
    with pytest.raises(StoreError, match=r"the store is full.*give another TARGET"):
        convert_dataset(made / "v2.1", tmp_path / "t", to="v3.0")
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, time
from pathlib import Path
from vla_ops.datasets.convert import convert_dataset
def progress(done, total):
    print(done, total, flush=True)
    if done == 4:
        time.sleep(60)
convert_dataset(Path(sys.argv[1]), Path(sys.argv[2]), to="v3.0", progress=progress)
"""


def test_after_a_kill_nothing_half_made_has_the_name_and_the_next_run_cleans_up(made, tmp_path):
    other = tmp_path / "other.tmp-1"
    other.mkdir()
    arguments = [sys.executable, "-c", KILLED, str(made / "v2.1"), str(tmp_path / "t")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(4)][-1] == b"4 6\n"
        process.send_signal(signal.SIGKILL)
    assert sum(path.name.startswith("t.tmp-") for path in tmp_path.iterdir()) == 1
    assert not (tmp_path / "t").exists()
    convert_dataset(made / "v2.1", tmp_path / "t", to="v3.0")
    assert {path.name for path in tmp_path.iterdir()} == {"t", "other.tmp-1"}
    assert contents(tmp_path / "t") == contents(made / "v3.0")


def test_an_edit_list_that_hides_pictures_is_refused(made, tmp_path):
    source = copied(made, "v2.1", tmp_path)
    rewrite_video(video(source), 12, 7, options={"g": "30"})
    with av.open(str(video(source))) as given, av.open(str(tmp_path / "hidden.mp4"), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        for packet in (p for p in given.demux(video=0) if p.size):
            packet.stream = stream
            packet.pts = packet.dts = packet.pts - 2 * packet.duration
            output.mux(packet)
    (tmp_path / "hidden.mp4").replace(video(source))
    with pytest.raises(VlaOpsError, match="an edit list hides pictures") as refused:
        convert_dataset(source, tmp_path / "t", to="v3.0")
    assert (refused.value.where["episode"], refused.value.where["stream"]) == ("episode_000001", HIGH)


def test_the_command_line_converts_checks_and_says_what_is_wrong(made, tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vla-ops", "dataset", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    assert run("convert", made / "v2.1", tmp_path / "t", "--to", "v3.0") == 0
    said = capsys.readouterr().out
    assert "3 episodes, 39 frames, cameras observation.images.cam_high" in said
    assert "statistics copied:" in said
    assert f"NOT KEPT: quantiles of {HIGH}" in said
    assert load(tmp_path / "t/meta/info.json")["codebase_version"] == "v3.0"
    assert run("check", tmp_path / "t") == 0
    assert "3 episodes, 39 frames and 3 videos are whole" in capsys.readouterr().out
    joined(tmp_path / "t").unlink()
    assert run("check", tmp_path / "t") == 2
    assert capsys.readouterr().err.startswith("vla-ops: a camera is declared in info.json and there is no video of it")
