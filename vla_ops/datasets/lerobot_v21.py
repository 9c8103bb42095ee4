"""LeRobot v2.1 datasets, which openpi reads: the same episodes, in the same order, as one version of the LeRobot v3.0 dataset.

`<store>/lerobot_v21/<version>/` has the version of the v3.0 dataset that it is a view of. It has one parquet file and one mp4 a
camera for each episode; the mp4 files are hard links of the episodes' own, so that the view takes next to no space.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ops.datasets.dataset_card import dataset_card
from vla_ops.datasets.file_runs import Run
from vla_ops.datasets.lerobot_features import CHUNKS_SIZE, cameras_of, splits, video_key
from vla_ops.datasets.lerobot_layout import DATA, Layout
from vla_ops.datasets.lerobot_stats import episode_stats
from vla_ops.datasets.lerobot_tables import write_data
from vla_ops.datasets.lerobot_version import CARD_FILE, HELD_OUT, INFO_FILE, VERSION_FILE, PreviousVersion, video_bytes
from vla_ops.datasets.ticks import Progress
from vla_ops.datasets.views import in_order
from vla_ops.episodes.store import Episode
from vla_ops.errors import DatasetError
from vla_ops.files import link_or_copy, replacing, sweep
from vla_ops.recordings.lerobot_index import LeRobotIndex
from vla_ops.robot import RobotSpec

CODEBASE_VERSION = "v2.1"
# Raise when the same episodes would now give other files.
FORMAT_VERSION = 2
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
EPISODES_FILE, TASKS_FILE, STATS_FILE = "meta/episodes.jsonl", "meta/tasks.jsonl", "meta/episodes_stats.jsonl"
# Key of vla_ops.json in a view: camera -> size of each episode's video.
VIDEO_BYTES = "video_bytes"
# What v2.1 keeps of an episode's statistics.
STATS = ("min", "max", "mean", "std", "count")
_AGAIN = "Delete {}; the next run writes it anew."


@dataclass(frozen=True)
class View:
    """A v2.1 dataset on disk, and the episodes whose parquet was written for it; the others are links of the view before."""

    folder: Path
    version: str
    layout: Layout
    written: list[int]
    # False: it was there already and nothing was done.
    created: bool

    def summary(self) -> str:
        """One line on what is there and what writing it took."""
        episodes, frames = len(self.layout.entries), self.layout.first_frames[-1]
        done = f"{len(self.written)} written, {episodes - len(self.written)} shared" if self.created else "up to date"
        return f"version {self.version}: {episodes} episodes, {frames:,} frames; {done}"


def write_lerobot_v21(
    root: Path, v30: Path, episodes: Sequence[Episode], *, spec: RobotSpec, robot: str, progress: Progress | None = None
) -> View:
    """Write `root/<version>/`, the v2.1 view of the v3.0 dataset folder `v30` made of `episodes` (in any order).

    Everything but the card's licence is as the v3.0 dataset says, whatever `spec` has become since. `progress(done, total)` counts
    episodes. Raise DatasetError for episodes that are not those of the v3.0 dataset, and StoreError for a full disk.
    """
    identity, info = _read_json(v30 / VERSION_FILE), _read_json(v30 / INFO_FILE)
    layout, version = Layout(Layout.from_json(identity).entries, {}), identity["version"]
    target = root / version
    if _format_of(target) == FORMAT_VERSION:
        return View(target, version, layout, [], created=False)
    ordered, cameras = in_order(episodes, layout, v30), cameras_of(info["features"])
    _check_cameras(ordered, cameras, v30)
    sizes = {camera: [video_bytes(episode, camera) for episode in ordered] for camera in cameras}
    sweep(root)
    writer = _ViewWriter(ordered, layout, v30_info=info, held_out=identity.get(HELD_OUT, []), shared=_shared_parquet(root, layout))
    with replacing(target) as work:
        written = list(writer.write(work, progress))
        writer.write_meta(work, robot=robot, licence=spec.dataset.licence)
        write_lines(work / VERSION_FILE, [identity | {"format": FORMAT_VERSION, VIDEO_BYTES: sizes} | layout.to_json()])
    return View(target, version, layout, written, created=True)


def _format_of(folder: Path) -> int | None:
    try:
        return json.loads((folder / VERSION_FILE).read_text(encoding="utf-8"))["format"]
    except FileNotFoundError:
        return None


def _check_cameras(episodes: Sequence[Episode], cameras: Sequence[str], v30: Path) -> None:
    for episode in episodes:
        if differing := episode.meta.videos.keys() ^ set(cameras):
            raise DatasetError(
                "an episode and its LeRobot v3.0 dataset differ in a camera",
                file=v30,
                episode=episode.id,
                stream=min(differing),
                found=sorted(episode.meta.videos),
                expected=sorted(cameras),
                todo="Make the v3.0 dataset again first: `lerobot_v3`, or `vla-ops convert`.",
            )


def _shared_parquet(root: Path, layout: Layout) -> dict[int, Path]:
    """Episode -> the parquet file of an earlier view that holds the same rows."""
    newest = max((path for path in root.glob(f"*/{VERSION_FILE}")), key=lambda path: path.stat().st_mtime_ns, default=None)
    before = PreviousVersion.read(newest.parent.parent, FORMAT_VERSION) if newest else None
    if before is None:
        return {}
    held = {key: k for k, key in enumerate(before.layout.keys(DATA))}
    places = {k: held[key] for k, key in enumerate(layout.keys(DATA)) if key in held}
    return {k: before.folder / data_file(place) for k, place in places.items()}


def data_file(k: int) -> str:
    """Path of an episode's parquet file below the dataset folder."""
    return DATA_PATH.format(episode_chunk=k // CHUNKS_SIZE, episode_index=k)


def video_file(k: int, camera: str) -> str:
    """Path of an episode's video of a camera below the dataset folder."""
    return VIDEO_PATH.format(episode_chunk=k // CHUNKS_SIZE, episode_index=k, video_key=video_key(camera))


def differences(view: Path, v30: Path) -> Iterator[str]:
    """Yield what is not the same in a v2.1 view and its v3.0 dataset, read back from both.

    Compared are info.json, the tasks, and of each episode its task, length, statistics, rows and the size of its videos.
    """
    info, v30_info = _read_json(view / INFO_FILE), _read_json(v30 / INFO_FILE)
    yield from _info_differences(info, v30_info)
    if {row["task_index"]: row["task"] for row in _read_lines(view / TASKS_FILE)} != LeRobotIndex(v30).tasks:
        yield f"the tasks in {TASKS_FILE}"
    yield from _listed_differences(view, v30, list(v30_info["features"]))
    yield from _row_differences(view, v30)
    yield from _video_differences(view, cameras_of(v30_info["features"]), v30_info["total_episodes"])


def _info_differences(info: dict[str, Any], v30_info: dict[str, Any]) -> Iterator[str]:
    for key in ("robot_type", "fps", "total_episodes", "total_frames", "total_tasks", "splits"):
        if info.get(key) != v30_info[key]:
            yield f"info.json: {key}: {info.get(key)}, not {v30_info[key]}"
    found, expected = info.get("features", {}), v30_info["features"]
    yield from (f"info.json: feature {name}" for name in {**expected, **found} if found.get(name) != expected.get(name))


def _listed_differences(view: Path, v30: Path, features: Sequence[str]) -> Iterator[str]:
    import pyarrow.parquet as pq

    listed, stats = ({row["episode_index"]: row for row in _read_lines(view / name)} for name in (EPISODES_FILE, STATS_FILE))
    for path in sorted((v30 / "meta/episodes").glob("*/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            k = row["episode_index"]
            line, of_features = listed.pop(k, {}), stats.pop(k, {}).get("stats", {})
            if (row["length"], row["tasks"]) != (line.get("length"), line.get("tasks")):
                yield f"episode {k}: length or task: {line or 'not listed'}"
            for feature in features:
                found = of_features.get(feature, {})
                if any(found.get(name) != row[f"stats/{feature}/{name}"] for name in STATS):
                    yield f"episode {k}: statistics of {feature}"
    yield from (f"episode {k}: in meta/, and not in the v3.0 dataset" for k in {**listed, **stats})


def _row_differences(view: Path, v30: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in sorted((v30 / "data").glob("*/*.parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            k = rows["episode_index"][0].as_py()
            try:
                mine = pq.read_table(view / data_file(k))
            except (OSError, pa.ArrowException) as error:
                yield f"episode {k}: {data_file(k)} cannot be read: {error}"
                continue
            if mine.column_names != rows.column_names:
                yield f"episode {k}: columns {mine.column_names}"
                continue
            yield from (f"episode {k}: {name}" for name in rows.column_names if not mine[name].equals(rows[name]))


def _video_differences(view: Path, cameras: Sequence[str], episodes: int) -> Iterator[str]:
    """Compare with the sizes that the episodes' own videos had: a link shares what happens to them since."""
    sizes = _read_json(view / VERSION_FILE).get(VIDEO_BYTES, {})
    for camera in cameras:
        expected = sizes.get(camera, [])
        for k in range(episodes):
            path = view / video_file(k, camera)
            found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
            wanted = f"{expected[k]} bytes" if k < len(expected) else "a size that is known"
            if found != wanted:
                yield f"episode {k}: video of {camera}: {found}, not {wanted}"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError("cannot be read", file=path, found=str(error), todo=_AGAIN.format(path.parent.parent)) from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; none where it is missing."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise DatasetError("a line is not valid JSON", file=path, found=str(error), todo=_AGAIN.format(path.parent.parent)) from error


class _ViewWriter:
    """Writes the files of one view into a folder."""

    def __init__(
        self, episodes: list[Episode], layout: Layout, *, v30_info: dict[str, Any], held_out: list[int], shared: dict[int, Path]
    ) -> None:
        self.episodes, self.layout, self.held_out, self.shared = episodes, layout, held_out, shared
        self.features: dict[str, dict[str, Any]] = v30_info["features"]
        self.rate_hz: int = v30_info["fps"]
        self.cameras = cameras_of(self.features)

    def write(self, folder: Path, progress: Progress | None) -> Iterator[int]:
        """Write the numbers and link the videos; yield the episodes whose parquet was written and not linked."""
        for k, episode in enumerate(self.episodes):
            target = folder / data_file(k)
            if k in self.shared:
                link_or_copy(self.shared[k], target)
            else:
                list(write_data(target, self.episodes, Run(k, k + 1), layout=self.layout, vectors_are="Sequence"))
                yield k
            for path, camera in ((folder / video_file(k, camera), camera) for camera in self.cameras):
                link_or_copy(episode.video(camera), path)
                path.chmod(0o444)
            # Views share inodes with each other and with the episodes: who opens a file for writing would change them all.
            target.chmod(0o444)
            if progress is not None:
                progress(k + 1, len(self.episodes))

    def write_meta(self, folder: Path, *, robot: str, licence: str) -> None:
        """Write what stands in meta/, and the card."""
        tasks, entries = self.layout.tasks, self.layout.entries
        write_lines(folder / TASKS_FILE, [{"task_index": index, "task": text} for text, index in tasks.items()])
        write_lines(folder / EPISODES_FILE, [{"episode_index": k, "tasks": [e.task], "length": e.length} for k, e in enumerate(entries)])
        write_lines(folder / STATS_FILE, [{"episode_index": k, "stats": self._stats(k)} for k in range(len(entries))])
        info = self._info(robot)
        (folder / INFO_FILE).write_text(json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        card = dataset_card(info, list(tasks), robot=robot, licence=licence, tasks_file=TASKS_FILE, held_out=self.held_out)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")

    def _stats(self, k: int) -> dict[str, dict[str, Any]]:
        found = episode_stats(k, self.episodes[k].meta, self.layout)
        return {name: {key: found[name][key] for key in STATS} for name in self.features}

    def _info(self, robot: str) -> dict[str, Any]:
        count = len(self.episodes)
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": robot,
            "total_episodes": count,
            "total_frames": self.layout.first_frames[-1],
            "total_tasks": len(self.layout.tasks),
            "total_videos": count * len(self.cameras),
            "total_chunks": -(-count // CHUNKS_SIZE),
            "chunks_size": CHUNKS_SIZE,
            "fps": self.rate_hz,
            "splits": splits(count, self.held_out),
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self.cameras else None,
            "features": self.features,
        }


def write_lines(path: Path, rows: Sequence[dict[str, Any]], *, allow_nan: bool = False) -> None:
    """Write one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=allow_nan) + "\n")
