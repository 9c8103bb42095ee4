"""Write an opened dataset as LeRobot v2.1 or v2.0: a parquet file and an mp4 a camera for each episode, linked, or cut by packets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.datasets.convert.pictures import split
from vla_ops.datasets.convert.report import Report, some
from vla_ops.datasets.convert.rows import schema_for
from vla_ops.datasets.convert.source import SourceDataset
from vla_ops.datasets.convert.stats import StatsBook
from vla_ops.datasets.lerobot_features import CHUNKS_SIZE
from vla_ops.datasets.lerobot_tables import write_row_groups
from vla_ops.datasets.lerobot_v21 import DATA_PATH, EPISODES_FILE, TASKS_FILE, VIDEO_PATH, data_file, write_lines
from vla_ops.datasets.lerobot_v21 import STATS_FILE as EPISODES_STATS_FILE
from vla_ops.datasets.lerobot_version import INFO_FILE, STATS_FILE
from vla_ops.datasets.video_packets import Cut
from vla_ops.errors import DatasetError
from vla_ops.files import link_or_copy

if TYPE_CHECKING:
    import pyarrow as pa

_OF_V30 = ("data_files_size_in_mb", "video_files_size_in_mb")


class V2Writer:
    """Writes the files of a v2.1 or v2.0 dataset into a folder."""

    def __init__(self, source: SourceDataset, stats: StatsBook, report: Report, *, version: str, each: Callable[[], None]) -> None:
        self.source, self.stats, self.report, self.version, self.each = source, stats, report, version, each
        self._done: Counter[str] = Counter()

    def write(self, folder: Path) -> None:
        """Write everything into `folder`."""
        self._write_rows(folder)
        for camera in self.source.cameras:
            self._write_videos(folder, camera)
        self._write_meta(folder)
        self.report.done.extend(f"{what}: {count}" for what, count in self._done.items())

    @cached_property
    def schema(self) -> pa.Schema:
        """That of the rows."""
        return schema_for(self.source.schema, self.version)

    def _write_rows(self, folder: Path) -> None:
        for k, table in enumerate(self.source.tables()):
            self.stats.see_rows(k, table)
            target = folder / data_file(k)
            if self.source.is_v30:
                list(write_row_groups(target, self.schema, [table.replace_schema_metadata(self.schema.metadata)]))
                self._done["parquet files written"] += 1
            else:
                self._link(self.source.places[k].data, target, "parquet files")
            self.each()

    def _write_videos(self, folder: Path, camera: str) -> None:
        cuts = self.source.cuts[camera]
        by_file: dict[Path, list[int]] = {}
        for k, cut in enumerate(cuts):
            target = folder / video_file(k, camera)
            if not self.source.is_v30 and cut.is_exact(self.source.rate):
                self._link(cut.table.path, target, "videos")
                self._seen(k, camera, cut)
            else:
                by_file.setdefault(cut.table.path, []).append(k)
        for held in by_file.values():
            held.sort(key=lambda k: cuts[k].stored_from)
            targets = [folder / video_file(k, camera) for k in held]
            for k, _ in zip(held, split([cuts[k] for k in held], targets, self.source.rate), strict=True):
                self._done["videos whose packets were copied"] += 1
                self._seen(k, camera, cuts[k])

    def _seen(self, k: int, camera: str, cut: Cut) -> None:
        self.stats.see_video(k, camera, cut)
        self.each()

    def _link(self, path: Path, target: Path, what: str) -> None:
        # A link of a link, as the Hub's cache has them, would name nothing here.
        linked = link_or_copy(path.resolve(), target)
        self._done[f"{what} {'linked' if linked else 'copied as they are'}"] += 1

    def _write_meta(self, folder: Path) -> None:
        source = self.source
        more = self._more_of_episodes()
        tasks = ({"task_index": row["task_index"], "task": row["task"]} | row for row in source.index.task_rows)
        write_lines(folder / TASKS_FILE, [{name: value for name, value in row.items() if value is not None} for row in tasks])
        rows = ({"episode_index": p.index, "tasks": list(p.tasks), "length": p.length} | _there(more, p.index) for p in source.places)
        write_lines(folder / EPISODES_FILE, list(rows))
        if self.version == "v2.1":
            stats = [{"episode_index": k, "stats": self.stats.of(k)} for k in range(len(source.places))]
            write_lines(folder / EPISODES_STATS_FILE, stats, allow_nan=True)
        else:
            _dump(folder / STATS_FILE, self._whole_stats())
        _dump(folder / INFO_FILE, self._info())

    def _more_of_episodes(self) -> dict[str, list[Any]]:
        found = self.source.more_of_episodes
        if unfit := [name for name, values in found.items() if not _is_json(values)]:
            self.report.not_kept.append(f"{some(unfit)} of the episodes in meta/: values that JSON cannot hold")
        return {name: values for name, values in found.items() if name not in unfit}

    def _whole_stats(self) -> dict[str, Any]:
        """The source's own statistics of the whole where it has them of every feature, else those aggregated from its episodes."""
        path = self.source.folder / STATS_FILE
        made = self.stats.whole()
        if self.source.is_v30 and path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DatasetError("not valid JSON", file=path, found=str(error)) from error
            if made.keys() <= found.keys():
                self.report.done.append("statistics of the whole: as in the source's stats.json")
                return {name: found[name] for name in made}
        self.report.done.append("statistics of the whole: aggregated from those of the episodes")
        return made

    def _info(self) -> dict[str, Any]:
        source, count = self.source, len(self.source.places)
        kept = {name: value for name, value in source.info.items() if name not in _OF_V30}
        return kept | {
            "codebase_version": self.version,
            "total_episodes": count,
            "total_frames": source.first_frames[-1],
            "total_tasks": len(source.tasks),
            "total_videos": count * len(source.cameras),
            "total_chunks": -(-count // CHUNKS_SIZE),
            "chunks_size": CHUNKS_SIZE,
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if source.cameras else None,
            "features": source.features,
        }


def video_file(k: int, feature: str) -> str:
    """Path of an episode's video of a feature below the dataset folder."""
    return VIDEO_PATH.format(episode_chunk=k // CHUNKS_SIZE, episode_index=k, video_key=feature)


def _there(more: dict[str, list[Any]], k: int) -> dict[str, Any]:
    return {name: values[k] for name, values in more.items() if values[k] is not None}


def _is_json(values: Sequence[Any]) -> bool:
    try:
        json.dumps(values)
    except (TypeError, ValueError):
        return False
    return True


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
