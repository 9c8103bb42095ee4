"""The home of a robot in its store: which state it has, and how it gets another one."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from vla_ops.errors import HomeError
from vla_ops.files import replacing
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
        name, before, number = str(told["state"]), tuple(map(str, told["before"])), int(told["number"])
        by, at = str(told["by"]), str(told["at"])
    except (ValueError, KeyError, TypeError) as error:
        file = f"{store.uri}/{POINTER}"
        raise HomeError("the pointer of a home cannot be read", file=file, found=repr(error), todo=_TODO) from error
    return There(pointer, name, state_in(store, name), before, number, by, at)


def state_in(store: Store, name: str) -> State:
    """A state by its id. Raise HomeError where it is not there as it was."""
    file, content = f"{store.uri}/{STATES}/{name}", store.read(f"{STATES}/{name}")
    if content is None or state_id(content) != name:
        found = "nothing" if content is None else f"one of id {state_id(content)}"
        raise HomeError("a state of a home is not there as it was", file=file, found=found, todo=_TODO)
    return State.from_bytes(content, file=file)


def state_to_send(state: State, after: There, folder: Path) -> tuple[str, HashedFile]:
    """The id of a state that comes after another one, and the file that a store takes it from, in a folder of this machine's own."""
    content = state.to_bytes(after.id)
    file = folder / "state"
    with replacing(file) as work:
        work.write_bytes(content)
    return state_id(content), hash_file(file)


def require_same_home(store: Store, there: There, seen: str | None, number: int) -> None:
    """Raise HomeError where a home that was seen in its state `seen`, the `number`th, is not there any more, or was set back."""
    # Longer ago than is remembered, its state is there still. Of a home that was set back by copying a backup over it that says nothing.
    is_forgotten = there.number - 1 > len(there.before) and store.read(f"{STATES}/{seen}") is not None
    if seen is None or (there.number >= number and (there.has_been(seen) or is_forgotten)):
        return
    todo = (
        "Nothing was touched. Is the share mounted, is this the right endpoint and bucket? Where the home was set back to a backup or "
        f"begun anew: `vla-ops home join {store.uri.rpartition('/')[2]}` takes what is here for new, and removes nothing of it."
    )
    found = "nothing" if there.id is None else f"state {there.id}, number {there.number}"
    raise HomeError(
        "the home is not what it was", file=store.uri, found=found, expected=f"{seen}, number {number}, or one after it", todo=todo
    )


def point_to(store: Store, name: str, seen: There) -> bool:
    """Make a state that of the home. False where it is not any more what was seen."""
    before = [*seen.before, *([] if seen.id is None else [seen.id])][-_REMEMBERED:]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"state": name, "number": seen.number + 1, "by": socket.gethostname(), "at": now, "before": before}
    return store.point(POINTER, json.dumps(told, indent=1).encode(), seen=seen.pointer)
