"""What pruning must do to a home in any store, and what it must never do: a way to a store on which something happens at a certain call."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

import pytest

from vla_ops.errors import HomeError
from vla_ops.homes.prune import Plan, Prune
from vla_ops.homes.removing import now
from vla_ops.homes.state import blob_name, unpacked
from vla_ops.homes.there import removing_in, there_in
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.homes.test_dying import Died

NOTHING = timedelta(0)


class Between:
    """A store before whose `number`th call (from 1), or `number`th call of that name, something else happens, once."""

    def __init__(self, store: Store, number: int, happens: Callable[[], object], *, of: str = "") -> None:
        self._store, self._left, self._happens, self._of, self._lock = store, number, happens, of, Lock()

    @property
    def has_happened(self) -> bool:
        return self._left <= 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found) or self._of not in ("", name):
            return found

        def called(*args: Any, **more: Any) -> Any:
            with self._lock:
                self._left -= 1
                is_now = self._left == 0
            if is_now:
                self._happens()
            return found(*args, **more)

        return called


def die() -> None:
    raise Died


def prune(store: Any, at: datetime | None = None, *, take_over: bool = False) -> Plan:
    """Keep nothing that was written before a time, by default now and a day, but what the home names."""
    return Prune(store, NOTHING, say=lambda _: None, at=at or now() + timedelta(days=1)).run(take_over=take_over)


def is_refused(do: Callable[[], object], because: str) -> bool:
    """Whether it is refused, and why: for another reason it may not be."""
    try:
        do()
    except HomeError as error:
        if because not in str(error):
            raise
        return True
    return False


def is_killed(store: Store, number: int, *, of: str = "") -> bool:
    """Prune until the `number`th call of the store, or the one of that name; whether it came so far."""
    try:
        prune(Between(store, number, die, of=of))
    except Died:
        return True
    return False


def named(store: Store) -> dict[str, str]:
    """All that the home names. Each content is what its name says."""
    found: dict[str, str] = {}
    for path, kept in there_in(store).state.files.items():
        content = store.read(f"blobs/{blob_name(kept.sha256)}")
        assert content is not None
        assert hashlib.sha256(content).hexdigest() == kept.sha256
        found[path] = content.decode()
    return found


def whole(store: Store, folder: Path) -> dict[str, str]:
    """All that the home names, as a machine that comes new to it has it."""
    found, new = named(store), Machine(store, folder)
    new.fetch()
    assert new.files == found
    return found


def old_and_new(one: Machine) -> None:
    """A home with contents that an old state names alone: what `again` makes anew."""
    one.convert("a.mcap", "first")
    one.train("run1", 100)
    one.train("run1", 200)
    one.send()
    one.convert("a.mcap", "second")
    for path in (one.root / "trainings/pi0/run1/100").rglob("*"):
        if path.is_file():
            path.unlink()
    one.send()


def again(one: Machine) -> None:
    one.convert("a.mcap", "first")
    one.train("run1", 100)


def dead_of(store: Store) -> set[str]:
    """Contents that are there and that the home does not name."""
    named = {blob_name(kept.sha256) for kept in there_in(store).state.files.values()}
    return set(store.listed("blobs")) - named


class PruneContract:
    """Subclasses override `store`, an empty one."""

    # Times of the store are as exact.
    tick_s = 0.02

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def one(self, store: Store, tmp_path: Path) -> Machine:
        return Machine(store, tmp_path / "one")

    @pytest.fixture
    def other(self, store: Store, tmp_path: Path) -> Machine:
        return Machine(store, tmp_path / "other")

    def moment(self) -> datetime:
        """A time that all that was written is before, and all that comes after."""
        time.sleep(self.tick_s)
        found = now()
        time.sleep(self.tick_s)
        return found

    def test_what_only_old_states_name_goes_and_what_the_home_names_stays(self, one: Machine, store: Store, tmp_path: Path) -> None:
        old_and_new(one)
        dead = dead_of(store)
        before = set(store.listed("states"))
        done = prune(store)
        assert set(done.blobs) == dead
        assert done.bytes > 0
        assert (done.states, done.kept_states) == (before - {there_in(store).before[-2]}, 1)
        assert dead_of(store) == set()
        assert whole(store, tmp_path / "new") == one.files
        assert (removing_in(store), store.listed("removing")) == (None, {})
        assert one.send().units == one.fetch().units == ()
        assert prune(store).blobs == {}

    def test_what_was_the_homes_since_a_time_stays_with_all_that_it_names(self, one: Machine, store: Store, tmp_path: Path) -> None:
        one.convert("a.mcap", "first")
        one.send()
        one.convert("a.mcap", "second")
        one.send()
        at = self.moment()
        # Until here the second was.
        one.convert("a.mcap", "third")
        one.send()
        second = there_in(store).before[-1]
        gone = prune(store, at)
        assert (len(gone.blobs), gone.states, gone.kept_states) == (5, frozenset(there_in(store).before[:1]), 2)
        assert second in store.listed("states")
        assert len(dead_of(store)) == 5
        assert whole(store, tmp_path / "new") == one.files

    def test_what_was_sent_since_and_nobody_names_yet_stays_until_it_is_old(self, one: Machine, store: Store) -> None:
        one.convert("a.mcap")
        one.send()
        at = self.moment()
        one.train("run1", 100)
        with pytest.raises(Died):
            Machine(Between(store, 1, die, of="point"), one.folder).send()  # type: ignore[arg-type]
        assert dead_of(store) != set()
        assert prune(store, at).blobs == {}
        assert set(prune(store).blobs) != set()
        assert dead_of(store) == set()
        one.send()

    def test_what_would_go_is_told_with_its_units_and_nothing_is_changed(self, one: Machine, store: Store) -> None:
        old_and_new(one)
        there, blobs = there_in(store), store.listed("blobs")
        plan = Prune(store, NOTHING, say=lambda _: None, at=now() + timedelta(days=1)).plan()
        sizes = dict(plan.units)
        assert sizes.keys() == {"episodes/a.mcap", "trainings/pi0/run1/100"}
        assert list(sizes.values()) == sorted(sizes.values(), reverse=True)
        assert sum(sizes.values()) == plan.bytes
        assert set(plan.kept) | set(plan.blobs) == set(blobs) == set(store.listed("blobs"))
        assert there_in(store) == there

    def test_a_home_of_nothing_has_nothing_to_prune(self, store: Store) -> None:
        assert prune(store).dead == Prune(store, NOTHING, say=lambda _: None).plan().dead
        assert store.pointer("state.json") is None

    def test_files_of_others_stay(self, one: Machine, store: Store) -> None:
        old_and_new(one)
        for name in ("blobs/README.md", "states/notes", "blobs/ab/short"):
            store.point(name, b"of somebody else", seen=None)
        prune(store)
        assert store.read("blobs/README.md") == store.read("states/notes") == store.read("blobs/ab/short") == b"of somebody else"

    def test_where_a_state_that_stays_cannot_be_read_nothing_is_removed(self, one: Machine, store: Store) -> None:
        old_and_new(one)
        at = self.moment()
        one.convert("b.mcap")
        one.send()
        blobs, kept = store.listed("blobs"), there_in(store).before[-1]
        seen = store.pointer(f"states/{kept}")
        store.point(f"states/{kept}", b"damaged", seen=seen)
        with pytest.raises(HomeError, match=r"not there as it was, and nothing was removed") as refused:
            prune(store, at)
        assert kept in str(refused.value)
        assert store.listed("blobs") == blobs
        # Nobody asks for it when it is old.
        assert kept in prune(store).states

    def test_machines_that_know_of_no_list_are_kept_away_while_there_is_one(self, one: Machine, store: Store) -> None:
        def version() -> int:
            name = there_in(store).id
            return unpacked(store.read(f"states/{name}") or b"", file=name)["format"]

        old_and_new(one)
        at, versions = self.moment(), list[int]()
        prune(Between(store, 1, lambda: versions.append(version()), of="remove"), at)
        assert [*versions, version()] == [2, 1]
        assert is_killed(store, 1, of="remove")
        one.convert("b.mcap")
        one.send()
        assert version() == 2

    def test_one_that_another_machine_is_at_is_left_to_it_until_somebody_says_that_it_was_killed(
        self, one: Machine, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old_and_new(one)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
            assert is_killed(store, 1, of="remove")
        with pytest.raises(HomeError, match=r"being removed already.*on elsewhere since .*home prune arm --take-over"):
            prune(store)
        dead = dead_of(store)
        assert dead <= set(prune(store, take_over=True).blobs)
        assert dead_of(store) == set()

    def test_what_is_needed_again_while_it_is_removed_is_refused_until_it_is_gone(self, one: Machine, store: Store, tmp_path: Path) -> None:
        old_and_new(one)
        refused = list[str]()

        def send() -> None:
            again(one)
            with pytest.raises(HomeError, match=r"needed again while it is being removed.*Run `vla-ops home prune arm`") as error:
                one.send()
            refused.append(str(error.value))

        prune(Between(store, 1, send, of="remove"))
        assert len(refused) == 1
        one.send()
        assert whole(store, tmp_path / "new") == one.files

    def test_what_was_taken_over_may_be_sent_again_an_hour_later(
        self, one: Machine, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old_and_new(one)
        assert is_killed(store, 1, of="remove")
        prune(store)
        assert dead_of(store) == set()
        again(one)
        with pytest.raises(HomeError, match=r"needed again while it is being removed.*Send it again after 2"):
            one.send()
        # What is none of it may be sent, and pruning again does not make it longer.
        until = (removing_in(store) or pytest.fail("nothing is barred")).until
        two = Machine(store, tmp_path / "two")
        two.fetch()
        two.convert("b.mcap")
        two.send()
        prune(store)
        assert (removing_in(store) or pytest.fail("nothing is barred any more")).until == until
        monkeypatch.setattr("vla_ops.homes.removing.now", lambda: datetime.now(UTC) + timedelta(hours=1))
        one.send()
        assert removing_in(store) is None
        one.fetch()
        assert whole(store, tmp_path / "new") == one.files
        prune(store)
        assert removing_in(store) is None
        assert whole(store, tmp_path / "newer") == one.files

    def test_where_the_list_is_lost_nothing_is_named_or_removed(self, one: Machine, store: Store) -> None:
        old_and_new(one)
        assert is_killed(store, 1, of="remove")
        blobs = store.listed("blobs")
        store.remove(f"removing/{name}" for name in store.listed("removing"))
        one.convert("b.mcap")
        for call in (one.send, lambda: prune(store)):
            with pytest.raises(HomeError, match=r"cannot be read .*arm/removing/"):
                call()
        assert store.listed("blobs") == blobs
