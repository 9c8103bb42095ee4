"""A robot of tiny recordings without cameras, in folders by station and day, with its own store and Dagster instance."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from vla_ops.episodes.store import RobotStore
from vla_ops.robot_file import load_robot
from vla_ops_tests.episodes.ingesting import ALOHA, write_arm
from vla_ops_tests.lineage.conftest import Lineage


class Arms(Lineage):
    """`<station>/<YYYYMMDD>_<k>.hdf5`, two dimensions each."""

    @property
    def store(self) -> RobotStore:
        return RobotStore.of(self.robot.name)

    def record(self, *names: str, **options: Any) -> None:
        for name in names:
            write_arm(self.recordings / name, **{"seed": zlib.crc32(name.encode()), **options})

    def episodes(self, *partitions: str, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        """Run the episodes alone; for these partitions as the UI does."""
        tags = {}
        if len(partitions) > 1:
            tags = {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[-1]}
        job = self.definitions().resolve_job_def(f"{self.robot.name}_ingest")
        key = partitions[0] if len(partitions) == 1 else None
        only = [self.key("episodes")]
        return job.execute_in_process(
            instance=self.instance, asset_selection=only, tags=tags, partition_key=key, raise_on_error=raise_on_error
        )

    def observe(self) -> dg.ExecuteInProcessResult:
        """Press *Observe* on the recordings."""
        asset = next(a for a in self.definitions().assets or [] if isinstance(a, dg.SourceAsset))
        job = dg.define_asset_job("observe", dg.AssetSelection.assets(asset.key))
        return dg.Definitions(assets=[asset], jobs=[job]).resolve_job_def("observe").execute_in_process(instance=self.instance)

    def partition_by(self, by: str) -> None:
        path = self.robot.folder / "defs.yaml"
        document = yaml.safe_load(path.read_text())
        document["attributes"]["recordings"]["partition_by"] = by
        path.write_text(yaml.safe_dump(document))

    @property
    def partitions(self) -> list[str]:
        return sorted(self.instance.get_dynamic_partitions("arm_recordings"))

    def converted(self) -> dict[str, int]:
        """Recording -> when its episodes were written."""
        root = self.store.episodes
        return {path.parent.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in sorted(root.rglob("recording.json"))}

    def events(self, asset: str, kind: dg.DagsterEventType) -> int:
        """How many events of single partitions there are."""
        fetch = self.instance.fetch_observations if kind is dg.DagsterEventType.ASSET_OBSERVATION else self.instance.fetch_materializations
        return sum(record.partition_key is not None for record in fetch(self.key(asset), limit=1000).records)

    def metadata(self, partition: str) -> dict[str, Any]:
        """Of the partition's latest materialization."""
        shown = dg.AssetRecordsFilter(self.key("episodes"), asset_partitions=[partition])
        event = self.instance.fetch_materializations(shown, limit=1).records[0].asset_materialization
        assert event is not None
        return {name: value.value for name, value in event.metadata.items()}

    def reasons(self, partition: str) -> dict[str, Any]:
        """Of the partition's latest observation."""
        shown = dg.AssetRecordsFilter(self.key("episodes"), asset_partitions=[partition])
        event = self.instance.fetch_observations(shown, limit=1).records[0].asset_observation
        assert event is not None
        return {name: value.value for name, value in event.metadata.items()}


def rows_of(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table.records]


@contextmanager
def arms_in(folder: Path, *, by: str) -> Iterator[Arms]:
    """A robot without recordings yet. VLA_OPS_HOME must be set."""
    (folder / "arm/recordings").mkdir(parents=True)
    recordings = {"uri": "recordings", "pattern": "**/*.hdf5", "format": "hdf5", "source_rate_hz": 20, "settle_s": 0, "partition_by": by}
    state = [{**ALOHA["state"][0], "source": "/observations/qpos[0:1]", "names": ["j1"]}, ALOHA["state"][1]]
    document = {"type": "vla_ops.RobotPipeline", "attributes": {**ALOHA, "recordings": recordings, "state": state}}
    (folder / "arm/defs.yaml").write_text(yaml.safe_dump(document))
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        yield Arms(load_robot(folder / "arm"), instance)


def age(path: Path, seconds: float) -> None:
    """Make a file look as if it had been written so long ago."""
    found = path.stat()
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - int(seconds * 1e9)))
