"""Write an opened dataset as LeRobot v3.0: many episodes a file, joined by copying rows and packets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.datasets.convert.pictures import join
from vla_ops.datasets.convert.report import Report, some
from vla_ops.datasets.convert.rows import episode_name, is_on_time, put_on_time, schema_for
from vla_ops.datasets.convert.source import SourceDataset
from vla_ops.datasets.convert.stats import StatsBook
from vla_ops.datasets.file_runs import Run, Weight, plan_runs
from vla_ops.datasets.lerobot_features import make_info
from vla_ops.datasets.lerobot_layout import DATA, META, Entry, Layout, file_name, video_stream
from vla_ops.datasets.lerobot_tables import episode_row, write_episodes, write_row_groups, write_tasks
from vla_ops.datasets.lerobot_version import INFO_FILE, STATS_FILE, TASKS_FILE, file_limits
from vla_ops.datasets.video_packets import Cut
from vla_ops.errors import DatasetError

if TYPE_CHECKING:
    import pyarrow as pa

_COUNTED = ("codebase_version", "total_chunks", "total_videos", "data_path", "video_path", "chunks_size")


class V30Writer:
    """Writes the files of a v3.0 dataset into a folder."""

    version = "v3.0"

    def __init__(self, source: SourceDataset, stats: StatsBook, report: Report, *, each: Callable[[], None]) -> None:
        self.source, self.stats, self.report, self.each = source, stats, report, each
        self._check_tasks()
        entries = tuple(Entry(episode_name(place.index), "", place.length, "") for place in source.places)
        self.runs: dict[str, list[Run]] = {}
        self.layout = Layout(entries, {})
        for camera in source.cameras:
            self._add(video_stream(camera), list(self._video_runs(source.cuts[camera], video_stream(camera))))
        self._add(DATA, self._planned(DATA, range(len(entries)), self._data_weight))
        self._add(META, self._planned(META, range(len(entries)), lambda _: Weight(episodes=1)))
        self.retimed: list[int] = []

    def _add(self, stream: str, runs: list[Run]) -> None:
        self.runs[stream] = runs
        self.layout = self.layout.with_files(stream, runs)

    def _check_tasks(self) -> None:
        indices = sorted(self.source.tasks)
        if indices != list(range(len(indices))):
            raise DatasetError(
                "the tasks are not numbered 0, 1, 2, ...",
                file=self.source.folder / "meta",
                found=f"task_index {some(list(map(str, indices)), 20)}",
                todo="LeRobot finds a task of a v3.0 dataset by its place: number them without gaps, in meta/ and in data/.",
            )

    def _planned(self, stream: str, episodes: range, weigh: Callable[[int], Weight]) -> list[Run]:
        limits = file_limits(stream, int(self.source.fps))
        runs = plan_runs(list(episodes), [], weigh=lambda k: weigh(episodes[k]), limits=limits)
        return [Run(run.start + episodes.start, run.stop + episodes.start) for run in runs]

    def _video_runs(self, cuts: Sequence[Cut], stream: str) -> Iterator[Run]:
        """Videos with another stream header begin another file: the packets of a file are decoded with one."""
        start = 0
        for _, group in groupby(cuts, key=lambda cut: cut.table.settings):
            stop = start + len(list(group))
            yield from self._planned(stream, range(start, stop), lambda k: _video_weight(cuts[k]))
            start = stop

    def _data_weight(self, k: int) -> Weight:
        place = self.source.places[k]
        return Weight(place.data.stat().st_size, place.length, 1)

    @cached_property
    def schema(self) -> pa.Schema:
        """That of the rows."""
        return schema_for(self.source.schema, self.version)

    def write(self, folder: Path) -> None:
        """Write everything into `folder`."""
        self._write_rows(folder)
        for camera in self.source.cameras:
            self._write_videos(folder, camera)
        types = self._more_types()
        for number, run in enumerate(self.runs[META]):
            write_episodes(folder / file_name(META, number), [self._row(k, number, list(types)) for k in run.episodes], types)
        self._write_summaries(folder)
        self._say()

    def _write_rows(self, folder: Path) -> None:
        tables = self._tables()
        for number, run in enumerate(self.runs[DATA]):
            mine = (next(tables).replace_schema_metadata(self.schema.metadata) for _ in run.episodes)
            for _ in write_row_groups(folder / file_name(DATA, number), self.schema, mine):
                self.each()

    def _tables(self) -> Iterator[pa.Table]:
        for k, table in enumerate(self.source.tables()):
            on_time = is_on_time(table, self.source.fps)
            rows = table if on_time else put_on_time(table, self.source.fps)
            if not on_time:
                self.retimed.append(k)
            self.stats.see_rows(k, rows, retimed=not on_time)
            yield rows

    def _write_videos(self, folder: Path, camera: str) -> None:
        cuts, stream = self.source.cuts[camera], video_stream(camera)
        for number, run in enumerate(self.runs[stream]):
            joined = join(cuts[run.start : run.stop], folder / file_name(stream, number), self.source.rate)
            for k, _ in zip(run.episodes, joined, strict=True):
                self.stats.see_video(k, camera, cuts[k])
                self.each()

    def _more_types(self) -> dict[str, pa.DataType]:
        """The types of what meta/ says of episodes beyond LeRobot's own, where a column can hold it exactly."""
        found = {name: _column_type(values) for name, values in self.source.more_of_episodes.items()}
        if unfit := [name for name, type_ in found.items() if type_ is None]:
            self.report.not_kept.append(f"{some(unfit)} of the episodes in meta/: values that differ in type, or that a column cannot hold")
        return {name: type_ for name, type_ in found.items() if type_ is not None}

    def _row(self, k: int, number: int, more: Sequence[str]) -> dict[str, Any]:
        row = episode_row(k, self.layout, video_keys=self.source.cameras, stats=self.stats.of(k), rate_hz=self.source.fps, meta_file=number)
        return row | {"tasks": list(self.source.places[k].tasks)} | {name: self.source.more_of_episodes[name][k] for name in more}

    def _write_summaries(self, folder: Path) -> None:
        rows = sorted(self.source.index.task_rows, key=lambda row: row["task_index"])
        names = dict.fromkeys(name for row in rows for name in row if name not in ("task_index", "task"))
        write_tasks(folder / TASKS_FILE, [row["task"] for row in rows], {name: [row.get(name) for row in rows] for name in names})
        (folder / INFO_FILE).write_text(json.dumps(self._info(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / STATS_FILE).write_text(json.dumps(self.stats.whole(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _info(self) -> dict[str, Any]:
        source = self.source
        made = make_info(
            source.features,
            robot=source.info.get("robot_type"),
            rate_hz=int(source.fps) if source.fps.is_integer() else source.fps,
            episodes=len(source.places),
            frames=source.first_frames[-1],
            tasks=len(source.tasks),
        )
        kept = {name: value for name, value in source.info.items() if name not in (*_COUNTED, *made) or name in ("robot_type", "splits")}
        return made | kept

    def _say(self) -> None:
        source, layout = self.source, self.layout
        self.report.done.append(f"rows of {len(source.places)} episodes in {len(layout.files[DATA])} files")
        for camera in source.cameras:
            files = len(layout.files[video_stream(camera)])
            self.report.done.append(f"video of {camera}: packets of {len(source.places)} episodes copied into {files} files")
        if self.retimed:
            names = some([episode_name(k) for k in self.retimed])
            self.report.not_kept.append(
                f"timestamp of {names}: not k / fps to 0.1 ms, by which v3.0 finds a row's picture; written as k / fps, as its pictures are"
            )


def _video_weight(cut: Cut) -> Weight:
    return Weight(cut.table.path.stat().st_size * cut.length // len(cut.table), cut.length, 1)


def _column_type(values: Sequence[Any]) -> pa.DataType | None:
    """The arrow type that holds the values exactly, and that parquet can hold; None if there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pa.array(values)
        pq.write_table(pa.table({"values": column}), pa.BufferOutputStream())
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return column.type if column.to_pylist() == list(values) else None
