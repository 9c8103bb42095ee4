"""The parquet files of a LeRobot v3.0 dataset: data, meta/episodes and tasks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.datasets.file_runs import Run
from vla_ops.datasets.lerobot_features import CHUNKS_SIZE, INDEX_COLUMNS, VECTORS
from vla_ops.datasets.lerobot_layout import DATA, META, Layout
from vla_ops.datasets.lerobot_stats import FeatureStats
from vla_ops.episodes.store import Episode
from vla_ops.episodes.vector_stats import STATS
from vla_ops.errors import DatasetError, SchemaMismatchError

if TYPE_CHECKING:
    import pyarrow as pa

_RECONVERT = "Delete the episode's folder and convert its recording again."


def write_data(path: Path, episodes: Sequence[Episode], run: Run, *, layout: Layout, vectors_are: str = "List") -> Iterator[None]:
    """Write the frames of a run, one row group an episode; yield after each.

    `vectors_are` is the name of a vector's type in the metadata for `datasets`: `List`, or `Sequence` as before its version 4.
    """
    meta = episodes[run.start].meta
    schema = data_schema({"observation.state": len(meta.state_names), "action": len(meta.action_names)}, vectors_are=vectors_are)
    tables = (episode_frames(episodes[k], schema, episode_index=k, layout=layout) for k in run.episodes)
    yield from write_row_groups(path, schema, tables)


def write_row_groups(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[None]:
    """Write a parquet file of one row group a table; yield after each."""
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=True) as writer:
        for table in tables:
            # One group, however long the episode is: without a size, arrow divides after a million rows.
            writer.write_table(table, row_group_size=max(len(table), 1))
            yield


def data_schema(widths: Mapping[str, int], *, masks: Mapping[str, int] | None = None, vectors_are: str = "List") -> pa.Schema:
    """The columns of the data files: vectors of float32 and masks of bool, each with its width, and the index columns."""
    import pyarrow as pa

    vectors = {name: ("float32", n) for name, n in widths.items()} | {name: ("bool", n) for name, n in (masks or {}).items()}
    fields: list[tuple[str, pa.DataType]] = []
    features: dict[str, Any] = {}
    for name, (dtype, n) in vectors.items():
        type_, value = pa.float32() if dtype == "float32" else pa.bool_(), _hf_value(dtype)
        # LeRobot keeps a vector of one number as a plain column.
        fields.append((name, type_ if n == 1 else pa.list_(type_, n)))
        features[name] = value if n == 1 else {"feature": value, "length": n, "_type": vectors_are}
    fields += [(name, pa.float32() if dtype == "float32" else pa.int64()) for name, dtype in INDEX_COLUMNS.items()]
    features |= {name: _hf_value(dtype) for name, dtype in INDEX_COLUMNS.items()}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _hf_value(dtype: str) -> dict[str, str]:
    return {"dtype": dtype, "_type": "Value"}


def episode_frames(episode: Episode, schema: pa.Schema, *, episode_index: int, layout: Layout) -> pa.Table:
    """The rows of the dataset's episode `episode_index`, in the schema of its own vectors."""
    import pyarrow as pa

    meta, frame = episode.meta, np.arange(episode.meta.length, dtype=np.int64)
    read = read_frames(episode)
    seconds = (frame / meta.rate_hz).astype(np.float32)
    if not np.array_equal(read["timestamp"].to_numpy(), seconds):
        raise DatasetError(
            "timestamps are not k / rate", episode=episode.id, file=episode.frames, expected=f"k / {meta.rate_hz}", todo=_RECONVERT
        )
    columns = [_vector(read[name], schema.field(name).type, name=name, episode=episode) for name in VECTORS]
    indices = [frame, np.full_like(frame, episode_index), frame + layout.first_frames[episode_index]]
    indices.append(np.full_like(frame, layout.tasks[meta.task]))
    return pa.table([*columns, pa.array(seconds), *map(pa.array, indices)], schema=schema)


def read_frames(episode: Episode) -> pa.Table:
    """Read the vectors and timestamps of an episode. Raise DatasetError unless there is one row for each of its frames."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(episode.frames, columns=[*VECTORS, "timestamp"])
        read = table.select([*VECTORS, "timestamp"])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise DatasetError(
            "an episode's frames cannot be read", episode=episode.id, file=episode.frames, found=str(error), todo=_RECONVERT
        ) from error
    if read.num_rows != episode.meta.length:
        raise DatasetError(
            "frames.parquet and episode.json differ in length",
            episode=episode.id,
            file=episode.frames,
            found=f"{read.num_rows} rows",
            expected=f"{episode.meta.length} frames",
            todo=_RECONVERT,
        )
    return read


def _vector(column: pa.ChunkedArray, wanted: pa.DataType, *, name: str, episode: Episode) -> pa.Array:
    import pyarrow as pa

    values = column.combine_chunks()
    width = wanted.list_size if pa.types.is_fixed_size_list(wanted) else 1
    if not pa.types.is_fixed_size_list(values.type) or values.type.list_size != width or values.null_count:
        raise SchemaMismatchError(
            "a vector in frames.parquet is not as wide as its names",
            episode=episode.id,
            stream=name,
            found=str(values.type),
            expected=f"{width} x float32 in every row",
            todo=_RECONVERT,
        )
    return (values.flatten() if width == 1 else values).cast(wanted)


def write_episodes(path: Path, rows: Sequence[dict[str, Any]], types: Mapping[str, pa.DataType] | None = None) -> None:
    """Write meta/episodes from the rows of `episode_row`; `types` are those of columns that LeRobot itself does not have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = types or {}
    columns = {name: pa.array([row[name] for row in rows], known.get(name) or _column_type(name, rows[0][name])) for name in rows[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="snappy", use_dictionary=True)


def episode_row(
    k: int, layout: Layout, *, video_keys: Sequence[str], stats: FeatureStats, rate_hz: float, meta_file: int
) -> dict[str, Any]:
    """Return the row of meta/episodes of the dataset's episode `k`."""
    entry = layout.entries[k]
    row: dict[str, Any] = {"episode_index": k, "tasks": [entry.task], "length": entry.length}
    row |= _pointer(DATA, layout.places[DATA][k][0])
    row |= {"dataset_from_index": layout.first_frames[k], "dataset_to_index": layout.first_frames[k + 1]}
    for key in video_keys:
        file, first_frame = layout.places[f"videos/{key}"][k]
        row |= _pointer(f"videos/{key}", file)
        # One division of two integers each: no error to accumulate (huggingface/lerobot #3177).
        row[f"videos/{key}/from_timestamp"] = first_frame / rate_hz
        row[f"videos/{key}/to_timestamp"] = (first_frame + entry.length) / rate_hz
    for feature, values in stats.items():
        row |= {f"stats/{feature}/{name}": values[name] for name in STATS if name in values}
    return row | _pointer(META, meta_file)


def _pointer(stream: str, number: int) -> dict[str, int]:
    return {f"{stream}/chunk_index": number // CHUNKS_SIZE, f"{stream}/file_index": number % CHUNKS_SIZE}


def _column_type(name: str, value: Any) -> pa.DataType:
    """The arrow type of a column, without guessing: a file of whole numbers must have the schema of its neighbours."""
    import pyarrow as pa

    if name == "tasks":
        return pa.list_(pa.string())
    if not name.startswith("stats/"):
        return pa.float64() if name.endswith("_timestamp") else pa.int64()
    type_ = pa.int64() if name.endswith("/count") else pa.float64()
    for _ in range(np.ndim(value)):
        type_ = pa.list_(type_)
    return type_


def write_tasks(path: Path, texts: Sequence[str], more: Mapping[str, Sequence[Any]] | None = None) -> None:
    """Write tasks.parquet, task k the k-th: the text is the index of a pandas frame, as LeRobot reads it. `more` are other columns."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {"task_index": range(len(texts)), **(more or {})}
    pd.DataFrame(columns, index=pd.Index(texts, name="task")).to_parquet(path)
