"""Where episodes begin and end: gaps, clocks that jump, and several demos in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vla_ops.episodes.convert import Conversion
from vla_ops_tests.episodes.ingesting import RATE_HZ
from vla_ops_tests.episodes.workshop import (
    CAMERAS,
    DEMOS,
    JSON_STATE,
    QPOS,
    TIMES,
    Workshop,
    column,
    numbers_shown,
    put,
    states,
)
from vla_ops_tests.recordings.hdf5_files import write_robomimic
from vla_ops_tests.recordings.mcap_files import Joints, Sample, joints, write_samples


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


# Gaps and clocks


def gapped(frames: int = 24, at: int = 10, gap_s: float = 0.5) -> np.ndarray:
    stamps = np.arange(frames) / RATE_HZ
    stamps[at:] += gap_s
    return stamps


def convert_gapped(shop: Workshop, **timeline: Any) -> Conversion:
    read = {"times": {"*": TIMES}}
    return shop.convert(recordings=read, timeline={"rate_hz": RATE_HZ, "on_gap": "split", **timeline}, cameras=CAMERAS)


def test_both_sides_of_a_gap_are_episodes_with_their_own_values_images_and_timestamps(shop: Workshop):
    qpos = shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    conversion = convert_gapped(shop)
    first, second = shop.store.read_episodes("a.hdf5")
    assert (first.id, second.id, conversion.episodes) == ("a.hdf5/0", "a.hdf5/1", [0, 1])
    np.testing.assert_allclose(states(first), qpos[:9], atol=1e-6)
    np.testing.assert_allclose(states(second), qpos[10:23], atol=1e-6)
    assert (numbers_shown(first), numbers_shown(second)) == (list(range(9)), list(range(10, 23)))
    assert column(second, "timestamp")[0] == 0
    assert any("split at a gap of 550 ms" in note for note in conversion.notes)


def test_a_gap_quarantines_the_recording_where_the_spec_does_not_split(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    assert convert_gapped(shop, on_gap="quarantine").episodes == []
    assert "a gap at 0.450 s [file a.hdf5, episode 0, stream" in shop.reason()
    assert shop.store.read_episodes("a.hdf5") == []
    assert shop.left_behind() == []


def test_a_step_as_long_as_max_gap_is_no_gap(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped(gap_s=0.45))
    convert_gapped(shop, on_gap="quarantine", max_gap_ms=500, max_skew_ms=300)
    assert [e.meta.length for e in shop.store.read_episodes("a.hdf5")] == [32]


def test_a_side_of_a_gap_below_min_frames_is_dropped_and_said(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped(at=20))
    conversion = convert_gapped(shop, min_frames=6)
    assert [e.meta.length for e in shop.store.read_episodes("a.hdf5")] == [19]
    assert any("4 frame(s) at 1.500 s dropped: fewer than min_frames 6" in note for note in conversion.notes)


def test_where_every_side_is_below_min_frames_nothing_is_kept(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    convert_gapped(shop, min_frames=15)
    assert "too short" in shop.reason()
    assert "min_frames 15" in shop.reason()


def test_a_bad_side_of_a_gap_is_rejected_by_its_number_and_the_good_one_kept(shop: Workshop):
    shop.aloha(frames=24, cameras=("high",), stamps_s=gapped())
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        put(file, QPOS, (3, 1), np.nan)
    conversion = convert_gapped(shop)
    (episode,) = shop.store.read_episodes("a.hdf5")
    assert (episode.meta.index, episode.meta.length, conversion.episodes) == (1, 13, [1])
    (rejected,) = conversion.rejected
    assert (rejected.index, rejected.name) == (0, "0")
    assert "state j2" in rejected.reason
    assert rejected.reason.count("[file a.hdf5, episode 0]") == 1
    entry = shop.store.read_quarantine("a.hdf5")
    assert entry is not None
    assert (entry["quarantined"], [r["index"] for r in entry["rejected"]]) == (None, [0])
    assert not (shop.store.recording_folder("a.hdf5") / "0").exists()


def two_runs(shop: Workshop) -> list[Joints]:
    """A file of two runs of different length and values, both from the same time on."""
    runs = [joints(30, 3, RATE_HZ), joints(18, 3, RATE_HZ)]
    runs[1] = Joints(runs[1].stamps_ns, runs[1].values + 5)
    samples = [
        Sample("/arm", "JointState", stamp, {"name": ["a", "b", "c"], "position": row, "velocity": row})
        for run in runs
        for stamp, row in zip(run.stamps_ns.tolist(), run.values.tolist(), strict=True)
    ]
    write_samples(shop.raw / "a.mcap", "json", samples)
    return runs


def test_each_run_of_the_clock_is_an_episode_where_the_spec_splits(shop: Workshop):
    runs = two_runs(shop)
    shop.convert("a.mcap", "mcap", timeline={"rate_hz": RATE_HZ, "on_clock_jump": "split"}, **JSON_STATE)
    episodes = shop.store.read_episodes("a.mcap")
    assert [e.meta.name for e in episodes] == ["run_0", "run_1"]
    for episode, run in zip(episodes, runs, strict=True):
        np.testing.assert_allclose(states(episode), run.values[:-1], atol=1e-6)


def test_a_clock_that_jumps_quarantines_the_recording_by_default(shop: Workshop):
    two_runs(shop)
    shop.convert("a.mcap", "mcap", **JSON_STATE)
    assert "the clock jumps back 1 time(s) [file a.mcap]; found the clock of /arm jumps back 1.450 s at message 30" in shop.reason("a.mcap")
    assert shop.store.read_episodes("a.mcap") == []


# Several demos in one file


def test_each_demo_is_an_episode_in_the_order_of_their_numbers(shop: Workshop):
    written = write_robomimic(shop.raw / "a.hdf5", demos=(10, 2, 1))
    conversion = shop.convert(**DEMOS)
    episodes = shop.store.read_episodes("a.hdf5")
    assert [e.meta.name for e in episodes] == ["demo_1", "demo_2", "demo_10"]
    assert (conversion.episodes, conversion.frames) == ([0, 1, 2], 14 + 13 + 12)
    for episode in episodes:
        numbers = written[episode.meta.name].numbers
        np.testing.assert_array_equal(states(episode), numbers["obs/robot0_joint_pos"])
        np.testing.assert_array_equal(column(episode, "action").astype(np.float32), numbers["actions"])
        assert numbers_shown(episode, "front") == list(range(episode.meta.length))
        assert episode.meta.task == "put the bowl on the plate"


def test_one_bad_demo_is_rejected_by_name_and_the_others_are_kept(shop: Workshop):
    write_robomimic(shop.raw / "a.hdf5")
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        put(file, "data/demo_2/actions", (7, 3), np.inf)
    conversion = shop.convert(**DEMOS)
    assert [(e.id, e.meta.name) for e in shop.store.read_episodes("a.hdf5")] == [("a.hdf5/0", "demo_1"), ("a.hdf5/2", "demo_10")]
    (rejected,) = conversion.rejected
    assert (rejected.index, rejected.name) == (1, "demo_2")
    assert "action j4: 1 of 13 values are NaN or Inf, the first at frame 7" in rejected.reason
    assert "[file a.hdf5, episode demo_2]" in rejected.reason
    assert conversion.quarantined is None


def test_where_every_demo_is_bad_the_recording_is_quarantined_with_each_reason(shop: Workshop):
    write_robomimic(shop.raw / "a.hdf5", demos=(1, 2, 3, 4, 5))
    with h5py.File(shop.raw / "a.hdf5", "r+") as file:
        for k in range(1, 6):
            put(file, f"data/demo_{k}/actions", (k, 0), np.nan)
    conversion = shop.convert(**DEMOS)
    assert conversion.quarantined == shop.reason()
    assert "none of 5 episodes is usable" in shop.reason()
    assert all(f"episode demo_{k}" in shop.reason() for k in (1, 2, 3))
    assert shop.reason().endswith("and 2 more")
    assert [r.name for r in conversion.rejected] == [f"demo_{k}" for k in range(1, 6)]
