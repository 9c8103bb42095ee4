"""`<robot>/recordings`: what the robot wrote, one partition a recording, observed and never changed."""

import json
from collections.abc import Iterable, Iterator, Mapping

import dagster as dg

from vla_ops.episodes.plan import observe, stored_ids
from vla_ops.files import holder
from vla_ops.lineage.names import DATA_VERSION, Stage
from vla_ops.recordings.discover import RecordingFile, list_recordings

TICK_S = 30
# Not STARTED: a run that was killed may be called that for ever. What really converts holds the robot's store.
_WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def recordings_asset(stage: Stage) -> dg.SourceAsset:
    """The observable asset: *Observe* in the UI lists the recordings and records their content versions."""
    spec = stage.robot.spec.recordings

    @dg.observable_source_asset(
        key=stage.key("recordings"),
        partitions_def=stage.partitions,
        group_name=stage.robot.name,
        description=f"Raw {spec.format} recordings matching {spec.pattern}, versioned by content.",
        metadata={"uri": stage.robot.recordings_uri, "pattern": spec.pattern, "format": spec.format},
        tags={"dagster/kind/file": ""},
    )
    def recordings(context: dg.AssetExecutionContext) -> dg.DataVersionsByPartition:
        seen = observe(stage.robot, stage.store)
        sync_partitions(context.instance, stage, [file.id for file, _ in seen])
        return dg.DataVersionsByPartition({file.id: version for file, version in seen if version})

    return recordings


def sync_partitions(instance: dg.DagsterInstance, stage: Stage, ids: Iterable[str]) -> None:
    """Make the dynamic partitions those of the recordings that are there."""
    name = str(stage.partitions.name)
    wanted, known = set(ids), set(instance.get_dynamic_partitions(name))
    if wanted - known:
        instance.add_dynamic_partitions(name, sorted(wanted - known))
    for gone in known - wanted:
        instance.delete_dynamic_partition(name, gone)


def observations(stage: Stage, versions: Mapping[str, str]) -> Iterator[dg.AssetObservation]:
    """One observation for each recording of `versions` (id -> content version)."""
    for recording, version in versions.items():
        yield dg.AssetObservation(stage.key("recordings"), partition=recording, tags={DATA_VERSION: version})


def recordings_sensor(stage: Stage, job_name: str) -> dg.SensorDefinition:
    """Start the ingest job when a recording is new, changed or gone. One run for all of them.

    A tick costs one listing: the cursor holds the listing's own stamps, no recording is read, and files that someone may
    still be writing do not count until they are old enough.
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
        spec = stage.robot.spec.recordings
        files = list_recordings(stage.robot.recordings_uri, spec.pattern)
        settled = [file for file in files if file.is_settled(spec.settle_s)]
        waiting = len(files) - len(settled)
        now, before = _digests(settled), json.loads(context.cursor or "{}")
        if now == before:
            still = f"; {waiting} still being written" if waiting else ""
            return dg.SkipReason(f"{len(files)} recordings, nothing new or changed{still}")
        changed = [key for key, stamp in now.items() if before.get(key) != stamp]
        gone = [key for key in before if key not in {file.id for file in files}]
        if not changed and not gone:
            return dg.SkipReason(f"{waiting} recordings are being rewritten; waiting until they are {spec.settle_s:g} s old")
        context.log.info(f"{len(changed)} new or changed: {', '.join(changed[:10])}; {len(gone)} gone: {', '.join(gone[:10])}")
        run = dg.RunRequest(tags={"vla_ops/new_or_changed": str(len(changed)), "vla_ops/gone": str(len(gone))})
        return dg.SensorResult(run_requests=[run], cursor=json.dumps(now))

    return new_recordings


def waiting_run(instance: dg.DagsterInstance, job_name: str) -> str | None:
    """A run of the job that is about to start."""
    runs = instance.get_runs(filters=dg.RunsFilter(job_name=job_name, statuses=_WAITING), limit=1)
    return f"run {runs[0].run_id[:8]} of {job_name}" if runs else None


def _digests(files: list[RecordingFile]) -> dict[str, str]:
    """Id -> a short stamp; a cursor is stored whole at every change."""
    return {file.id: f"{file.size}:{hash_stamp(file.stamp)}" for file in files}


def hash_stamp(stamp: str) -> str:
    """Eight hex digits of a listing's stamp."""
    import zlib

    return f"{zlib.crc32(stamp.encode()):08x}"


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
