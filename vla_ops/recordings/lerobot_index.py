"""Where the episodes of a LeRobot dataset folder are (v2.0, v2.1 or v3.0): rows of parquet files, pictures of mp4 files, task texts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from vla_ops.errors import RecordingFormatError

INFO = "meta/info.json"
KNOWN = ("v2.0", "v2.1", "v3.0")


@dataclass(frozen=True)
class VideoPlace:
    """The file of an episode's video, and the seconds at which the episode begins and ends in it (no end: where the file does)."""

    path: Path
    from_s: float = 0.0
    to_s: float | None = None


@dataclass(frozen=True)
class EpisodePlace:
    """One episode: rows `first_row` up to `first_row + length` of its parquet file, and a video for each camera."""

    index: int
    length: int
    tasks: tuple[str, ...]
    data: Path
    first_row: int = 0
    videos: Mapping[str, VideoPlace] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All files it needs."""
        return [self.data, *(video.path for video in self.videos.values())]


class LeRobotIndex:
    """The metadata of a dataset folder. Raise RecordingFormatError naming the file for what is no dataset or cannot be read.

    `names` are the files of the whole dataset where only those of meta/ are in the folder.
    """

    def __init__(self, folder: Path, names: Collection[str] | None = None) -> None:
        self.folder, self._names = folder, names
        self.info: dict[str, Any] = _read_json(folder / INFO)
        self.version = str(self.info.get("codebase_version"))
        if self.version not in KNOWN:
            raise RecordingFormatError(
                "unknown LeRobot dataset version", file=folder / INFO, found=self.version, expected=" | ".join(KNOWN)
            )
        missing = [key for key in ("fps", "features") if key not in self.info]
        if missing:
            raise RecordingFormatError("info.json is not whole", file=folder / INFO, found=sorted(self.info), expected=", ".join(missing))
        fps, features = self.info["fps"], self.info["features"]
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not fps > 0:
            raise RecordingFormatError("info.json has no rate", file=folder / INFO, found=f"fps {fps!r}", expected="a number above 0")
        if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
            raise RecordingFormatError("info.json has no features", file=folder / INFO, found=str(features)[:80])

    @property
    def fps(self) -> float:
        """Frames a second."""
        return float(self.info["fps"])

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Feature name -> dtype, shape, names."""
        return self.info["features"]

    @cached_property
    def tasks(self) -> dict[int, str]:
        """task_index -> task text."""
        return {int(row["task_index"]): str(row["task"]) for row in self.task_rows}

    @cached_property
    def task_rows(self) -> list[dict[str, Any]]:
        """What meta/ says of each task, in the order of the file: `task_index`, `task` and what else there is."""
        if self.version == "v3.0":
            return _tasks_of_v30(self.folder / "meta/tasks.parquet")
        return _with_keys(_read_lines(self.folder / _TASKS), ("task_index", "task"), self.folder / _TASKS)

    @cached_property
    def episode_rows(self) -> list[dict[str, Any]]:
        """What meta/ says of each episode, statistics apart, by index where there is one and else in the order of the file."""
        if self.version == "v3.0":
            rows = self._rows_v30()
        else:
            rows = _with_keys(_read_lines(self.folder / _EPISODES), ("episode_index", "length"), self.folder / _EPISODES)
        return sorted(rows, key=lambda row: row["episode_index"])

    @cached_property
    def episodes(self) -> list[EpisodePlace]:
        """All episodes that the metadata list, by index, whether their files are there or not.

        Raise RecordingFormatError for an index that is there twice, and for another number of episodes than info.json counts.
        """
        found = sorted(self._places_v30() if self.version == "v3.0" else self._places_v2(), key=lambda place: place.index)
        for before, after in pairwise(found):
            if before.index == after.index:
                raise RecordingFormatError(
                    "the metadata list an episode twice",
                    file=self.folder / "meta",
                    episode=f"episode_{after.index:06d}",
                    todo="Two datasets were merged without renumbering their episodes, or a write was repeated: make the dataset again.",
                )
        # Where v3.0 lacks the row of a file's first episode, those after it would be sought too early in the file.
        if self.info.get("total_episodes", len(found)) != len(found):
            raise RecordingFormatError(
                "the metadata do not list the episodes that info.json counts",
                file=self.folder / "meta",
                found=f"{len(found)} episodes",
                expected=f"{self.info['total_episodes']}, as `total_episodes` says",
                todo=_COPY_AGAIN,
            )
        return found

    def check_frames(self) -> None:
        """Raise RecordingFormatError unless the episodes have as many frames as info.json counts."""
        frames = sum(place.length for place in self.episodes)
        if self.info.get("total_frames", frames) != frames:
            raise RecordingFormatError(
                "the lengths of the episodes do not add up to the frames that info.json counts",
                file=self.folder / "meta",
                found=f"{frames} frames",
                expected=f"{self.info['total_frames']}, as `total_frames` says",
                todo=_COPY_AGAIN,
            )

    @cached_property
    def video_keys(self) -> list[str]:
        """Features that are videos and of which there is at least one file."""
        videos = [name for name, feature in self.features.items() if feature.get("dtype") == "video"]
        return [name for name in videos if self._has_file(f"videos/*/{name}/*.mp4") or self._has_file(f"videos/{name}/*/*.mp4")]

    def _has_file(self, pattern: str) -> bool:
        if self._names is None:
            return next(self.folder.glob(pattern), None) is not None
        return any(PurePosixPath(name).match(pattern) for name in self._names)

    def _places_v2(self) -> Iterator[EpisodePlace]:
        chunk = int(self.info.get("chunks_size", 1000))
        for row in self.episode_rows:
            k = int(row["episode_index"])
            # The chunk is computed: templates in the wild format it from the wrong number.
            where = f"chunk-{k // chunk:03d}"
            videos = {key: VideoPlace(self.folder / f"videos/{where}/{key}/episode_{k:06d}.mp4") for key in self.video_keys}
            data = self.folder / f"data/{where}/episode_{k:06d}.parquet"
            yield EpisodePlace(k, int(row["length"]), tuple(map(str, row.get("tasks", ()))), data, 0, videos)

    def _places_v30(self) -> Iterator[EpisodePlace]:
        first_of_file: dict[Path, int] = {}
        for row in sorted(self.episode_rows, key=lambda row: row["dataset_from_index"]):
            data = self._file_v30("data", row, "parquet")
            first = first_of_file.setdefault(data, row["dataset_from_index"])
            videos = {
                key: VideoPlace(
                    self._file_v30(f"videos/{key}", row, "mp4"),
                    float(row[f"videos/{key}/from_timestamp"]),
                    float(row[f"videos/{key}/to_timestamp"]),
                )
                for key in self.video_keys
            }
            tasks = tuple(map(str, row.get("tasks", ())))
            yield EpisodePlace(row["episode_index"], row["length"], tasks, data, row["dataset_from_index"] - first, videos)

    def _rows_v30(self) -> list[dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows: list[dict[str, Any]] = []
        files = self.episode_files
        if not files:
            raise RecordingFormatError("a file of the dataset is missing", file=self.folder / "meta/episodes", todo=_COPY_AGAIN)
        for path in files:
            try:
                columns = [name for name in pq.read_schema(path).names if not name.startswith("stats/")]
                read = pq.read_table(path, columns=columns).to_pylist()
            except (OSError, pa.ArrowException) as error:
                raise RecordingFormatError("not a whole parquet file", file=path, found=str(error), todo=_COPY_AGAIN) from error
            rows += _with_keys(read, self._columns_v30(), path)
        return rows

    @property
    def episode_files(self) -> list[Path]:
        """The parquet files of meta/episodes (v3.0), in their order."""
        return sorted((self.folder / "meta/episodes").glob("*/*.parquet"))

    def _columns_v30(self) -> list[str]:
        places = ["data", *(f"videos/{key}" for key in self.video_keys)]
        times = [f"videos/{key}/{end}_timestamp" for key in self.video_keys for end in ("from", "to")]
        numbers = [f"{place}/{part}_index" for place in places for part in ("chunk", "file")]
        return ["episode_index", "length", "dataset_from_index", "dataset_to_index", *numbers, *times]

    def _file_v30(self, stream: str, row: Mapping[str, Any], suffix: str) -> Path:
        chunk, file = row[f"{stream}/chunk_index"], row[f"{stream}/file_index"]
        return self.folder / f"{stream}/chunk-{chunk:03d}/file-{file:03d}.{suffix}"


_EPISODES, _TASKS = "meta/episodes.jsonl", "meta/tasks.jsonl"
_COPY_AGAIN = "The copy is not whole, or a write was cut off: copy or make the dataset again."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordingFormatError("not a LeRobot dataset: meta/info.json is missing", file=path.parent.parent) from error
    except ValueError as error:
        raise RecordingFormatError(f"not valid JSON: {error}", file=path, todo=_COPY_AGAIN) from error
    if not isinstance(value, dict):
        raise RecordingFormatError("not a JSON object", file=path, found=str(value)[:80])
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise RecordingFormatError("a file of the dataset is missing", file=path, todo=_COPY_AGAIN) from error
    except ValueError as error:
        raise RecordingFormatError(f"a line is not valid JSON: {error}", file=path, todo=_COPY_AGAIN) from error


def _with_keys(rows: list[dict[str, Any]], keys: Sequence[str], path: Path) -> list[dict[str, Any]]:
    """The rows. Raise RecordingFormatError for one that lacks a value."""
    for number, row in enumerate(rows):
        if lacking := [key for key in keys if not isinstance(row, dict) or row.get(key) is None]:
            found = f"row {number}: {str(row)[:80]}"
            raise RecordingFormatError("a row of the metadata lacks a value", file=path, found=found, expected=", ".join(lacking))
    return rows


def _tasks_of_v30(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise RecordingFormatError("a file of the dataset is missing", file=path, todo=_COPY_AGAIN) from error
    except (OSError, pa.ArrowException) as error:
        raise RecordingFormatError("not a whole parquet file", file=path, found=str(error), todo=_COPY_AGAIN) from error
    # The text is pandas' index, which has a name in some writers and none in others.
    likely = [name for name in ("task", "__index_level_0__", *table.column_names) if name in table.column_names and name != "task_index"]
    names = ["task" if name in likely[:1] else name for name in table.column_names]
    return _with_keys(table.rename_columns(names).to_pylist(), ("task_index", "task"), path)


def flat_names(names: object) -> tuple[str, ...]:
    """Names of a vector's dimensions as datasets in the wild have them; empty where there are none.

    They are a list, lists in a list, lists under keys (`{"motors": [...]}`), or keys with their index or type (`{"j1": 0, "j2": 1}`).
    """
    if isinstance(names, dict):
        if all(value is None or isinstance(value, list | dict) for value in names.values()):
            return tuple(chain.from_iterable(map(flat_names, names.values())))
        is_indexed = all(type(value) is int for value in names.values())
        return tuple(map(str, sorted(names, key=names.__getitem__) if is_indexed else names))
    if isinstance(names, list):
        return tuple(chain.from_iterable(flat_names(name) if isinstance(name, list | dict) else (str(name),) for name in names))
    return ()
