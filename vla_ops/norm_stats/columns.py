"""Read the number columns of a LeRobot dataset folder (v3.0 or v2.1): never an image, one record batch in memory at a time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vla_ops.datasets.lerobot_version import HELD_OUT, VERSION_FILE
from vla_ops.errors import DatasetError, SchemaMismatchError
from vla_ops.norm_stats.chunk_values import Floats
from vla_ops.recordings.lerobot_index import flat_names

if TYPE_CHECKING:
    import pyarrow as pa

STATE, ACTION, EPISODE = "observation.state", "action", "episode_index"
_BATCH_ROWS = 65_536
_KNOWN = ("v2.1", "v3.0")


@dataclass(frozen=True)
class DatasetColumns:
    """State [N, d] and action [N, a] of all frames that trainings read, in dataset order, and where they are from."""

    states: Floats
    actions: Floats
    # Frames of each episode, in order; their sum is N.
    lengths: npt.NDArray[np.int64]
    robot: str
    # The version its writer gave the dataset; for a dataset from elsewhere a digest of these columns.
    version: str
    # How many episodes are left out because they are for validation.
    held_out: int = 0


def read_columns(folder: Path, *, state_names: Sequence[str], action_names: Sequence[str]) -> DatasetColumns:
    """Read the columns of the dataset in `folder`, whose vectors must have these names, without the episodes it holds out.

    Raise DatasetError for a folder that is not a whole dataset and SchemaMismatchError for other names or widths.
    """
    info = _read_info(folder)
    for feature, names in ((STATE, state_names), (ACTION, action_names)):
        _check_feature(folder, info, feature=feature, names=names)
    files = sorted((folder / "data").glob("*/*.parquet"), key=lambda path: _numbers(path.relative_to(folder)))
    frames = _count_rows(files)
    if frames != info["total_frames"] or frames == 0:
        raise DatasetError(
            "the data files do not hold the frames that info.json counts",
            file=folder,
            found=f"{frames} frames in {len(files)} files",
            expected=f"{info['total_frames']} frames",
            todo="The copy is not complete, or the dataset is empty: copy or write it again.",
        )
    given = _Given.of(folder)
    rows = _read(files, frames, state_width=len(state_names), action_width=len(action_names), held_out=given.held_out)
    lengths = _lengths(folder, rows.episodes, expected=info["total_episodes"], held_out=given.held_out)
    version = given.version or _digest(rows.states, rows.actions, lengths)
    robot = info.get("robot_type") or "unknown"
    return DatasetColumns(rows.states, rows.actions, lengths, robot=robot, version=version, held_out=len(given.held_out))


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        known = info["codebase_version"] in _KNOWN
        _ = info["total_frames"], info["total_episodes"], info["features"]
    except FileNotFoundError as error:
        raise DatasetError("not a LeRobot dataset: meta/info.json is missing", file=folder) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError("info.json cannot be read", file=path, found=repr(error)) from error
    if not known:
        raise DatasetError("unknown LeRobot dataset version", file=path, found=info["codebase_version"], expected=" or ".join(_KNOWN))
    return info


def _check_feature(folder: Path, info: dict[str, Any], *, feature: str, names: Sequence[str]) -> None:
    if feature not in info["features"]:
        raise DatasetError("the dataset has no such feature", file=folder, stream=feature, found=sorted(info["features"]))
    found = info["features"][feature]
    shape, written = found.get("shape"), flat_names(found.get("names"))
    if shape != [len(names)]:
        raise SchemaMismatchError(
            "dataset and robot spec differ in width", file=folder, stream=feature, found=shape, expected=f"[{len(names)}]: {list(names)}"
        )
    if written and len(written) != len(names):
        raise SchemaMismatchError(
            "the dataset names another number of dimensions than it has",
            file=folder,
            stream=feature,
            found=list(written),
            expected=list(names),
        )
    # Some datasets name nothing.
    for k, (there, here) in enumerate(zip(written or names, names, strict=True)):
        if there != here:
            raise SchemaMismatchError(
                "dataset and robot spec differ in the names of dimensions",
                file=folder,
                stream=feature,
                dimension=k,
                found=there,
                expected=f"{here} as in the spec",
                todo="Convert the recordings again with the present spec, or put the names back.",
            )


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", path.as_posix())]


def _count_rows(files: Sequence[Path]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    for path in files:
        try:
            rows += pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            raise DatasetError("not a whole parquet file", file=path, found=str(error)) from error
    return rows


@dataclass(frozen=True)
class _Rows:
    """`episodes` is of all frames, the vectors of those that are not held out."""

    states: Floats
    actions: Floats
    episodes: npt.NDArray[np.int64]


def _read(files: Sequence[Path], frames: int, *, state_width: int, action_width: int, held_out: Sequence[int]) -> _Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Float32 is what LeRobot's vectors are and what the model reads; a recorder's float64 columns are read as what they become.
    rows = _Rows(np.empty((frames, state_width), np.float32), np.empty((frames, action_width), np.float32), np.empty(frames, np.int64))
    row = kept = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS, columns=[STATE, ACTION, EPISODE]):
                    states = _matrix(batch[STATE], path, STATE, width=state_width)
                    actions = _matrix(batch[ACTION], path, ACTION, width=action_width)
                    episodes = _vector(batch[EPISODE], path, EPISODE)
                    rows.episodes[row : row + len(batch)] = episodes
                    row += len(batch)
                    if held_out:
                        read = ~np.isin(episodes, held_out)
                        states, actions = states[read], actions[read]
                    rows.states[kept : kept + len(states)], rows.actions[kept : kept + len(states)] = states, actions
                    kept += len(states)
        except (pa.ArrowException, KeyError, OSError) as error:
            raise DatasetError("a data file cannot be read", file=path, found=str(error)) from error
    return _Rows(rows.states[:kept], rows.actions[:kept], rows.episodes)


def _matrix(column: pa.Array, path: Path, name: str, *, width: int) -> npt.NDArray[Any]:
    """Return a vector column as [rows, width]. LeRobot stores a feature of width 1 as plain numbers."""
    import pyarrow as pa

    is_list = isinstance(column.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType)
    widths = column.value_lengths().unique().to_pylist() if is_list else [1]
    if column.null_count or widths != [width]:
        found = f"{column.null_count} nulls, widths {widths}"
        raise DatasetError("rows without a value or of another width", file=path, stream=name, found=found, expected=f"width {width}")
    return _vector(column.flatten() if is_list else column, path, name).reshape(len(column), width)


def _vector(column: pa.Array, path: Path, name: str) -> npt.NDArray[Any]:
    import pyarrow as pa

    if column.null_count or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        found = f"{column.null_count} nulls in a column of {column.type}"
        raise DatasetError("a column is not of numbers alone", file=path, stream=name, found=found)
    # Array.to_numpy imports pandas, which takes a second.
    return np.from_dlpack(column)


def _lengths(folder: Path, episodes: npt.NDArray[np.int64], *, expected: int, held_out: Sequence[int]) -> npt.NDArray[np.int64]:
    """Frames of each run of equal episode_index that is not held out; there must be one run an episode."""
    starts = np.flatnonzero(np.diff(episodes, prepend=episodes[0] - 1))
    numbers, runs = np.unique(episodes[starts], return_counts=True)
    if runs.max() > 1:
        raise DatasetError(
            "the frames of an episode are not together, so its chunks cannot be cut",
            file=folder,
            episode=int(numbers[runs.argmax()]),
            found=f"{runs.max()} separate runs of rows",
            expected="1",
        )
    if len(starts) != expected:
        raise DatasetError("data files and info.json differ in episodes", file=folder, found=len(starts), expected=expected)
    missing = set(held_out) - set(numbers.tolist())
    if missing or len(held_out) == len(starts):
        found = f"no episode {min(missing)}" if missing else f"all {len(starts)} episodes held out"
        raise DatasetError("what the dataset holds out for validation does not fit it", file=folder / VERSION_FILE, found=found)
    return np.diff(starts, append=len(episodes))[~np.isin(episodes[starts], held_out)]


@dataclass(frozen=True)
class _Given:
    """What meta/vla_ops.json says, which only datasets written here have: the version, and the indices of episodes for validation."""

    version: str | None = None
    held_out: tuple[int, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> _Given:
        path = folder / VERSION_FILE
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(given["version"]), tuple(map(int, given.get(HELD_OUT, ()))))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError("vla_ops.json cannot be read", file=path, found=repr(error)) from error


def _digest(*columns: npt.NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return f"content-{digest.hexdigest()[:16]}"
