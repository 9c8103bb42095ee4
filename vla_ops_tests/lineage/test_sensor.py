"""What a tick of the sensor asks for, from cursors of both forms, and what it reads to know it."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from vla_ops.episodes.ingest import ingest
from vla_ops.recordings.discover import list_recordings
from vla_ops_tests.episodes.ingesting import convert_in_this_process
from vla_ops_tests.lineage.arms import Arms, age, arms_in

HOUR_S = 3600


@pytest.fixture
def arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arms]:
    """Two recordings of an hour ago that are converted; a file settles in ten minutes."""
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    convert_in_this_process(monkeypatch)
    with arms_in(tmp_path, by="folder") as made:
        made.record("s1/a.hdf5", "s1/b.hdf5")
        for path in made.recordings.rglob("*.hdf5"):
            age(path, HOUR_S)
        ingest(made.robot, made.store, say=lambda _: None)
        made.edit("settle_s: 0", "settle_s: 600")
        yield made


def tick(arms: Arms, cursor: str | None) -> tuple[dg.SensorResult | dg.SkipReason, str | None]:
    """What the sensor says, and the cursor after it."""
    (sensor,) = arms.definitions().sensors or []
    assert isinstance(sensor, dg.SensorDefinition)
    context = dg.build_sensor_context(instance=arms.instance, cursor=cursor)
    result = sensor(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    return result, result.cursor if isinstance(result, dg.SensorResult) else context.cursor


def first_cursor(arms: Arms) -> str:
    asked, cursor = tick(arms, None)
    assert isinstance(asked, dg.SensorResult)
    return str(cursor)


def old_cursor(arms: Arms) -> str:
    """As it was written before: every recording with its stamp."""
    files = list_recordings(str(arms.recordings), "**/*.hdf5")
    return json.dumps({file.id: f"{file.size}:{zlib.crc32(file.stamp.encode()):08x}" for file in files})


def test_a_cursor_is_as_short_for_many_recordings_as_for_few(arms: Arms) -> None:
    few = first_cursor(arms)
    for k in range(200):
        os.link(arms.recordings / "s1/a.hdf5", arms.recordings / f"s1/{k}.hdf5")
    assert len(first_cursor(arms)) - len(few) < 4


def test_a_tick_without_news_opens_no_file_of_the_store(arms: Arms, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = first_cursor(arms)
    monkeypatch.setattr("vla_ops.lineage.sensor_cursor.remembered_contents", lambda _: pytest.fail("the store was read"))
    skipped, after = tick(arms, cursor)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == "2 recordings, nothing new or changed"
    assert after == cursor


def test_a_cursor_of_the_old_form_is_read_once_and_starts_nothing(arms: Arms) -> None:
    skipped, after = tick(arms, old_cursor(arms))
    assert isinstance(skipped, dg.SkipReason)
    assert after == first_cursor(arms)


def test_what_is_new_changed_and_gone_since_an_old_cursor_is_found(arms: Arms) -> None:
    before = old_cursor(arms)
    arms.record("s1/c.hdf5", "s1/a.hdf5", seed=9)
    for name in ("s1/c.hdf5", "s1/a.hdf5"):
        age(arms.recordings / name, HOUR_S)
    (arms.recordings / "s1/b.hdf5").unlink()
    asked, _ = tick(arms, before)
    assert isinstance(asked, dg.SensorResult)
    assert (asked.run_requests or [])[0].tags == {"vla_ops/new_or_changed": "2", "vla_ops/gone": "1"}


@pytest.mark.parametrize("form", ["old", "new"])
def test_a_recording_that_is_being_rewritten_waits_and_is_then_asked_for(arms: Arms, form: str) -> None:
    cursor = old_cursor(arms) if form == "old" else first_cursor(arms)
    arms.record("s1/b.hdf5", seed=9)
    waiting, after = tick(arms, cursor)
    assert isinstance(waiting, dg.SkipReason)
    assert "1 recordings are being rewritten; waiting until they are 600 s old" in str(waiting.skip_message)
    age(arms.recordings / "s1/b.hdf5", HOUR_S)
    asked, _ = tick(arms, after)
    assert isinstance(asked, dg.SensorResult)
    assert (asked.run_requests or [])[0].tags["vla_ops/new_or_changed"] == "1"


def test_a_new_recording_counts_once_it_is_old_enough(arms: Arms) -> None:
    cursor = first_cursor(arms)
    arms.record("s1/c.hdf5")
    waiting, after = tick(arms, cursor)
    assert isinstance(waiting, dg.SkipReason)
    assert waiting.skip_message == "3 recordings, nothing new or changed; 1 still being written"
    age(arms.recordings / "s1/c.hdf5", HOUR_S)
    asked, _ = tick(arms, after)
    assert isinstance(asked, dg.SensorResult)
    assert (asked.run_requests or [])[0].tags == {"vla_ops/new_or_changed": "1", "vla_ops/gone": "0"}


def test_a_recording_that_is_gone_is_asked_for_also_while_another_is_rewritten(arms: Arms) -> None:
    cursor = first_cursor(arms)
    (arms.recordings / "s1/a.hdf5").unlink()
    arms.record("s1/b.hdf5", seed=9)
    asked, after = tick(arms, cursor)
    assert isinstance(asked, dg.SensorResult)
    assert (asked.run_requests or [])[0].tags == {"vla_ops/new_or_changed": "0", "vla_ops/gone": "1"}
    assert isinstance(tick(arms, after)[0], dg.SkipReason)


def test_a_robot_without_a_recording_asks_for_nothing(arms: Arms) -> None:
    for path in arms.recordings.rglob("*.hdf5"):
        path.unlink()
    skipped, _ = tick(arms, None)
    assert isinstance(skipped, dg.SkipReason)


def test_a_run_that_failed_is_not_asked_for_at_every_tick(arms: Arms) -> None:
    cursor = first_cursor(arms)
    arms.record("s1/c.hdf5")
    age(arms.recordings / "s1/c.hdf5", HOUR_S)
    asked, after = tick(arms, cursor)
    assert isinstance(asked, dg.SensorResult)
    assert isinstance(tick(arms, after)[0], dg.SkipReason)
