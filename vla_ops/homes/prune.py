"""Remove old states of a robot's home, and the contents that only they name.

A state is kept while it was that of the home in the last days, or was written in them; a content while a kept state names it, or it was
written in them: by somebody who is about to name it, perhaps. Times are the store's own of what lies there. They decide how much is kept
and nothing else. That what the home names, and what it is about to name, stays, whatever happens at the same time, rests on this:

1. What goes is written down as a list, and then the pointer names the list, by a write that fails where it is not any more what it was
   when the list was made. From that write on each new pointer carries the list over, and no state that names anything of it is pointed to
   (`require_not_removed`). So nothing of the list is in the state that is, nor in one that comes.
   Such a state has the id of the list within, so that the list, which is older, cannot name it either.
2. Only then is anything removed, and only of the list; before each request it is looked whether the pointer names this process's list.
3. The list is taken out of the pointer when all requests have been answered. Whoever had found a content to be "there already" has seen
   an earlier pointer, or the list: each write of the pointer counts up `number`, so that none is ever what it was before. His write
   fails, and he looks again.

Killed anywhere, the list stays in the pointer, and the next prune takes it over under an id of its own, so that one that is not dead after
all stops at its next look. A request of that one may still be under way and arrive late: what was taken over stays barred for an hour
after that. What is left is a process that is suspended in the middle of a request for longer (a laptop that is closed) while another one
takes over and the same content is sent anew: `vla-ops home mend` on the machine that sent it brings that back.

Machines whose vla_ops does not know of lists would not carry one over. The states that the pointer has meanwhile are of a format that they
refuse, and the one that is written when the list is taken out is not. A store without conditional writes cannot keep this promise: prune
such a home when nothing else works on it.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import batched, pairwise

from vla_ops.errors import HomeError
from vla_ops.homes.removing import REMOVING, Dead, Removing, dead_in, forget, now, write_list
from vla_ops.homes.state import BLOBS, STATES, State, blob_name
from vla_ops.homes.there import There, point_to, removing_in, state_in, there_in, write_state
from vla_ops.publishing.stores.base import Prunable, Stored

# What has another name was put there by somebody else.
_BLOB, _STATE = re.compile(r"[0-9a-f]{2}/[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}")
# As long a request of a process that was taken for dead may be under way: S3 refuses one that was signed a quarter of an hour ago.
_QUIET = timedelta(hours=1)
# Clocks of machines and stores differ by less.
_SURELY_BEFORE = timedelta(days=1)
_AT_ONCE, _TRIES = 1000, 8
# Of so many old states it is said of which units their contents are; a training leaves as many in a few days.
_LOOKED_INTO = 500


@dataclass(frozen=True)
class Plan:
    """What goes and what stays, in bytes by name."""

    blobs: Mapping[str, int] = field(default_factory=dict)
    states: frozenset[str] = frozenset()
    # Of which units of old states the contents are, the largest first.
    units: tuple[tuple[str, int], ...] = ()
    kept: Mapping[str, int] = field(default_factory=dict)
    kept_states: int = 0
    # What killed uploads have left, which is known when it is removed.
    unfinished: int = 0

    @property
    def dead(self) -> Dead:
        """What goes, without sizes."""
        return Dead(frozenset(self.blobs), self.states)

    @property
    def bytes(self) -> int:
        """How much goes."""
        return sum(self.blobs.values())


class Prune:
    """`store` is that of the robot's folder in the home; `keep` how long what is not needed any more stays.

    Methods raise HomeError, and what the store raises; where a state that is to be kept cannot be read, before anything is removed.
    """

    def __init__(self, store: Prunable, keep: timedelta, *, say: Callable[[str], None], at: datetime | None = None) -> None:
        self._store, self._before, self._say = store, (at or now()) - keep, say
        self._robot = store.uri.rpartition("/")[2]
        # What states that were read name, so that they are read once.
        self._read, self._named = set[str](), set[str]()

    def plan(self) -> Plan:
        """What would go."""
        there = there_in(self._store)
        return Plan() if there.id is None else self._plan(there)[0]

    def run(self, *, take_over: bool = False) -> Plan:
        """Remove it, and say what went. What a killed one began is finished; `take_over` says that one of another machine was killed."""
        for _ in range(_TRIES):
            there = there_in(self._store)
            self._refuse_another(there.removing, take_over=take_over)
            plan, listed = (Plan(), Dead()) if there.id is None else self._plan(there)
            is_begun = there.removing is not None and not there.removing.done
            if not is_begun and not plan.dead:
                return self._cleared(plan)
            if (mine := self._begin(there, listed)) is not None:
                self._remove(mine, plan)
                self._end(mine)
                return self._cleared(plan)
        todo = f"Many machines write to it: run `vla-ops home prune {self._robot}` again. Nothing was removed."
        raise HomeError("the home was another one every time", file=self._store.uri, found=f"{_TRIES} times", todo=todo)

    def _refuse_another(self, removing: Removing | None, *, take_over: bool) -> None:
        if removing is not None and removing.is_of_another and not take_over:
            todo = f"Wait for it. If it was killed there, run `vla-ops home prune {self._robot} --take-over`."
            found = f"process {removing.process} on {removing.by} since {removing.at}"
            raise HomeError("old contents of this home are being removed already", file=self._store.uri, found=found, todo=todo)

    def _plan(self, there: There) -> tuple[Plan, Dead]:
        """What goes, and the list of it: with what another process had begun to remove, and may have removed already."""
        states, blobs = self._there(STATES, _STATE), self._there(BLOBS, _BLOB)
        kept, current = self._kept(there, states), _names(there.state)
        self._read_all(kept - self._read)
        begun = Dead() if there.removing is None else dead_in(self._store, there.removing)
        old = {name for name, stored in blobs.items() if name not in self._named and stored.written < self._before}
        listed = Dead(frozenset((old | begun.blobs) - current), frozenset((states.keys() - kept) | begun.states) - {str(there.id)})
        gone = {name: stored.size for name, stored in blobs.items() if name in listed.blobs}
        left = {name: stored.size for name, stored in blobs.items() if name not in listed.blobs}
        old_states = sorted(listed.states & states.keys(), key=lambda name: states[name].written, reverse=True)
        units = self._units(old_states[:_LOOKED_INTO], gone)
        return Plan(gone, frozenset(old_states), units, left, len(states) - len(old_states)), listed

    def _there(self, folder: str, named: re.Pattern[str]) -> dict[str, Stored]:
        return {name: stored for name, stored in self._store.stored(folder).items() if named.fullmatch(name)}

    def _kept(self, there: There, states: Mapping[str, Stored]) -> set[str]:
        """States that were those of the home since, and those that were written since, by somebody who is about to point to one perhaps."""
        after = pairwise(name for name in (*there.before, str(there.id)) if name in states)
        since = {name for name, stored in states.items() if stored.written >= self._before}
        return {str(there.id), *since, *(name for name, following in after if following in since)}

    def _read_all(self, states: Iterable[str]) -> None:
        with ThreadPoolExecutor(self._store.at_once, thread_name_prefix="home") as pool:
            for name, names in pool.map(lambda name: (name, _names(self._kept_state(name))), states):
                self._read.add(name)
                self._named |= names

    def _kept_state(self, name: str) -> State:
        try:
            return state_in(self._store, name)
        except HomeError as error:
            what = f"{error.what}, and nothing was removed"
            raise HomeError(what, found=error.found, expected=error.expected, todo=error.todo, **error.where) from error

    def _units(self, old: Iterable[str], gone: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
        left, sizes = dict(gone), Counter[str]()
        for name in old:
            if not left:
                break
            for unit, files in self._old_state(name).units.items():
                sizes[unit] += sum(left.pop(blob_name(kept.sha256), 0) for kept in files.values())
        return tuple((unit, size) for unit, size in sizes.most_common() if size)

    def _old_state(self, name: str) -> State:
        try:
            return state_in(self._store, name)
        except HomeError:
            return State()  # It goes, and nobody will ask for it.

    def _begin(self, there: There, listed: Dead) -> Removing | None:
        """Have the pointer name the list; None where it is not any more what was seen."""
        taken = there.removing
        until = None if taken is None else taken.until
        if taken is not None and not taken.done:
            until = (now() + _QUIET).isoformat(timespec="seconds")
        mine = Removing.begun(write_list(self._store, listed, secrets.token_hex(8)), until=until)
        return mine if self._pointed(there, mine) else None

    def _pointed(self, there: There, removing: Removing | None) -> bool:
        """Point to the state that is under another id, with this said of what is being removed."""
        after = replace(there, removing=removing)
        return point_to(self._store, write_state(self._store, there.state, after), after)

    def _remove(self, mine: Removing, plan: Plan) -> None:
        names = [*(f"{BLOBS}/{name}" for name in sorted(plan.blobs)), *(f"{STATES}/{name}" for name in sorted(plan.states))]
        self._say(f"{self._robot}: removing {len(plan.blobs)} contents ({plan.bytes / 1e9:.2f} GB) from {self._store.uri}")
        forget(self._store, plan.states)
        for batch in batched(names, _AT_ONCE):
            self._require_mine(mine, removing_in(self._store))
            self._store.remove(batch)

    def _require_mine(self, mine: Removing, found: Removing | None) -> None:
        if found != mine:
            by = "nobody" if found is None else f"process {found.process} on {found.by} since {found.at}"
            todo = "It goes on with what was begun here. Run the same again when it is done."
            raise HomeError("another process has taken over removing old contents", file=self._store.uri, found=by, todo=todo)

    def _end(self, mine: Removing) -> None:
        """Have the pointer name the list no more, or only as barred."""
        before, rest = now() - _SURELY_BEFORE, mine.finished()
        for _ in range(_TRIES):
            there = there_in(self._store)
            self._require_mine(mine, there.removing)
            if self._pointed(there, rest):
                break
        else:
            todo = f"All of it was removed. Run `vla-ops home prune {self._robot}` again, so that it is known."
            raise HomeError("the home was another one every time", file=self._store.uri, found=f"{_TRIES} times", todo=todo)
        # Whoever wrote another one before this write of the pointer cannot point to it any more.
        lists = {name for name, stored in self._store.stored(REMOVING).items() if stored.written < before} | {mine.list}
        self._store.remove(f"{REMOVING}/{name}" for name in lists - ({rest.list} if rest is not None else set()))

    def _cleared(self, plan: Plan) -> Plan:
        return replace(plan, unfinished=self._store.clear_unfinished(self._before))


def _names(state: State) -> set[str]:
    return {blob_name(kept.sha256) for unit in state.units.values() for kept in unit.values()}
