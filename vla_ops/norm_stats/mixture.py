"""Norm stats of a mixture: those of each source, laid out by the mixture's names; merged ones only where the YAML asks for them.

`<root>/<version>/<source>/norm_stats.json` (and norm_stats.meta.json) for each source, `merged/` beside them if asked for, with
`merged/<source>/` as they are for that source's frames, and `sources.json`, which says what each was made from. A dimension that a
source lacks is normalised as it is: its zeros stay zeros.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_ops.datasets.lerobot_v3 import DatasetVersion, current_version
from vla_ops.datasets.mixture import read_sampling
from vla_ops.datasets.mixture.sampling import SourceSampling
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import DatasetError, StatsMismatchError, StoreError
from vla_ops.files import replacing, sweep
from vla_ops.mixture_file import Mixture, Source
from vla_ops.mixture_schema import VECTORS, Schema, Vector
from vla_ops.norm_stats.aloha import action_to_pi, state_to_pi
from vla_ops.norm_stats.chunk_values import ChunkValues, Floats, SingleValues, values_of_chunks
from vla_ops.norm_stats.chunks import VectorStats, chunk_norm_stats
from vla_ops.norm_stats.columns import DatasetColumns, read_columns
from vla_ops.norm_stats.stats import STATS_FILE, NormStats, Provenance, read_norm_stats, write_stats_files
from vla_ops.norm_stats.weighted import pooled, quantiles
from vla_ops.robot import RotationGroup, fingerprint

SOURCES_FILE, MERGED = "sources.json", "merged"
# Raise when the same mixture would now give other numbers.
MIXTURE_STATS_VERSION = 2
# What stands for a dimension that a source lacks: with z-scores and with quantiles 0 becomes 0.
_AS_IT_IS = {"mean": 0.0, "std": 1.0, "q01": -1.0, "q99": 1.0, "min": -1.0, "max": 1.0}


@dataclass(frozen=True)
class MixtureStats:
    """The norm stats of a mixture and the dataset they are of. Names are those of the folders."""

    folder: Path
    version: str
    by_source: dict[str, NormStats]
    # Fingerprint of each source's own stats.
    made_from: dict[str, str]
    merged: NormStats | None
    dataset: DatasetVersion


def refresh_mixture_stats(mixture: Mixture, store: RobotStore) -> MixtureStats:
    """Lay out the sources' norm stats for the mixture's dataset in use, and merge them if its YAML asks for it.

    Raise DatasetError, naming every one, for a source whose norm stats of the dataset that is in the mixture are not there.
    """
    dataset, drawn, own = _inputs(mixture, store)
    laid_out = {source.name: lay_out(own[source.name], source, mixture.schema) for source in mixture.sources}
    merged = _merged(mixture, dataset, drawn) if mixture.spec.norm_stats == MERGED else None
    version = _version(mixture, dataset, own)
    made_from = {name: stats.version for name, stats in own.items()}
    made = MixtureStats(store.root / "norm_stats" / version, version, laid_out, made_from, merged, dataset)
    _write(made, mixture, drawn)
    return made


def find_mixture_stats(mixture: Mixture, store: RobotStore) -> Path | None:
    """The folder of the norm stats of the mixture's dataset in use, or None. Raise DatasetError as `refresh_mixture_stats` does."""
    dataset, _, own = _inputs(mixture, store)
    folder = store.root / "norm_stats" / _version(mixture, dataset, own)
    return folder if (folder / SOURCES_FILE).is_file() else None


def current_mixture(mixture: Mixture, store: RobotStore) -> DatasetVersion:
    """The mixture's dataset in use. Raise DatasetError if it has none."""
    dataset = current_version(store.root / "lerobot_v3")
    if dataset is None:
        todo = f"Run the job {mixture.name}_all, or `vla-ops convert {mixture.name}`."
        raise DatasetError(f"the mixture {mixture.name} has no dataset yet", todo=todo)
    return dataset


def training_stats(mixture: Mixture, store: RobotStore) -> dict[str, Path]:
    """For each source the folder of the norm stats that a training of the mixture's dataset in use normalises its frames with.

    Raise StatsMismatchError if they have not been made, DatasetError as `refresh_mixture_stats` does.
    """
    folder = find_mixture_stats(mixture, store)
    if folder is None:
        todo = f"Run: vla-ops norm-stats {mixture.name}"
        raise StatsMismatchError("there are no norm stats of this dataset and YAML", file=store.root / "norm_stats", todo=todo)
    merged = mixture.spec.norm_stats == MERGED
    return {source.name: folder / MERGED / source.name if merged else folder / source.name for source in mixture.sources}


def _inputs(mixture: Mixture, store: RobotStore) -> tuple[DatasetVersion, list[SourceSampling], dict[str, NormStats]]:
    """The mixture's dataset in use, what of it is each source's, and each source's own norm stats."""
    dataset = current_mixture(mixture, store)
    drawn = read_sampling(dataset.folder).sources
    return dataset, drawn, _of_sources(mixture, drawn, store.root.parent)


def _version(mixture: Mixture, dataset: DatasetVersion, own: Mapping[str, NormStats]) -> str:
    """Changes with the sources' stats and places; with the mixture's dataset, which its weights are in, only for merged ones."""
    schema = mixture.schema
    sources = [[s.name, own[s.name].version, s.placement.state, s.placement.action, s.spec.tasks] for s in mixture.sources]
    dims = [[[dim.name, dim.unit, dim.kind] for dim in schema.dims(vector)] for vector in VECTORS]
    merged = dataset.version if mixture.spec.norm_stats == MERGED else None
    return fingerprint({"mixture_norm_stats": MIXTURE_STATS_VERSION, "sources": sources, "dims": dims, "merged": merged})


def _of_sources(mixture: Mixture, drawn: Sequence[SourceSampling], home: Path) -> dict[str, NormStats]:
    """Each source's own norm stats, of the version of its dataset that is in the mixture."""
    versions, found, missing = {source.name: source.dataset_version for source in drawn}, {}, []
    for k, source in enumerate(mixture.sources):
        robot = source.robot
        if source.name not in versions:
            missing.append(f"{mixture.place(('sources', k))}: {source.name} is not in the dataset: `vla-ops convert {mixture.name}`")
            continue
        wanted = Provenance.of(robot.spec, robot=robot.name, dataset_version=versions[source.name]).version
        path = RobotStore.of(robot.name, home).root / "norm_stats" / wanted / STATS_FILE
        try:
            found[source.name] = read_norm_stats(path)
        except StoreError as error:
            todo = f"`vla-ops norm-stats {robot.name}`, or `vla-ops convert {mixture.name}` if its dataset has changed since"
            missing.append(f"{mixture.place(('sources', k))}: {source.name} (dataset {versions[source.name]}): {error.what}: {todo}")
    if missing:
        raise DatasetError("\n".join([f"norm stats of sources of {mixture.name} are not there", *missing]))
    return found


def lay_out(stats: NormStats, source: Source, schema: Schema) -> NormStats:
    """A source's norm stats by the mixture's names, whatever their order in the source."""
    placement, made = source.placement, stats.provenance
    provenance = Provenance.of(schema.seen_by(placement), robot=made.robot, dataset_version=made.dataset_version)
    return NormStats(_placed(stats.state, placement.state), _placed(stats.actions, placement.action), provenance, stats.held_out)


def _for_frames_of(source: Source, merged: NormStats, schema: Schema) -> NormStats:
    """Merged norm stats for one source's frames: what it lacks is normalised as it is."""
    places = {vector: [k if has else None for k, has in enumerate(source.placement.has(vector))] for vector in VECTORS}
    made = merged.provenance
    provenance = Provenance.of(schema.seen_by(source.placement), robot=made.robot, dataset_version=made.dataset_version)
    return NormStats(_placed(merged.state, places["state"]), _placed(merged.actions, places["action"]), provenance, merged.held_out)


def _placed(stats: VectorStats, places: Sequence[int | None]) -> VectorStats:
    numbers = {
        name: np.array([without if k is None else getattr(stats, name)[k] for k in places], dtype=np.float64)
        for name, without in _AS_IT_IS.items()
    }
    return VectorStats(**numbers, count=stats.count)


@dataclass(frozen=True)
class _Part:
    """The training frames of one source, in the mixture's columns: states [n, d] and actions [n, a]."""

    source: Source
    share: float
    states: Floats
    actions: Floats
    lengths: npt.NDArray[np.int64]
    rotations: tuple[RotationGroup, ...]

    def values(self, schema: Schema, vector: Vector) -> list[ChunkValues]:
        """The values of each dimension, those of a rotation together."""
        last = np.cumsum(self.lengths) - 1
        if vector == "state":
            return [SingleValues(self.states[:, k], None, last, 1) for k in range(self.states.shape[1])]
        return values_of_chunks(
            self.states,
            self.actions,
            last,
            horizon=schema.norm_stats.action_horizon,
            delta_mask=schema.delta_mask,
            delta_rotations=self.rotations,
        )


def _merged(mixture: Mixture, dataset: DatasetVersion, drawn: Sequence[SourceSampling]) -> NormStats:
    """The statistics of what a training draws that follows the mixture's weights, of each dimension over the sources that have it."""
    schema, asked = mixture.schema, mixture.schema.norm_stats
    names = {vector: [dim.name for dim in schema.dims(vector)] for vector in VECTORS}
    columns = read_columns(dataset.folder, state_names=names["state"], action_names=names["action"])
    parts = _parts(mixture, columns, drawn)
    each = [
        chunk_norm_stats(
            part.states,
            part.actions,
            part.lengths,
            horizon=asked.action_horizon,
            delta_mask=schema.delta_mask,
            delta_rotations=part.rotations,
            state_names=names["state"],
            action_names=names["action"],
        )
        for part in parts
    ]
    shares = [part.share for part in parts]
    has = {vector: np.array([part.source.placement.has(vector) for part in parts]) for vector in VECTORS}
    state = pooled([stats.state for stats in each], has["state"], shares, _quantiles(schema, parts, has["state"], "state"))
    actions = pooled([stats.actions for stats in each], has["action"], shares, _quantiles(schema, parts, has["action"], "action"))
    provenance = Provenance.of(schema, robot=f"{mixture.name}/{MERGED}", dataset_version=dataset.version)
    return NormStats(state, actions, provenance, columns.held_out)


def _parts(mixture: Mixture, columns: DatasetColumns, drawn: Sequence[SourceSampling]) -> list[_Part]:
    """The frames of each source among those that trainings read, which are all that `columns` has."""
    turned = mixture.schema.norm_stats.adapt_to_pi
    states = state_to_pi(columns.states) if turned else columns.states
    actions = action_to_pi(columns.actions) if turned else columns.actions
    numbers = {source.name: source for source in drawn}
    owner = _owners(drawn)
    starts = np.cumsum(columns.lengths) - columns.lengths
    parts = []
    for source in mixture.sources:
        mine = [k for k, name in enumerate(owner) if name == source.name]
        rows = np.concatenate([np.arange(starts[k], starts[k] + columns.lengths[k]) for k in mine])
        has = source.placement.has("action")
        rotations = tuple(group for group in mixture.schema.delta_rotations if has[group.start])
        share = numbers[source.name].probability
        parts.append(_Part(source, share, states[rows], actions[rows], columns.lengths[mine], rotations))
    return parts


def _owners(drawn: Sequence[SourceSampling]) -> list[str]:
    """The source of each episode that trainings read, in the order of the dataset."""
    held = {k: source.name for source in drawn for start, stop in source.episodes for k in range(start, stop)}
    left_out = {k for source in drawn for k in source.held_out}
    return [held[k] for k in sorted(held) if k not in left_out]


def _quantiles(schema: Schema, parts: Sequence[_Part], has: npt.NDArray[np.bool_], vector: Vector) -> npt.NDArray[np.float64]:
    """q01 and q99 [2, d]. Rotations stand as one among the values of a source that has them, and as single zeros in the others'."""
    found = np.zeros((2, has.shape[1]))
    values = [_by_place(part.values(schema, vector)) for part in parts]
    place = 0
    while place < has.shape[1]:
        having = [k for k in range(len(parts)) if has[k, place]]
        chosen = [values[k][place] for k in having]
        width = chosen[0].width
        found[:, place : place + width] = quantiles(chosen, [parts[k].share for k in having])
        place += width
    return found


def _by_place(values: Sequence[ChunkValues]) -> dict[int, ChunkValues]:
    found, place = {}, 0
    for each in values:
        found[place] = each
        place += each.width
    return found


def _write(made: MixtureStats, mixture: Mixture, drawn: Sequence[SourceSampling]) -> None:
    """Write the folder; nothing is done where it is there."""
    if (made.folder / SOURCES_FILE).is_file():
        return
    sweep(made.folder.parent)
    with replacing(made.folder) as work:
        work.mkdir()
        for name, stats in made.by_source.items():
            write_stats_files(work / name, stats)
        if made.merged is not None:
            write_stats_files(work / MERGED, made.merged)
            for source in mixture.sources:
                write_stats_files(work / MERGED / source.name, _for_frames_of(source, made.merged, mixture.schema))
        (work / SOURCES_FILE).write_text(json.dumps(_about(made, mixture, drawn), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _about(made: MixtureStats, mixture: Mixture, drawn: Sequence[SourceSampling]) -> dict[str, Any]:
    sources = [
        {
            "name": source.name,
            "robot": source.robot,
            "dataset_version": source.dataset_version,
            "norm_stats_version": made.made_from[source.name],
            # Its own norm stats are of all its tasks.
            "tasks_in_the_mixture": given.spec.tasks or "all",
            "without": {
                vector: [dim.name for dim, has in zip(mixture.schema.dims(vector), given.placement.has(vector), strict=True) if not has]
                for vector in VECTORS
            },
        }
        for source, given in zip(drawn, mixture.sources, strict=True)
    ]
    about = {"version": made.version, "mixture": mixture.name, "sources": sources}
    if made.merged is None:
        return about
    merged = {"version": made.merged.version, "dataset_version": made.dataset.version, "weights": [source.probability for source in drawn]}
    return about | {"merged": merged}
