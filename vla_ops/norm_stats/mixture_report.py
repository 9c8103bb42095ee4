"""Where a mixture stands, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vla_ops.datasets.lerobot_v3 import current_version
from vla_ops.datasets.mixture import read_sampling
from vla_ops.datasets.mixture.sampling import SourceSampling
from vla_ops.datasets.mixture.sources import SourceData, read_sources
from vla_ops.episodes.store import RobotStore
from vla_ops.errors import DatasetError
from vla_ops.mixture_file import Mixture
from vla_ops.norm_stats.mixture import MixtureStats, find_mixture_stats
from vla_ops.norm_stats.table import render


def status_lines(mixture: Mixture, store: RobotStore) -> Iterator[str]:
    """Its sources, its dataset and norm stats, what is not up to date, and why it cannot be made where it cannot."""
    yield f"{mixture.name} (mixture of {', '.join(source.name for source in mixture.sources)})"
    made = current_version(store.root / "lerobot_v3")
    drawn = {source.name: source for source in read_sampling(made.folder).sources} if made else {}
    try:
        found = {data.name: data for data in read_sources(mixture, store.root.parent)}
    except DatasetError as error:
        yield f"  BLOCKED     {error}"
        found = {}
    for name in dict.fromkeys([*found, *drawn]):
        yield f"  source      {name}: {_source_line(name, found, drawn)}"
    yield f"  lerobot_v3  {f'{made.episodes} episodes, {made.frames:,} frames  {made.folder}' if made else 'none yet'}"
    if made and (stale := [name for name in found if name not in drawn or found[name].version.version != drawn[name].dataset_version]):
        yield f"  STALE       {', '.join(stale)} changed since: `vla-ops convert {mixture.name}`"
    yield f"  norm_stats  {_norm_stats_of(mixture, store) if made else 'none yet'}"


def _source_line(name: str, found: Mapping[str, SourceData], drawn: Mapping[str, SourceSampling]) -> str:
    data, sampled = found.get(name), drawn.get(name)
    now = f"{len(data.episodes)} episodes of version {data.version.version}" if data else "not in the YAML, or no usable dataset"
    read = f"; {sampled.frames:,} frames in the mixture, probability {sampled.probability:.3f}" if sampled else "; not in the mixture yet"
    return now + read


def _norm_stats_of(mixture: Mixture, store: RobotStore) -> str:
    try:
        folder = find_mixture_stats(mixture, store)
    except DatasetError as error:
        return str(error)
    return str(folder) if folder else f"none of this dataset and YAML yet: `vla-ops norm-stats {mixture.name}`"


def stats_lines(made: MixtureStats) -> Iterator[str]:
    """The norm stats of every source, and the merged ones, by name."""
    for name, stats in made.by_source.items():
        yield f"{name}: {render(stats)}"
    if made.merged is not None:
        yield f"merged, with the mixture's weights: {render(made.merged)}"
    yield str(made.folder)
