"""The Rerun recording of an episode, read back with Rerun's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops.episodes.rerun_log import write_rrd
from vla_ops.episodes.store import Episode
from vla_ops_tests.datasets.episode_folders import Kind, changed, write_episode
from vla_ops_tests.episodes.mp4s import packets

chunk = pytest.importorskip("rerun.chunk", reason="the extra `viz` is not installed")

LENGTH, RATE_HZ = 31, 15


class Logged:
    """What an .rrd holds: entity -> column -> one value a row."""

    def __init__(self, path: Path) -> None:
        self.reader = chunk.RrdReader(path)
        self.static: dict[str, dict[str, list[Any]]] = {}
        self.timed: dict[str, dict[str, list[Any]]] = {}
        for part in self.reader.stream():
            rows = (self.static if part.is_static else self.timed).setdefault(part.entity_path, {})
            batch = part.to_record_batch()
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                rows.setdefault(name, []).extend(column.to_pylist())

    def ns(self, entity: str) -> list[int]:
        return [int(at.value if hasattr(at, "value") else at.total_seconds() * 1e9) for at in self.timed[entity]["seconds"]]

    def numbers(self, entity: str) -> list[float]:
        return [value for (value,) in self.timed[entity]["Scalars:scalars"]]


def logged(episode: Episode, folder: Path, **options: Any) -> Logged:
    write_rrd(folder / "episode.rrd", episode, name=f"arm {episode.id}", **options)
    return Logged(folder / "episode.rrd")


def made(folder: Path, codec: str, **more: Any) -> Episode:
    return write_episode(folder, "a.hdf5", LENGTH, kind=Kind(codec=codec, cameras=("cam_high", "cam_wrist"), rate_hz=RATE_HZ, **more))


def shown_ns(path: Path) -> list[int]:
    """Presentation times of the frames as PyAV reads them."""
    with av.open(str(path)) as container:
        times = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None and packet.time_base]
    return [round(at * 10**9) for at in sorted(times)]


def test_every_dimension_is_there_by_name_with_its_numbers_at_the_seconds_of_its_frames(tmp_path: Path):
    episode = made(tmp_path, "mjpeg")
    found = logged(episode, tmp_path, units={"j1": "rad", "gripper": "m"})
    table = pq.read_table(episode.frames)
    for vector, column in (("state", "observation.state"), ("action", "action")):
        values = np.array(table[column].to_pylist(), np.float64)
        for k, name in enumerate(("j1", "j2", "gripper")):
            assert found.numbers(f"/{vector}/{name}") == values[:, k].tolist()
            assert found.ns(f"/{vector}/{name}") == [round(k * 1e9 / RATE_HZ) for k in range(LENGTH)]
            assert found.timed[f"/{vector}/{name}"]["frame"] == list(range(LENGTH))
    assert found.numbers("/skew_ms/\\/arm") == [k / 1e6 for k in range(LENGTH)]
    names = {entity: rows["SeriesLines:names"][0] for entity, rows in found.static.items() if "SeriesLines:names" in rows}
    assert names["/state/j1"] == ["state j1 [rad]"]
    assert names["/action/gripper"] == ["action gripper [m]"]
    assert names["/state/j2"] == ["state j2"]


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_video_is_there_as_it_is_and_each_frame_refers_to_its_time(tmp_path: Path, codec: str):
    episode = made(tmp_path, codec)
    found = logged(episode, tmp_path)
    for camera in ("cam_high", "cam_wrist"):
        (blob,) = found.static[f"/cameras/{camera}"]["AssetVideo:blob"]
        assert bytes(blob[0]) == episode.video(camera).read_bytes()
        assert found.static[f"/cameras/{camera}"]["AssetVideo:media_type"] == [["video/mp4"]]
        rows = found.timed[f"/cameras/{camera}"]
        assert [value for (value,) in rows["VideoFrameReference:timestamp"]] == shown_ns(episode.video(camera))
        assert found.ns(f"/cameras/{camera}") == [round(k * 1e9 / RATE_HZ) for k in range(LENGTH)]


def test_mjpeg_is_there_as_the_jpegs_it_is_made_of(tmp_path: Path):
    episode = made(tmp_path, "mjpeg")
    rows = logged(episode, tmp_path).timed["/cameras/cam_wrist"]
    assert [bytes(value) for (value,) in rows["EncodedImage:blob"]] == packets(episode.video("cam_wrist"))
    assert rows["EncodedImage:media_type"] == [["image/jpeg"]] * LENGTH


def test_the_task_the_facts_and_the_name_are_there_and_the_viewer_is_told_what_to_show(tmp_path: Path):
    episode = changed(made(tmp_path, "mjpeg"), task="pick up the \u201cred\u201d cup")
    found = logged(episode, tmp_path, facts="25 frames")
    assert found.static["/task"]["TextDocument:text"] == [["pick up the \u201cred\u201d cup"]]
    assert found.static["/facts"]["TextDocument:text"] == [["25 frames"]]
    assert found.static["/__properties"]["RecordingInfo:name"] == [["arm a.hdf5/0"]]
    assert [entry.application_id for entry in found.reader.recordings()] == ["vla_ops"]
    assert len(found.reader.blueprints()) == 1


def test_dimensions_of_any_name_are_entities_of_their_own(tmp_path: Path):
    odd = ["left/arm.joint 1", "left/arm.joint 2", "\u03b8"]
    episode = changed(made(tmp_path, "mjpeg"), state_names=odd, action_names=odd)
    found = logged(episode, tmp_path)
    states = [entity for entity in found.timed if entity.startswith("/state/")]
    assert len(states) == 3
    assert all(len(found.numbers(entity)) == LENGTH for entity in states)


def test_an_episode_without_cameras_is_numbers_alone(tmp_path: Path):
    episode = write_episode(tmp_path, "a.hdf5", LENGTH, kind=Kind(cameras=(), rate_hz=RATE_HZ))
    found = logged(episode, tmp_path)
    assert not [entity for entity in found.timed if entity.startswith("/cameras")]
    assert len(found.numbers("/state/j1")) == LENGTH
