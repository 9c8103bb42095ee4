"""How much a run with nothing new looks at, counted: so many files a recording and no more, and at a tick none at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from vla_ops.episodes.ingest import ingest
from vla_ops.episodes.plan import make_plan
from vla_ops.recordings.discover import list_recordings
from vla_ops_tests.episodes.ingesting import convert_in_this_process
from vla_ops_tests.lineage.arms import Arms, arms_in
from vla_ops_tests.lineage.test_sensor import tick
from vla_ops_tests.work import watched

COUNT = 12


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arms]:
    """Twelve recordings in three folders, converted and said to Dagster; no test changes them."""
    folder = tmp_path_factory.mktemp("scale")
    with pytest.MonkeyPatch.context() as patch, arms_in(folder, by="folder") as made:
        patch.setenv("VLA_OPS_HOME", str(folder / "home"))
        convert_in_this_process(patch)
        made.record(*(f"s{k % 3}/{k}.hdf5" for k in range(COUNT)))
        made.episodes()
        yield made


def test_a_listing_lists_every_folder_once_and_opens_nothing(arms: Arms) -> None:
    with watched(arms.recordings.parent) as work:
        assert len(list_recordings(str(arms.recordings), "**/*.hdf5")) == COUNT
    assert (len(work.listed), len(set(work.listed)), work.opened) == (4, 4, [])


def test_a_tick_with_nothing_new_opens_one_file_however_many_recordings_there_are(arms: Arms) -> None:
    _, cursor = tick(arms, None)
    with watched(arms.store.root) as work:
        skipped, _ = tick(arms, cursor)
    assert isinstance(skipped, dg.SkipReason)
    assert [Path(path).name for path in work.opened] == [".lock"]
    assert work.listed == []


def test_a_plan_with_nothing_new_opens_one_file_a_recording(arms: Arms) -> None:
    with watched(arms.store.root) as work:
        make_plan(arms.robot, arms.store)
    assert (work.named("recording.json"), work.named("recordings.json"), len(work.opened)) == (COUNT, 1, COUNT + 1)


def test_no_listing_of_the_store_goes_into_an_episode(arms: Arms) -> None:
    with watched(arms.store.root) as work:
        ingest(arms.robot, arms.store, say=lambda _: None)
    assert not [path for path in work.listed if Path(path).name.isdecimal()]


def test_a_run_with_nothing_new_opens_no_episode(arms: Arms) -> None:
    with watched(arms.store.root) as work:
        arms.episodes()
    assert work.named("episode.json") == 0
    assert work.named("recording.json") <= 2 * COUNT
    assert not [path for path in work.opened if path.endswith((".parquet", ".mp4"))]


def test_a_whole_job_with_nothing_new_reads_every_episode_once(arms: Arms) -> None:
    assert arms.run().success
    with watched(arms.store.root) as work:
        assert arms.run().success
    assert work.named("episode.json") == COUNT
    assert work.named("frames.parquet") == 0


def test_a_new_recording_opens_no_episode_of_the_others(arms: Arms, tmp_path: Path) -> None:
    recording = arms.recordings / "s0/new.hdf5"
    arms.record("s0/new.hdf5")
    try:
        with watched(arms.store.root) as work:
            arms.episodes()
        others = {path for path in work.opened if path.endswith("episode.json") and "/new.hdf5" not in path}
        # The first one says which videos can be joined.
        assert len(others) <= 1
    finally:
        recording.unlink()
        arms.episodes()
