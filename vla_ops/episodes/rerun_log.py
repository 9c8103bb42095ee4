"""An episode as a Rerun recording (.rrd): its numbers by name and its videos as they are encoded, on one timeline in seconds.

Entities: `task` and `facts` (texts); `state/<dimension>`, `action/<dimension>` and `skew_ms/<stream>` (scalars);
`cameras/<camera>` (the whole mp4 once and which of its frames is when; of MJPEG, the JPEGs). Timelines: `seconds`, from 0, and `frame`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.episodes.store import Episode

if TYPE_CHECKING:
    import pyarrow as pa

RRD = "episode.rrd"
_SKEW = "skew_ns/"


def is_installed() -> bool:
    """Whether the Rerun SDK (extra `viz`) is there."""
    from importlib.util import find_spec

    return find_spec("rerun") is not None


def write_rrd(path: Path, episode: Episode, *, name: str, facts: str = "", units: Mapping[str, str] | None = None) -> None:
    """Write `episode` to `path`, called `name` in the viewer; `units` by dimension stand in the names of its curves."""
    import rerun as rr  # pyright: ignore[reportMissingImports]

    with rr.RecordingStream("vla_ops", recording_id=f"{name} {episode.version}", send_properties=False) as stream:
        stream.save(path, default_blueprint=_layout(episode, units or {}))
        stream.send_recording_name(name)
        stream.log("task", rr.TextDocument(episode.meta.task), static=True)
        stream.log("facts", rr.TextDocument(facts), static=True)
        _log_numbers(stream, episode, units or {})
        for camera in episode.meta.videos:
            _log_camera(stream, episode, camera)
        stream.flush()


def _log_numbers(stream: Any, episode: Episode, units: Mapping[str, str]) -> None:
    import pyarrow.parquet as pq
    import rerun as rr  # pyright: ignore[reportMissingImports]

    frames = np.arange(episode.meta.length)
    for path, label, values in _curves(episode, pq.read_table(episode.frames)):
        unit = units.get(label.partition(" ")[2])
        stream.log(path, rr.SeriesLines(names=f"{label} [{unit}]" if unit else label), static=True)
        stream.send_columns(path, _times(episode, frames), rr.Scalars.columns(scalars=values))


def _curves(episode: Episode, table: pa.Table) -> Iterator[tuple[str, str, np.ndarray]]:
    """Entity, label and values float64 [frames] of every dimension, and of every stream's skew in ms."""
    vectors = {"state": ("observation.state", episode.meta.state_names), "action": ("action", episode.meta.action_names)}
    for vector, (column, names) in vectors.items():
        values = table[column].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
        for name, series in zip(names, values.T, strict=True):
            yield _entity(vector, name), f"{vector} {name}", series.astype(np.float64)
    for column in table.column_names:
        if column.startswith(_SKEW):
            yield _entity("skew_ms", column.removeprefix(_SKEW)), column.removeprefix(_SKEW), table[column].to_numpy() / 1e6


def _log_camera(stream: Any, episode: Episode, camera: str) -> None:
    import rerun as rr  # pyright: ignore[reportMissingImports]

    path, entity = episode.video(camera), _entity("cameras", camera)
    if episode.meta.videos[camera].codec == "mjpeg":
        # Not one of the viewer's video codecs, and every packet is an image file.
        packets = _packets(path)
        images = rr.EncodedImage.columns(blob=packets, media_type=["image/jpeg"] * len(packets))
        stream.send_columns(entity, _times(episode, np.arange(len(packets))), images)
        return
    video = rr.AssetVideo(path=path)
    shown_ns = video.read_frame_timestamps_nanos()
    stream.log(entity, video, static=True)
    stream.send_columns(entity, _times(episode, np.arange(len(shown_ns))), rr.VideoFrameReference.columns_nanos(shown_ns))


def _packets(path: Path) -> list[bytes]:
    import av

    packets: list[bytes] = []
    with av.open(str(path)) as container:
        packets += [bytes(packet) for packet in container.demux(video=0) if packet.pts is not None]
    return packets


def _times(episode: Episode, frames: np.ndarray) -> list[Any]:
    import rerun as rr  # pyright: ignore[reportMissingImports]

    at_ns = np.round(frames * 1e9 / episode.meta.rate_hz).astype("timedelta64[ns]")
    return [rr.TimeColumn("seconds", duration=at_ns), rr.TimeColumn("frame", sequence=frames)]


def _layout(episode: Episode, units: Mapping[str, str]) -> Any:
    """The viewer's panes: cameras above, below a plot a dimension, state and action of the same name together."""
    import rerun.blueprint as rrb  # pyright: ignore[reportMissingImports]

    lanes: dict[str, list[str]] = {}
    for vector, names in (("state", episode.meta.state_names), ("action", episode.meta.action_names)):
        for name in names:
            lanes.setdefault(name, []).append(_entity(vector, name))
    plots = [
        rrb.TimeSeriesView(name=f"{name} [{units[name]}]" if name in units else name, origin="/", contents=paths)
        for name, paths in lanes.items()
    ]
    numbers = rrb.Tabs(
        rrb.Grid(*plots, name="state and action"),
        rrb.TimeSeriesView(name="skew, ms", origin="/skew_ms"),
        rrb.TextDocumentView(name="facts", origin="/facts"),
    )
    cameras = [rrb.Spatial2DView(name=camera, origin=_entity("cameras", camera)) for camera in episode.meta.videos]
    whole = rrb.Vertical(rrb.Horizontal(*cameras), numbers, row_shares=[2, 3]) if cameras else numbers
    return rrb.Blueprint(whole, rrb.TimePanel(timeline="seconds"), collapse_panels=True)


def _entity(group: str, name: str) -> str:
    """The path of `name` as one part of it, whatever characters it has."""
    import rerun as rr  # pyright: ignore[reportMissingImports]

    return rr.new_entity_path([group, name])
