"""A robot of two small simulator demonstrations, with its own store and Dagster instance."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml

from vla_ops.episodes.store import RobotStore
from vla_ops.lineage.pipeline import robot_definitions
from vla_ops.robot_file import Robot, load_robot
from vla_ops_tests.episodes.ingesting import convert_in_this_process

ALOHA = Path(__file__).resolve().parents[2] / "robots" / "aloha_sim"


@dataclass
class Lineage:
    """One robot's definitions on an instance of their own."""

    robot: Robot
    instance: dg.DagsterInstance

    @property
    def recordings(self) -> Path:
        return Path(self.robot.recordings_uri)

    def add(self, name: str, of: str = "transfer_cube_000.mcap") -> Path:
        return Path(shutil.copy(ALOHA / "recordings" / of, self.recordings / name))

    def definitions(self) -> dg.Definitions:
        return robot_definitions(load_robot(self.robot.folder))

    def key(self, name: str) -> dg.AssetKey:
        return dg.AssetKey([self.robot.name, name])

    def run(self, *, raise_on_error: bool = True) -> dg.ExecuteInProcessResult:
        job = self.definitions().resolve_job_def(f"{self.robot.name}_ingest")
        return job.execute_in_process(instance=self.instance, raise_on_error=raise_on_error)

    def episode_folder(self, recording: str) -> Path:
        return RobotStore.of(self.robot.name).recording_folder(recording)

    def materialized(self) -> dict[str, int]:
        """Partition -> number of materializations of episodes."""
        records = self.instance.fetch_materializations(self.key("episodes"), limit=1000).records
        counts: dict[str, int] = {}
        for record in records:
            if record.partition_key is not None:
                counts[record.partition_key] = counts.get(record.partition_key, 0) + 1
        return counts

    def edit(self, old: str, new: str) -> None:
        """Change the robot's YAML."""
        path = self.robot.folder / "defs.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture
def lineage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lineage]:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    convert_in_this_process(monkeypatch)
    folder = tmp_path / "arm"
    (folder / "recordings").mkdir(parents=True)
    document = yaml.safe_load((ALOHA / "defs.yaml").read_text())
    document["attributes"]["dataset"]["video"] = {"codec": "copy"}
    (folder / "defs.yaml").write_text(yaml.safe_dump(document))
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        made = Lineage(load_robot(folder), instance)
        made.add("a.mcap")
        made.add("b.mcap", of="transfer_cube_001.mcap")
        yield made
