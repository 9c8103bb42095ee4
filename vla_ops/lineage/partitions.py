"""The partitions of `<robot>/recordings` and `<robot>/episodes`: which there are, what is in each, and what Dagster knows of it.

A partition is a recording, a folder of recordings or a day (`recordings.partition_by`). Its data version is its recording's, or a
hash of all its recordings': a partition is in sync if each of its members is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import dagster as dg

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import Plan, episodes_version
from vla_ops.episodes.pool import Lost
from vla_ops.errors import RecordingError
from vla_ops.lineage.names import DATA_VERSION, Stage
from vla_ops.recordings.discover import list_recordings
from vla_ops.robot import fingerprint

# In one statement: SQLite takes no more than 32,766 values in some builds.
_AT_ONCE = 10_000


def sync_partitions(instance: dg.DagsterInstance, stage: Stage, recordings: Iterable[str]) -> None:
    """Make the dynamic partitions those of the recordings that are there."""
    name = str(stage.partitions.name)
    wanted, known = set(stage.by_partition(recordings)), set(instance.get_dynamic_partitions(name))
    missing = sorted(wanted - known)
    for start in range(0, len(missing), _AT_ONCE):
        instance.add_dynamic_partitions(name, missing[start : start + _AT_ONCE])
    for gone in known - wanted:
        instance.delete_dynamic_partition(name, gone)


@dataclass(frozen=True)
class Chosen:
    """What a run was started for: these partitions and their recordings."""

    partitions: Sequence[str]
    recordings: Sequence[str]

    @property
    def alone(self) -> str | None:
        """The partition if there is one."""
        return self.partitions[0] if len(self.partitions) == 1 else None


def chosen(context: dg.AssetExecutionContext, stage: Stage) -> Chosen | None:
    """What to convert again; None where no partition was named, or all were: then what is new or changed is meant.

    Raise RecordingError for a partition that has no recording any more.
    """
    if not context.has_partition_key and not context.has_partition_key_range:
        return None
    wanted, known = list(context.partition_keys), context.instance.get_dynamic_partitions(str(stage.partitions.name))
    if len(wanted) > 1 and set(wanted) >= set(known):
        return None
    if stage.is_by_recording:
        return Chosen(wanted, wanted)
    spec = stage.robot.spec.recordings
    there = stage.by_partition(file.id for file in list_recordings(stage.robot.recordings_uri, spec.pattern))
    if empty := [key for key in wanted if key not in there]:
        todo = "Press *Observe* on the recordings, or run the ingest job without a partition: partitions without recordings then go."
        raise RecordingError(f"no recording is in this {spec.partition_by} any more", file=empty[0], todo=todo)
    return Chosen(wanted, [recording for key in wanted for recording in there[key]])


def versions_of_recordings(stage: Stage, versions: Mapping[str, str]) -> dict[str, str]:
    """Partition -> data version of its recordings; `versions` are their contents, empty for one that is still being written."""
    if stage.is_by_recording:
        return {recording: version for recording, version in versions.items() if version}
    members = stage.by_partition(recording for recording, version in versions.items() if version)
    return {key: fingerprint([[recording, versions[recording]] for recording in sorted(those)]) for key, those in members.items()}


class Members:
    """Every recording with its content version and the data version of its episodes, as they become what they are in a run."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.stage = stage
        self.contents = {found.file.id: found.version for found in plan.found}
        self.states: dict[str, str] = {found.file.id: found.state for found in plan.found}
        # Of those that are in the dataset.
        self.made = {found.file.id: found.made for found in plan.found if found.made}
        # Why others are not, where that is known from the plan or from this run.
        self.reasons = {found.file.id: found.reason for found in plan.found if found.reason}
        # How long this run took for each.
        self.seconds: dict[str, float] = {}
        self.of = stage.by_partition(self.contents)

    def become(self, outcome: Conversion | Lost) -> None:
        """Take in what became of a recording."""
        key = outcome.recording
        self.made.pop(key, None)
        self.reasons.pop(key, None)
        if isinstance(outcome, Lost):
            self.states[key], self.reasons[key] = "lost", outcome.reason
        elif outcome.quarantined is not None:
            self.states[key], self.reasons[key] = "quarantined", outcome.quarantined
        else:
            self.states[key], self.made[key], self.seconds[key] = "converted", episode_version(outcome), outcome.seconds

    def usable(self, partition: str) -> list[str]:
        """The partition's recordings that are in the dataset."""
        return [recording for recording in self.of.get(partition, ()) if recording in self.made]

    def content(self, partition: str) -> str | None:
        """Data version of the partition of `<robot>/recordings`, or None while none of its recordings has one."""
        return versions_of_recordings(self.stage, {key: self.contents[key] for key in self.of.get(partition, ())}).get(partition)

    def version(self, partition: str) -> str | None:
        """Data version of the partition of `<robot>/episodes`, or None if none of its recordings is in the dataset."""
        usable = self.usable(partition)
        if not usable or self.stage.is_by_recording:
            return self.made[usable[0]] if usable else None
        # With the others too: another one of those is another reason, which the partition shows.
        return fingerprint([[key, self.contents[key], self.made.get(key, "")] for key in sorted(self.of[partition])])


def episode_version(outcome: Conversion) -> str:
    """Data version of a recording's episodes: its bytes and what conversion reads of the spec (design: staleness)."""
    return episodes_version(outcome.source_version, outcome.spec_fingerprint, outcome.episodes)


@dataclass(frozen=True)
class Said:
    """What Dagster has been told of the partitions of an asset by its latest events of one kind."""

    instance: dg.DagsterInstance
    asset: dg.AssetKey
    kind: dg.DagsterEventType

    @classmethod
    def of_recordings(cls, instance: dg.DagsterInstance, stage: Stage) -> Said:
        """What was observed of the recordings."""
        return cls(instance, stage.key("recordings"), dg.DagsterEventType.ASSET_OBSERVATION)

    @classmethod
    def of_episodes(cls, instance: dg.DagsterInstance, stage: Stage) -> Said:
        """What was made of them."""
        return cls(instance, stage.key("episodes"), dg.DagsterEventType.ASSET_MATERIALIZATION)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Partition -> its data version."""
        tags = self.instance.event_log_storage.get_latest_tags_by_partition(self.asset, self.kind, [DATA_VERSION])
        return {partition: those[DATA_VERSION] for partition, those in tags.items() if DATA_VERSION in those}
