"""Partitions that hold many recordings: one event a partition and run, and every recording still converted on its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from vla_ops.episodes.ingest import ingest
from vla_ops_tests.episodes.ingesting import convert_in_this_process
from vla_ops_tests.lineage.arms import Arms, arms_in, rows_of
from vla_ops_tests.lineage.test_pipeline import StaleStatus, checks_of, staleness

MADE, SEEN = dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_OBSERVATION
THREE = ("s1/20261121_1.hdf5", "s1/20261122_2.hdf5", "s2/20261121_1.hdf5")


@pytest.fixture
def arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arms]:
    """Three recordings of two stations and two days, by folder."""
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    convert_in_this_process(monkeypatch)
    with arms_in(tmp_path, by="folder") as made:
        made.record(*THREE)
        yield made


def states(arms: Arms) -> set[StaleStatus]:
    return {staleness(arms, "episodes", partition) for partition in arms.partitions}


def test_a_folder_has_one_event_a_run_and_is_in_sync_with_its_recordings(arms: Arms) -> None:
    arms.episodes()
    assert arms.partitions == ["s1", "s2"]
    assert arms.materialized() == {"s1": 1, "s2": 1}
    assert (arms.events("recordings", SEEN), arms.events("episodes", SEEN)) == (2, 0)
    assert states(arms) == {StaleStatus.FRESH}
    shown = arms.metadata("s1")
    assert (shown["recordings"], shown["not_in_the_dataset"], shown["episodes"], shown["frames"]) == (2, 0, 2, 22)
    assert [row["recording"] for row in rows_of(shown["members"])] == list(THREE[:2])
    arms.episodes()
    assert arms.materialized() == {"s1": 1, "s2": 1}


def test_a_changed_recording_makes_its_folder_alone_stale_and_is_converted_alone(arms: Arms) -> None:
    arms.episodes()
    before = arms.converted()
    arms.record(THREE[1], seed=99)
    arms.observe()
    assert [staleness(arms, "episodes", key) for key in ("s1", "s2")] == [StaleStatus.STALE, StaleStatus.FRESH]
    arms.episodes()
    after = arms.converted()
    assert [key for key in after if after[key] != before[key]] == [THREE[1]]
    assert arms.materialized() == {"s1": 2, "s2": 1}
    assert states(arms) == {StaleStatus.FRESH}


def test_a_chosen_folder_converts_exactly_the_recordings_in_it(arms: Arms) -> None:
    arms.episodes()
    before = arms.converted()
    arms.record("s2/20261123_2.hdf5")
    arms.episodes("s1")
    after = arms.converted()
    assert [key for key in after if after[key] != before[key]] == list(THREE[:2])
    assert arms.materialized() == {"s1": 2, "s2": 1}


def test_several_chosen_folders_have_an_event_each_and_all_chosen_ones_convert_only_what_is_new(arms: Arms) -> None:
    arms.record("s3/20261121_1.hdf5")
    arms.episodes()
    before = arms.converted()
    arms.episodes("s1", "s2")
    after = arms.converted()
    assert [key for key in after if after[key] != before[key]] == list(THREE)
    arms.record("s3/20261121_2.hdf5")
    arms.episodes("s1", "s3")
    assert [key for key, at in arms.converted().items() if at != after.get(key)] == ["s3/20261121_2.hdf5"]
    assert arms.materialized() == {"s1": 3, "s2": 3, "s3": 2}


def test_a_bad_recording_is_named_in_its_folder_and_a_folder_of_bad_ones_stays_missing(arms: Arms) -> None:
    for name in ("s2/20261123_9.hdf5", "s3/20261121_1.hdf5", "s3/20261121_2.hdf5"):
        (arms.recordings / name).parent.mkdir(exist_ok=True)
        (arms.recordings / name).write_bytes(f"no HDF5 {name}".encode())
    result = arms.episodes()
    assert arms.materialized() == {"s1": 1, "s2": 1}
    assert not checks_of(result)["every_recording_is_usable"].passed
    shown = arms.metadata("s2")
    assert (shown["recordings"], shown["not_in_the_dataset"]) == (2, 1)
    first, second = rows_of(shown["members"])
    assert (first["recording"], first["state"], second["state"]) == ("s2/20261123_9.hdf5", "quarantined", "converted")
    assert "s2/20261123_9.hdf5" in first["reason"]
    reasons = rows_of(arms.reasons("s3")["not_in_the_dataset"])
    assert [row["recording"] for row in reasons] == ["s3/20261121_1.hdf5", "s3/20261121_2.hdf5"]
    assert all("HDF5" in row["reason"] for row in reasons)
    failed = arms.episodes("s3", raise_on_error=False)
    failure = failed.failure_data_for_node("arm__episodes")
    assert failure is not None
    assert "s3/20261121_1.hdf5" in str(failure.error)
    assert "s3" not in arms.materialized()


def test_a_chosen_folder_with_a_bad_recording_is_made_of_the_others(arms: Arms) -> None:
    (arms.recordings / "s1/20261123_9.hdf5").write_bytes(b"no HDF5")
    arms.observe()
    arms.episodes("s1")
    assert arms.materialized() == {"s1": 1}
    assert arms.metadata("s1")["not_in_the_dataset"] == 1


def test_a_recording_that_is_removed_is_said_without_a_conversion_and_its_empty_folder_goes(arms: Arms) -> None:
    arms.episodes()
    before = arms.converted()
    (arms.recordings / THREE[0]).unlink()
    (arms.recordings / THREE[2]).unlink()
    arms.episodes()
    assert arms.partitions == ["s1"]
    assert arms.metadata("s1")["recordings"] == 1
    assert arms.converted() == {THREE[1]: before[THREE[1]]}
    assert states(arms) == {StaleStatus.FRESH}


def test_a_folder_that_lost_its_last_good_recording_is_stale_and_says_why(arms: Arms) -> None:
    (arms.recordings / "s2/20261123_9.hdf5").write_bytes(b"no HDF5")
    arms.episodes()
    (arms.recordings / THREE[2]).unlink()
    arms.episodes()
    assert staleness(arms, "episodes", "s2") is StaleStatus.STALE
    assert [row["recording"] for row in rows_of(arms.reasons("s2")["not_in_the_dataset"])] == ["s2/20261123_9.hdf5"]
    before = arms.events("episodes", SEEN)
    arms.episodes()
    assert arms.events("episodes", SEEN) == before


def test_another_way_of_dividing_leaves_no_old_partition_and_converts_nothing(arms: Arms) -> None:
    by = {"folder": ["s1", "s2"], "day": ["2026-11-21", "2026-11-22"], "file": list(THREE)}
    arms.episodes()
    before = arms.converted()
    for way in ("day", "file", "folder"):
        arms.partition_by(way)
        arms.episodes()
        assert arms.partitions == by[way]
        assert states(arms) == {StaleStatus.FRESH}, way
    assert arms.converted() == before
    assert arms.materialized() == dict.fromkeys([*by["day"], *by["file"], *by["folder"]], 1)


def test_what_a_killed_run_or_the_command_line_added_to_a_folder_is_said_by_the_next_run(arms: Arms) -> None:
    ingest(arms.robot, arms.store, say=lambda _: None)
    assert arms.materialized() == {}
    arms.episodes()
    assert arms.materialized() == {"s1": 1, "s2": 1}
    arms.record("s1/20261123_3.hdf5")
    ingest(arms.robot, arms.store, say=lambda _: None)
    arms.episodes()
    assert arms.materialized() == {"s1": 2, "s2": 1}
    assert arms.metadata("s1")["episodes"] == 3
    assert states(arms) == {StaleStatus.FRESH}


def test_the_events_of_a_run_do_not_grow_with_the_recordings_in_a_folder(arms: Arms) -> None:
    arms.episodes()
    before = arms.events("episodes", MADE) + arms.events("recordings", SEEN)
    arms.record(*(f"s1/20261123_{k}.hdf5" for k in range(5)))
    arms.episodes()
    assert arms.events("episodes", MADE) + arms.events("recordings", SEEN) == before + 2


def test_observing_again_leaves_no_event_of_what_is_known(arms: Arms) -> None:
    arms.observe()
    assert (arms.partitions, arms.events("recordings", SEEN)) == (["s1", "s2"], 2)
    arms.observe()
    assert arms.events("recordings", SEEN) == 2
    arms.record(THREE[2], seed=99)
    arms.observe()
    assert arms.events("recordings", SEEN) == 3
    arms.episodes()
    assert states(arms) == {StaleStatus.FRESH}


def test_recordings_without_a_date_are_one_partition_and_are_named(arms: Arms, capfd: pytest.CaptureFixture[str]) -> None:
    arms.partition_by("day")
    arms.record("s1/test.hdf5")
    arms.episodes()
    assert arms.materialized() == {"2026-11-21": 1, "2026-11-22": 1, "undated": 1}
    assert "1 recording(s) without a date in their id are in the partition 'undated', such as s1/test.hdf5" in capfd.readouterr().err


def test_a_look_at_an_episode_is_on_the_partition_of_its_recording(arms: Arms) -> None:
    arms.episodes()
    look = arms.definitions().resolve_job_def("arm_look")
    config = {"ops": {"arm_look_at_an_episode": {"config": {"episode": THREE[2]}}}}
    assert look.execute_in_process(instance=arms.instance, run_config=config).success
    assert arms.reasons("s2")["episode"] == f"{THREE[2]}/0"


def test_a_folder_that_is_chosen_and_has_no_recording_any_more_is_named(arms: Arms) -> None:
    arms.episodes()
    (arms.recordings / THREE[2]).unlink()
    failed = arms.episodes("s2", raise_on_error=False)
    failure = failed.failure_data_for_node("arm__episodes")
    assert failure is not None
    assert "no recording is in this folder any more [file s2]" in str(failure.error)
    assert len(arms.converted()) == 3
