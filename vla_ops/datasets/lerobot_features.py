"""What LeRobot calls features: names, shapes and video settings, and the proof that all episodes agree on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vla_ops.episodes.store import Episode, EpisodeMeta
from vla_ops.errors import DatasetError, SchemaMismatchError
from vla_ops.robot import RobotSpec

VECTORS = ("observation.state", "action")
INDEX_COLUMNS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64", "task_index": "int64"}
CODEBASE_VERSION = "v3.0"
CHUNKS_SIZE = 1000
DATA_FILES_MB = 100
VIDEO_FILES_MB = 200

_ENCODER_KEYS = ("g", "crf", "preset", "fast_decode", "video_backend", "extra_options")

_AGAIN = "The store was changed or damaged: delete {}, and the next run converts that recording again."


def video_key(camera: str) -> str:
    """LeRobot's feature name of a camera."""
    return f"observation.images.{camera}"


def cameras_of(features: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The cameras of a dataset with these features, in their order."""
    return [name.removeprefix(video_key("")) for name, feature in features.items() if feature["dtype"] == "video"]


def check_episodes(episodes: Sequence[Episode], spec: RobotSpec) -> None:
    """Raise DatasetError or SchemaMismatchError, naming episodes and both values, unless they can be one dataset."""
    if not episodes:
        raise DatasetError(
            "a dataset needs at least one episode", found="none", todo="Convert recordings first, or look at the quarantine."
        )
    doubled = [name for name, count in Counter(e.id for e in episodes).items() if count > 1]
    if doubled:
        raise DatasetError("an episode is in the list more than once", episode=doubled[0], found=f"{len(doubled)} such episodes")
    first = episodes[0]
    _check_against_spec(first, spec)
    for episode in episodes:
        if not _agree(episode.meta, first.meta):
            _refuse_schema(episode, first)
        _check_complete(episode)


def _agree(a: EpisodeMeta, b: EpisodeMeta) -> bool:
    """Compare what `_schema` lists, without making the lists: this is done for every episode of a dataset at every append."""
    if (a.rate_hz, a.state_names, a.action_names) != (b.rate_hz, b.state_names, b.action_names) or a.videos.keys() != b.videos.keys():
        return False
    pairs = ((video, b.videos[camera]) for camera, video in a.videos.items())
    return all((v.height, v.width, v.codec, v.pix_fmt) == (w.height, w.width, w.codec, w.pix_fmt) for v, w in pairs)


def _schema(meta: EpisodeMeta) -> Iterator[tuple[str, str | None, Any]]:
    """Yield (what, camera, value) of everything that must be the same in all episodes."""
    yield "rate", None, f"{meta.rate_hz} Hz"
    yield "state names", None, meta.state_names
    yield "action names", None, meta.action_names
    yield "cameras", None, sorted(meta.videos)
    for camera in sorted(meta.videos):
        video = meta.videos[camera]
        yield "resolution", camera, f"{video.height}x{video.width}"
        yield "video codec", camera, video.codec
        yield "pixel format", camera, video.pix_fmt


def _refuse_schema(episode: Episode, first: Episode) -> None:
    # Both list as much: where the cameras differ, the loop ends there.
    for found, expected in zip(_schema(episode.meta), _schema(first.meta), strict=True):
        if found != expected:
            what, camera, value = found
            raise SchemaMismatchError(
                f"episodes of one dataset differ in {what}",
                episode=episode.id,
                stream=camera,
                found=value,
                expected=f"{expected[2]} as in episode {first.id}",
                todo="Convert the recordings again with the present spec, or keep those that differ out of this robot's recordings.",
            )


def _check_against_spec(first: Episode, spec: RobotSpec) -> None:
    wanted = {
        "rate": f"{spec.timeline.rate_hz} Hz",
        "state names": [d.name for d in spec.state_dims],
        "action names": [d.name for d in spec.action_dims],
        "cameras": sorted(spec.cameras),
    }
    for what, _, value in _schema(first.meta):
        if what in wanted and value != wanted[what]:
            raise SchemaMismatchError(
                f"episodes and robot spec differ in {what}",
                episode=first.id,
                found=value,
                expected=f"{wanted[what]} as in the spec",
                todo="The spec was changed after this conversion: convert the recordings again.",
            )


def _check_complete(episode: Episode) -> None:
    meta = episode.meta
    if meta.length < 1:
        raise DatasetError("an episode has no frames", episode=episode.id, todo=_AGAIN.format(episode.folder.parent))
    for camera, video in meta.videos.items():
        if video.frames != meta.length:
            raise DatasetError(
                "a video's frame count differs from the length of its episode",
                episode=episode.id,
                stream=camera,
                found=f"{video.frames} frames",
                expected=f"{meta.length} frames",
                todo=_AGAIN.format(episode.folder.parent),
            )
    missing = [name for name in (*VECTORS, *map(video_key, meta.videos)) if name not in meta.stats]
    if missing:
        raise DatasetError("episode.json has no statistics of a feature", episode=episode.id, found=sorted(meta.stats), expected=missing)


def make_features(episodes: Sequence[Episode], cameras: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return info.json's `features`, cameras in the order given."""
    meta = episodes[0].meta
    vectors = {
        name: {"dtype": "float32", "shape": [len(names)], "names": list(names)}
        for name, names in zip(VECTORS, (meta.state_names, meta.action_names), strict=True)
    }
    videos = {video_key(camera): _video_feature(episodes, camera) for camera in cameras}
    indices = {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in INDEX_COLUMNS.items()}
    return vectors | videos | indices


def _video_feature(episodes: Sequence[Episode], camera: str) -> dict[str, Any]:
    meta = episodes[0].meta
    video = meta.videos[camera]
    info = {
        "video.height": video.height,
        "video.width": video.width,
        "video.codec": video.codec,
        "video.pix_fmt": video.pix_fmt,
        "video.fps": meta.rate_hz,
        "video.channels": 3,
        "has_audio": False,
        "is_depth_map": False,
    }
    shape = [video.height, video.width, 3]
    info |= _encoder_info([e.meta.videos[camera].encoder for e in episodes])
    return {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"], "info": info}


def _encoder_info(encoders: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings that all episodes were encoded with; nothing where packets were copied from the recording."""
    if not all(encoders):
        return {}
    defaults = {"fast_decode": 0, "video_backend": "pyav", "extra_options": {}}
    first = defaults | encoders[0]
    others = [defaults | e for e in encoders if e != encoders[0]]
    return {f"video.{k}": first[k] for k in _ENCODER_KEYS if k in first and all(e.get(k) == first[k] for e in others)}


def make_info(
    features: dict[str, dict[str, Any]],
    *,
    robot: str | None,
    rate_hz: float,
    episodes: int,
    frames: int,
    tasks: int,
    held_out: Sequence[int] = (),
) -> dict[str, Any]:
    """Return info.json. `held_out`: indices of the episodes for validation, ascending."""
    path = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    has_video = any(f["dtype"] == "video" for f in features.values())
    return {
        "codebase_version": CODEBASE_VERSION,
        "fps": rate_hz,
        "features": features,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNKS_SIZE,
        "data_files_size_in_mb": DATA_FILES_MB,
        "video_files_size_in_mb": VIDEO_FILES_MB,
        "data_path": f"data/{path}.parquet",
        "video_path": f"videos/{{video_key}}/{path}.mp4" if has_video else None,
        "robot_type": robot,
        "splits": splits(episodes, held_out),
    }


def splits(episodes: int, held_out: Sequence[int]) -> dict[str, str]:
    """LeRobot's splits are ranges: only held-out episodes that stand together at either end can be told apart by them."""
    count = len(held_out)
    if count and list(held_out) == list(range(episodes - count, episodes)):
        return {"train": f"0:{episodes - count}", "val": f"{episodes - count}:{episodes}"}
    if count and list(held_out) == list(range(count)):
        return {"train": f"{count}:{episodes}", "val": f"0:{count}"}
    return {"train": f"0:{episodes}"}
