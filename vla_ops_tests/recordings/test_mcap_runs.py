"""Where the clock of a file jumps back, as told from its message tables alone."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.recordings.mcap_index import Table
from vla_ops.recordings.mcap_runs import Runs, find_runs

S = 10**9


def tables(*messages: tuple[str, float], chunk: int = 5) -> dict[str, Table]:
    """Tables of (topic, seconds) messages in file order, `chunk` messages to a chunk."""
    found: dict[str, list[tuple[int, int, int]]] = {}
    for k, (topic, seconds) in enumerate(messages):
        found.setdefault(topic, []).append((round(seconds * S), k // chunk, 100 * (k % chunk)))
    return {topic: Table(*np.array(rows, np.int64).T) for topic, rows in found.items()}


def rows_of(runs: Runs, topic: str, table: Table) -> list[tuple[int, int]]:
    return [(rows.start, rows.stop) for rows in (runs.rows(topic, k, len(table)) for k in range(runs.count))]


def sequence(topic: str, *seconds: float) -> list[tuple[str, float]]:
    return [(topic, s) for s in seconds]


def test_a_file_whose_clock_never_jumps_is_one_run_of_all_messages() -> None:
    found = tables(*sequence("/a", 0, 1, 2, 3), *sequence("/b", 4, 5))
    runs = find_runs(found)
    assert (runs.count, runs.jumps) == (1, ())
    assert rows_of(runs, "/a", found["/a"]) == [(0, 4)]
    assert rows_of(runs, "/b", found["/b"]) == [(0, 2)]


def test_a_file_without_messages_is_one_empty_run() -> None:
    empty = np.empty(0, np.int64)
    runs = find_runs({"/a": Table(empty, empty, empty)})
    assert (runs.count, rows_of(runs, "/a", Table(empty, empty, empty))) == (1, [(0, 0)])
    assert find_runs({}).count == 1


def test_equal_stamps_are_no_jump() -> None:
    assert find_runs(tables(*sequence("/a", 0, 1, 1, 1, 2))).count == 1


def test_steps_back_of_up_to_a_millisecond_are_jitter_and_no_jump() -> None:
    assert find_runs(tables(*sequence("/a", 0, 1, 0.999, 2, 1.999999, 3))).count == 1
    assert find_runs(tables(*sequence("/a", 0, 1, 0.9989, 2))).jumps == ("the clock of /a jumps back 0.001 s at message 2",)


def test_small_steps_back_that_add_up_are_a_jump() -> None:
    assert find_runs(tables(*sequence("/a", 0, 1, 0.9994, 0.9988, 2))).count == 2


def test_topics_written_one_after_another_are_no_jump() -> None:
    assert find_runs(tables(*sequence("/a", 0, 1, 2, 3), *sequence("/b", 0, 1, 2, 3), *sequence("/c", 0, 1))).count == 1


def test_one_topic_that_jumps_divides_all_and_is_named_with_its_message() -> None:
    found = tables(("/a", 0), ("/b", 0), ("/a", 1), ("/b", 1), ("/a", 0.25), ("/b", 1.5), ("/a", 0.5), ("/b", 2))
    runs = find_runs(found)
    assert runs.jumps == ("the clock of /a jumps back 0.750 s at message 2",)
    assert rows_of(runs, "/a", found["/a"]) == [(0, 2), (2, 4)]
    assert rows_of(runs, "/b", found["/b"]) == [(0, 2), (2, 4)]


def test_topics_that_jump_together_make_one_run_and_not_two() -> None:
    once = [("/a", 0.0), ("/b", 0.1), ("/a", 1.0), ("/b", 1.1)]
    found = tables(*once, *once, *once)
    runs = find_runs(found)
    assert runs.count == 3
    assert all(jump.startswith("the clock of /a") for jump in runs.jumps)
    for topic in ("/a", "/b"):
        assert rows_of(runs, topic, found[topic]) == [(0, 2), (2, 4), (4, 6)]


def test_runs_written_topic_after_topic_each_have_their_own_messages() -> None:
    run = [*sequence("/a", 0, 1, 2), *sequence("/b", 0, 1)]
    found = tables(*run, *run)
    runs = find_runs(found)
    assert rows_of(runs, "/a", found["/a"]) == [(0, 3), (3, 6)]
    assert rows_of(runs, "/b", found["/b"]) == [(0, 2), (2, 4)]


def test_a_topic_without_messages_in_a_run_has_no_rows_there() -> None:
    found = tables(*sequence("/a", 0, 1), *sequence("/late", 0, 1), *sequence("/a", 0, 1), *sequence("/a", 0, 1), *sequence("/late", 0, 1))
    runs = find_runs(found)
    assert runs.count == 3
    assert rows_of(runs, "/late", found["/late"]) == [(0, 2), (2, 2), (2, 4)]


def test_a_topic_that_ends_before_the_last_run_has_no_rows_in_it() -> None:
    found = tables(*sequence("/a", 0, 1), *sequence("/early", 0), *sequence("/a", 0, 1), *sequence("/a", 0))
    assert rows_of(find_runs(found), "/early", found["/early"]) == [(0, 1), (1, 1), (1, 1)]


def test_a_topic_that_begins_after_a_jump_has_no_rows_before_it() -> None:
    found = tables(*sequence("/a", 5, 6), *sequence("/a", 0, 1), *sequence("/new", 0, 1))
    assert rows_of(find_runs(found), "/new", found["/new"]) == [(0, 0), (0, 2)]


def test_empty_topics_beside_a_jump_have_no_rows_in_any_run() -> None:
    found = tables(*sequence("/a", 0, 1, 0, 1))
    empty = np.empty(0, np.int64)
    runs = find_runs({"/none": Table(empty, empty, empty), **found})
    assert runs.count == 2
    assert rows_of(runs, "/none", Table(empty, empty, empty)) == [(0, 0), (0, 0)]


def test_each_jump_of_one_topic_begins_a_run() -> None:
    found = tables(*sequence("/a", 3, 2, 1, 0))
    runs = find_runs(found)
    assert (runs.count, len(runs.jumps)) == (4, 3)
    assert rows_of(runs, "/a", found["/a"]) == [(0, 1), (1, 2), (2, 3), (3, 4)]


messages = st.lists(st.tuples(st.sampled_from(["/a", "/b", "/c"]), st.integers(0, 12)), max_size=60)


@given(messages, st.integers(1, 7))
def test_every_message_is_in_exactly_one_run_and_no_topic_goes_back_within_one(written: list[tuple[str, int]], chunk: int) -> None:
    found = tables(*written, chunk=chunk)
    runs = find_runs(found)
    for topic, table in found.items():
        rows = rows_of(runs, topic, table)
        assert (rows[0][0], rows[-1][1]) == (0, len(table))
        assert all(a[1] == b[0] for a, b in pairwise(rows))
        assert all(start <= stop for start, stop in rows)
        assert all((np.diff(table.log_ns[start:stop]) >= 0).all() for start, stop in rows)


@given(messages, st.integers(1, 7))
def test_runs_follow_one_another_in_the_file(written: list[tuple[str, int]], chunk: int) -> None:
    """What any topic has in a later run lies behind what any topic has in an earlier one."""
    found = tables(*written, chunk=chunk)
    runs = find_runs(found)
    run_of: dict[tuple[int, int], int] = {}
    for topic, table in found.items():
        for run, (start, stop) in enumerate(rows_of(runs, topic, table)):
            run_of |= {(int(table.chunks[k]), int(table.offsets[k])): run for k in range(start, stop)}
    in_file_order = [run_of[place] for place in sorted(run_of)]
    assert in_file_order == sorted(in_file_order)


@given(messages)
def test_there_are_no_more_runs_than_the_jumps_of_all_topics_call_for(written: list[tuple[str, int]]) -> None:
    found = tables(*written)
    jumps = [int((np.diff(table.log_ns) < 0).sum()) for table in found.values()]
    assert max(jumps, default=0) <= find_runs(found).count - 1 <= sum(jumps)


@given(messages, st.permutations(["/a", "/b", "/c"]))
def test_the_order_in_which_topics_are_listed_does_not_matter(written: list[tuple[str, int]], order: list[str]) -> None:
    found = tables(*written)
    listed = {topic: found[topic] for topic in order if topic in found}
    first, second = find_runs(found), find_runs(listed)
    assert first.jumps == second.jumps
    assert all(rows_of(first, topic, table) == rows_of(second, topic, table) for topic, table in found.items())
