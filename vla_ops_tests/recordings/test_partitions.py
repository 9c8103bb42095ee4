from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.recordings.partitions import UNDATED, by_partition, day_of, partition_of
from vla_ops.spec import RecordingsSpec


@pytest.mark.parametrize(
    "recording",
    [
        "2026-11-21/7.mcap",
        "station3/2026-11-21/7.mcap",
        "station3/20261121/7.mcap",
        "put_cup_2026_11_21_003.mcap",
        "2026/11/21/7.mcap",
        "2026.11.21.mcap",
        "rec20261121T143000.hdf5",
        "20261121_143000.mcap",
        "20261121143000.mcap",
        "2026-11-21-14-30-00.mcap",
        "99999999/2026-13-40/2026-11-21/20260101.mcap",
        "20269999-2026-11-21.mcap",
    ],
)
def test_the_first_date_in_an_id_is_its_day(recording: str) -> None:
    assert partition_of(recording, "day") == "2026-11-21"


@pytest.mark.parametrize(
    "recording",
    [
        "7.mcap",
        "1732190400.mcap",
        "1732190400123.mcap",
        "120261121.mcap",
        "202611211.mcap",
        "2026-11_21.mcap",
        "00010203.mcap",
        "2026-02-30",
    ],
)
def test_a_number_that_is_no_date_is_none(recording: str) -> None:
    assert day_of(recording) is None
    assert partition_of(recording, "day") == UNDATED


@given(st.dates(date(1990, 1, 1), date(2099, 12, 31)), st.sampled_from(["%Y-%m-%d", "%Y%m%d", "%Y_%m_%d", "%Y/%m/%d", "%Y%m%d235959"]))
def test_every_day_is_found_in_every_way_of_writing_it(day: date, form: str) -> None:
    assert day_of(f"lab/{day.strftime(form)}/run.mcap") == day


def test_a_folder_is_all_that_stands_before_the_name() -> None:
    ids = ["a/x/1.mcap", "a/2.mcap", "b.mcap", "a/x/3.mcap"]
    assert by_partition(ids, "folder") == {"a/x": ["a/x/1.mcap", "a/x/3.mcap"], "a": ["a/2.mcap"], ".": ["b.mcap"]}


@given(st.lists(st.text(alphabet="ab/._-2016", min_size=1), unique=True), st.sampled_from(["file", "folder", "day"]))
def test_every_recording_is_in_one_partition(ids: list[str], by: str) -> None:
    members = by_partition(ids, by)  # pyright: ignore[reportArgumentType]
    assert sorted(key for each in members.values() for key in each) == sorted(ids)
    if by == "file":
        assert members == {key: [key] for key in ids}


def test_the_yaml_knows_three_partitions_and_no_other() -> None:
    read = {"uri": "x", "pattern": "*.mcap", "format": "mcap"}
    assert RecordingsSpec.model_validate(read).partition_by == "file"
    assert RecordingsSpec.model_validate({**read, "partition_by": "day"}).partition_by == "day"
    with pytest.raises(ValueError, match=r"'file', 'folder' or 'day'"):
        RecordingsSpec.model_validate({**read, "partition_by": "week"})
