"""Rows of a source's episodes: of one schema, checked against what meta/ says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.errors import DatasetError, SchemaMismatchError
from vla_ops.recordings.lerobot_index import EpisodePlace

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_AGAIN = "The copy is not whole, or a write was cut off or repeated: copy or make the dataset again."
# LeRobot's tolerance between a row's time and that of its picture.
_ON_TIME_S = 1e-4


def episode_name(k: int) -> str:
    """What an episode is called in messages."""
    return f"episode_{k:06d}"


def parquet(path: Path) -> pq.ParquetFile:
    """Open a parquet file. Raise DatasetError if it is not a whole one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError("not a whole parquet file", file=path, found=str(error), todo=_AGAIN) from error


def read(path: Path) -> pa.Table:
    """Read a parquet file. Raise DatasetError if it is not a whole one."""
    import pyarrow as pa

    with parquet(path) as file:
        try:
            return file.read()
        except (OSError, pa.ArrowException) as error:
            raise DatasetError("not a whole parquet file", file=path, found=str(error), todo=_AGAIN) from error


def conformed(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """The table with the columns of `schema` in their order; a list of fixed length and one of any length are the same.

    Raise SchemaMismatchError naming the column for other columns or types.
    """
    if differing := sorted(set(table.column_names) ^ set(schema.names)):
        there = [name for name in differing if name in table.column_names]
        found = f"{'an additional' if there else 'missing'}: {', '.join(there or differing)}"
        raise SchemaMismatchError("episodes of one dataset differ in their columns", file=path, stream=differing[0], found=found)
    for field in schema:
        found = table.schema.field(field.name).type
        if not _hold_the_same(found, field.type):
            raise SchemaMismatchError(
                "episodes of one dataset differ in the type of a column",
                file=path,
                stream=field.name,
                found=str(found),
                expected=f"{field.type} as in the first episode",
            )
    return table.select(schema.names).cast(schema)


def _hold_the_same(a: pa.DataType, b: pa.DataType) -> bool:
    if a.equals(b):
        return True
    return _is_list(a) and _is_list(b) and _hold_the_same(a.value_type, b.value_type)


def _is_list(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def schema_for(schema: pa.Schema, version: str) -> pa.Schema:
    """The schema with metadata that the readers of a version know: `datasets` renamed `Sequence` to `List` in its version 4."""
    found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    # What pandas noted is the range of one file's rows.
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key not in (b"huggingface", b"pandas")}
    if found:
        old, new = ("Sequence", "List") if version == "v3.0" else ("List", "Sequence")
        metadata[b"huggingface"] = json.dumps(_renamed(found, old, new)).encode()
    return schema.with_metadata(metadata)


def _renamed(value: Any, old: str, new: str) -> Any:
    if not isinstance(value, dict):
        return value
    is_list = value.get("_type") == old and "_type" in value.get("feature", {})
    return {key: new if is_list and key == "_type" else _renamed(part, old, new) for key, part in value.items()}


def check_rows(table: pa.Table, place: EpisodePlace, *, first_frame: int, fps: float, tasks: Mapping[int, str]) -> None:
    """Raise DatasetError naming file, episode, column and frame where rows are not those that meta/ lists for the episode."""
    at = {"file": place.data, "episode": episode_name(place.index)}
    count = np.arange(place.length)
    expected = {"episode_index": np.full_like(count, place.index), "frame_index": count, "index": first_frame + count}
    for name, wanted in expected.items():
        if name in table.column_names:
            found = table[name].to_numpy()
            if (wrong := np.flatnonzero(found != wanted)).size:
                frame = int(wrong[0])
                raise DatasetError(
                    f"rows of an episode have the wrong {name}", **at, frame=frame, found=found[frame], expected=wanted[frame], todo=_AGAIN
                )
    if "task_index" in table.column_names:
        unknown = set(table["task_index"].unique().to_pylist()) - tasks.keys()
        if unknown:
            found = ", ".join(map(str, sorted(unknown, key=str)))
            raise DatasetError("rows of an episode have a task that meta/ does not list", **at, found=f"task_index {found}", todo=_AGAIN)
    for name in table.column_names:
        _check_images(table[name], name, at)
    _check_times(table, place, fps, at)


def _check_images(column: pa.ChunkedArray, name: str, at: Mapping[str, Any]) -> None:
    import pyarrow as pa

    if not pa.types.is_struct(column.type) or {field.name for field in column.type} != {"bytes", "path"}:
        return
    paths = sum(chunk.field("bytes").null_count for chunk in column.chunks)
    if paths:
        todo = "Embed the images in the parquet files: the file that a path names is not part of the dataset."
        raise DatasetError("images are paths, not bytes", **at, stream=name, found=f"{paths} of {len(column)}", todo=todo)


def _check_times(table: pa.Table, place: EpisodePlace, fps: float, at: Mapping[str, Any]) -> None:
    if "timestamp" not in table.column_names:
        return
    seconds = table["timestamp"].to_numpy().astype(np.float64)
    off = np.abs(seconds - seconds[0] - np.arange(place.length) / fps) >= 0.5 / fps
    if off.any():
        frame = int(np.argmax(off))
        raise DatasetError(
            "timestamps are not k / fps",
            **at,
            frame=frame,
            found=f"{seconds[frame]:.4f} s",
            expected=f"{seconds[0] + frame / fps:.4f} s at {fps:g} fps",
            todo="Frames are missing or `fps` in info.json is wrong.",
        )


def is_on_time(table: pa.Table, fps: float) -> bool:
    """True where LeRobot finds each row's picture by its time."""
    if "timestamp" not in table.column_names:
        return True
    seconds = table["timestamp"].to_numpy().astype(np.float64)
    exact = np.arange(len(seconds)) / fps
    # What float32 cannot tell apart is no difference.
    return bool((np.abs(seconds - exact) <= _ON_TIME_S + np.spacing(exact.astype(np.float32))).all())


def put_on_time(table: pa.Table, fps: float) -> pa.Table:
    """The table with timestamps k / fps in the type that they have."""
    import pyarrow as pa

    place = table.column_names.index("timestamp")
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(np.arange(len(table)) / fps).cast(field.type, safe=False))


def by_episode(places: list[EpisodePlace]) -> Iterator[pa.Table]:
    """Yield the rows of each episode; a file that several share is read once."""
    path, table = None, None
    for place in places:
        if place.data != path or table is None:
            path, table = place.data, read(place.data)
        yield table.slice(place.first_row, place.length)
