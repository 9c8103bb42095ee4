"""Which recordings are measured together, and that none of a folder is left out."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from vla_ops.episodes.semantics.actions import judge_actions
from vla_ops.episodes.semantics.groups import groups_of
from vla_ops.episodes.semantics.seen import Seen, Series
from vla_ops_tests.episodes.semantics.made_up import episode
from vla_ops_tests.episodes.semantics.motions import ARM, joints, reaching, recorded, robot


def seen_of(lengths: dict[str, list[int]]) -> Seen:
    """Recordings of episodes of so many frames."""
    metas = [
        replace(episode(name, np.zeros((frames, 1))), index=k, name=str(k))
        for name, each in lengths.items()
        for k, frames in enumerate(each)
    ]
    return Seen(metas, lambda meta: Series(np.zeros((meta.length, 1)), np.zeros((meta.length, 1)), meta.id))


def test_recordings_that_tell_enough_are_groups_of_their_own() -> None:
    groups = groups_of(seen_of({"a/0.mcap": [300], "a/1.mcap": [120], "b/2.mcap": [60, 60]}))
    assert [group.names for group in groups] == [["a/0.mcap"], ["a/1.mcap"], ["b/2.mcap"]]


def test_short_recordings_of_one_folder_are_pooled_and_those_of_two_are_not() -> None:
    groups = groups_of(seen_of({"a/0.mcap": [60], "b/0.mcap": [60], "a/1.mcap": [60], "b/1.mcap": [30]}))
    assert [group.names for group in groups] == [["a/0.mcap", "a/1.mcap"], ["b/0.mcap", "b/1.mcap"]]


def test_a_recording_of_many_episodes_has_several_groups_that_are_named_by_episode() -> None:
    groups = groups_of(seen_of({"buffer.zarr": [150, 60, 60, 30]}))
    assert [group.names for group in groups] == [["buffer.zarr/0"], ["buffer.zarr/1", "buffer.zarr/2", "buffer.zarr/3"]]


def test_of_a_long_episode_the_middle_is_looked_at() -> None:
    (group,) = groups_of(seen_of({"a.mcap": [5000]}))
    assert [len(piece.state) for piece in group.pieces] == [300]


def test_a_station_of_three_is_among_thousands_of_recordings() -> None:
    lengths = {f"day{k // 1000}/{k}.mcap": [200] for k in range(3000)} | {f"station9/{k}.mcap": [200] for k in range(3)}
    groups = groups_of(seen_of(lengths))
    assert len(groups) <= 204
    assert any(name.startswith("station9") for group in groups for name in group.names)


def test_a_thousand_recordings_take_seconds() -> None:
    names = [f"{joint}_{side}" for side in "ab" for joint in [*ARM, "extra"]]
    spec = robot([joints(names)], [joints(names)])
    motions = [np.tile(reaching(seed, 500), 3)[:, :14] for seed in range(10)]
    states = [motions[k % 10] for k in range(1000)]
    seen = recorded(spec, states, [1.01 * state for state in states], names=[f"day{k // 100}/{k}.mcap" for k in range(1000)])
    begin = time.process_time()
    assert len(judge_actions(seen, spec)) == 14
    assert time.process_time() - begin < 8
