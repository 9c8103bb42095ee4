"""`<robot>/norm_stats`: openpi's norm_stats.json of the current dataset, from its number columns alone."""

from typing import Any

import dagster as dg

from vla_ops.episodes.plan import quarantine_reasons
from vla_ops.homes.needs import dataset, needs_of
from vla_ops.lineage.at_home import done_at_home
from vla_ops.lineage.names import Stage, code_version
from vla_ops.lineage.tables import table
from vla_ops.norm_stats import NormStats, Provenance, narrow_dimensions
from vla_ops.norm_stats.refresh import refresh_norm_stats
from vla_ops.norm_stats.table import COLUMNS, stats_rows

COUNT = "count_is_frames_times_horizon"
NARROW = "every_dimension_can_be_divided_by"


def norm_stats_asset(stage: Stage) -> dg.AssetsDefinition:
    """The asset."""
    key = stage.key("norm_stats")

    @dg.asset(
        key=key,
        deps=[stage.key("lerobot_v3")],
        code_version=code_version(Provenance.of(stage.robot.spec, robot=stage.robot.name, dataset_version="").version),
        group_name=stage.robot.name,
        kinds={"numpy", "json"},
        description="Mean, std, q01 and q99 of the state and of the action chunk as the model sees it, in openpi's norm_stats.json.",
        check_specs=[
            dg.AssetCheckSpec(COUNT, asset=key, blocking=True, description="No frame and no step of a chunk was left out (openpi #570)."),
            dg.AssetCheckSpec(NARROW, asset=key, description="No dimension's spread is too small to divide by (openpi #814)."),
        ],
    )
    @done_at_home(lambda: needs_of(stage.robot, dataset))
    def norm_stats(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        refreshed = refresh_norm_stats(stage.robot, stage.store)
        stats, path = refreshed.stats, refreshed.path
        context.log.info(f"{stats.frames:,} frames x horizon {stats.provenance.horizon} = {stats.actions.count:,} actions: {path}")
        for narrow in narrow_dimensions(stats):
            context.log.warning(f"narrow dimension {narrow}")
        # The last step of the ingest job: whoever reads only the end of its log sees what is missing.
        for row in quarantine_reasons(stage.store, stage.robot.curation):
            context.log.warning(f"NOT IN THE DATASET: {row['reason']}")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(stats.version),
            metadata=_metadata(stats) | {"path": dg.MetadataValue.path(str(path))},
            check_results=[_count_check(stats, refreshed.dataset.training_frames), _narrow_check(stats)],
        )

    return norm_stats


def _metadata(stats: NormStats) -> dict[str, Any]:
    made = stats.provenance
    return {
        "frames": stats.frames,
        "held_out_episodes": stats.held_out,
        "actions_counted": stats.actions.count,
        "action_horizon": made.horizon,
        "action_space": made.action_space,
        **({"rotation_delta": made.rotation_delta} if made.rotation_delta else {}),
        **({"adapt_to_pi": True} if made.adapt_to_pi else {}),
        "dataset_version": made.dataset_version,
        "statistics": table(stats_rows(stats), COLUMNS),
    }


def _count_check(stats: NormStats, frames: int) -> dg.AssetCheckResult:
    horizon = stats.provenance.horizon
    return dg.AssetCheckResult(
        check_name=COUNT,
        passed=stats.frames == frames and stats.actions.count == frames * horizon,
        description=f"counted {stats.frames} states and {stats.actions.count} actions; training has {frames} frames, horizon {horizon}",
    )


def _narrow_check(stats: NormStats) -> dg.AssetCheckResult:
    narrow = narrow_dimensions(stats)
    rows = [{"vector": n.vector, "dimension": n.name, "treatment": n.treatment} for n in narrow]
    return dg.AssetCheckResult(
        check_name=NARROW,
        passed=not narrow,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(str(n) for n in narrow) if narrow else "every dimension moves enough",
        metadata={"narrow": table(rows, ["vector", "dimension", "treatment"])},
    )
