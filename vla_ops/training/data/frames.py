"""The numbers of a LeRobot dataset in memory, and where the images of each frame are.

A frame is known by its row: 0 .. N - 1 over all episodes in the order of their indices, those for validation among them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.datasets.lerobot_features import VECTORS, video_key
from vla_ops.datasets.lerobot_version import HELD_OUT, VERSION_FILE
from vla_ops.datasets.mixture import SAMPLING_FILE, read_sampling
from vla_ops.errors import DatasetError, SchemaMismatchError
from vla_ops.recordings.lerobot_index import INFO, EpisodePlace, LeRobotIndex, flat_names
from vla_ops.training.data.columns import Column, column_names, episode_name, read_columns

type Float32 = npt.NDArray[np.float32]
type Int64 = npt.NDArray[np.int64]
type Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Frames:
    """All frames of a dataset. Arrays are by row."""

    folder: Path
    fps: float
    # By episode, ascending in their indices.
    places: tuple[EpisodePlace, ...]
    # Camera as it was asked for -> feature of the dataset, and of these those whose images stand in the parquet files.
    cameras: Mapping[str, str]
    stills: frozenset[str]
    # [N, d], [N, a]
    states: Float32
    actions: Float32
    # The dataset's own `index` of each frame.
    index: Int64
    # Into `texts`; -1 where the dataset has no task.
    text_of: Int64
    texts: tuple[str, ...]
    # Indices of the episodes for validation.
    held_out: frozenset[int]
    # Of mixtures, whose sources lack cameras or dimensions; a camera without one is in every frame.
    camera_masks: Mapping[str, Bools]
    state_mask: Bools | None = None
    action_mask: Bools | None = None
    # Of mixtures: the names of the sources, and of each frame which of them it is of.
    sources: tuple[str, ...] = ()
    source_of: Int64 | None = None

    def __len__(self) -> int:
        return len(self.states)

    @cached_property
    def starts(self) -> Int64:
        """Row of each place's first frame, and N."""
        return np.cumsum([0, *(place.length for place in self.places)], dtype=np.int64)

    def place_of(self, rows: Int64) -> Int64:
        """For each row the number of its episode in `places`."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def chunk(self, rows: Int64, horizon: int) -> tuple[Float32, Bools]:
        """Actions [B, horizon, a] from each row on, and [B, horizon] where they are past the episode's end and repeat its last."""
        ahead = rows[:, None] + np.arange(horizon)
        last = self.starts[self.place_of(rows) + 1][:, None] - 1
        return self.actions[np.minimum(ahead, last)], ahead > last

    def training_rows(self) -> Int64:
        """Rows of the episodes that are not held out. Raise DatasetError if there is none."""
        rows = self._rows(held_out=False)
        if not len(rows):
            todo = "Convert recordings first." if not self.places else "Hold out fewer episodes in curation.yaml."
            found = f"{len(self.places)} episodes, {len(self.held_out)} of them held out for validation"
            raise DatasetError("no episode is left for training", file=self.folder, found=found, todo=todo)
        return rows

    def validation_rows(self, limit: int | None = None) -> Int64:
        """Rows of the held-out episodes, at most `limit` of them, evenly spread. Raise DatasetError if there is none."""
        rows = self._rows(held_out=True)
        if not len(rows):
            raise DatasetError(
                "the validation set is empty: the dataset holds out no episode",
                file=self.folder / VERSION_FILE,
                found=f"{len(self.places)} episodes, all for training",
                todo="Write `held_out: {fraction: 0.1}` into curation.yaml and refresh the dataset, or train without validation.",
            )
        if limit is None or len(rows) <= limit:
            return rows
        return rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]

    def _rows(self, *, held_out: bool) -> Int64:
        spans = zip(self.places, self.starts, self.starts[1:], strict=False)
        parts = [np.arange(a, b) for place, a, b in spans if (place.index in self.held_out) == held_out]
        return np.concatenate([np.empty(0, np.int64), *parts])


def read_frames(
    folder: Path,
    *,
    cameras: Sequence[str],
    state_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    state: str = VECTORS[0],
    action: str = VECTORS[1],
) -> Frames:
    """Read the numbers of the dataset in `folder`; `cameras` are names in the robot's YAML, or features of the dataset.

    Raise DatasetError or SchemaMismatchError naming file, episode, feature and dimension: what is no whole dataset, a camera it lacks,
    vectors of other names or another width than `state_names` and `action_names`, numbers that are not finite.
    """
    index = LeRobotIndex(folder)
    features = index.features
    found = {camera: _feature_of(camera, features, index) for camera in cameras}
    names = {}
    for feature, wanted in ((state, state_names), (action, action_names)):
        names[feature] = _dimension_names(feature, index, wanted)
    places = tuple(place for place in index.episodes if place.length)
    if not places:
        raise DatasetError(
            "the dataset has no frames", file=folder, found=f"{len(index.episodes)} episodes", todo="Convert recordings first."
        )
    _check_files(places, list(found.values()), index)
    masks = {feature: f"mask.{feature}" for feature in (state, action, *found.values()) if f"mask.{feature}" in features}
    there = set(column_names(places[0]))
    columns = [Column(feature, len(dims), np.float32) for feature, dims in names.items()]
    columns += [Column(mask, int(np.prod(features[mask]["shape"])), np.bool_) for mask in masks.values()]
    columns += [Column(name, 1, np.int64) for name in ("index", "task_index") if name in there]
    read = read_columns(places, columns)
    for feature, dims in names.items():
        _refuse_nonfinite(read[feature], places, feature=feature, dims=dims)
    text_of, texts = _texts(index, places, read.get("task_index"))
    sources, source_of = _sources(folder, places)
    return Frames(
        folder=folder,
        fps=index.fps,
        places=places,
        cameras=found,
        stills=frozenset(camera for camera, feature in found.items() if features[feature]["dtype"] == "image"),
        states=read[state],
        actions=read[action],
        index=read["index"][:, 0] if "index" in read else np.arange(len(read[state])),
        text_of=text_of,
        texts=texts,
        held_out=_held_out(folder, places),
        camera_masks={
            camera: np.asarray(read[masks[feature]].all(axis=1), np.bool_) for camera, feature in found.items() if feature in masks
        },
        state_mask=read.get(masks.get(state, "")),
        action_mask=read.get(masks.get(action, "")),
        sources=sources,
        source_of=source_of,
    )


def _feature_of(camera: str, features: Mapping[str, Mapping[str, Any]], index: LeRobotIndex) -> str:
    """The feature of a camera. Raise DatasetError with the nearest name for one that the dataset lacks."""
    images = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
    feature = camera if camera in images else video_key(camera)
    if feature not in images:
        short = {name: name.removeprefix(video_key("")) for name in images}
        near = difflib.get_close_matches(camera, [*short.values(), *short], n=1, cutoff=0.4)
        raise DatasetError(
            "the dataset lacks a camera",
            file=index.folder,
            stream=camera,
            found=f"cameras {', '.join(short.values()) or 'none'}",
            todo=f"Did you mean {near[0]!r}?" if near else "Take its `role` away in the robot's YAML, or make the dataset with it.",
        )
    if (features[feature].get("info") or {}).get("is_depth_map"):
        raise DatasetError("a depth map cannot be a model's camera", file=index.folder, stream=camera)
    return feature


def _dimension_names(feature: str, index: LeRobotIndex, wanted: Sequence[str] | None) -> list[str]:
    """The names of a vector's dimensions. Raise SchemaMismatchError where they are not those that are `wanted`."""
    found = index.features.get(feature)
    if found is None:
        near = difflib.get_close_matches(feature, list(index.features), n=1, cutoff=0.4)
        todo = f"Did you mean {near[0]!r}?" if near else None
        raise DatasetError("the dataset lacks a feature", file=index.folder, stream=feature, found=", ".join(index.features), todo=todo)
    width = int(np.prod(found.get("shape") or (1,)))
    there = list(flat_names(found.get("names")))
    there = there if len(there) == width else [str(k) for k in range(width)]
    if wanted is None:
        return there
    named = bool(flat_names(found.get("names")))
    if width != len(wanted) or (named and there != list(wanted)):
        other = next((k for k in range(min(width, len(wanted))) if named and there[k] != wanted[k]), min(width, len(wanted)))
        raise SchemaMismatchError(
            "the vectors of the dataset are not the robot's",
            file=index.folder / INFO,
            stream=feature,
            dimension=[*wanted, *there[len(wanted) :]][other],
            found=f"{width}: {', '.join(there)}",
            expected=f"{len(wanted)}: {', '.join(wanted)}",
            todo="The dataset was made with another spec: convert again with the present one, or put the names back.",
        )
    return list(wanted)


def _check_files(places: Sequence[EpisodePlace], features: Sequence[str], index: LeRobotIndex) -> None:
    """Raise DatasetError with the first video that is not there, and how many are not."""
    videos = [feature for feature in features if index.features[feature]["dtype"] == "video"]
    wanted = [(place, name, place.videos[name].path if name in place.videos else None) for place in places for name in videos]
    exists = {path: path.is_file() for path in {path for *_, path in wanted if path}}
    missing = [(place, name, path) for place, name, path in wanted if path is None or not exists[path]]
    if missing:
        place, name, path = missing[0]
        raise DatasetError(
            "videos are missing",
            file=path or index.folder / "videos",
            episode=episode_name(place.index),
            stream=name,
            found=f"{len(wanted) - len(missing)} of {len(wanted)} (episodes x cameras)",
            todo="The copy is not whole: copy or make the dataset again.",
        )


def _refuse_nonfinite(values: Float32, places: Sequence[EpisodePlace], *, feature: str, dims: Sequence[str]) -> None:
    wrong = ~np.isfinite(values)
    if not wrong.any():
        return
    row, dim = (int(k) for k in np.argwhere(wrong)[0])
    starts = np.cumsum([0, *(place.length for place in places)])
    number = int(np.searchsorted(starts, row, side="right")) - 1
    raise DatasetError(
        "a number is not finite",
        file=places[number].data,
        episode=episode_name(places[number].index),
        frame=row - int(starts[number]),
        stream=feature,
        dimension=dims[dim],
        found=f"{values[row, dim]} ({int(wrong.sum())} such values)",
        todo="Leave the episode out, or mend its recording and convert it again.",
    )


def _texts(index: LeRobotIndex, places: Sequence[EpisodePlace], task_index: Int64 | None) -> tuple[Int64, tuple[str, ...]]:
    """For each row the number of its task's text, and the texts."""
    lengths = [place.length for place in places]
    if task_index is None:
        texts = tuple(dict.fromkeys(place.tasks[0] for place in places if place.tasks))
        return np.repeat([texts.index(place.tasks[0]) if place.tasks else -1 for place in places], lengths).astype(np.int64), texts
    numbers = list(index.tasks)
    of_index = {task: k for k, task in enumerate(numbers)}
    used, inverse = np.unique(task_index[:, 0], return_inverse=True)
    if missing := [int(task) for task in used if int(task) not in of_index]:
        raise DatasetError(
            "frames are of a task that the dataset does not list", file=index.folder / "meta", found=f"task_index {missing[0]}"
        )
    places_of = np.array([of_index[int(task)] for task in used], np.int64)
    return places_of[inverse.ravel()], tuple(index.tasks[task] for task in numbers)


def _sources(folder: Path, places: Sequence[EpisodePlace]) -> tuple[tuple[str, ...], Int64 | None]:
    """The sources of a mixture, and for each frame the number of its source. Raise DatasetError for an episode of none."""
    if not (folder / SAMPLING_FILE).is_file():
        return (), None
    sources = read_sampling(folder).sources
    of_episode = {k: number for number, source in enumerate(sources) for start, stop in source.episodes for k in range(start, stop)}
    if missing := [place.index for place in places if place.index not in of_episode]:
        todo = "Delete the version; it is then written anew."
        raise DatasetError(
            "an episode of the mixture is of no source", file=folder / SAMPLING_FILE, episode=episode_name(missing[0]), todo=todo
        )
    numbers = np.array([of_episode[place.index] for place in places], np.int64)
    return tuple(source.name for source in sources), np.repeat(numbers, [place.length for place in places])


def _held_out(folder: Path, places: Sequence[EpisodePlace]) -> frozenset[int]:
    """What meta/vla_ops.json holds out, which only datasets written here have."""
    path = folder / VERSION_FILE
    try:
        held_out = frozenset(int(k) for k in json.loads(path.read_text(encoding="utf-8")).get(HELD_OUT, ()))
    except FileNotFoundError:
        return frozenset()
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError("vla_ops.json cannot be read", file=path, found=repr(error)) from error
    if unknown := held_out - {place.index for place in places}:
        raise DatasetError("what the dataset holds out for validation is not in it", file=path, found=f"episode {min(unknown)}")
    return held_out
