"""Which episodes a `held_out` chooses, whatever else there is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.curation import HeldOut
from vla_ops.episodes.held_out import chosen_for_validation
from vla_ops.episodes.store import Episode, EpisodeMeta


def episode(key: str, **metadata: str) -> Episode:
    recording, _, index = key.rpartition("/")
    meta = EpisodeMeta(recording, int(index), metadata.pop("name", index), "t", 9, 20, [], [], {}, {}, {}, [], "v", "f", metadata)
    return Episode(Path("/nowhere"), meta)


def chosen(keys: list[str], **held_out: Any) -> frozenset[str]:
    return chosen_for_validation(HeldOut.model_validate(held_out), [episode(key) for key in keys], format="hdf5")


def test_a_station_is_a_folder_on_the_way_or_what_the_recording_says() -> None:
    episodes = [episode("s1/x/a/0"), episode("x/s1/0"), episode("b/0", **{"task_info.station": "s1"}), episode("c/0", station="s1")]
    # The second has it as the name of the recording itself, and the last says something else.
    episodes.append(episode("d/0", substation="s1"))
    assert chosen_for_validation(HeldOut(stations=["s1"]), episodes, format="hdf5") == {"s1/x/a/0", "b/0", "c/0"}


def test_the_ways_to_hold_out_add_up() -> None:
    keys = [f"s{k % 3}/{k}/{e}" for k in range(12) for e in range(2)]
    alone = [chosen(keys, fraction=0.2, seed=1), chosen(keys, stations=["s2"]), chosen(keys, episodes=["s0/0", "s0/3/1"])]
    both = chosen(keys, fraction=0.2, seed=1, stations=["s2"], episodes=["s0/0", "s0/3/1"])
    assert both == alone[0] | alone[1] | alone[2]
    assert alone[2] == {"s0/0/0", "s0/0/1", "s0/3/1"}


def test_which_episodes_a_seed_holds_out_is_fixed() -> None:
    # From `printf 0/rec_11/0 | sha256sum` and so on: another hash would move episodes between training and validation of every dataset.
    assert chosen([f"rec_{k}/0" for k in range(20)], fraction=0.2) == {"rec_1/0", "rec_11/0", "rec_13/0", "rec_15/0"}
    assert chosen([f"rec_{k}/0" for k in range(20)], fraction=0.001) == frozenset()


ids = st.lists(st.integers(0, 10_000).map(lambda k: f"rec_{k}/0"), min_size=1, max_size=60, unique=True)


@given(ids, ids, st.floats(0.001, 0.99), st.integers())
def test_adding_recordings_moves_no_episode_to_the_other_side(keys: list[str], more: list[str], fraction: float, seed: int) -> None:
    before, after = chosen(keys, fraction=fraction, seed=seed), chosen([*keys, *more], fraction=fraction, seed=seed)
    assert after & set(keys) == before


def test_a_fraction_that_is_too_small_for_the_episodes_takes_none_instead_of_the_nearest() -> None:
    """Of ep_0 to ep_4, ep_4 is the nearest; with ep_5 it would have moved into training."""
    keys = [f"ep_{k}/0" for k in range(6)]
    assert [chosen(keys[:count], fraction=0.02) for count in (5, 6)] == [frozenset(), frozenset()]


def parts(*names: str, recording: str = "a") -> list[Episode]:
    """Episodes of one recording, by the names they have in it."""
    return [episode(f"{recording}/{k}", name=name) for k, name in enumerate(names)]


@pytest.mark.parametrize("names", [("a", "a", "a"), ("run_0", "run_1", "run_2"), ("run_0", "run_0", "run_1")])
def test_the_parts_of_one_mcap_are_on_one_side(names: tuple[str, ...]) -> None:
    runs = [parts(*names, recording=f"rec_{k}.mcap") for k in range(100)]
    held_out = chosen_for_validation(HeldOut(fraction=0.3), [e for run in runs for e in run], format="mcap")
    assert {len(held_out & {e.id for e in run}) for run in runs} == {0, 3}


@pytest.mark.parametrize("format", ["hdf5", "zarr", "lerobot"])
def test_the_parts_that_a_gap_leaves_of_a_demo_are_on_one_side_and_demos_are_decided_alone(format: str) -> None:
    demos = [f"demo_{k}" for k in range(100)]
    episodes = parts(*[demo for demo in demos for _ in range(2)])
    held_out = chosen_for_validation(HeldOut(fraction=0.3), episodes, format=format)
    counts = Counter(e.meta.name for e in episodes if e.id in held_out)
    assert set(counts.values()) == {2}
    assert 10 < len(counts) < 50


def test_a_run_stays_where_it_is_when_a_part_of_it_or_another_run_is_left_out() -> None:
    episodes = parts(*[f"demo_{k // 2}" for k in range(100)])
    everything = chosen_for_validation(HeldOut(fraction=0.3), episodes, format="hdf5")
    fewer = chosen_for_validation(HeldOut(fraction=0.3), episodes[1::3], format="hdf5")
    assert fewer == everything & {e.id for e in episodes[1::3]}


def test_a_fraction_holds_out_about_that_part_and_another_seed_others() -> None:
    keys = [f"station{k % 7}/{k}.mcap/0" for k in range(4000)]
    sides = [chosen(keys, fraction=0.1, seed=seed) for seed in range(3)]
    # Five standard deviations of a binomial of 4000 and 0.1 are 95.
    assert all(abs(len(side) - 400) < 95 for side in sides)
    assert len(sides[0] & sides[1]) < 100
