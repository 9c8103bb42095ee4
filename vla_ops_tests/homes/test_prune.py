"""Pruning a home: killed anywhere, while others send at any moment, and machines that were away for long."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.homes.prune import Plan, Prune
from vla_ops.homes.record import Records
from vla_ops.homes.removing import Removing, now
from vla_ops.homes.there import removing_in, there_in
from vla_ops.publishing.stores import LocalStore, store_at
from vla_ops.publishing.stores.base import Prunable, Store
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.homes.prune_contract import (
    Between,
    PruneContract,
    again,
    dead_of,
    die,
    is_killed,
    is_refused,
    named,
    old_and_new,
    prune,
    whole,
)
from vla_ops_tests.homes.test_dying import Died, dies
from vla_ops_tests.services.s3 import Bucket

# More than pruning what `old_and_new` makes asks of a store, which is about 20.
_CALLS = 26
NEEDED = "needed again while it is being removed"

# Prunes a home, and is killed before the nth call of the store.
_PROGRAM = """
import os, signal, sys
from datetime import timedelta
from vla_ops.homes.prune import Prune
from vla_ops.homes.removing import now
from vla_ops.publishing.stores import store_at
from vla_ops_tests.homes.prune_contract import Between

def prune(uri, number):
    store = Between(store_at(uri), number, lambda: os.kill(os.getpid(), signal.SIGKILL))
    Prune(store, timedelta(0), say=lambda _: None, at=now() + timedelta(days=1)).run()

uri, first, last = sys.argv[1], *map(int, sys.argv[2:])
for number in range(first, last):
    # Of one of many homes, or of the one.
    child = os.fork() if "{}" in uri else 0
    if child == 0:
        prune(uri.format(number), number)
        os._exit(0)
    os.waitpid(child, 0)
"""


class TestInASharedFolder(PruneContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "share/arm")


@pytest.mark.services
class TestInS3(PruneContract):
    # Its times are whole seconds.
    tick_s = 1.1

    @pytest.fixture
    def store(self, s3: Bucket) -> Store:
        return store_at(f"{s3.uri}/arm")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "share/arm", at_once=1)


@pytest.fixture
def one(store: Store, tmp_path: Path) -> Machine:
    return Machine(store, tmp_path / "one")


@pytest.fixture
def other(store: Store, tmp_path: Path) -> Machine:
    return Machine(store, tmp_path / "other")


def moved(machine: Machine, number: int) -> Machine:
    """The machine and its home, copied to places of their own, to go on there: a home of its own each time."""
    folder = machine.folder.with_name(f"case{number}")
    shutil.copytree(machine.folder, folder / "machine")
    shutil.copytree(Path(machine.store.uri), folder / "share/arm")
    found = Machine(LocalStore(folder / "share/arm", at_once=1), folder / "machine")
    # Its record says of which home it is.
    record = Records(machine.root, machine.store.uri).read()
    Records(found.root, found.store.uri).write(record)
    return found


def cases(machine: Machine, count: int = 60) -> Iterator[tuple[int, Machine]]:
    for number in range(1, count):
        yield number, moved(machine, number)


def test_one_that_is_killed_at_any_call_loses_nothing_and_the_next_one_finishes_it(one: Machine, tmp_path: Path) -> None:
    old_and_new(one)
    places = dict(cases(one, _CALLS))
    command = [sys.executable, "-c", _PROGRAM, f"{tmp_path}/case{{}}/share/arm", "1", f"{_CALLS}"]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": "."}, timeout=250)
    begun = 0
    for number, machine in places.items():
        begun += removing_in(machine.store) is not None
        assert named(machine.store) == one.files
        machine.convert("b.mcap")
        machine.send()
        prune(machine.store)
        assert dead_of(machine.store) == set()
        assert whole(machine.store, tmp_path / f"newer{number}") == machine.files
    assert 5 < begun < _CALLS - 8


@pytest.mark.services
def test_one_that_is_killed_again_and_again_in_s3_finishes_in_the_end(s3: Bucket, tmp_path: Path) -> None:
    store = store_at(f"{s3.uri}/arm")
    one = Machine(store, tmp_path / "one")
    old_and_new(one)
    for number in range(1, 2 * _CALLS, 2):
        command = [sys.executable, "-c", _PROGRAM, f"{s3.uri}/arm", f"{number}", f"{number + 1}"]
        code = subprocess.run(command, check=False, env=os.environ | {"PYTHONPATH": "."}, timeout=60).returncode
        assert whole(store, tmp_path / f"new{number}") == one.files
        if code == 0:
            break
        if number % 8 == 1:
            one.write("trainings/pi0/run1/metrics.jsonl", f"line {number}")
            one.send()
    else:
        pytest.fail("it never came to its end")
    prune(store)
    assert dead_of(store) == set()
    assert whole(store, tmp_path / "last") == one.files


@pytest.mark.parametrize("what", ["new", "needed again"])
def test_a_machine_that_sends_at_any_moment_loses_nothing(one: Machine, tmp_path: Path, what: str) -> None:
    old_and_new(one)
    refused = 0
    for number, machine in cases(one):

        def send(machine: Machine = machine) -> None:
            nonlocal refused
            again(machine) if what == "needed again" else machine.convert("b.mcap")
            refused += is_refused(machine.send, NEEDED)

        between = Between(machine.store, number, send)
        prune(between)
        assert whole(machine.store, tmp_path / f"new{number}") in (one.files, machine.files)
        machine.send()
        assert whole(machine.store, tmp_path / f"newer{number}") == machine.files
        if not between.has_happened:
            break
    else:
        pytest.fail("it never came to its end")
    assert (refused > 0) == (what == "needed again")


@pytest.mark.services
def test_a_machine_that_sends_to_s3_at_any_moment_loses_nothing(s3: Bucket, tmp_path: Path) -> None:
    refused = 0
    for number in range(1, _CALLS):
        store = store_at(f"{s3.uri}/{number}/arm")
        machine = Machine(store, tmp_path / f"{number}")
        old_and_new(machine)
        first = machine.files

        def send(machine: Machine = machine) -> None:
            nonlocal refused
            again(machine)
            refused += is_refused(machine.send, NEEDED)

        prune(Between(store, number, send))
        assert named(store) in (first, machine.files)
        machine.send()
        assert whole(store, tmp_path / f"new{number}") == machine.files
    assert 3 < refused < _CALLS - 8


@pytest.mark.parametrize("what", ["new", "needed again"])
def test_a_prune_at_any_moment_of_a_send_takes_nothing_from_it(one: Machine, tmp_path: Path, what: str) -> None:
    old_and_new(one)
    again(one) if what == "needed again" else one.convert("b.mcap")
    for number, machine in cases(one):
        between = Between(machine.store, number, lambda machine=machine: prune(machine.store))
        Machine(cast(Store, between), machine.folder).send()
        assert whole(machine.store, tmp_path / f"new{number}") == one.files
        if not between.has_happened:
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("step", range(7, 29, 3))
def test_a_prune_that_is_killed_at_any_moment_of_a_send_takes_nothing_from_it(one: Machine, tmp_path: Path, step: int) -> None:
    old_and_new(one)
    again(one)
    for number, machine in cases(one):
        between = Between(machine.store, number, lambda machine=machine: is_killed(machine.store, step))
        is_refused(Machine(cast(Store, between), machine.folder).send, NEEDED)
        prune(machine.store)
        assert whole(machine.store, tmp_path / f"new{number}") in (machine.files, _second(machine))
        if not between.has_happened:
            return
    pytest.fail("it never came to its end")


def test_a_prune_that_ends_at_any_moment_of_a_send_lets_it_look_again(one: Machine, tmp_path: Path) -> None:
    old_and_new(one)
    one.convert("c.mcap", "of others")
    begun = Prune(cast(Prunable, one.store), timedelta(0), say=lambda _: None, at=now() + timedelta(days=1))
    plan, listed = begun._plan(there_in(one.store))
    mine = begun._begin(there_in(one.store), listed)
    assert mine is not None
    for number, machine in cases(one):
        between = Between(machine.store, number, partial(_end, cast(Prunable, machine.store), mine, plan))
        Machine(cast(Store, between), machine.folder).send()
        assert whole(machine.store, tmp_path / f"new{number}") == one.files
        if not between.has_happened:
            return
    pytest.fail("it never came to its end")


def _end(store: Prunable, mine: Removing, plan: Plan) -> None:
    pruning = Prune(store, timedelta(0), say=lambda _: None)
    pruning._remove(mine, plan)
    pruning._end(mine)


def _second(machine: Machine) -> dict[str, str]:
    """What `old_and_new` left, where `again` was not sent."""
    found = {path: text for path, text in machine.files.items() if "/100/" not in path}
    return {path: text.replace("first", "second") if "a.mcap" in path else text for path, text in found.items()}


@pytest.mark.parametrize("wakes", [False, True])
def test_of_two_prunes_at_once_one_stops_and_nothing_is_lost(one: Machine, tmp_path: Path, *, wakes: bool) -> None:
    old_and_new(one)
    stopped = 0
    for number, machine in cases(one):

        def another(machine: Machine = machine) -> None:
            prune(machine.store, take_over=True)
            # What it removed is made again, and then the first one wakes up, at its request to remove that perhaps.
            if wakes:
                again(machine)
                is_refused(machine.send, NEEDED)

        between = Between(machine.store, number, another)
        stopped += is_refused(lambda between=between: prune(between), "another process has taken over")
        assert wakes or dead_of(machine.store) == set()
        assert whole(machine.store, tmp_path / f"new{number}") in (one.files, machine.files)
        if not between.has_happened:
            break
    assert stopped > 3


@pytest.mark.parametrize("number", range(1, 12))
def test_one_that_was_taken_for_dead_removes_no_more_than_one_request(
    one: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("vla_ops.homes.prune._AT_ONCE", 1)
    old_and_new(one)

    def hours_pass() -> None:
        prune(one.store, take_over=True)
        monkeypatch.setattr("vla_ops.homes.removing.now", lambda: now() + timedelta(hours=2))
        again(one)
        one.send()

    # It looks before each of them.
    before = one.files
    is_refused(lambda: prune(Between(one.store, number, hours_pass, of="pointer")), "another process has taken over")
    assert one.files != before
    assert whole(one.store, tmp_path / "new") == one.files


NAMES = st.sampled_from(["a.mcap", "b.mcap"])
ACTS = st.one_of(
    st.tuples(st.just("convert"), st.integers(0, 1), NAMES, st.integers(0, 2)),
    st.tuples(st.just("remove"), st.integers(0, 1), NAMES, st.just(0)),
    st.tuples(st.sampled_from(["fetch", "send", "send"]), st.integers(0, 1), st.just(""), st.integers(0, 25)),
    st.tuples(st.just("prune"), st.integers(0, 2), st.sampled_from(["", "killed", "send"]), st.integers(1, 25)),
)


@given(acts=st.lists(ACTS, max_size=16))
@settings(max_examples=60)
def test_whatever_is_sent_killed_and_pruned_all_that_the_home_names_is_there(acts: list[tuple[str, int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        # What is taken over may be needed again at once, half of the time.
        patch.setattr("vla_ops.homes.prune._QUIET", timedelta(0) if len(acts) % 2 else timedelta(hours=1))
        store = LocalStore(Path(name, "share/arm"), at_once=1)
        both = [Machine(store, Path(name, f"machine{k}")) for k in range(2)]
        for act in acts:
            _do(act, both, store)
            if there_in(store).id is not None:
                named(store)
        patch.setattr("vla_ops.homes.removing.now", lambda: now() + timedelta(hours=2))
        for machine in (*both, *both):
            machine.send()
            machine.fetch()
        assert both[0].files == both[1].files == whole(store, Path(name, "last"))


def _do(act: tuple[str, int, str, int], both: list[Machine], store: Store) -> None:
    what, which, name, number = act
    if what == "convert":
        both[which].convert(name, f"take{number}")
    elif what == "remove":
        shutil.rmtree(both[which].root / "episodes" / name, ignore_errors=True)
    elif what == "prune":
        happens = {"killed": die, "send": lambda: _try(both[which % 2].send), "": lambda: None}[name]
        at = now() + timedelta(days=which - 1)
        _try(lambda: Prune(Between(store, number, happens), timedelta(0), say=lambda _: None, at=at).run())  # type: ignore[arg-type]
    elif number == 0 or not dies(both[which], what, number):
        _try(getattr(both[which], what))


def _try(do: Callable[[], object]) -> None:
    """Do it; killed is what it may be, and refused."""
    with suppress(Died):
        is_refused(do, NEEDED)
