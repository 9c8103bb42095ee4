from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest

from vla_ops import cli
from vla_ops.datasets.lerobot_v3 import DatasetVersion, current_version
from vla_ops.episodes.store import RobotStore
from vla_ops.norm_stats import read_norm_stats
from vla_ops_tests.lineage.conftest import Lineage
from vla_ops_tests.lineage.test_pipeline import StaleStatus, checks_of, staleness


@pytest.fixture
def four(lineage: Lineage) -> Lineage:
    """Four recordings of the simulator, 159 frames each at 25 Hz."""
    lineage.add("station3/c.mcap", of="transfer_cube_002.mcap")
    lineage.add("station3/d.mcap", of="transfer_cube_003.mcap")
    lineage.edit("pattern: '*.mcap'", "pattern: '**/*.mcap'")
    return lineage


@pytest.fixture(autouse=True)
def folders(lineage: Lineage) -> None:
    (lineage.recordings / "station3").mkdir()


def curate(lineage: Lineage, text: str) -> None:
    (lineage.robot.folder / "curation.yaml").write_text(text)


def converted_at(lineage: Lineage) -> dict[str, int]:
    """Recording -> when its episodes were written."""
    store = RobotStore.of(lineage.robot.name)
    return {p.parent.relative_to(store.episodes).as_posix(): p.stat().st_mtime_ns for p in store.episodes.rglob("recording.json")}


def dataset_of(lineage: Lineage) -> DatasetVersion:
    made = current_version(RobotStore.of(lineage.robot.name).root / "lerobot_v3")
    assert made is not None
    return made


def held_in(made: DatasetVersion) -> dict[str, tuple[int, str]]:
    """Episode -> its frames and task text as the parquet tables say."""
    ids = [entry["id"] for entry in json.loads((made.folder / "meta/vla_ops.json").read_text())["episodes"]]
    rows = [row for path in sorted((made.folder / "meta/episodes").rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {ids[row["episode_index"]]: (row["length"], row["tasks"][0]) for row in rows}


def metadata_of(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    event = next(e for e in result.asset_materializations_for_node(f"arm__{asset}") if e.partition is None)
    return {name: value.value for name, value in event.metadata.items()}


CURATION = """\
episodes:
  a.mcap: {exclude: "the cube was not on the table"}
  b.mcap: {trim: {start_s: 1, end_s: 5}}
  station3/c.mcap/0: {task: "hand over the cube"}
held_out: {episodes: [station3/d.mcap]}
"""
TRANSFER = "Transfer the red cube from the right arm to the left arm"


def test_a_curation_changes_the_dataset_and_converts_only_what_is_trimmed(four: Lineage) -> None:
    four.run()
    first, before = dataset_of(four), converted_at(four)
    curate(four, CURATION)
    assert staleness(four, "lerobot_v3") is StaleStatus.STALE
    assert staleness(four, "episodes", "b.mcap") is StaleStatus.STALE

    result = four.run()
    after = converted_at(four)
    assert [key for key in after if after[key] != before[key]] == ["b.mcap"]
    made = dataset_of(four)
    assert held_in(made) == {
        "b.mcap/0": (101, TRANSFER),
        "station3/c.mcap/0": (159, "hand over the cube"),
        "station3/d.mcap/0": (159, TRANSFER),
    }
    assert held_in(first)["station3/c.mcap/0"] == (159, TRANSFER)
    assert all(check.passed for check in checks_of(result).values()), checks_of(result)
    for partition in before:
        assert staleness(four, "episodes", partition) is StaleStatus.FRESH, partition
    assert staleness(four, "lerobot_v3") is StaleStatus.FRESH
    assert_said(four, result)
    assert_no_training_reads_what_is_held_out(four, made)


def assert_said(four: Lineage, result: dg.ExecuteInProcessResult) -> None:
    left_out = metadata_of(result, "episodes")["not_in_the_dataset"]
    rows = [record.data for record in left_out.records]
    assert rows == [{"recording": "a.mcap", "episode": "all", "reason": "excluded: the cube was not on the table"}]
    usable = checks_of(result)["every_recording_is_usable"]
    assert usable.description == "every recording is in the dataset, but for 1 exclusion(s) of curation.yaml"
    shown = metadata_of(result, "lerobot_v3")
    assert (shown["episodes"], shown["held_out"]) == (3, 1)
    assert shown["held_out_episodes"].records[0].data == {"episode": "station3/d.mcap/0", "frames": 159}
    assert metadata_of(result, "norm_stats")["held_out_episodes"] == 1


def assert_no_training_reads_what_is_held_out(four: Lineage, made: DatasetVersion) -> None:
    (path,) = [p for p in (RobotStore.of("arm").root / "norm_stats").rglob("norm_stats.json") if made.version in p_meta(p)]
    stats = read_norm_stats(path)
    assert (stats.frames, stats.held_out) == (101 + 159, 1)
    folders = [four.episode_folder(key) / "0/frames.parquet" for key in ("b.mcap", "station3/c.mcap")]
    states = np.concatenate([np.stack(pq.read_table(p)["observation.state"].to_numpy()) for p in folders])
    np.testing.assert_allclose(stats.state.mean, states.astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(stats.state.max, states.max(axis=0))


def p_meta(path: Path) -> str:
    return path.with_name("norm_stats.meta.json").read_text()


def test_a_second_run_does_nothing_and_another_trim_converts_one_recording(lineage: Lineage) -> None:
    def edit_and_run(text: str) -> list[str]:
        """Run with this curation; return the recordings that were converted again."""
        before = converted_at(lineage)
        curate(lineage, text)
        lineage.run()
        after = converted_at(lineage)
        assert {staleness(lineage, "episodes", partition) for partition in after} == {StaleStatus.FRESH}
        return [key for key in after if after[key] != before.get(key)]

    assert edit_and_run("episodes: {b.mcap: {trim: {end_s: 5}}}") == ["a.mcap", "b.mcap"]
    first, events = dataset_of(lineage).version, lineage.materialized()
    assert edit_and_run("episodes: {b.mcap: {trim: {end_s: 5}}}") == []
    assert (dataset_of(lineage).version, lineage.materialized()) == (first, events)
    assert edit_and_run("episodes: {b.mcap: {trim: {end_s: 4}}}") == ["b.mcap"]
    assert held_in(dataset_of(lineage)) == {"a.mcap/0": (159, TRANSFER), "b.mcap/0": (101, TRANSFER)}


def test_a_curation_without_trims_leaves_the_episodes_in_sync_and_their_partitions_without_an_event(lineage: Lineage) -> None:
    lineage.run()
    curate(lineage, 'episodes: {a.mcap: {exclude: "the cube was not on the table"}}')
    assert staleness(lineage, "episodes", "a.mcap") is StaleStatus.FRESH
    assert staleness(lineage, "lerobot_v3") is StaleStatus.STALE
    before = lineage.materialized()
    lineage.run()
    assert lineage.materialized() == before
    assert list(held_in(dataset_of(lineage))) == ["b.mcap/0"]


def test_a_name_that_nobody_has_stops_the_dataset_with_its_line(lineage: Lineage) -> None:
    curate(lineage, 'episodes:\n  a.mcpa: {exclude: "the cup fell"}\n')
    result = lineage.run(raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("arm__lerobot_v3")
    assert failure is not None
    assert "curation.yaml:2: there is no recording or episode 'a.mcpa'; did you mean 'a.mcap'?" in str(failure.error)


def test_the_terminal_says_what_is_excluded_and_what_is_wrong(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["vla-ops", *words])
        with pytest.raises(SystemExit):
            cli.main()
        return capsys.readouterr().out

    arm = str(lineage.robot.folder)
    curate(lineage, 'episodes:\n  a.mcap: {exclude: "the cube was not on the table"}\n')
    assert "curation.yaml: 1 excluded, 0 trimmed, 0 with another task text, 0 held out" in said("convert", arm, "--workers", "1")
    status = said("status", arm)
    assert "  curation    1 excluded, 0 trimmed, 0 with another task text, 0 held out\n" in status
    assert "  excluded    a.mcap: the cube was not on the table\n" in status
    assert "quarantine" not in status
    curate(lineage, "episodes:\n  x.mcap: {task: y}\n")
    assert f"{arm}/curation.yaml:2: there is no recording or episode 'x.mcap'" in said("status", arm)
