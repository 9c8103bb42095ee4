"""Dagster's events of single partitions in a run of `<robot>/episodes`: what was observed, and what became of it.

Each partition gets one event in a run, when the last of its recordings that are converted is done: an event takes forty times as
long as it takes to find that a recording is unchanged. A run that is killed has said of every finished partition what it did; the
next one says the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.ingest import Ingested
from vla_ops.episodes.plan import Plan
from vla_ops.episodes.pool import Lost
from vla_ops.lineage.names import DATA_VERSION, Stage, code_version, provenance
from vla_ops.lineage.partition_metadata import partition_metadata, reasons
from vla_ops.lineage.partitions import Members, Said, episode_version, sync_partitions
from vla_ops.recordings.discover import RecordingFile
from vla_ops.recordings.partitions import UNDATED


def made_by(stage: Stage) -> str:
    """Code version of the episodes: of what conversion reads of the YAML, of what is cut, and of what recordings must say."""
    spec = stage.robot.spec
    others = [part for part in (stage.robot.curation.trimmed, spec.recordings.must_say) if part]
    return code_version([spec.conversion_fingerprint, *others] if others else spec.conversion_fingerprint)


class Recorder:
    """Writes the events of one run."""

    def __init__(self, context: dg.AssetExecutionContext, stage: Stage, *, alone: str | None) -> None:
        # The event of the one partition of a run is its result; writing it here too would give two.
        self.context, self.stage, self.alone = context, stage, alone
        self.observed, self.materialized = Said.of_recordings(context.instance, stage), Said.of_episodes(context.instance, stage)
        self.made_by = made_by(stage)
        self._members: Members | None = None
        # Partition -> its recordings that are still to be converted.
        self.waiting: dict[str, set[str]] = {}
        # Partitions of which something became known that is not said yet.
        self.unsaid: dict[str, None] = {}
        self.said: set[str] = set()

    @property
    def members(self) -> Members:
        """What is in each partition."""
        if self._members is None:
            raise RuntimeError("nothing is planned yet")
        return self._members

    def begin(self, plan: Plan, todo: Sequence[RecordingFile]) -> None:
        """Make the partitions those that are there, before anything is converted."""
        self._members = Members(self.stage, plan)
        self.waiting = {key: set(those) for key, those in self.stage.by_partition(file.id for file in todo).items()}
        sync_partitions(self.context.instance, self.stage, self.members.contents)
        if self.stage.robot.spec.recordings.partition_by == "day" and (undated := self.members.of.get(UNDATED)):
            some = f"{len(undated)} recording(s) without a date in their id are in the partition {UNDATED!r}, such as {undated[0]}"
            self.context.log.warning(f"{some}; write the day into their names or folders, or `partition_by: folder`")

    def record(self, outcome: Conversion | Lost) -> None:
        """Mark the partition when the last of its recordings has come."""
        partition = self.stage.partition_of(outcome.recording)
        self.members.become(outcome)
        self.unsaid[partition] = None
        waiting = self.waiting.get(partition, set())
        if outcome.recording in waiting:
            waiting.remove(outcome.recording)
            if not waiting:
                self._say(partition)

    def finish(self, result: Ingested, missing: Sequence[Mapping[str, Any]]) -> None:
        """Say what became known last, and name what is `missing` in the dataset."""
        for row in missing:
            self.context.log.warning(f"not in the dataset: {row['reason']}")
        for lost in result.lost:
            self._take_back(lost)
        for partition in [*self.unsaid]:
            self._say(partition)
        if result.quarantined or result.lost:
            self.context.log.warning(f"{len(result.quarantined)} recording(s) newly quarantined, {len(result.lost)} lost")

    def result_of(self, partition: str) -> dg.MaterializeResult:
        """The event of the one partition that was chosen."""
        version = dg.DataVersion(str(self.members.version(partition)))
        return dg.MaterializeResult(metadata=partition_metadata(self.stage, partition, self.members), data_version=version)

    def confirm(self) -> None:
        """Say again of what was converted before that it is there: Dagster takes a chosen partition without an event for a failed one."""
        for partition in self._settled():
            if partition not in self.said:
                self._say(partition)

    def confirm_unsaid(self) -> None:
        """Say of the partitions that this run had nothing to do for that they are as they should be, where Dagster cannot know it.

        Those that the command line or a killed run converted have no event of it yet. Where a trim or `must_say` was edited all need
        one: the code version is one for all partitions, and without it they would be called out of sync for ever.
        """
        storage, key = self.context.instance.daemon_cursor_storage, f"vla_ops/{self.stage.robot.name}/episodes_made_by"
        before, now = storage.get_cursor_values({key}).get(key), self.made_by
        if before is None and now == code_version(self.stage.robot.spec.conversion_fingerprint):
            before = now
        versions = self.materialized.versions
        known = versions if before == now else {}
        for partition in self._settled():
            if partition not in self.said and known.get(partition) != self.members.version(partition):
                self._say(partition)
        for partition in self._emptied(versions):
            self._say(partition)
        storage.set_cursor_values({key: now})

    def _settled(self) -> Iterator[str]:
        """The partitions in which a recording is usable, and has been observed as it is."""
        members = self.members
        return (key for key in members.of if members.usable(key) and members.content(key) is not None)

    def _emptied(self, versions: Mapping[str, str]) -> list[str]:
        """The partitions that had something in the dataset and have nothing left, and of which that is not said yet."""
        members, observed = self.members, self.observed.versions
        empty = (key for key in members.of if key in versions and key not in self.said and not members.usable(key))
        return [key for key in empty if (content := members.content(key)) is not None and content != observed.get(key)]

    def _say(self, partition: str) -> None:
        """Write the partition's event: what was made of it or, without a materialization it stays missing, why nothing was."""
        self.unsaid.pop(partition, None)
        self.said.add(partition)
        members, key = self.members, self.stage.key("episodes")
        inputs = self._observe(partition)
        version = members.version(partition)
        if version is None:
            metadata = reasons(self.stage, partition, members)
            self.context.log_event(dg.AssetObservation(key, partition=partition, metadata=metadata))
        elif partition != self.alone:
            metadata = partition_metadata(self.stage, partition, members)
            tags = provenance(version, self.made_by, inputs)
            self.context.log_event(dg.AssetMaterialization(key, partition=partition, metadata=metadata, tags=tags))

    def _observe(self, partition: str) -> dict[dg.AssetKey, tuple[str, int | None]]:
        """Say which content was found, unless it was known; return it with its event, as the materialization's input."""
        key, version = self.stage.key("recordings"), self.members.content(partition)
        if version is None:
            return {}
        if self.observed.versions.get(partition) != version:
            self.context.log_event(dg.AssetObservation(key, partition=partition, tags={DATA_VERSION: version}))
            self.observed.versions[partition] = version
        found = self.context.instance.fetch_observations(dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition]), limit=1)
        return {key: (version, found.records[0].storage_id if found.records else None)}

    def _take_back(self, lost: Lost) -> None:
        """A recording whose worker died may have been as good as new: the episodes it had are then still there."""
        record = self.stage.store.read_recording(lost.recording)
        if record is not None:
            self.members.made[lost.recording] = episode_version(Conversion.from_json(record))


def reason_of(outcome: Conversion | Lost) -> str:
    """Why a recording is not in the dataset."""
    return outcome.reason if isinstance(outcome, Lost) else str(outcome.quarantined)
