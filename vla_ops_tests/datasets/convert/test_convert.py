"""LeRobot datasets from one version to another: rows and packets are the same, and what is not is said."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.datasets.convert import check_dataset, convert_dataset
from vla_ops.datasets.lerobot_v3 import write_lerobot_v3
from vla_ops.episodes.vector_stats import vector_stats
from vla_ops_tests.datasets import episode_folders
from vla_ops_tests.datasets.convert.lerobot_sources import (
    HIGH,
    QUANTILES,
    TASKS,
    WRIST,
    Kind,
    all_rows,
    contents,
    edit_lines,
    lines,
    load,
    packets,
    save,
    shown,
    stats_of,
    write,
    write_source,
    write_video,
)
from vla_ops_tests.datasets.lerobot_folders import small_files

KINDS = {
    "one camera": Kind(),
    "numbers alone": Kind(cameras={}),
    "B-frames": Kind(cameras={HIGH: "h264 with B-frames"}),
    "HEVC with B-frames": Kind(cameras={HIGH: "hevc"}, odd_columns=False),
    "three codecs at 50": Kind(fps=50, cameras={HIGH: "mjpeg", WRIST: "av1", "observation.images.low": "h264"}, odd_columns=False),
    "29.97": Kind(fps=29.97, odd_columns=False),
    "many short ones": Kind(lengths=(1, 2, 1, 3, 1, 5), cameras={HIGH: "h264 with B-frames", WRIST: "mjpeg"}),
    "v2.0": Kind(version="v2.0"),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def source(kind, tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("source") / "d", kind)


@pytest.fixture(scope="module")
def v30(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("v30") / "d"
    convert_dataset(source, target, to="v3.0")
    return target


def test_to_v30_and_back_the_rows_and_packets_are_the_same(kind, source, v30, tmp_path):
    back = tmp_path / "back"
    convert_dataset(v30, back, to=kind.version)
    again = tmp_path / "again"
    convert_dataset(back, again, to="v3.0")
    for folder in (v30, back, again):
        assert all_rows(folder) == all_rows(source)
        for camera in kind.cameras:
            assert packets(folder, camera) == packets(source, camera)
        assert check_dataset(folder).endswith("are whole")
    for name in ("meta/tasks.jsonl", "meta/episodes.jsonl", "README.md"):
        assert (back / name).read_text() == (source / name).read_text()
    assert load(back / "meta/info.json") == load(source / "meta/info.json")
    assert contents(again / "data") == contents(v30 / "data")
    for path in source.rglob("*.parquet"):
        assert pq.read_schema(back / path.relative_to(source)).equals(pq.read_schema(path), check_metadata=True)


def test_every_picture_is_at_exactly_k_over_fps_and_in_its_episode(kind, source, v30, tmp_path):
    back, rate = tmp_path / "back", Fraction(str(kind.fps))
    convert_dataset(v30, back, to="v2.1")
    for number, camera in enumerate(kind.cameras):
        files = sorted((v30 / "videos" / camera).rglob("*.mp4"))
        assert len(files) == 1
        assert shown(files[0]) == [(k / rate, k + 1000 * number) for k in range(sum(kind.lengths))]
        first = 0
        for k, length in enumerate(kind.lengths):
            path = back / f"videos/chunk-000/{camera}/episode_{k:06d}.mp4"
            assert shown(path) == [(j / rate, first + j + 1000 * number) for j in range(length)]
            first += length


def test_v30_says_where_each_episode_is(kind, v30):
    (path,) = (v30 / "meta/episodes").rglob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    stops = np.cumsum(kind.lengths).tolist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == list(zip([0, *stops[:-1]], stops, strict=True))
    assert [row["tasks"] for row in rows] == [sorted({TASKS[k % 2], TASKS[0]}) for k in range(len(rows))]
    for camera in kind.cameras:
        assert [row[f"videos/{camera}/from_timestamp"] for row in rows] == [start / kind.fps for start in [0, *stops[:-1]]]
        assert [row[f"videos/{camera}/to_timestamp"] for row in rows] == [stop / kind.fps for stop in stops]
    info = load(v30 / "meta/info.json")
    assert (info["codebase_version"], info["total_frames"], info["fps"]) == ("v3.0", stops[-1], kind.fps)
    assert (info["robot_type"], info["splits"], info["collected_by"]) == ("arm", {"train": "0:2", "val": "2:3"}, "a robot in Ulm")
    assert not {"total_videos", "total_chunks"} & info.keys()


@pytest.mark.parametrize(("given", "wanted"), [("v2.0", "v2.1"), ("v2.1", "v2.0")])
def test_between_v20_and_v21_files_are_linked_and_the_source_is_not_changed(given, wanted, tmp_path):
    source = write_source(tmp_path / "s", Kind(version=given))
    before = contents(source)
    report = convert_dataset(source, tmp_path / "t", to=wanted)
    assert contents(source) == before
    linked = [*source.rglob("*.parquet"), *source.rglob("*.mp4")]
    assert len(linked) == 6
    for path in linked:
        assert (tmp_path / "t" / path.relative_to(source)).stat().st_ino == path.stat().st_ino
    assert {"parquet files linked: 3", "videos linked: 3"} <= set(report.done)
    assert load(tmp_path / "t/meta/info.json")["codebase_version"] == wanted
    assert (tmp_path / "t/meta/episodes_stats.jsonl").is_file() == (wanted == "v2.1")
    assert (tmp_path / "t/meta/stats.json").is_file() == (wanted == "v2.0")


def test_a_link_into_the_hubs_cache_is_followed(tmp_path):
    source = write_source(tmp_path / "s")
    path = source / f"videos/chunk-000/{HIGH}/episode_000001.mp4"
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    convert_dataset(source, tmp_path / "t", to="v2.0")
    made = tmp_path / "t" / path.relative_to(source)
    assert not made.is_symlink()
    assert made.stat().st_ino == (tmp_path / "blob").stat().st_ino


def test_an_mp4_whose_times_were_rounded_is_not_linked_but_put_right(tmp_path):
    source = write_source(tmp_path / "s")
    path = source / f"videos/chunk-000/{HIGH}/episode_000001.mp4"
    remux(path, tmp_path / "rounded.mp4", lambda k: round(k * 1000 / 30) + 3, Fraction(1, 1000))
    (tmp_path / "rounded.mp4").replace(path)
    report = convert_dataset(source, tmp_path / "t", to="v2.0")
    assert {"videos linked: 2", "videos whose packets were copied: 1"} <= set(report.done)
    assert [time for time, _ in shown(tmp_path / "t" / path.relative_to(source))] == [Fraction(k, 30) for k in range(7)]
    assert f"times in the videos of {HIGH} in episode_000001: were not exactly k / fps, and are now" in report.not_kept
    convert_dataset(source, tmp_path / "v30", to="v3.0")
    assert packets(tmp_path / "v30", HIGH) == packets(source, HIGH)


def remux(path, target, pts, base, *, audio=False):
    with av.open(str(path)) as given, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(given.streams.video[0])
        sound = output.add_stream("aac", rate=8000) if audio else None
        for k, packet in enumerate(p for p in given.demux(video=0) if p.size):
            packet.stream, packet.time_base = stream, base
            packet.pts = packet.dts = pts(k)
            packet.duration = 1
            output.mux(packet)
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            output.mux(sound.encode(frame))
            output.mux(sound.encode(None))


def test_sound_is_kept_by_a_link_and_otherwise_said_to_be_lost(tmp_path):
    source = write_source(tmp_path / "s")
    path = source / f"videos/chunk-000/{HIGH}/episode_000002.mp4"
    remux(path, tmp_path / "sound.mp4", lambda k: k, Fraction(1, 30), audio=True)
    (tmp_path / "sound.mp4").replace(path)
    lost = f"audio in the videos of {HIGH}: only pictures are copied"
    assert lost not in convert_dataset(source, tmp_path / "v20", to="v2.0").not_kept
    assert lost in convert_dataset(source, tmp_path / "v30", to="v3.0").not_kept


def test_another_stream_header_begins_another_file(tmp_path):
    kind = Kind(lengths=(5, 6, 4, 7))
    source = write_source(tmp_path / "s", kind)
    for k, first in ((1, 5), (2, 11)):
        path = source / f"videos/chunk-000/{HIGH}/episode_{k:06d}.mp4"
        path.unlink()
        write_video(path, first, kind.lengths[k], "h264", 30, options={"preset": "slow", "profile": "high"})
    convert_dataset(source, tmp_path / "t", to="v3.0")
    files = sorted((tmp_path / "t/videos").rglob("*.mp4"))
    assert [[number for _, number in shown(path)] for path in files] == [[*range(5)], [*range(5, 15)], [*range(15, 22)]]
    assert packets(tmp_path / "t", HIGH) == packets(source, HIGH)
    convert_dataset(tmp_path / "t", tmp_path / "back", to="v2.1")
    assert packets(tmp_path / "back", HIGH) == packets(source, HIGH)


def test_our_own_v30_of_many_files_to_v21_and_back(tmp_path, monkeypatch):
    small_files(monkeypatch)
    made = episode_folders.Kind(codec="mjpeg", cameras=("cam_high", "cam_wrist"))
    episodes = episode_folders.write_episodes(tmp_path / "e", [5, 9, 4, 6, 3], kind=made, tasks=["pick", "place", "wait"])
    v30 = write_lerobot_v3(tmp_path / "v3", episodes, spec=episode_folders.spec(made), robot="arm").folder
    convert_dataset(v30, tmp_path / "v21", to="v2.1")
    convert_dataset(tmp_path / "v21", tmp_path / "again", to="v3.0")
    for folder in (tmp_path / "v21", tmp_path / "again"):
        assert all_rows(folder) == all_rows(v30)
        for camera in ("observation.images.cam_high", "observation.images.cam_wrist"):
            assert packets(folder, camera) == packets(v30, camera)
    assert lines(tmp_path / "v21/meta/tasks.jsonl") == [{"task_index": k, "task": t} for k, t in enumerate(("pick", "place", "wait"))]


def test_what_meta_says_beyond_lerobots_own_goes_there_and_back(tmp_path):
    source = write_source(tmp_path / "s")
    more = {"operator": "Ana", "steps": [{"start": 0, "skill": "reach"}], "score": 0.5}
    edit_lines(source / "meta/episodes.jsonl", lambda rows: [rows[0] | more, rows[1] | {"operator": "Bo"}, rows[2]])
    edit_lines(source / "meta/tasks.jsonl", lambda rows: [row | {"instruction_id": 7} for row in rows])
    save(source / "meta/modality.json", {"state": {}})
    convert_dataset(source, tmp_path / "v30", to="v3.0")
    convert_dataset(tmp_path / "v30", tmp_path / "back", to="v2.1")
    for name in ("meta/episodes.jsonl", "meta/tasks.jsonl", "meta/modality.json"):
        assert (tmp_path / "back" / name).read_text() == (source / name).read_text()


def test_what_cannot_be_held_is_said_by_name(tmp_path):
    source = write_source(tmp_path / "s")
    edit_lines(source / "meta/episodes.jsonl", lambda rows: [row | {"mixed": ["a", 1, {"b": 2}][k]} for k, row in enumerate(rows)])
    write(source / "data/chunk-000/episode_000009.parquet", pq.read_table(source / "data/chunk-000/episode_000000.parquet"))
    info = load(source / "meta/info.json")
    info["features"]["observation.images.gone"] = info["features"][HIGH]
    save(source / "meta/info.json", info)
    report = convert_dataset(source, tmp_path / "v30", to="v3.0", without=["observation.images.gone"])
    said = "\n".join(report.not_kept)
    assert "mixed of the episodes in meta/" in said
    assert "data/chunk-000/episode_000009.parquet" in said
    assert "feature observation.images.gone: left out" in said
    assert f"quantiles of {HIGH}" in said
    assert "observation.images.gone" not in load(tmp_path / "v30/meta/info.json")["features"]


def test_a_timestamp_that_does_not_begin_at_zero_is_kept_in_v2_and_put_right_in_v30(tmp_path):
    source = write_source(tmp_path / "s")
    path = source / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    late = (np.arange(7) / 30 + 1 / 30).astype(np.float32)
    write(path, table.set_column(table.column_names.index("timestamp"), "timestamp", [late]))
    assert "timestamp" not in "".join(convert_dataset(source, tmp_path / "v20", to="v2.0").not_kept)
    assert all_rows(tmp_path / "v20") == all_rows(source)
    report = convert_dataset(source, tmp_path / "v30", to="v3.0")
    assert report.not_kept[0].startswith("timestamp of episode_000001: not k / fps to 0.1 ms")
    assert [row["timestamp"] for row in all_rows(tmp_path / "v30")[12:19]] == (np.arange(7) / 30).astype(np.float32).tolist()
    (rows,) = (pq.read_table(p).to_pylist() for p in (tmp_path / "v30/meta/episodes").rglob("*.parquet"))
    assert rows[1]["stats/timestamp/min"] == [0.0]


def test_statistics_are_copied_and_quantiles_come_from_the_numbers(tmp_path):
    source = write_source(tmp_path / "s")
    report = convert_dataset(source, tmp_path / "v30", to="v3.0")
    expected = lines(source / "meta/episodes_stats.jsonl")
    firsts = np.cumsum([0, 12, 7, 20])
    whole = np.array([row["action"] for row in all_rows(source)])
    for row, line, a, b in zip(stats_of(tmp_path / "v30"), expected, firsts, firsts[1:], strict=False):
        for name, found in line["stats"].items():
            assert {kind: row[f"stats/{name}/{kind}"] for kind in found} == found
        assert {q: row[f"stats/action/{q}"] for q in QUANTILES} == {q: vector_stats(whole[a:b])[q] for q in QUANTILES}
        assert np.shape(row["stats/observation.environment_state/mean"]) == (2, 2)
        assert f"stats/{HIGH}/q01" not in row
        assert "stats/note/min" not in row
    dataset = load(tmp_path / "v30/meta/stats.json")
    np.testing.assert_allclose(dataset["action"]["mean"], whole.mean(0), atol=1e-7)
    np.testing.assert_allclose(dataset["action"]["std"], whole.std(0), atol=1e-7)
    assert dataset[HIGH]["mean"] == [[[0.25]], [[0.5]], [[0.75]]]
    said = "\n".join(report.done)
    assert f"statistics copied: min, max, mean, std, count of observation.state, action, {HIGH}" in said
    assert "statistics computed from the numbers: q01, q10, q50, q90, q99 of observation.state, action" in said
    convert_dataset(tmp_path / "v30", tmp_path / "back", to="v2.1")
    for line, given in zip(lines(tmp_path / "back/meta/episodes_stats.jsonl"), expected, strict=True):
        assert given["stats"].items() <= line["stats"].items()


def test_quantiles_of_images_are_computed_where_they_are_asked_for(tmp_path):
    source = write_source(tmp_path / "s", Kind(lengths=(6, 5, 4)))
    report = convert_dataset(source, tmp_path / "v30", to="v3.0", image_quantiles=True)
    assert not [line for line in report.not_kept if "quantiles" in line]
    row = stats_of(tmp_path / "v30")[0]
    assert row[f"stats/{HIGH}/mean"] == [[[0.25]], [[0.5]], [[0.75]]]
    assert np.shape(row[f"stats/{HIGH}/q99"]) == (3, 1, 1)


def test_a_column_that_is_not_finite_has_no_computed_statistics_and_keeps_its_values(tmp_path):
    source = write_source(tmp_path / "s", Kind(odd_columns=True))
    path = source / "data/chunk-000/episode_000001.parquet"
    table = pq.read_table(path)
    write(path, table.set_column(table.column_names.index("next.reward"), "next.reward", [np.array([np.nan] * 7, np.float32)]))
    report = convert_dataset(source, tmp_path / "v30", to="v3.0")
    assert any("of next.reward: a value is not finite" in line and "episode_000001" in line for line in report.not_kept)
    assert "stats/next.reward/min" not in stats_of(tmp_path / "v30")[0]
    assert np.isnan(all_rows(tmp_path / "v30")[12]["next.reward"])
