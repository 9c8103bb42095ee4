"""What this machine remembers of one robot's folder: what it and the home were when they were last brought together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla_ops.errors import HomeError
from vla_ops.files import only_one, replacing
from vla_ops.homes.state import State, damaged, packed, unpacked

# In the robot's folder, so that it goes when that is deleted: what is not here then was not removed from the home.
FOLDER = ".home"


@dataclass(frozen=True)
class Record:
    """The state that was reached, and the time of each of its files that is here. The others were left there."""

    base: State = field(default_factory=State)
    # Path -> mtime_ns.
    here: Mapping[str, int] = field(default_factory=dict)
    # The id of the state, and the how manyth it was.
    state: str | None = None
    number: int = 0


@dataclass(frozen=True)
class Begun:
    """What was under way: to make these units those of a state of the home; or to give the home a state, when this will be the record."""

    state: str
    units: tuple[str, ...] = ()
    record: Record | None = None
    # What those units are in it; None where an earlier version wrote this.
    to: State | None = None


class Records:
    """The record of one robot, in `<robot>/.home/`."""

    def __init__(self, root: Path, uri: str) -> None:
        self.folder, self._root, self._uri = root / FOLDER, root, uri
        self._file, self._towards = self.folder / "record", self.folder / "towards"

    @contextmanager
    def only_me(self, say: Callable[[str], None]) -> Iterator[None]:
        """Against other processes of this machine that bring the same robot and its home together."""
        with only_one(self.folder, lambda who: say(f"waiting for {who}, which brings {self._root.name} and its home together")):
            yield

    def read(self) -> Record:
        """The record, an empty one where there is none. Raise HomeError for one of another home, and one that cannot be read."""
        try:
            told = unpacked(self._file.read_bytes(), file=self._file)
        except FileNotFoundError:
            return Record()
        try:
            of, record = told["home"], _from_json(told, self._file)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(self._file, repr(error)) from error
        if of != self._uri:
            todo = "Set VLA_OPS_HOME back, or VLA_OPS_HOME_COPY to another folder: this one is a copy of the other home."
            raise HomeError("the copy is of another home", file=self._root, found=of, expected=self._uri, todo=todo)
        return record

    def write(self, record: Record) -> None:
        """Replace the record; nothing is under way any more."""
        with replacing(self._file) as work:
            work.write_bytes(packed({"home": self._uri, **_to_json(record)}))
        self._towards.unlink(missing_ok=True)

    def forget(self) -> None:
        """As if there never had been one: what is here is new."""
        for file in (self._file, self._towards):
            file.unlink(missing_ok=True)

    def begin(self, begun: Begun) -> None:
        """Say what is under way from now on, until `write`."""
        record = None if begun.record is None else _to_json(begun.record)
        to = None if begun.to is None else begun.to.to_json()
        with replacing(self._towards) as work:
            work.write_bytes(packed({"state": begun.state, "units": begun.units, "record": record, "to": to}))

    def begun(self) -> Begun | None:
        """What a killed process left under way."""
        try:
            told = unpacked(self._towards.read_bytes(), file=self._towards)
            record = None if told["record"] is None else _from_json(told["record"], self._towards)
            to = None if told.get("to") is None else State.from_json(told["to"], file=self._towards)
            return Begun(told["state"], tuple(told["units"]), record, to)
        except FileNotFoundError:
            return None
        except (KeyError, TypeError) as error:
            raise damaged(self._towards, repr(error)) from error


def _to_json(record: Record) -> dict[str, Any]:
    return {"base": record.base.to_json(), "here": dict(record.here), "state": record.state, "number": record.number}


def _from_json(told: Mapping[str, Any], file: Path) -> Record:
    return Record(State.from_json(told["base"], file=file), dict(told["here"]), told["state"], int(told["number"]))
