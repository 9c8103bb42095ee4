"""What is being removed from a home: the pointer names a list of it for as long, and nothing of the list may be named by a new state.

::

    <home>/<robot>/removing/<id>    contents and states that go, as the pointer's `removing` names it
    <home>/<robot>/forgotten        ids of the states that went: a machine that reached one of them is no stranger
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from vla_ops.errors import HomeError
from vla_ops.files import is_alive
from vla_ops.homes.state import State, blob_name, damaged, packed, state_id, unpacked
from vla_ops.publishing.stores.base import Store

REMOVING, FORGOTTEN = "removing", "forgotten"


@dataclass(frozen=True)
class Removing:
    """Who removes what. While that is so, and for a while after it was taken over from another process, contents of the list are barred."""

    # The id of the list, which is of this process alone.
    list: str
    # The machine, its process, and since when.
    by: str
    process: int
    at: str
    # Set where another process began it: as long a request of that one may be under way.
    until: str | None = None
    # All of it is removed, and it is only barred.
    done: bool = False

    @classmethod
    def begun(cls, name: str, *, until: str | None) -> Self:
        """By this process, now."""
        return cls(name, socket.gethostname(), os.getpid(), now().isoformat(timespec="seconds"), until)

    @property
    def is_barred(self) -> bool:
        """Whether its contents may still not be named."""
        return not self.done or (self.until is not None and datetime.fromisoformat(self.until) > now())

    @property
    def is_of_another(self) -> bool:
        """Whether another process may be at it: not one of this machine that is gone."""
        if self.done or (self.by == socket.gethostname() and self.process == os.getpid()):
            return False
        return self.by != socket.gethostname() or is_alive(str(self.process))

    def finished(self) -> Removing | None:
        """What is left of it in the pointer when all is removed."""
        done = replace(self, done=True)
        return done if done.is_barred else None


@dataclass(frozen=True)
class Dead:
    """What goes: names of contents and ids of states, as they are below their folders."""

    blobs: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.blobs or self.states)


def removing_of(told: Any) -> Removing | None:
    """What a pointer says of it, None where nothing is barred any more. Raise TypeError and ValueError for what says nothing."""
    removing = None if told is None else Removing(**told)
    return removing if removing is not None and removing.is_barred else None


def to_json(removing: Removing | None) -> dict[str, Any] | None:
    """The inverse of `removing_of`."""
    return None if removing is None else asdict(removing)


def write_list(store: Store, dead: Dead, mark: str) -> str:
    """Write a list that nothing points to yet; return its id. `mark` makes it this one's alone."""
    content = packed({"mark": mark, "blobs": sorted(dead.blobs), "states": sorted(dead.states)})
    store.point(f"{REMOVING}/{state_id(content)}", content, seen=None)
    return state_id(content)


def dead_in(store: Store, removing: Removing) -> Dead:
    """What a list names. Raise HomeError where it is not there as it was: then nobody knows what may be named."""
    file, content = f"{store.uri}/{REMOVING}/{removing.list}", store.read(f"{REMOVING}/{removing.list}")
    if content is None or state_id(content) != removing.list:
        raise damaged(file, "nothing" if content is None else f"one of id {state_id(content)}")
    told = unpacked(content, file=file)
    return Dead(frozenset(told["blobs"]), frozenset(told["states"]))


def require_not_removed(store: Store, state: State, removing: Removing | None) -> None:
    """Raise HomeError where a new state needs a content that is being removed, whether it is there at this moment or not."""
    if removing is None:
        return
    dead = dead_in(store, removing).blobs
    path = next((path for path, kept in state.files.items() if blob_name(kept.sha256) in dead), None)
    if path is None:
        return
    robot = store.uri.rpartition("/")[2]
    finish = f"Run `vla-ops home prune {robot}` to finish that, or wait for it; then send again: vla-ops home send {robot}"
    wait = f"Send it again after {removing.until}: vla-ops home send {robot}"
    found = f"{path}, by {removing.by} since {removing.at}"
    todo = wait if removing.done else finish
    raise HomeError("an old content of the home is needed again while it is being removed", file=store.uri, found=found, todo=todo)


def forgotten_in(store: Store) -> frozenset[str]:
    """Ids of states that were removed."""
    content = store.read(FORGOTTEN)
    return frozenset() if content is None else frozenset(unpacked(content, file=f"{store.uri}/{FORGOTTEN}"))


def forget(store: Store, states: Iterable[str]) -> None:
    """Remember the ids of states that are about to be removed."""
    while True:
        seen = store.pointer(FORGOTTEN)
        known = frozenset() if seen is None else frozenset(unpacked(seen.content, file=f"{store.uri}/{FORGOTTEN}"))
        if known >= (more := frozenset(states)) or store.point(FORGOTTEN, packed(sorted(known | more)), seen=seen):
            return


def now() -> datetime:
    """By this machine's clock."""
    return datetime.now(UTC)
