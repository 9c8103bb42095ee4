"""Read a LeRobot dataset folder (v2.0, v2.1, v3.0) as a recording of many episodes: its vectors, its videos and its task texts.

Frame k of an episode is at k / fps. Vectors and videos are named as the dataset's features are: `observation.state`,
`observation.images.cam_high`. Image columns (PNG or JPEG in the parquet files) are streams too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from vla_ops.errors import RecordingError, RecordingFormatError, SchemaMismatchError
from vla_ops.recordings import leading, missing_stream
from vla_ops.recordings.base import EncodedImage, Float64, ImageCodec, ImageStream, Int64, Numbers, OpenOptions, Source, Span, StreamInfo
from vla_ops.recordings.lerobot_files import DatasetFiles
from vla_ops.recordings.lerobot_index import EpisodePlace, flat_names
from vla_ops.recordings.place import Place, as_place
from vla_ops.recordings.video_images import VideoFacts, VideoImages, checked_indices, video_facts

if TYPE_CHECKING:
    import pyarrow as pa
    from av.container import InputContainer

# Written by LeRobot itself: what the frames are counted with.
_COUNTING = frozenset({"timestamp", "frame_index", "episode_index", "index", "task_index"})
_NUMERIC = ("float", "int", "uint", "bool")
# Episodes whose files are fetched before they are needed.
_AHEAD = 4
_PNG, _JPEG = b"\x89PNG", b"\xff\xd8\xff"
_TODO = "Copy the missing files, or write `recordings: {truncated: keep_whole}` to convert the episodes that are there."


class LeRobotRecording:
    """An open dataset folder. Every read opens its file anew; the last parquet columns read are kept, since episodes share files."""

    def __init__(self, recording: str | Place, options: OpenOptions) -> None:
        place = as_place(recording)
        self.path = place.path
        self.options = options
        self._files = DatasetFiles(place)
        self._index = self._files.index()
        self._columns: dict[tuple[Path, str], pa.ChunkedArray] = {}
        self._columns_of: dict[Path, list[str]] = {}
        self._facts: dict[Path, VideoFacts] = {}
        # Cameras are read from several threads.
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget what was read."""
        self._files.close()
        self._columns.clear()
        self._columns_of.clear()
        self._facts.clear()

    @cached_property
    def _present(self) -> list[EpisodePlace]:
        """The episodes whose files are all there. Raise RecordingFormatError naming the others unless what is whole is to be kept."""
        places = self._index.episodes
        present = [place for place in places if all(map(self._files.has, place.files))]
        if len(present) < len(places) and not self.options.allow_truncated:
            first = next(path for place in places for path in place.files if not self._files.has(path))
            raise RecordingFormatError(
                "the dataset is not whole: files of episodes are missing",
                found=f"{len(present)} whole episodes; the first missing file is {first.relative_to(self._index.folder)}",
                expected=f"{len(places)} episodes, as meta/ lists them",
                todo=_TODO,
            )
        return present

    def notes(self) -> list[str]:
        """Episodes that are not there, and declared videos of which there is no file."""
        absent = len(self._index.episodes) - len(self._present)
        declared = [name for name, feature in self._index.features.items() if feature.get("dtype") == "video"]
        without = [name for name in declared if name not in self._index.video_keys]
        notes = [f"{absent} of {len(self._index.episodes)} episodes that meta/ lists are not there"] if absent else []
        return notes + [f"{name} is declared in info.json and there is no video of it" for name in without]

    def metadata(self) -> Mapping[str, str]:
        """What info.json says of the whole."""
        info = self._index.info
        return {f"info.{key}": str(info[key]) for key in ("codebase_version", "robot_type", "fps", "total_episodes") if key in info}

    def spans(self) -> list[Span]:
        """One span for each episode that is there."""
        spans = []
        for k, place in enumerate(self._present):
            self._files.announce(ahead.data for ahead in self._present[k : k + _AHEAD])
            spans.append(Span(f"episode_{place.index:06d}", k, 0, place.length, self._task(place)))
        return spans

    def _announce(self, span: Span) -> None:
        """Say that the files of the wanted cameras are needed, of this episode and the next ones."""
        for place in self._present[span.index : span.index + _AHEAD]:
            wanted = self._wanted if self._wanted is not None else place.videos
            self._files.announce([place.data, *(video.path for name, video in place.videos.items() if name in wanted)])

    @cached_property
    def _wanted(self) -> frozenset[str] | None:
        streams = self.options.streams
        return None if streams is None else frozenset(Source.parse(text).beginnings[-1] for text in streams)

    def _task(self, place: EpisodePlace) -> str | None:
        if "task_index" in self._index.features:
            first = int(self._column(place, "task_index")[0].as_py())
            if first in self._index.tasks:
                return self._index.tasks[first]
        return place.tasks[0] if place.tasks else None

    def streams(self) -> list[StreamInfo]:
        """List the features of the first episode."""
        if not self._present:
            return []
        place = self._present[0]
        names = [name for name in self._index.features if name in self._index.video_keys or name in self._table_names(place)]
        return [self._info(name, place) for name in names]

    def _info(self, name: str, place: EpisodePlace) -> StreamInfo:
        feature = self._index.features[name]
        dtype, shape = str(feature["dtype"]), tuple(feature.get("shape") or ())
        last_ns = int(self._stamps(place)[-1])
        if dtype == "video":
            facts = self._video_facts(place.videos[name].path)
            return StreamInfo(name, "images", "uint8", (facts.height, facts.width, 3), place.length, 0, last_ns, facts.codec)
        if dtype == "image":
            codec = next(iter(self.images(Source(name), self.spans()[0]).packets([0]))).codec
            return StreamInfo(name, "images", "uint8", (), place.length, 0, last_ns, codec)
        kind = "numbers" if dtype.startswith(_NUMERIC) and name not in _COUNTING else "other"
        names = self._names(name, int(np.prod(shape)))
        return StreamInfo(name, kind, dtype, shape, place.length, 0, last_ns, "parquet", joint_names=names)

    def stream_name(self, source: Source) -> str:
        """The feature that a source names: names hold dots."""
        name = source.beginnings[-1]
        if name not in self._index.features:
            raise missing_stream(name, self._index.features)
        return name

    def numbers(self, source: Source, span: Span) -> Numbers:
        """Read a vector of one episode, float64 [length, width]."""
        name, place = self.stream_name(source), self._present[span.index]
        self._announce(span)
        if not str(self._index.features[name]["dtype"]).startswith(_NUMERIC):
            found = f"{self._index.features[name]['dtype']} {self._index.features[name].get('shape')}"
            raise SchemaMismatchError("not a numeric stream", stream=name, found=found, todo="Map images under `cameras`.")
        values = as_matrix(self._column(place, name), name)
        try:
            return Numbers(self._checked_stamps(place), source.take(values), self._selected_names(source, name, values.shape[1]))
        except IndexError as error:
            found = f"{values.shape[1]} values a sample"
            raise SchemaMismatchError("a column is selected that the stream does not have", stream=str(source), found=found) from error

    def images(self, source: Source, span: Span) -> ImageStream:
        """Open a camera of one episode."""
        name, place = self.stream_name(source), self._present[span.index]
        if name in place.videos:
            return self._video(name, place)
        if self._index.features[name]["dtype"] != "image":
            raise missing_stream(name, [*self._index.video_keys, *(n for n, f in self._index.features.items() if f["dtype"] == "image")])
        return _ImageColumn(name, self._checked_stamps(place), partial(self._column, place, name))

    def _video(self, name: str, place: EpisodePlace) -> VideoImages:
        video = place.videos[name]
        facts = self._video_facts(video.path)
        seconds = facts.times * (facts.numerator / facts.denominator)
        # Half a frame early, so that what was rounded is not lost.
        first = int(np.searchsorted(seconds, seconds[0] + video.from_s - 0.5 / self._index.fps))
        alone = sum(name in other.videos and other.videos[name].path == video.path for other in self._present) == 1
        found = len(facts.times) - first
        if found < place.length or (alone and self._index.version != "v3.0" and found != place.length):
            raise SchemaMismatchError(
                "the video of an episode is not as long as its numbers",
                stream=name,
                episode=f"episode_{place.index:06d}",
                found=f"{found} pictures in {video.path.relative_to(self._index.folder)}",
                expected=f"{place.length} frames",
            )
        opened = partial(self._opened, video.path, name)
        return VideoImages(name, facts.image_codec, self._checked_stamps(place), opened, int(facts.times[first]) if first else None)

    def _video_facts(self, path: Path) -> VideoFacts:
        if path not in self._facts:
            self._facts[path] = video_facts(path.relative_to(self._index.folder).as_posix(), partial(self._opened, path, path.name))
        return self._facts[path]

    def _opened(self, path: Path, name: str) -> AbstractContextManager[InputContainer]:
        return _opened(self._files.here(path), name)

    def _stamps(self, place: EpisodePlace) -> Int64:
        """Frame k at k / fps, int64 [length]."""
        return np.round(np.arange(place.length) * (1e9 / self._index.fps)).astype(np.int64)

    def _checked_stamps(self, place: EpisodePlace) -> Int64:
        """The stamps. Raise RecordingError naming the first frame whose `timestamp` is more than half a frame from where it belongs."""
        if "timestamp" in self._table_names(place):
            seconds = self._column(place, "timestamp").to_numpy().astype(np.float64)
            off = np.abs(seconds - seconds[0] - np.arange(place.length) / self._index.fps)
            if (off > 0.5 / self._index.fps).any():
                frame = int(np.argmax(off > 0.5 / self._index.fps))
                raise RecordingError(
                    "timestamps are not k / fps",
                    episode=f"episode_{place.index:06d}",
                    frame=frame,
                    found=f"{seconds[frame]:.4f} s",
                    expected=f"{seconds[0] + frame / self._index.fps:.4f} s at {self._index.fps:g} fps",
                    todo="Frames are missing or `fps` in info.json is wrong.",
                )
        return self._stamps(place)

    def _selected_names(self, source: Source, name: str, width: int) -> tuple[str, ...]:
        names = self._names(name, width)
        if not names or source.columns is None:
            return names
        return names[source.columns] if isinstance(source.columns, slice) else tuple(names[k] for k in source.columns)

    def _names(self, name: str, width: int) -> tuple[str, ...]:
        names = flat_names(self._index.features[name].get("names"))
        return names if len(names) == width else ()

    def _table_names(self, place: EpisodePlace) -> list[str]:
        import pyarrow.parquet as pq

        if place.data not in self._columns_of:
            with self._as_format_error(place.data):
                self._columns_of[place.data] = pq.read_schema(self._files.here(place.data)).names
        return self._columns_of[place.data]

    def _column(self, place: EpisodePlace, name: str) -> pa.ChunkedArray:
        """One column of an episode.

        Raise SchemaMismatchError where the file does not hold as many rows as meta/ says, and RecordingFormatError where they are
        another episode's.
        """
        whole = self._whole_column(place.data, name)
        column = whole.slice(place.first_row, place.length)
        is_alone = self._index.version != "v3.0"
        if len(column) < place.length or (is_alone and len(whole) != place.length):
            raise SchemaMismatchError(
                "the parquet file of an episode is not as long as meta/ says",
                episode=f"episode_{place.index:06d}",
                stream=name,
                found=f"{len(whole) - place.first_row} rows in {place.data.relative_to(self._index.folder)}",
                expected=f"{place.length}",
            )
        self._check_rows(place)
        return column

    def _check_rows(self, place: EpisodePlace) -> None:
        if "episode_index" not in self._table_names(place):
            return
        rows = self._whole_column(place.data, "episode_index").slice(place.first_row, place.length)
        wrong = np.flatnonzero(as_matrix(rows, "episode_index")[:, 0] != place.index)
        if len(wrong):
            raise RecordingFormatError(
                "rows that meta/ gives to an episode are another one's",
                episode=f"episode_{place.index:06d}",
                frame=int(wrong[0]),
                found=f"episode_index {rows[int(wrong[0])]} in {place.data.relative_to(self._index.folder)}",
                expected=f"{place.index}",
                todo="meta/ and data/ are not of the same dataset, or meta/ lacks episodes: copy or make the dataset again.",
            )

    @contextmanager
    def _as_format_error(self, path: Path) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (OSError, pa.ArrowException) as error:
            shown = path.relative_to(self._index.folder)
            raise RecordingFormatError(f"{shown} is not a whole parquet file", found=str(error), todo=_TODO) from error

    def _whole_column(self, path: Path, name: str) -> pa.ChunkedArray:
        import pyarrow.parquet as pq

        with self._lock:
            if (path, name) not in self._columns:
                self._columns = {key: column for key, column in self._columns.items() if key[0] == path}
                try:
                    with self._as_format_error(path):
                        self._columns[path, name] = pq.read_table(self._files.here(path), columns=[name]).column(name)
                except KeyError as error:
                    raise missing_stream(name, pq.read_schema(self._files.here(path)).names) from error
            return self._columns[path, name]


@contextmanager
def _opened(path: Path, name: str) -> Iterator[InputContainer]:
    import av
    import av.error

    try:
        with av.open(str(path), "r", format="mp4", metadata_errors="replace") as container:
            if not container.streams.video:
                raise RecordingFormatError("the file holds no video", stream=name, found=path.name)
            yield container
    except av.error.FFmpegError as error:
        raise RecordingFormatError(f"the video is damaged: {error.strerror}", stream=name, found=path.name, todo=_TODO) from error


def as_matrix(column: pa.ChunkedArray, name: str) -> Float64:
    """A column of numbers or of lists of equal length, float64 [n, width]."""
    import pyarrow as pa

    values = column.combine_chunks()
    rows = len(values)
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        # At every level: the lengths of ragged rows can add up to a multiple of their number.
        lengths = values.value_lengths().drop_null().unique().to_pylist()
        if values.null_count or len(lengths) > 1:
            found = f"{values.null_count} missing, lengths {', '.join(map(str, sorted(lengths)))}"
            raise SchemaMismatchError("rows of a vector differ in length, or some are missing", stream=name, found=found)
        values = values.flatten()
    if values.null_count:
        raise SchemaMismatchError("values of a vector are missing", stream=name, found=f"{values.null_count} of {len(values)}")
    return values.to_numpy(zero_copy_only=False).astype(np.float64).reshape(rows, -1)


@dataclass(frozen=True)
class _ImageColumn:
    """Images that stand in a parquet column, as `datasets` stores them: a struct with the encoded bytes."""

    name: str
    stamps_ns: Int64
    column: Any

    @property
    def codec(self) -> ImageCodec:
        """Of the first image."""
        return next(iter(self.packets([0]))).codec

    def packets(self, indices: Sequence[int] | Int64) -> Iterator[EncodedImage]:
        """Yield the images at non-decreasing `indices`."""
        wanted = checked_indices(self.name, indices, len(self.stamps_ns))
        column = self.column() if wanted else ()
        for index in wanted:
            stored = column[index].as_py()
            data = stored.get("bytes") if isinstance(stored, dict) else stored
            if not data:
                raise RecordingFormatError("an image is a path, not bytes", stream=self.name, frame=index, found=str(stored)[:80])
            if not data.startswith((_PNG, _JPEG)):
                raise RecordingFormatError("an image is neither PNG nor JPEG", stream=self.name, frame=index, found=leading(data))
            yield EncodedImage("png" if data.startswith(_PNG) else "jpeg", data)
