"""Statistics of a converted dataset: copied where the source has them, otherwise computed, and named as either."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ops.datasets.convert.pictures import still_stats, video_stats
from vla_ops.datasets.convert.report import some
from vla_ops.datasets.convert.rows import episode_name, read
from vla_ops.datasets.convert.source import SourceDataset
from vla_ops.datasets.lerobot_stats import aggregate_stats
from vla_ops.datasets.video_packets import Cut
from vla_ops.episodes.vector_stats import QUANTILES, STATS, vector_stats
from vla_ops.errors import DatasetError, QualityError, SchemaMismatchError
from vla_ops.recordings.lerobot_dataset import as_matrix

if TYPE_CHECKING:
    import pyarrow as pa

BASE = ("min", "max", "mean", "std", "count")
_NUMERIC = ("float", "int", "uint", "bool")

# feature -> {min, max, ...} as nested lists
type EpisodeStats = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """What a feature's statistics are made of."""

    # numbers, video, still
    kind: str
    copied: tuple[str, ...]
    computed: tuple[str, ...]


class StatsBook:
    """The statistics of each episode, filled in while its rows are at hand."""

    def __init__(self, source: SourceDataset, *, version: str, image_quantiles: bool = False) -> None:
        self.source = source
        self.kinds = STATS if version == "v3.0" else BASE
        self._found = read_stats(source)
        self.plan = {name: plan for name in source.features if (plan := self._plan(name, image_quantiles=image_quantiles)) is not None}
        self._made: list[EpisodeStats] = [{} for _ in source.places]
        # Feature -> why it has no computed statistics.
        self._without: dict[str, str] = {}

    def _plan(self, name: str, *, image_quantiles: bool) -> Wanted | None:
        kind = _kind(self.source, name)
        if kind is None:
            return None
        copied = self._copied(name)
        if not set(BASE) <= set(copied):
            return Wanted(kind, (), self.kinds)
        computed = tuple(one for one in self.kinds if one not in copied)
        return Wanted(kind, copied, computed if kind == "numbers" or image_quantiles else ())

    def _copied(self, name: str) -> tuple[str, ...]:
        """The kinds that the source has of every episode."""
        has = [self._found.get(place.index, {}).get(name, {}) for place in self.source.places]
        return tuple(kind for kind in self.kinds if all(one.get(kind) is not None for one in has))

    def see_rows(self, k: int, table: pa.Table, *, retimed: bool = False) -> None:
        """Take the statistics of an episode that need its rows. `retimed`: its timestamps are not those that the source's are of."""
        for name, plan in self.plan.items():
            kinds = self.kinds if retimed and name == "timestamp" else plan.computed
            if not kinds or name in self._without or plan.kind == "video":
                continue
            try:
                found = still_stats(table[name]) if plan.kind == "still" else self._of_numbers(name, table[name])
            except (QualityError, SchemaMismatchError) as error:
                self._without[name] = f"{error.what} ({episode_name(k)}, found {error.found})"
                continue
            except DatasetError as error:
                raise error.at(episode=episode_name(k), stream=name) from error.__cause__
            self._made[k][name] = {kind: found[kind] for kind in kinds}

    def _of_numbers(self, name: str, column: pa.ChunkedArray) -> dict[str, Any]:
        found = vector_stats(as_matrix(column, name))
        shape = self.source.features[name].get("shape") or [1]
        if len(shape) < 2:
            return found
        return {kind: value if kind == "count" else np.reshape(value, shape).tolist() for kind, value in found.items()}

    def see_video(self, k: int, name: str, cut: Cut) -> None:
        """Take the statistics of an episode's video, decoding the frames that LeRobot samples, if the source has none."""
        if kinds := self.plan[name].computed if name in self.plan else ():
            try:
                found = video_stats(cut)
            except DatasetError as error:
                raise error.at(episode=episode_name(k), stream=name) from error.__cause__
            self._made[k][name] = {kind: found[kind] for kind in kinds}

    def of(self, k: int) -> EpisodeStats:
        """The statistics of an episode, in the order of the features."""
        found = self._found.get(k, {})
        stats = {name: {kind: found[name][kind] for kind in plan.copied} for name, plan in self.plan.items()}
        for name, made in self._made[k].items():
            if name not in self._without:
                stats[name] |= made
        return {name: _ordered(one) for name, one in stats.items() if set(BASE) <= one.keys()}

    def whole(self) -> EpisodeStats:
        """The statistics of the dataset, aggregated from those of its episodes."""
        parts = [self.of(k) for k in range(len(self.source.places))]
        return aggregate_stats(parts) if parts[0] else {}

    def lines(self) -> Iterator[str]:
        """Yield what was copied and what was computed."""
        for kinds, names in self._grouped("copied"):
            yield f"statistics copied: {kinds} of {names}"
        for kinds, names in self._grouped("computed", "numbers"):
            yield f"statistics computed from the numbers: {kinds} of {names}"
        for kinds, names in self._grouped("computed", "video", "still"):
            yield f"statistics computed from the pictures that LeRobot samples, decoded for this: {kinds} of {names}"

    def lacking(self) -> Iterator[str]:
        """Yield what the result has no statistics of, and those of the source that it does not hold."""
        for name, why in self._without.items():
            kinds = self.plan[name].computed
            yield f"statistics {', '.join(kinds)} of {name}: {why}"
        images = (name for name, plan in self.plan.items() if plan.kind != "numbers")
        if without := [name for name in images if not {*self.plan[name].copied, *self.plan[name].computed} >= {*self.kinds}]:
            yield f"quantiles of {some(without)}: the source has none; `--image-quantiles` computes them from decoded pictures"
        if depth := [name for name in self.source.features if _is_depth(self.source.features[name]) and name not in self.plan]:
            yield f"statistics of {some(depth)}: no color images"
        found = list(self._found.values())
        features = dict.fromkeys(name for stats in found for name in stats)
        if unknown := [name for name in features if name not in self.plan and name not in self.source.index.features]:
            yield f"statistics of {some(unknown)}: not of a feature in info.json"
        kinds = dict.fromkeys(kind for stats in found for one in stats.values() for kind in one)
        if others := [kind for kind in kinds if kind not in self.kinds]:
            yield f"{', '.join(others)} of the episodes' statistics: this version has no place for them"

    def _grouped(self, what: str, *kinds: str) -> Iterator[tuple[str, str]]:
        groups: dict[tuple[str, ...], list[str]] = {}
        for name, plan in self.plan.items():
            if (found := getattr(plan, what)) and (not kinds or plan.kind in kinds) and not (what == "computed" and name in self._without):
                groups.setdefault(found, []).append(name)
        return ((", ".join(found), ", ".join(names)) for found, names in groups.items())


def _kind(source: SourceDataset, name: str) -> str | None:
    feature = source.features[name]
    dtype = str(feature.get("dtype"))
    if dtype in ("video", "image"):
        return None if _is_depth(feature) else "video" if dtype == "video" else "still"
    return "numbers" if dtype.startswith(_NUMERIC) and name in source.schema.names else None


def _is_depth(feature: dict[str, Any]) -> bool:
    about = feature.get("info") or feature.get("video_info") or {}
    return bool(about.get("is_depth_map") or about.get("video.is_depth_map"))


def _ordered(stats: dict[str, Any]) -> dict[str, Any]:
    return {kind: stats[kind] for kind in (*BASE, *QUANTILES) if kind in stats}


def read_stats(source: SourceDataset) -> dict[int, EpisodeStats]:
    """The source's statistics of its episodes, by index; of those that it has none of, nothing."""
    if source.is_v30:
        return dict(_stats_v30(source.index.episode_files))
    path = source.folder / "meta/episodes_stats.jsonl"
    if source.version == "v2.0" or not path.is_file():
        return {}
    return dict(_stats_v21(path))


def _stats_v21(path: Path) -> Iterator[tuple[int, EpisodeStats]]:
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():
                row = json.loads(line)
                yield int(row["episode_index"]), {name: _as_numbers(stats) for name, stats in row["stats"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError("a line has no statistics of an episode", file=path, found=repr(error)) from error


def _as_numbers(stats: dict[str, Any]) -> dict[str, Any]:
    """Lists of numbers: those of booleans are written as true and false."""
    return {kind: np.atleast_1d(np.array(value, np.int64 if kind == "count" else np.float64)).tolist() for kind, value in stats.items()}


def _stats_v30(paths: Sequence[Path]) -> Iterator[tuple[int, EpisodeStats]]:
    for path in paths:
        table = read(path)
        names = [name for name in table.column_names if name.startswith("stats/")]
        for row in table.select(["episode_index", *names]).to_pylist():
            stats: EpisodeStats = {}
            for name in names:
                if row[name] is not None:
                    feature, _, kind = name.removeprefix("stats/").rpartition("/")
                    stats.setdefault(feature, {})[kind] = row[name]
            yield row["episode_index"], stats
