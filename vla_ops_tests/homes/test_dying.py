"""Processes that die in the middle of a fetch or a send: no machine's work is lost, and none is taken for newer than it is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.homes.copy import Copy
from vla_ops.homes.needs import dataset
from vla_ops.homes.record import Records
from vla_ops.homes.robot_home import Wanted
from vla_ops.publishing.stores import LocalStore
from vla_ops.publishing.stores.base import OneByOne, Store
from vla_ops_tests.homes.machines import Machine


class Died(BaseException):
    """As nothing else is, so that nobody catches it."""


class Life:
    """So many steps are left: calls of the store, units that are replaced, records that are written."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Died


class MortalStore(OneByOne):
    """A store of whose calls each may be the last, before or after it has done its work."""

    def __init__(self, store: Store, life: Life) -> None:
        self._store, self._life = store, life

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def called(*args: Any, **more: Any) -> Any:
            self._life.step()
            answer = found(*args, **more)
            self._life.step()
            return answer

        return called


def mortal(machine: Machine, steps: int, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same machine with so many steps to live."""
    life = Life(steps)
    for owner, name in ((Copy, "place"), (Copy, "remove"), (Records, "write"), (Records, "begin")):
        found = getattr(owner, name)

        def called(*args: Any, found: Any = found) -> Any:
            life.step()
            answer = found(*args)
            life.step()
            return answer

        monkeypatch.setattr(owner, name, called)
    return Machine(MortalStore(machine.store, life), machine.folder)  # type: ignore[arg-type]


def dies(machine: Machine, what: str, steps: int, *wanted: Wanted) -> bool:
    """Let it fetch or send for so many steps; whether it died."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        try:
            getattr(mortal(machine, steps, monkeypatch), what)(*wanted)
        except Died:
            return True
    return False


def machines(folder: Path, count: int = 2) -> list[Machine]:
    store = LocalStore(folder / "share/arm", at_once=1)
    return [Machine(store, folder / f"machine{k}") for k in range(count)]


@pytest.mark.parametrize("steps", range(1, 40))
def test_a_send_that_died_anywhere_is_sent_whole_by_the_next_one(tmp_path: Path, steps: int) -> None:
    one, other = machines(tmp_path)
    one.convert("a.mcap")
    one.train("run1", 100)
    one.send()
    one.convert("a.mcap", "again")
    one.train("run1", 200)
    died = dies(one, "send", steps)
    other.fetch()
    # All of it or nothing.
    assert other.files in (one.files, {path: text for path, text in other.files.items() if "again" not in text and "/200/" not in path})
    one.send()
    other.fetch()
    assert other.files == one.files
    assert died or steps > 20


@pytest.mark.parametrize("steps", range(1, 40))
def test_a_fetch_that_died_anywhere_does_not_make_old_things_new(tmp_path: Path, steps: int) -> None:
    one, other = machines(tmp_path)
    one.convert("a.mcap", "first")
    one.convert("b.mcap", "first")
    one.train("run1", 100, "first")
    one.send()
    died = dies(other, "fetch", steps)
    # What it has now is older than what is there, though its record may not know that.
    one.convert("a.mcap", "second")
    one.train("run1", 100, "second")
    one.send()
    other.convert("c.mcap")
    other.send()
    other.fetch()
    one.fetch()
    assert other.files == one.files
    assert {text.split()[-1] for path, text in one.files.items() if "a.mcap" in path or "run1" in path} == {"second"}
    assert died or steps > 8


OWNERS = {"a.mcap": 0, "b.mcap": 0, "c.mcap": 1, "d.mcap": 1}
ACTS = st.one_of(
    st.tuples(st.just("convert"), st.sampled_from(sorted(OWNERS)), st.integers(0, 5)),
    st.tuples(st.just("remove"), st.sampled_from(sorted(OWNERS)), st.just(0)),
    st.tuples(st.sampled_from(["fetch", "fetch some", "send"]), st.sampled_from(["0", "1"]), st.one_of(st.just(0), st.integers(1, 30))),
)


@given(acts=st.lists(ACTS, max_size=14))
@settings(max_examples=60)
def test_whatever_dies_in_between_each_machine_has_in_the_end_what_its_owner_made_last(acts: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        both = machines(Path(folder))
        last: dict[str, str | None] = {}
        for act, name, number in acts:
            if act not in ("convert", "remove"):
                machine, wanted = both[int(name)], [dataset] if act == "fetch some" else []
                if number == 0 or not dies(machine, act.split()[0], number, *wanted):
                    getattr(machine, act.split()[0])(*wanted)
                continue
            owner = both[OWNERS[name]]
            if act == "convert":
                owner.convert(name, f"take{number}")
                last[name] = f"take{number}"
            elif (owner.root / "episodes" / name).exists():
                import shutil

                shutil.rmtree(owner.root / "episodes" / name)
                last[name] = None
        for _ in range(2):
            for machine in both:
                machine.send()
                machine.fetch()
        assert both[0].files == both[1].files
        for name, take in last.items():
            # Whole, and all of one take.
            found = [text.split()[-1] for path, text in both[0].files.items() if path.startswith(f"episodes/{name}/")]
            assert found == ([] if take is None else [take] * 5)
