"""Machines that were away while their home was pruned: for longer than states are kept, and than its pointer remembers."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.errors import HomeError
from vla_ops.homes.needs import everything, training
from vla_ops.homes.record import Records
from vla_ops.homes.there import there_in
from vla_ops.publishing.stores import LocalStore
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.homes.prune_contract import dead_of, die, old_and_new, prune
from vla_ops_tests.homes.test_dying import Died, dies


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "share/arm", at_once=1)


@pytest.fixture
def one(store: Store, tmp_path: Path) -> Machine:
    return Machine(store, tmp_path / "one")


@pytest.fixture
def other(store: Store, tmp_path: Path) -> Machine:
    return Machine(store, tmp_path / "other")


class TestAMachineThatWasAway:
    @pytest.fixture(autouse=True)
    def forgetful(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vla_ops.homes.there._REMEMBERED", 2)

    def pass_time(self, one: Machine) -> None:
        one.fetch()
        for k in range(5):
            one.convert(f"{k}.mcap")
            one.send()
        one.convert("a.mcap", "third")
        one.send()
        for _ in range(2):
            prune(one.store)
        assert dead_of(one.store) == set()

    def test_fetches_and_sends_what_it_made(self, one: Machine, other: Machine) -> None:
        old_and_new(one)
        other.fetch()
        reached = Records(other.root, other.store.uri).read().state
        other.convert("of another.mcap")
        self.pass_time(one)
        assert reached not in (*one.store.listed("states"), *there_in(one.store).before)
        assert other.send().units == ("episodes/of another.mcap",)
        other.fetch()
        one.fetch()
        assert other.files == one.files

    def test_is_asked_about_what_both_changed(self, one: Machine, other: Machine) -> None:
        old_and_new(one)
        other.fetch()
        other.write("trainings/pi0/run1/run.json", "of the other")
        one.write("trainings/pi0/run1/run.json", "of one")
        one.send()
        self.pass_time(one)
        for call in (other.fetch, other.send):
            with pytest.raises(HomeError, match=r"a run was changed here and on another machine.*--mine"):
                call()
        other.send(mine=["trainings/pi0/run1"])
        one.fetch()
        other.fetch()
        assert other.files == one.files

    def test_keeps_what_is_here_in_part_and_gets_the_rest(self, one: Machine, other: Machine) -> None:
        old_and_new(one)
        other.fetch(training("pi0", to_resume=False))
        self.pass_time(one)
        other.send()
        other.fetch()
        assert other.files == one.files

    @pytest.mark.parametrize("steps", range(1, 24))
    def test_and_was_killed_in_a_fetch_does_not_make_old_things_new(self, one: Machine, other: Machine, steps: int) -> None:
        one.convert("a.mcap", "first")
        one.convert("b.mcap", "first")
        one.send()
        other.fetch()
        one.convert("a.mcap", "second")
        one.convert("b.mcap", "second")
        one.send()
        dies(other, "fetch", steps, everything)
        self.pass_time(one)
        other.send()
        other.fetch()
        one.fetch()
        assert other.files == one.files
        assert one.files["episodes/a.mcap/0/cam_high.mp4"].endswith("third")

    @pytest.mark.parametrize("steps", range(1, 30))
    def test_and_was_killed_in_a_send_sends_it(self, one: Machine, other: Machine, steps: int) -> None:
        old_and_new(one)
        other.fetch()
        other.convert("of another.mcap")
        dies(other, "send", steps)
        self.pass_time(one)
        other.send()
        other.fetch()
        one.fetch()
        assert other.files == one.files
        assert "episodes/of another.mcap/recording.json" in one.files

    def test_and_was_killed_in_a_fetch_by_an_earlier_version_is_told_what_to_do(
        self, one: Machine, other: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one.convert("a.mcap", "first")
        one.send()
        begun = Records.begin
        with monkeypatch.context() as earlier:
            earlier.setattr(Records, "begin", lambda self, found: begun(self, type(found)(found.state, found.units)))
            earlier.setattr(Records, "write", lambda self, record: die())
            with pytest.raises(Died):
                other.fetch()
        self.pass_time(one)
        with pytest.raises(HomeError, match=r"too old to be known in the home.*vla-ops home join arm"):
            other.fetch()
        other.home.join()
        other.fetch()
        other.send()
