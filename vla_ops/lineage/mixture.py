"""The component behind `type: vla_ops.Mixture`: several robots' datasets as one, with the lineage of each source."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel

from vla_ops.datasets.mixture.card import SOURCE_COLUMNS, source_rows
from vla_ops.datasets.mixture.refresh import RefreshedMixture, refresh_mixture
from vla_ops.episodes.store import RobotStore
from vla_ops.homes.needs import data, dataset, needs_of
from vla_ops.lineage.as_written import as_written
from vla_ops.lineage.at_home import done_at_home
from vla_ops.lineage.mixture_scaffold import MixtureScaffolder
from vla_ops.lineage.names import code_version
from vla_ops.lineage.published import published_policy_assets
from vla_ops.lineage.tables import table, version_metadata
from vla_ops.lineage.torch_policy import torch_policy_assets
from vla_ops.lineage.training import checkpoint_assets, train_jobs, train_tags
from vla_ops.mixture import MixtureSpec
from vla_ops.mixture_file import Mixture as LoadedMixture
from vla_ops.mixture_file import load_mixture
from vla_ops.norm_stats.mixture import MixtureStats, refresh_mixture_stats
from vla_ops.norm_stats.table import COLUMNS, stats_rows

COMPLETE = "holds_what_its_sources_hold"
COUNT = "counts_are_those_of_the_sources"


@dg.scaffold_with(MixtureScaffolder)
@dataclass
class Mixture(dg.Component):
    """A dataset made of several robots' datasets, with weights, by the names of their dimensions and cameras."""

    mixture: LoadedMixture

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The YAML's `attributes`, described by the schema of MixtureSpec."""
        return as_written(MixtureSpec)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:  # noqa: ARG003 - Dagster calls it so
        """Load the mixture that is named after its folder. Raise SpecError naming file and line of every mistake."""
        folder = Path(context.path)
        return cls(load_mixture(folder.parent if folder.is_file() else folder))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002 - Dagster calls it so
        """Everything Dagster knows of the mixture."""
        return mixture_definitions(self.mixture)


def mixture_definitions(mixture: LoadedMixture) -> dg.Definitions:
    """Everything Dagster knows of one mixture. Its sources' assets are those of their robots."""
    checkpoints = checkpoint_assets(mixture)
    policies = [*torch_policy_assets(mixture), *published_policy_assets(mixture)]
    assets = [_lerobot_v3_asset(mixture), _norm_stats_asset(mixture), *checkpoints, *policies]
    ingest: dict[str, str] = {"vla_ops/robot": mixture.name, "vla_ops/ingest": mixture.name}
    job = dg.define_asset_job(
        f"{mixture.name}_all",
        dg.AssetSelection.assets(*(asset.key for asset in assets)),
        description="The mixture of the sources' datasets in use, its norm stats and checkpoints. The sources have jobs of their own.",
        executor_def=dg.in_process_executor,
        tags=train_tags(mixture.name) if checkpoints else ingest,
    )
    return dg.Definitions(assets=assets, jobs=[job, *train_jobs(mixture, checkpoints)])


def _key(mixture: LoadedMixture, name: str) -> dg.AssetKey:
    return dg.AssetKey([mixture.name, name])


def _of_sources(mixture: LoadedMixture, name: str) -> list[dg.AssetKey]:
    robots = dict.fromkeys(source.robot.name for source in mixture.sources)
    return [dg.AssetKey([robot, name]) for robot in robots]


def _lerobot_v3_asset(mixture: LoadedMixture) -> dg.AssetsDefinition:
    key, spec = _key(mixture, "lerobot_v3"), mixture.spec

    @dg.asset(
        key=key,
        deps=_of_sources(mixture, "lerobot_v3"),
        code_version=code_version([spec.model_dump(mode="json", exclude={"norm_stats", "trainings"}), _placed(mixture)]),
        group_name=mixture.name,
        kinds={"lerobot", "parquet"},
        description="The sources' datasets as one LeRobot v3.0 dataset, by name: what a source lacks is masked. Videos are shared.",
        check_specs=[dg.AssetCheckSpec(COMPLETE, asset=key, blocking=True, description="Frames and episodes are those of the sources.")],
    )
    @done_at_home(lambda: needs_of(mixture, data))
    def lerobot_v3(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        refreshed = refresh_mixture(mixture, RobotStore.of(mixture.name), say=context.log.info)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(refreshed.made.version),
            metadata=_metadata(mixture, refreshed),
            check_results=[_complete(refreshed)],
        )

    return lerobot_v3


def _placed(mixture: LoadedMixture) -> list[Any]:
    """What of the sources' YAML decides where their numbers and images go: an edit there shows here before anything runs."""
    schema = mixture.schema
    roles = [schema.rate_hz, dict(schema.cameras), [[d.name, d.unit, d.kind] for d in (*schema.state_dims, *schema.action_dims)]]
    return [*roles, *(schema.of(source.placement) for source in mixture.sources)]


def _metadata(mixture: LoadedMixture, refreshed: RefreshedMixture) -> dict[str, Any]:
    made, spec = refreshed.made, mixture.spec
    return {
        **version_metadata(made, rate_hz=mixture.schema.rate_hz, repo_id=spec.dataset.repo_id),
        "held_out": made.held_out_episodes,
        "sources": table(source_rows(mixture, refreshed.sources, refreshed.sampling), SOURCE_COLUMNS),
        "dimensions": table(_dimensions(mixture), ["vector", "index", "name", "unit", "kind", "sources"]),
    }


def _dimensions(mixture: LoadedMixture) -> list[dict[str, Any]]:
    rows = []
    for vector in ("state", "action"):
        for k, dim in enumerate(mixture.schema.dims(vector)):
            having = ", ".join(source.name for source in mixture.sources if source.placement.has(vector)[k])
            rows.append({"vector": vector, "index": k, "name": dim.name, "unit": dim.unit, "kind": dim.kind, "sources": having})
    return rows


def _complete(refreshed: RefreshedMixture) -> dg.AssetCheckResult:
    held, sources = refreshed.held, refreshed.sources
    wanted = (sum(len(data.episodes) for data in sources), sum(e.meta.length for data in sources for e in data.episodes))
    drawn = sum(source.training_frames for source in refreshed.sampling.sources)
    said = [f"{data.name} {len(data.episodes)} episodes" for data in sources]
    return dg.AssetCheckResult(
        check_name=COMPLETE,
        passed=(held.listed, held.frames) == wanted and drawn == refreshed.made.training_frames,
        description=f"in the files: {held.listed} episodes, {held.frames} frames; sources: {', '.join(said)}, {wanted[1]} frames",
        metadata={"dataset_frames": held.frames, "source_frames": wanted[1], "training_frames": drawn},
    )


def _norm_stats_asset(mixture: LoadedMixture) -> dg.AssetsDefinition:
    key = _key(mixture, "norm_stats")

    @dg.asset(
        key=key,
        deps=[_key(mixture, "lerobot_v3"), *_of_sources(mixture, "norm_stats")],
        code_version=code_version([mixture.spec.norm_stats, mixture.schema.norm_stats.model_dump(), _placed(mixture)]),
        group_name=mixture.name,
        kinds={"numpy", "json"},
        description="Each source's norm stats, laid out by the mixture's names; one of all sources only with `norm_stats: merged`.",
        check_specs=[dg.AssetCheckSpec(COUNT, asset=key, blocking=True, description="No frame of a source was left out.")],
    )
    @done_at_home(lambda: needs_of(mixture, dataset))
    def norm_stats(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        made = refresh_mixture_stats(mixture, RobotStore.of(mixture.name))
        context.log.info(f"norm stats of {', '.join(made.by_source)}{' and merged' if made.merged else ''}: {made.folder}")
        metadata: dict[str, Any] = {
            "sources": table([{"source": name, "norm_stats_version": version} for name, version in made.made_from.items()], _MADE_FROM),
            "mixture_version": made.dataset.version,
            "statistics": table(_statistics(made), ["source", *COLUMNS]),
            "path": dg.MetadataValue.path(str(made.folder)),
        }
        return dg.MaterializeResult(data_version=dg.DataVersion(made.version), metadata=metadata, check_results=[_count(mixture, made)])

    return norm_stats


_MADE_FROM = ["source", "norm_stats_version"]


def _statistics(made: MixtureStats) -> Sequence[dict[str, Any]]:
    every = {**({"merged": made.merged} if made.merged else {}), **made.by_source}
    return [{"source": name, **row} for name, stats in every.items() for row in stats_rows(stats)]


def _count(mixture: LoadedMixture, made: MixtureStats) -> dg.AssetCheckResult:
    """Each source's stats are of its whole dataset, of which the mixture may have some tasks; the merged ones are of the mixture."""
    whole = {source.name: made.by_source[source.name].frames for source in mixture.sources if source.spec.tasks is None}
    frames = made.dataset.training_frames
    counted = sum(whole.values())
    right = counted <= frames if len(whole) < len(mixture.sources) else counted == frames
    merged = made.merged.frames if made.merged else frames
    return dg.AssetCheckResult(
        check_name=COUNT,
        passed=right and merged == frames,
        description=f"counted {counted} frames in the stats of {', '.join(whole) or 'no whole source'}; the mixture trains on {frames}",
    )
