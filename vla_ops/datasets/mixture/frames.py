"""The data files of a mixture: a source's vectors put where their names are, 0 elsewhere, and the masks that say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vla_ops.datasets.file_runs import Run
from vla_ops.datasets.lerobot_layout import Layout
from vla_ops.datasets.lerobot_tables import data_schema, episode_frames, write_row_groups
from vla_ops.datasets.mixture.features import COLUMN, masks
from vla_ops.datasets.mixture.placed import Placed
from vla_ops.mixture_schema import VECTORS, Schema

if TYPE_CHECKING:
    import pyarrow as pa


def write_frames(path: Path, placed: Sequence[Placed], run: Run, *, schema: Schema, layout: Layout) -> Iterator[None]:
    """Write the frames of a run, one row group an episode; yield after each."""
    first = masks(schema, placed[run.start].placement)
    widths = {COLUMN[vector]: len(schema.dims(vector)) for vector in VECTORS}
    columns = data_schema(widths, masks={name: len(values) for name, values in first.items()})
    yield from write_row_groups(path, columns, (_frames(placed[k], columns, k=k, schema=schema, layout=layout) for k in run.episodes))


def _frames(placed: Placed, columns: pa.Schema, *, k: int, schema: Schema, layout: Layout) -> pa.Table:
    import pyarrow as pa

    meta = placed.episode.meta
    own = data_schema({"observation.state": len(meta.state_names), "action": len(meta.action_names)})
    read = episode_frames(placed.episode, own, episode_index=k, layout=layout)
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {name: read[name] for name in read.column_names}
    for vector in VECTORS:
        key = COLUMN[vector]
        arrays[key] = _list(padded(_matrix(read[key]), getattr(placed.placement, vector)))
    for name, values in masks(schema, placed.placement).items():
        arrays[name] = _list(np.broadcast_to(np.array(values), (read.num_rows, len(values))))
    return pa.table([arrays[name] for name in columns.names], schema=columns)


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    import pyarrow as pa

    values = column.combine_chunks()
    flat = values.flatten() if pa.types.is_fixed_size_list(values.type) else values
    return flat.to_numpy().reshape(len(values), -1)


def padded(values: npt.NDArray[np.float32], places: Sequence[int | None]) -> npt.NDArray[np.float32]:
    """Return [n, len(places)]: column k is column `places[k]` of `values` [n, d], or 0 where that is None."""
    wide = np.zeros((len(values), len(places)), np.float32)
    for k, column in enumerate(places):
        if column is not None:
            wide[:, k] = values[:, column]
    return wide


def _list(values: npt.NDArray[np.float32 | np.bool_]) -> pa.Array:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).ravel())
    return flat if values.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
