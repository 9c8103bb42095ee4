"""The home of a robot in its store: which state it has, and how it gets another one."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from vla_ops.errors import HomeError
from vla_ops.files import replacing
from vla_ops.homes.removing import Removing, forgotten_in, removing_of, require_not_removed, to_json
from vla_ops.homes.state import POINTER, STATES, State, state_id
from vla_ops.publishing.hashing import HashedFile, hash_file
from vla_ops.publishing.stores.base import Pointer, Store

# How far back it can be told whether a state was ever pointed to.
_REMEMBERED = 2_000
_TODO = "It was damaged, or changed by hand: bring it back from a backup of the bucket."


@dataclass(frozen=True)
class There:
    """What the pointer of a home names."""

    pointer: Pointer | None = None
    # None where there is nothing yet.
    id: str | None = None
    state: State = field(default_factory=State)
    # Ids of those before it, the newest last, and how many there have been.
    before: tuple[str, ...] = ()
    number: int = 0
    # The machine that wrote it, and when.
    by: str = ""
    at: str = ""
    # Carried over by whoever writes the pointer.
    removing: Removing | None = None

    def has_been(self, name: str) -> bool:
        """Whether the home is in this state, or ever was."""
        return name == self.id or name in self.before


def there_in(store: Store) -> There:
    """What a home is now. Raise HomeError where that cannot be read."""
    found = _pointed_to(store)
    return found if found.id is None else replace(found, state=state_in(store, found.id))


def removing_in(store: Store) -> Removing | None:
    """What is being removed from a home now. Raise HomeError where that cannot be read."""
    return _pointed_to(store).removing


def _pointed_to(store: Store) -> There:
    """What the pointer says, without the state."""
    pointer = store.pointer(POINTER)
    if pointer is None:
        return There()
    try:
        told = json.loads(pointer.content)
        name, before, number = str(told["state"]), tuple(map(str, told["before"])), int(told["number"])
        by, at, removing = str(told["by"]), str(told["at"]), removing_of(told.get("removing"))
    except (ValueError, KeyError, TypeError) as error:
        file = f"{store.uri}/{POINTER}"
        raise HomeError("the pointer of a home cannot be read", file=file, found=repr(error), todo=_TODO) from error
    return There(pointer, name, State(), before, number, by, at, removing)


def state_in(store: Store, name: str) -> State:
    """A state by its id. Raise HomeError where it is not there as it was."""
    file, content = f"{store.uri}/{STATES}/{name}", store.read(f"{STATES}/{name}")
    if content is None or state_id(content) != name:
        found = "nothing" if content is None else f"one of id {state_id(content)}"
        raise HomeError("a state of a home is not there as it was", file=file, found=found, todo=_TODO)
    return State.from_bytes(content, file=file)


def state_to_send(store: Store, state: State, after: There, folder: Path) -> tuple[str, HashedFile]:
    """The id of a state that comes after another one, and the file that a store takes it from, in a folder of this machine's own.

    Raise HomeError where it needs what is being removed.
    """
    content, file = _content_after(store, state, after), folder / "state"
    with replacing(file) as work:
        work.write_bytes(content)
    return state_id(content), hash_file(file)


def write_state(store: Store, state: State, after: There) -> str:
    """Write a state that nothing points to yet; return its id. Raise HomeError where it needs what is being removed."""
    content = _content_after(store, state, after)
    name = state_id(content)
    # Where it is not written it is there already.
    if not store.point(f"{STATES}/{name}", content, seen=None):
        state_in(store, name)
    return name


def _content_after(store: Store, state: State, after: There) -> bytes:
    try:
        require_not_removed(store, state, after.removing)
    except HomeError:
        # A prune that has ended since, its list with it: who points to this state is told that the pointer is another one, and looks again.
        if removing_in(store) == after.removing:
            raise
    return state.to_bytes(after.id, removing=None if after.removing is None else after.removing.list)


def require_same_home(store: Store, there: There, seen: str | None, number: int) -> None:
    """Raise HomeError where a home that was seen in its state `seen`, the `number`th, is not there any more, or was set back."""
    if seen is None or (there.number >= number and has_been(store, there, seen)):
        return
    todo = (
        "Nothing was touched. Is the share mounted, is this the right endpoint and bucket? Where the home was set back to a backup or "
        f"begun anew: `vla-ops home join {store.uri.rpartition('/')[2]}` takes what is here for new, and removes nothing of it."
    )
    found = "nothing" if there.id is None else f"state {there.id}, number {there.number}"
    raise HomeError(
        "the home is not what it was", file=store.uri, found=found, expected=f"{seen}, number {number}, or one after it", todo=todo
    )


def has_been(store: Store, there: There, name: str) -> bool:
    """Whether a home is in a state, or ever was, also longer ago than its pointer remembers."""
    if there.has_been(name) or there.number - 1 <= len(there.before):
        return there.has_been(name)
    # Its state is there still, or was removed as an old one. Of a home that was set back by copying a backup over it that says nothing.
    return store.read(f"{STATES}/{name}") is not None or name in forgotten_in(store)


def state_reached(store: Store, name: str) -> State:
    """The state that a fetch was on its way to when it was killed. Raise HomeError where it is not there as it was."""
    if store.read(f"{STATES}/{name}") is None:
        todo = f"`vla-ops home join {store.uri.rpartition('/')[2]}` takes what is here for new; then look at what both changed."
        raise HomeError("a fetch was killed here, and what it fetched is too old to be known in the home", file=store.uri, todo=todo)
    return state_in(store, name)


def point_to(store: Store, name: str, seen: There) -> bool:
    """Make a state that of the home. False where it is not any more what was seen."""
    before = [*seen.before, *([] if seen.id is None else [seen.id])][-_REMEMBERED:]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"state": name, "number": seen.number + 1, "by": socket.gethostname(), "at": now, "before": before}
    if seen.removing is not None:
        told["removing"] = to_json(seen.removing)
    return store.point(POINTER, json.dumps(told, indent=1).encode(), seen=seen.pointer)
