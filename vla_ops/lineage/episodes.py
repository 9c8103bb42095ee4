"""`<robot>/episodes`: recordings aligned, encoded and checked, or in quarantine with the reason, by recording, folder or day."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from vla_ops.curation import CURATION
from vla_ops.episodes.curate import excluded_rows, not_in_the_dataset
from vla_ops.episodes.findings import warnings_of
from vla_ops.episodes.ingest import Ingested, ingest
from vla_ops.episodes.plan import quarantine_reasons
from vla_ops.homes.needs import data, needs_of
from vla_ops.lineage.at_home import done_at_home
from vla_ops.lineage.names import Stage
from vla_ops.lineage.partitions import Members, chosen
from vla_ops.lineage.recorder import Recorder, made_by, reason_of
from vla_ops.lineage.tables import table

USABLE = "every_recording_is_usable"
QUALITY = "no_quality_warnings"

# recording, episode, reason.
type Row = dict[str, Any]


def episodes_asset(stage: Stage) -> dg.AssetsDefinition:
    """Convert what is new or changed; for chosen partitions, convert exactly those again."""
    key, ray = stage.key("episodes"), stage.robot.spec.conversion.ray

    @dg.asset(
        key=key,
        partitions_def=stage.partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        # A dagster_ray.RayResource: what it is connected to is where the conversions run.
        required_resource_keys={ray.resource} if ray is not None and ray.resource else set(),
        code_version=made_by(stage),
        # Of several chosen partitions each gets an event of its own; one for all would say the same of all.
        output_required=False,
        group_name=stage.robot.name,
        kinds={"python", "parquet"},
        description=(
            "Recordings brought to one fixed-rate timeline: state, action, one video a camera, task text and a quality report. "
            "A run without a partition converts all that is new or changed."
        ),
        check_specs=[
            dg.AssetCheckSpec(USABLE, asset=key, description="No recording or episode is in quarantine."),
            dg.AssetCheckSpec(QUALITY, asset=key, description="No episode crosses a quality threshold of level warn."),
        ],
    )
    @done_at_home(lambda: needs_of(stage.robot, data))
    def episodes(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        wanted = chosen(context, stage)
        only, alone = (wanted.recordings, wanted.alone) if wanted else (None, None)
        recorder = Recorder(context, stage, alone=alone)
        result = ingest(stage.robot, stage.store, say=context.log.info, only=only, planned=recorder.begin, each=recorder.record)
        missing = quarantine_reasons(stage.store, stage.robot.curation)
        recorder.finish(result, missing)
        yield _usable_check(stage, result, missing)
        yield _quality_check(stage, recorder.members)
        if not context.has_partition_key and not context.has_partition_key_range:
            recorder.confirm_unsaid()
            yield dg.MaterializeResult(metadata=_summary(stage, result, missing))
        elif alone is not None and result.converted:
            yield recorder.result_of(alone)
        elif wanted is None:
            recorder.confirm()
        elif alone is not None:
            raise dg.Failure("\n".join(map(reason_of, result.outcomes)) or f"{alone} was left alone, see the log")

    # The dependency is only in the graph, not an input: Dagster would ask which partitions of it a run without partitions reads.
    return episodes.map_asset_specs(lambda spec: spec.replace_attributes(deps=[dg.AssetDep(stage.key("recordings"))]))


def _summary(stage: Stage, result: Ingested, missing: Sequence[Row]) -> dict[str, Any]:
    rows = not_in_the_dataset(stage.robot, stage.store, [found.file.id for found in result.plan.found], quarantined=missing)
    return {
        "recordings": len(result.plan.found),
        "converted_now": len(result.converted),
        "quarantined_now": len(result.quarantined),
        "removed_now": len(result.plan.removed),
        "frames_now": sum(c.frames for c in result.converted),
        "not_in_the_dataset": table(rows, ["recording", "episode", "reason"]),
    }


def _usable_check(stage: Stage, result: Ingested, missing: Sequence[Row]) -> dg.AssetCheckResult:
    rows = [*missing, *({"recording": lost.recording, "episode": "all", "reason": lost.reason} for lost in result.lost)]
    named = "; ".join(f"{row['recording']} ({row['episode']})" for row in rows[:5]) + (" ..." if len(rows) > 5 else "")
    excluded = excluded_rows(stage.robot.curation, [found.file.id for found in result.plan.found])
    left_out = f", but for {len(excluded)} exclusion(s) of {CURATION}" if excluded else ""
    return dg.AssetCheckResult(
        check_name=USABLE,
        passed=not rows,
        severity=dg.AssetCheckSeverity.ERROR if result.lost else dg.AssetCheckSeverity.WARN,
        description=f"{len(rows)} not in the dataset: {named}" if rows else f"every recording is in the dataset{left_out}",
        metadata={"quarantine": table(rows, ["recording", "episode", "reason"]), "count": len(rows), "excluded": len(excluded)},
    )


def _quality_check(stage: Stage, members: Members) -> dg.AssetCheckResult:
    rows = warnings_of(stage.store, {key: members.made[key] for key in members.contents if key in members.made})
    return dg.AssetCheckResult(
        check_name=QUALITY,
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(rows)} warnings, first: {rows[0]['episode']}: {rows[0]['message']}" if rows else "no warnings",
        metadata={"warnings": table(rows, ["episode", "where", "check", "message"]), "count": len(rows)},
    )
