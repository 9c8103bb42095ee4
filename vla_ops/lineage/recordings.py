"""`<robot>/recordings`: what the robot wrote, one partition a recording, folder or day, observed and never changed."""

import dagster as dg

from vla_ops.episodes.plan import observe
from vla_ops.episodes.store_walk import stored_ids
from vla_ops.files import holder
from vla_ops.lineage.names import Stage
from vla_ops.lineage.partitions import Said, sync_partitions, versions_of_recordings
from vla_ops.lineage.sensor_cursor import Listing, is_old
from vla_ops.recordings.discover import list_recordings

TICK_S = 30
# Not STARTED: a run that was killed may be called that for ever. What really converts holds the robot's store.
_WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def recordings_asset(stage: Stage) -> dg.SourceAsset:
    """The observable asset: *Observe* in the UI lists the recordings and records the content versions that are new."""
    spec = stage.robot.spec.recordings

    @dg.observable_source_asset(
        key=stage.key("recordings"),
        partitions_def=stage.partitions,
        group_name=stage.robot.name,
        description=f"Raw {spec.format} recordings matching {spec.pattern}, versioned by content.",
        metadata={"uri": stage.robot.recordings_uri, "pattern": spec.pattern, "format": spec.format, "partition_by": spec.partition_by},
        tags={"dagster/kind/file": ""},
    )
    def recordings(context: dg.AssetExecutionContext) -> dg.DataVersionsByPartition:
        seen = observe(stage.robot, stage.store)
        sync_partitions(context.instance, stage, [file.id for file, _ in seen])
        versions = versions_of_recordings(stage, {file.id: version for file, version in seen})
        # An event for each of 100,000 partitions would take more than an hour, every time.
        known = Said.of_recordings(context.instance, stage).versions
        return dg.DataVersionsByPartition({key: version for key, version in versions.items() if known.get(key) != version})

    return recordings


def recordings_sensor(stage: Stage, job_name: str) -> dg.SensorDefinition:
    """Start the ingest job when a recording is new, changed or gone. One run for all of them.

    A tick with nothing new costs one listing and one comparison: the cursor is a digest of the listing, no recording is read, and
    files that someone may still be writing do not count until they are old enough.
    """

    @dg.sensor(
        name=f"{stage.robot.name}_new_recordings",
        job_name=job_name,
        minimum_interval_seconds=TICK_S,
        description=f"New, changed and removed recordings below {stage.robot.recordings_uri}.",
    )
    def new_recordings(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if busy := holder(stage.store.root) or waiting_run(context.instance, job_name):
            return dg.SkipReason(f"{busy} converts the recordings; what has come since is looked at after it")
        spec, cursor = stage.robot.spec.recordings, context.cursor
        now = Listing.of(list_recordings(stage.robot.recordings_uri, spec.pattern), spec.settle_s)
        if now.is_at(cursor):
            if is_old(cursor):
                context.update_cursor(now.cursor)
            still = f"; {len(now.waiting)} still being written" if now.waiting else ""
            return dg.SkipReason(f"{now.count} recordings, nothing new or changed{still}")
        changed, gone = now.since(cursor, stage.store)
        if not changed and not gone:
            return dg.SkipReason(f"{len(now.waiting)} recordings are being rewritten; waiting until they are {spec.settle_s:g} s old")
        context.log.info(f"{len(changed)} new or changed: {', '.join(changed[:10])}; {len(gone)} gone: {', '.join(gone[:10])}")
        run = dg.RunRequest(tags={"vla_ops/new_or_changed": str(len(changed)), "vla_ops/gone": str(len(gone))})
        return dg.SensorResult(run_requests=[run], cursor=now.cursor)

    return new_recordings


def waiting_run(instance: dg.DagsterInstance, job_name: str) -> str | None:
    """A run of the job that is about to start."""
    runs = instance.get_runs(filters=dg.RunsFilter(job_name=job_name, statuses=_WAITING), limit=1)
    return f"run {runs[0].run_id[:8]} of {job_name}" if runs else None


def reconvert_schedule(stage: Stage, job_name: str) -> dg.ScheduleDefinition:
    """Start the ingest job at the times of `reconvert`, unless there is nothing at all to look at."""
    plan = stage.robot.spec.reconvert
    if plan is None:
        raise ValueError(f"{stage.robot.name} has no `reconvert`")

    @dg.schedule(
        name=f"{stage.robot.name}_reconvert",
        job_name=job_name,
        cron_schedule=plan.cron,
        execution_timezone=plan.timezone,
        description=f"Convert what is new or changed below {stage.robot.recordings_uri}.",
    )
    def reconvert() -> dg.RunRequest | dg.SkipReason:
        files = list_recordings(stage.robot.recordings_uri, stage.robot.spec.recordings.pattern)
        # Where there were recordings before, none now is a mistake that the run has to name.
        if not files and not stored_ids(stage.store):
            return dg.SkipReason(f"no recording matches {stage.robot.spec.recordings.pattern} below {stage.robot.recordings_uri} yet")
        return dg.RunRequest()

    return reconvert
