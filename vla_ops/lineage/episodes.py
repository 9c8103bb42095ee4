"""`<robot>/episodes`: one partition a recording, each aligned, encoded and checked, or in quarantine with its reason."""

import base64
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from vla_ops.curation import CURATION
from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.curate import excluded_rows, not_in_the_dataset
from vla_ops.episodes.ingest import Ingested, ingest
from vla_ops.episodes.pictures import CONTACT_SHEET, PLOT
from vla_ops.episodes.plan import quarantine_reasons
from vla_ops.episodes.pool import Lost
from vla_ops.episodes.store import Episode
from vla_ops.lineage.names import Stage, code_version, provenance
from vla_ops.lineage.recordings import observations, sync_partitions
from vla_ops.robot import fingerprint

USABLE = "every_recording_is_usable"
QUALITY = "no_quality_warnings"
# More rows than this make an event slow to store and the page slow to open; all of it is in the store.
_MOST_ROWS = 200


def episodes_asset(stage: Stage) -> dg.AssetsDefinition:
    """Convert what is new or changed; for chosen partitions, convert exactly those again."""
    key = stage.key("episodes")

    @dg.asset(
        key=key,
        partitions_def=stage.partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
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
    def episodes(context: dg.AssetExecutionContext) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult]:
        only = _chosen(context, stage)
        alone = only[0] if only is not None and len(only) == 1 else None
        recorder = _Recorder(context, stage, alone=alone)
        result = ingest(stage.robot, stage.store, say=context.log.info, only=only, each=recorder.record)
        sync_partitions(context.instance, stage, [f.file.id for f in result.plan.found])
        recorder.flush(result)
        yield _usable_check(stage, result)
        yield _quality_check(stage, result)
        if not context.has_partition_key and not context.has_partition_key_range:
            recorder.confirm_unsaid(result)
            yield dg.MaterializeResult(metadata=_summary(stage, result))
        elif alone is not None and result.converted:
            (outcome,) = result.converted
            metadata = _partition_metadata(stage, outcome)
            yield dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(episode_version(outcome)))
        elif only is None:
            recorder.confirm(result)
        elif alone is not None:
            raise dg.Failure("\n".join(map(reason_of, result.outcomes)) or f"{alone} was left alone, see the log")

    # The dependency is only in the graph, not an input: Dagster would ask which partitions of it a run without partitions reads.
    return episodes.map_asset_specs(lambda spec: spec.replace_attributes(deps=[dg.AssetDep(stage.key("recordings"))]))


def _chosen(context: dg.AssetExecutionContext, stage: Stage) -> list[str] | None:
    """The partitions to convert again; None where none was named, or all were: then what is new or changed is meant."""
    if not context.has_partition_key and not context.has_partition_key_range:
        return None
    chosen, known = list(context.partition_keys), context.instance.get_dynamic_partitions(str(stage.partitions.name))
    return None if len(chosen) > 1 and set(chosen) >= set(known) else chosen


class _Recorder:
    """Writes Dagster's events of single recordings: what was observed, and what became of it."""

    def __init__(self, context: dg.AssetExecutionContext, stage: Stage, *, alone: str | None) -> None:
        # The event of the one partition of a run is its result; writing it here too would give two.
        self.context, self.stage, self.alone = context, stage, alone

    def record(self, outcome: Conversion | Lost) -> None:
        """Mark the recording's partition as it comes, so that a run that is killed has said what it did."""
        self._observe(outcome)
        if isinstance(outcome, Lost) or outcome.quarantined is not None:
            # Without a materialization the partition stays missing; the observation says why.
            why = {"lost" if isinstance(outcome, Lost) else "quarantined": reason_of(outcome)}
            self.context.log_event(dg.AssetObservation(self.stage.key("episodes"), partition=outcome.recording, metadata=why))
            return
        if outcome.recording == self.alone:
            return
        metadata = _partition_metadata(self.stage, outcome)
        key = self.stage.key("recordings")
        found = self.context.instance.fetch_observations(
            dg.AssetRecordsFilter(asset_key=key, asset_partitions=[outcome.recording]), limit=1
        )
        event = found.records[0].storage_id if found.records else None
        tags = provenance(episode_version(outcome), made_by(self.stage), {key: (outcome.source_version, event)})
        asset_key = self.stage.key("episodes")
        self.context.log_event(dg.AssetMaterialization(asset_key, partition=outcome.recording, metadata=metadata, tags=tags))

    def confirm(self, result: Ingested, *, but: Collection[str] = ()) -> None:
        """Say again of what was converted before that it is there: Dagster takes a chosen partition without an event for a failed one."""
        for found in result.plan.found:
            is_said = found.state != "converted" or found.file.id in but
            record = None if is_said else self.stage.store.read_recording(found.file.id)
            if record is not None:
                self.record(Conversion.from_json(record))

    def confirm_unsaid(self, result: Ingested) -> None:
        """Say of the recordings that this run had nothing to do for that they are as they should be, where Dagster cannot know it.

        Those that the command line converted have no event yet. Where a trim or `must_say` was edited all need one: the code version is
        one for all partitions, and without it they would be called out of sync for ever.
        """
        storage, key = self.context.instance.daemon_cursor_storage, f"vla_ops/{self.stage.robot.name}/episodes_made_by"
        before, now = storage.get_cursor_values({key}).get(key), made_by(self.stage)
        if before is None and now == code_version(self.stage.robot.spec.conversion_fingerprint):
            before = now
        known = set() if before != now else self.context.instance.get_materialized_partitions(self.stage.key("episodes"))
        self.confirm(result, but=known)
        storage.set_cursor_values({key: now})

    def flush(self, result: Ingested) -> None:
        """Name at the end what is not in the dataset."""
        for row in quarantine_reasons(self.stage.store, self.stage.robot.curation):
            self.context.log.warning(f"not in the dataset: {row['reason']}")
        if result.quarantined or result.lost:
            self.context.log.warning(f"{len(result.quarantined)} recording(s) newly quarantined, {len(result.lost)} lost")

    def _observe(self, outcome: Conversion | Lost) -> None:
        name = str(self.stage.partitions.name)
        if not self.context.instance.has_dynamic_partition(name, outcome.recording):
            self.context.instance.add_dynamic_partitions(name, [outcome.recording])
        if isinstance(outcome, Conversion) and outcome.source_version:
            for observation in observations(self.stage, {outcome.recording: outcome.source_version}):
                self.context.log_event(observation)


def made_by(stage: Stage) -> str:
    """Code version of the episodes: of what conversion reads of the YAML, of what is cut, and of what recordings must say."""
    spec = stage.robot.spec
    others = [part for part in (stage.robot.curation.trimmed, spec.recordings.must_say) if part]
    return code_version([spec.conversion_fingerprint, *others] if others else spec.conversion_fingerprint)


def reason_of(outcome: Conversion | Lost) -> str:
    """Why a recording is not in the dataset."""
    return outcome.reason if isinstance(outcome, Lost) else str(outcome.quarantined)


def episode_version(outcome: Conversion) -> str:
    """Data version of a recording's episodes: its bytes and what conversion reads of the spec (design: staleness)."""
    return fingerprint([outcome.source_version, outcome.spec_fingerprint, outcome.episodes])


def _partition_metadata(stage: Stage, outcome: Conversion) -> dict[str, Any]:
    folder = stage.store.recording_folder(outcome.recording)
    episodes = stage.store.read_episodes(outcome.recording)
    first = episodes[0].meta
    metadata: dict[str, Any] = {
        "episodes": len(outcome.episodes),
        "frames": outcome.frames,
        "duration_s": round(outcome.frames / first.rate_hz, 2),
        "size": dg.MetadataValue.text(f"{outcome.size / 1e6:.2f} MB"),
        "task": first.task,
        "conversion_s": outcome.seconds,
        "rejected": len(outcome.rejected),
        "folder": dg.MetadataValue.path(str(folder)),
        "streams": _streams_table(episodes),
        "quality": _quality_table(episodes),
        "source_version": outcome.source_version,
    }
    if outcome.notes:
        metadata["notes"] = dg.MetadataValue.md("\n".join(f"- {note}" for note in outcome.notes[:_MOST_ROWS]))
    for name, file in (("contact_sheet", CONTACT_SHEET), ("vectors", PLOT)):
        if (folder / file).exists():
            metadata[name] = picture(folder / file)
    return metadata


def picture(path: Path) -> dg.MarkdownMetadataValue:
    """An image inline: a data URI, since the web server does not serve the store."""
    kind = "jpeg" if path.suffix == ".jpg" else "png"
    return dg.MetadataValue.md(f"![{path.stem}](data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()})")


def _streams_table(episodes: Sequence[Episode]) -> dg.TableMetadataValue:
    skews = ["skew_p50_ms", "skew_p99_ms", "skew_max_ms"]
    columns = ["episode", "stream", "samples", "rate_hz", *skews, "largest_step_ms", "dropped_fraction"]
    rows = []
    for episode in episodes:
        for stream, seen in episode.meta.measured.items():
            if "skew_ms" in seen:
                skew = {f"skew_{name}_ms": value for name, value in seen["skew_ms"].items()}
                rows.append({"episode": episode.meta.index, "stream": stream, **skew, **{c: seen[c] for c in columns if c in seen}})
    return table(rows, columns)


def _quality_table(episodes: Sequence[Episode]) -> dg.TableMetadataValue:
    rows = [
        {
            "episode": e.meta.index,
            "check": f.check,
            "level": f.level,
            "where": f.where,
            "value": round(f.value, 4),
            "limit": f.limit,
            "message": f.message,
        }
        for e in episodes
        for f in e.meta.findings
    ]
    return table(rows, ["episode", "check", "level", "where", "value", "limit", "message"])


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """A table of at most 200 rows; an empty one keeps its columns."""
    records = [dg.TableRecord({c: row[c] for c in columns}) for row in rows[:_MOST_ROWS]]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns=[dg.TableColumn(name=c) for c in columns]))


def _summary(stage: Stage, result: Ingested) -> dict[str, Any]:
    rows = not_in_the_dataset(stage.robot, stage.store, [found.file.id for found in result.plan.found])
    return {
        "recordings": len(result.plan.found),
        "converted_now": len(result.converted),
        "quarantined_now": len(result.quarantined),
        "removed_now": len(result.plan.removed),
        "frames_now": sum(c.frames for c in result.converted),
        "not_in_the_dataset": table(rows, ["recording", "episode", "reason"]),
    }


def _usable_check(stage: Stage, result: Ingested) -> dg.AssetCheckResult:
    rows = quarantine_reasons(stage.store, stage.robot.curation)
    rows += [{"recording": lost.recording, "episode": "all", "reason": lost.reason} for lost in result.lost]
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


def _quality_check(stage: Stage, result: Ingested) -> dg.AssetCheckResult:
    rows = [
        {"episode": e.id, "where": f.where, "check": f.check, "message": f.message}
        for found in result.plan.found
        for e in stage.store.read_episodes(found.file.id)
        for f in e.meta.findings
        if f.level == "warn"
    ]
    return dg.AssetCheckResult(
        check_name=QUALITY,
        passed=not rows,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{len(rows)} warnings, first: {rows[0]['episode']}: {rows[0]['message']}" if rows else "no warnings",
        metadata={"warnings": table(rows, ["episode", "where", "check", "message"]), "count": len(rows)},
    )
