"""The home of a robot in its store: which state it has, and how it gets another one."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime

from vla_ops.errors import HomeError
from vla_ops.homes.state import POINTER, STATES, State, state_id
from vla_ops.publishing.stores.base import Pointer, Store

# How far back it can be told whether a state was ever pointed to.
_REMEMBERED = 500
_TODO = "It was damaged, or changed by hand: bring it back from a backup of the bucket."


@dataclass(frozen=True)
class There:
    """What the pointer of a home names."""

    pointer: Pointer | None = None
    # None where there is nothing yet.
    id: str | None = None
    state: State = field(default_factory=State)
    # Ids of those before it, the newest last.
    before: tuple[str, ...] = ()
    # The machine that wrote it, and when.
    by: str = ""
    at: str = ""

    def has_been(self, name: str) -> bool:
        """Whether the home is in this state, or ever was."""
        return name == self.id or name in self.before


def there_in(store: Store) -> There:
    """What a home is now. Raise HomeError where that cannot be read."""
    pointer = store.pointer(POINTER)
    if pointer is None:
        return There()
    try:
        told = json.loads(pointer.content)
        name, before, by, at = str(told["state"]), tuple(map(str, told["before"])), str(told["by"]), str(told["at"])
    except (ValueError, KeyError, TypeError) as error:
        file = f"{store.uri}/{POINTER}"
        raise HomeError("the pointer of a home cannot be read", file=file, found=repr(error), todo=_TODO) from error
    return There(pointer, name, state_in(store, name), before, by, at)


def state_in(store: Store, name: str) -> State:
    """A state by its id. Raise HomeError where it is not there as it was."""
    file, content = f"{store.uri}/{STATES}/{name}", store.read(f"{STATES}/{name}")
    if content is None or state_id(content) != name:
        found = "nothing" if content is None else f"one of id {state_id(content)}"
        raise HomeError("a state of a home is not there as it was", file=file, found=found, todo=_TODO)
    return State.from_bytes(content, file=file)


def write_state(store: Store, state: State) -> str:
    """Write a state that nothing points to yet; return its id."""
    content = state.to_bytes()
    name = state_id(content)
    # Where it is not written it is there already.
    if not store.point(f"{STATES}/{name}", content, seen=None):
        state_in(store, name)
    return name


def point_to(store: Store, name: str, seen: There) -> bool:
    """Make a state that of the home. False where it is not any more what was seen."""
    before = [*seen.before, *([] if seen.id is None else [seen.id])][-_REMEMBERED:]
    told = {"state": name, "before": before, "by": socket.gethostname(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    return store.point(POINTER, json.dumps(told, indent=1).encode(), seen=seen.pointer)
