from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.datasets.file_runs import Limits, Weight, plan_runs

ANY = 1 << 62
LIMITS = Limits(full=Weight(1000, ANY, ANY), small=Weight(100, ANY, ANY))


def plan(keys, previous, *, size=30, limits=LIMITS):
    keys = list(keys)
    return plan_runs(keys, previous, weigh=lambda k: Weight(size if isinstance(size, int) else size[keys[k]], 1, 1), limits=limits)


def held(keys, runs):
    return [list(keys[run.start : run.stop]) for run in runs]


def test_everything_is_written_when_there_was_nothing():
    runs = plan(range(50), [])
    assert [(r.start, r.stop, r.kept) for r in runs] == [(0, 33, None), (33, 50, None)]


def test_an_unchanged_list_keeps_every_file():
    previous = [list(range(33)), list(range(33, 50))]
    assert [(r.start, r.stop, r.kept) for r in plan(range(50), previous)] == [(0, 33, 0), (33, 50, 1)]


def test_a_new_episode_joins_a_small_last_file():
    runs = plan(range(36), [list(range(33)), [33, 34]])
    assert [(r.start, r.stop, r.kept) for r in runs] == [(0, 33, 0), (33, 36, None)]


def test_a_new_episode_after_a_large_file_gets_its_own():
    assert [r.kept for r in plan(range(21), [list(range(20))])] == [0, None]


def test_a_removed_episode_rewrites_only_its_file():
    previous = [list(range(20)), list(range(20, 40)), list(range(40, 60))]
    keys = [k for k in range(60) if k != 25]
    runs = plan(keys, previous)
    assert [r.kept for r in runs] == [0, None, 2]
    assert held(keys, runs)[1] == [k for k in range(20, 40) if k != 25]


def test_a_file_whose_episodes_all_went_is_gone():
    assert [r.kept for r in plan([*range(20), *range(40, 60)], [list(range(20)), list(range(20, 40)), list(range(40, 60))])] == [0, 2]


def test_an_episode_over_the_limit_has_a_file_alone():
    runs = plan("abc", [], size={"a": 10, "b": 5000, "c": 10})
    assert held("abc", runs) == [["a"], ["b"], ["c"]]


def test_a_full_small_file_is_not_written_again_for_nothing():
    limits = Limits(full=Weight(60, ANY, ANY), small=Weight(100, ANY, ANY))
    assert [r.kept for r in plan(range(3), [[0, 1]], limits=limits)] == [0, None]


def test_appending_one_by_one_leaves_few_files_and_writes_each_episode_few_times():
    files: list[list[int]] = []
    written = 0
    limits = Limits(full=Weight(30_000, ANY, ANY), small=Weight(600, ANY, ANY))
    for count in range(1, 1501):
        keys = list(range(count))
        runs = plan(keys, files, size=300, limits=limits)
        written += sum(len(r.episodes) for r in runs if r.kept is None)
        files = held(keys, runs)
    assert [k for file in files for k in file] == list(range(1500))
    assert len(files) < 80
    assert written < 1500 * 5


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_runs_are_a_partition_and_kept_files_hold_the_same_episodes(data):
    sizes = data.draw(st.lists(st.integers(1, 400), min_size=1, max_size=40))
    before = data.draw(st.lists(st.integers(0, len(sizes) - 1), unique=True))
    now = data.draw(st.lists(st.integers(0, len(sizes) - 1), unique=True, min_size=1))
    previous = held(before, plan(before, [], size=sizes)) if before else []
    runs = plan(now, previous, size=sizes)
    assert [k for file in held(now, runs) for k in file] == now
    kept = [r.kept for r in runs if r.kept is not None]
    assert len(set(kept)) == len(kept)
    for run, file in zip(runs, held(now, runs), strict=True):
        assert file
        assert run.kept is None or file == previous[run.kept]
        assert len(file) == 1 or sum(sizes[k] for k in file) <= 1000
