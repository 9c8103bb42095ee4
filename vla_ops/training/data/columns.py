"""Columns of a LeRobot dataset's parquet files as arrays, of all episodes in their order. Every file is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vla_ops.errors import DatasetError
from vla_ops.recordings.lerobot_index import EpisodePlace

if TYPE_CHECKING:
    import pyarrow as pa

_AGAIN = "The copy is not whole, or data/ and meta/ are not of one dataset: copy or make it again."


@dataclass(frozen=True)
class Column:
    """What is wanted of a column: its width, and the type of what is made of it."""

    name: str
    width: int
    dtype: type[np.generic]


def read_columns(places: Sequence[EpisodePlace], columns: Sequence[Column]) -> dict[str, npt.NDArray[Any]]:
    """Each column [N, width] over all frames of `places`, in this order. Raise DatasetError naming file, column and episode."""
    frames = sum(place.length for place in places)
    read = {column.name: np.empty((frames, column.width), column.dtype) for column in columns}
    row = 0
    for place, table in _tables(places, [column.name for column in columns]):
        for column in columns:
            read[column.name][row : row + place.length] = _values(table.column(column.name), column, place)
        row += place.length
    return read


def column_names(place: EpisodePlace) -> list[str]:
    """The columns of an episode's parquet file. Raise DatasetError if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(place.data).names
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(place, error) from error


def episode_name(index: int) -> str:
    """How messages name an episode of a dataset."""
    return f"episode_{index:06d}"


def _tables(places: Sequence[EpisodePlace], names: Sequence[str]) -> Iterator[tuple[EpisodePlace, pa.Table]]:
    """Yield each episode's rows; those of a file stand together, so that one file is in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path, group in groupby(places, key=lambda place: place.data):
        of_file = list(group)
        try:
            there = pq.read_schema(path).names
            if missing := [name for name in names if name not in there]:
                raise DatasetError("a data file lacks a column", file=path, stream=missing[0], found=", ".join(there), todo=_AGAIN)
            table = pq.read_table(path, columns=list(dict.fromkeys([*names, *({"episode_index"} & set(there))])))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(of_file[0], error) from error
        for place in of_file:
            yield place, _rows_of(place, table)


def _rows_of(place: EpisodePlace, table: pa.Table) -> pa.Table:
    rows = table.slice(place.first_row, place.length)
    where: dict[str, object] = {"file": place.data, "episode": episode_name(place.index)}
    if len(rows) != place.length:
        raise DatasetError(
            "a data file ends before its episode", **where, found=f"{len(rows)} rows", expected=f"{place.length} frames", todo=_AGAIN
        )
    if "episode_index" in rows.column_names:
        numbers = rows.column("episode_index").combine_chunks().to_numpy(zero_copy_only=False).ravel()
        if wrong := set(numbers.tolist()) - {place.index}:
            raise DatasetError("rows of an episode are another one's", **where, found=f"episode_index {min(wrong)}", todo=_AGAIN)
    return rows


def _values(column: pa.ChunkedArray, wanted: Column, place: EpisodePlace) -> npt.NDArray[Any]:
    """[rows, width]. LeRobot stores a feature of width 1 as plain numbers."""
    import pyarrow as pa

    values = column.combine_chunks()
    nulls, widths = values.null_count, [1]
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type):
        widths = values.value_lengths().unique().to_pylist()
        values = values.flatten()
        nulls += values.null_count
    known = pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
    if nulls or widths != [wanted.width] or not known:
        raise DatasetError(
            "rows of a column have no value, another width than info.json says, or are no numbers",
            file=place.data,
            episode=episode_name(place.index),
            stream=wanted.name,
            found=f"{nulls} without a value, widths {widths}, {values.type}",
            expected=f"width {wanted.width}",
            todo=_AGAIN,
        )
    return values.to_numpy(zero_copy_only=False).reshape(-1, wanted.width).astype(wanted.dtype)


def _unreadable(place: EpisodePlace, error: Exception) -> DatasetError:
    missing = isinstance(error, FileNotFoundError)
    what = "a data file is missing" if missing else "not a whole parquet file"
    found = None if missing else str(error)
    return DatasetError(what, file=Path(place.data), episode=episode_name(place.index), found=found, todo=_AGAIN)
