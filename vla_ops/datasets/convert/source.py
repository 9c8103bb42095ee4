"""A LeRobot dataset folder (v2.0, v2.1, v3.0) opened to be converted: what meta/ says of it is checked before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vla_ops.datasets.convert.report import some
from vla_ops.datasets.convert.rows import by_episode, check_rows, conformed, episode_name, parquet
from vla_ops.datasets.video_packets import Cut, VideoTable, exact_rate
from vla_ops.errors import DatasetError
from vla_ops.recordings.lerobot_index import EpisodePlace, LeRobotIndex

if TYPE_CHECKING:
    import pyarrow as pa

AGAIN = "The copy is not whole, or a write was cut off: copy or make the dataset again."
_OF_LEROBOT = frozenset({"episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"})
_PLACES = ("data/", "videos/", "stats/", "meta/episodes/")


class SourceDataset:
    """An opened dataset. Raise DatasetError or RecordingFormatError, naming file, episode and camera, for one that is not whole.

    `without` are video features to leave out, of which there may be no files.
    """

    def __init__(self, folder: Path, *, without: Collection[str] = ()) -> None:
        self.folder, self.index = folder, LeRobotIndex(folder)
        self.version, self.info, self.fps = self.index.version, self.index.info, self.index.fps
        self.is_v30 = self.version == "v3.0"
        _check_without(self.index, without)
        self.features: dict[str, dict[str, Any]] = {name: f for name, f in self.index.features.items() if name not in without}
        self.cameras = [name for name, feature in self.features.items() if feature.get("dtype") == "video"]
        self.places = self.index.episodes
        self.index.check_frames()
        self.tasks = self.index.tasks
        self._check_episodes()
        self._check_files()
        self._check_lengths()

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return exact_rate(self.fps)

    @cached_property
    def first_frames(self) -> list[int]:
        """Index of each episode's first frame, and the number of all frames."""
        return [0, *accumulate(place.length for place in self.places)]

    @cached_property
    def more_of_episodes(self) -> dict[str, list[Any]]:
        """What meta/ says of the episodes that LeRobot itself does not: name -> a value, or None, for each."""
        rows = self.index.episode_rows
        names = dict.fromkeys(name for row in rows for name in row if name not in _OF_LEROBOT and not name.startswith(_PLACES))
        return {name: [row.get(name) for row in rows] for name in names}

    @cached_property
    def schema(self) -> pa.Schema:
        """That of the first episode's rows."""
        with parquet(self.places[0].data) as file:
            return file.schema_arrow

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of each episode, checked. Raise SchemaMismatchError or DatasetError naming file, episode and column."""
        for place, table in zip(self.places, by_episode(self.places), strict=True):
            rows = conformed(table, self.schema, place.data)
            check_rows(rows, place, first_frame=self.first_frames[place.index], fps=self.fps, tasks=self.tasks)
            yield rows

    @cached_property
    def cuts(self) -> dict[str, list[Cut]]:
        """Camera -> for each episode its part of an mp4. Raise DatasetError naming episode and camera where there is none."""
        return {camera: self._cuts(camera) for camera in self.cameras}

    def _cuts(self, camera: str) -> list[Cut]:
        tables: dict[Path, VideoTable] = {}
        cuts: list[Cut] = []
        for place in self.places:
            path = place.videos[camera].path
            try:
                table = tables.setdefault(path, tables.get(path) or VideoTable.read(path))
                cuts.append(self._cut(place, camera, table))
            except DatasetError as error:
                raise error.at(episode=episode_name(place.index), stream=camera, file=path) from error.__cause__
        self._check_apart(cuts, camera)
        return cuts

    def _cut(self, place: EpisodePlace, camera: str, table: VideoTable) -> Cut:
        first = table.first_at(place.videos[camera].from_s, self.fps)
        if len(table) - first < place.length or (not self.is_v30 and len(table) != place.length):
            what = "the mp4 ends before its episode does" if self.is_v30 else "an episode's parquet file and video differ in length"
            raise DatasetError(what, found=f"{len(table) - first} pictures", expected=f"{place.length} frames", todo=AGAIN)
        if table.hidden:
            todo = "Encode it again without one."
            raise DatasetError("an edit list hides pictures of a video", found=f"{table.hidden} pictures", todo=todo)
        cut = Cut(table, first, place.length)
        if misplaced := cut.misplaced(self.fps):
            frame, seconds = misplaced
            expected = f"{frame / self.fps:.4f} s at {self.fps:g} fps"
            todo = "Pictures are missing, or `fps` in info.json is wrong."
            raise DatasetError("a video's pictures are not at k / fps", frame=frame, found=f"{seconds:.4f} s", expected=expected, todo=todo)
        if why := cut.why_not_cut():
            raise DatasetError(f"an episode cannot be cut out of its video: {why}", frame=0, todo=_UNCUT)
        return cut

    def _check_apart(self, cuts: list[Cut], camera: str) -> None:
        last: dict[Path, tuple[int, int]] = {}
        for k in sorted(range(len(cuts)), key=lambda k: cuts[k].first):
            path = cuts[k].table.path
            stop, other = last.get(path, (0, 0))
            if cuts[k].first < stop:
                raise DatasetError(
                    "two episodes are given the same pictures of a video: their times in it are wrong",
                    file=path,
                    episode=episode_name(k),
                    stream=camera,
                    found=f"from {self.places[k].videos[camera].from_s} s",
                    expected=f"after those of {episode_name(other)}, at {stop / self.fps} s or later",
                )
            last[path] = (cuts[k].first + cuts[k].length, k)

    def _check_episodes(self) -> None:
        """Episodes are 0, 1, 2, ... of one frame or more, and in v3.0 one after another."""
        if not self.places:
            raise DatasetError("the dataset has no episodes", file=self.folder)
        for k, place in enumerate(self.places):
            if place.index != k:
                todo = "LeRobot finds an episode by counting: number them without gaps, in meta/ and in data/."
                raise DatasetError("an episode is missing in meta/", file=self.folder / "meta", episode=episode_name(k), todo=todo)
            if place.length < 1:
                raise DatasetError("an episode has no frames", file=self.folder / "meta", episode=episode_name(k))
        if self.is_v30:
            for row, (start, stop) in zip(self.index.episode_rows, pairwise(self.first_frames), strict=True):
                self._check_range(row, start, stop)

    def _check_range(self, row: dict[str, Any], start: int, stop: int) -> None:
        at = {"file": self.folder / "meta/episodes", "episode": episode_name(row["episode_index"])}
        found, expected = (row["dataset_from_index"], row["dataset_to_index"]), (start, stop)
        if found != expected:
            what = "the frames of an episode are not those after the episode before it"
            raise DatasetError(what, **at, found="{}:{}".format(*found), expected="{}:{}".format(*expected), todo=AGAIN)
        for camera in self.cameras:
            seconds = row[f"videos/{camera}/to_timestamp"] - row[f"videos/{camera}/from_timestamp"]
            if abs(seconds - (stop - start) / self.fps) >= 0.5 / self.fps:
                what, wanted = "an episode's time in its video is not as long as the episode", f"{stop - start} frames at {self.fps:g} fps"
                raise DatasetError(what, **at, stream=camera, found=f"{seconds:.4f} s", expected=wanted)

    def _check_files(self) -> None:
        """All files are there, and there are some of every camera."""
        missing = [(place, name, path) for place in self.places for name, path in self._files_of(place) if not path.is_file()]
        if missing:
            place, name, path = missing[0]
            paths = [path.relative_to(self.folder).as_posix() for path in dict.fromkeys(path for _, _, path in missing)]
            raise DatasetError(
                "files of the dataset are missing",
                file=path.relative_to(self.folder),
                episode=episode_name(place.index),
                stream=name,
                found=f"{len(paths)} missing: {some(paths)}",
                expected=f"those of {len(self.places)} episodes, as meta/ lists them",
                todo="Copy the missing files; a dataset is converted whole or not at all.",
            )
        for camera in self.cameras:
            if camera not in self.index.video_keys:
                what = "a camera is declared in info.json and there is no video of it"
                todo = f"Copy its videos, or leave the camera out: `--without {camera}`."
                raise DatasetError(what, file=self.folder, stream=camera, todo=todo)

    def _files_of(self, place: EpisodePlace) -> Iterator[tuple[str | None, Path]]:
        yield None, place.data
        yield from ((camera, place.videos[camera].path) for camera in self.cameras if camera in place.videos)

    def _check_lengths(self) -> None:
        """Each parquet file has as many rows as the episodes in it."""
        lengths: dict[Path, list[EpisodePlace]] = {}
        for place in self.places:
            lengths.setdefault(place.data, []).append(place)
        for path, held in lengths.items():
            with parquet(path) as file:
                found, expected = file.metadata.num_rows, sum(place.length for place in held)
            if found != expected:
                episodes = episode_name(held[0].index) + (f" to {held[-1].index:06d}" if len(held) > 1 else "")
                what = "the parquet file of an episode is not as long as meta/ says"
                raise DatasetError(what, file=path, episode=episodes, found=f"{found} rows", expected=f"{expected}", todo=AGAIN)


_UNCUT = (
    "Packets are copied and never encoded again, so the episode's video has to begin with a keyframe that nothing before it is needed for: "
    "record or encode the dataset again with a keyframe at each episode's start (LeRobot's own settings do)."
)


def _check_without(index: LeRobotIndex, without: Collection[str]) -> None:
    videos = [name for name, feature in index.features.items() if feature.get("dtype") == "video"]
    if unknown := sorted(set(without) - set(videos)):
        what = "--without names no video feature of the dataset"
        raise DatasetError(what, file=index.folder, found=unknown[0], expected=" | ".join(videos) or "nothing: it has none")
