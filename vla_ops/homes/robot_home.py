"""Bring a robot's folder here and its home in a store together: `fetch` before a step, `send` after it.

What is sent is there before a state names it, and a state is there before the pointer names that: whoever follows the pointer finds all
of it. The pointer is only replaced by who has seen what it was; else what others did meanwhile is joined first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vla_ops.errors import HomeError
from vla_ops.homes.blobs import Blobs, blob_name
from vla_ops.homes.copy import Copy, Found
from vla_ops.homes.join import Joined, join
from vla_ops.homes.record import Record, Records
from vla_ops.homes.state import BLOBS, Kept, State, Unit, content_of
from vla_ops.homes.there import There, point_to, state_in, there_in, write_state
from vla_ops.publishing.hashing import hash_file
from vla_ops.publishing.progress import Progress
from vla_ops.publishing.stores.base import Store

# Of the files of a robot by their paths: which are to be here.
type Wanted = Callable[[str], bool]
_TRIES = 8


@dataclass(frozen=True)
class Done:
    """What was fetched or sent."""

    units: tuple[str, ...] = ()
    bytes: int = 0
    # Runs that are being trained here, whose logs are left for later.
    busy: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """How the copy and the home stand to one another."""

    there: There
    found: Found
    record: Record
    joined: Joined

    def is_here(self, unit: str) -> set[str]:
        """The files of a unit that are on this machine."""
        return {path for path in self.found.mine.units.get(unit, ()) if path in self.found.here}


class RobotHome:
    """One robot in a home in a store, and in the copy of it on this machine.

    `store` is that of the robot's folder in the home. Methods raise HomeError, and what the store raises.
    """

    def __init__(self, store: Store, root: Path, *, say: Callable[[str], None]) -> None:
        self.store, self.root, self._say = store, root, say
        self._copy, self._records = Copy(root), Records(root, store.uri)
        self._blobs = Blobs(store, self._records.folder / "incoming")

    def standing(self) -> Standing:
        """Look at both. Nothing is changed but the record, by what a killed process had done."""
        with self._records.only_me(self._say):
            return self._look()

    def fetch(self, wanted: Wanted, *, theirs: Iterable[str] = ()) -> Done:
        """Bring what is wanted of the home, and what of that which is here was changed there.

        What was changed on both sides stays as it is here; HomeError names it where it is part of a run. The units `theirs` become what
        they are in the home even so.
        """
        with self._records.only_me(self._say):
            stands = self._look()
            chosen = {*stands.joined.theirs, *_named(theirs, stands.joined)}
            self._refuse(unit for unit in stands.joined.torn if unit not in chosen and any(map(wanted, stands.there.state.units[unit])))
            return self._bring(stands, _to_bring(stands, chosen, wanted))

    def send(self, *, mine: Iterable[str] = ()) -> Done:
        """Take what was made, changed and removed here to the home.

        What was changed on both sides becomes what it is here, as on one disk the later one counts; HomeError names it where it is part
        of a run, but for the units `mine`. What was there before is in an earlier state.
        """
        mine, progress = list(mine), Progress(self._say, self._records.folder, self.store.uri)
        with self._records.only_me(self._say):
            for _ in range(_TRIES):
                stands = self._look()
                chosen = _named(mine, stands.joined)
                self._refuse(unit for unit in stands.joined.torn if unit not in chosen)
                if self._take(stands, progress):
                    return Done((*stands.joined.mine, *stands.joined.both), progress.sent_bytes, stands.found.busy)
                self._say(f"{self.root.name}: another machine was there first, what it did is taken into account")
        todo = "Many machines write to it: run `vla-ops home send` again. What was sent is kept."
        raise HomeError("the home was another one every time", file=self.store.uri, found=f"{_TRIES} times", todo=todo)

    def mend(self) -> tuple[Done, list[str]]:
        """Compare every content that the home should have with what it has, and send what of it is here; return what else is lost."""
        with self._records.only_me(self._say):
            stands = self._look()
            known = {kept.sha256 for kept in stands.there.state.files.values()}
            here = {kept.sha256: self.root / path for path, kept in stands.found.mine.files.items() if path in stands.found.here}
            hashed = {blob_name(sha256): hash_file(here[sha256]) for sha256 in known & here.keys()}
            left = self._blobs.absent(hashed.values())
            there = self.store.listed(BLOBS)
            lost = [path for path, kept in stands.there.state.files.items() if blob_name(kept.sha256) not in there.keys() | hashed.keys()]
            self._blobs.send(left, lambda _: None, asked=True)
            return Done(tuple(sorted(left)), sum(file.size for file in left.values()), stands.found.busy), lost

    def _look(self) -> Standing:
        there, record = there_in(self.store), self._records.read()
        with self._copy.alone(self._say):
            if (begun := self._records.begun()) is not None and there.has_been(begun[0]):
                state, reached = begun
                record = reached or _gone_on(record, self._copy.look(record), state_in(self.store, state))
                self._records.write(record)
            found = self._copy.look(record)
        return Standing(there, found, record, join(record.base, found.mine, there.state))

    def _bring(self, stands: Standing, units: Mapping[str, Unit]) -> Done:
        there, found = stands.there, stands.found
        contents, own = (
            self._contents(found, found.mine.units.keys() - units.keys()),
            {unit: self._contents(found, [unit]) for unit in units},
        )
        missing = {
            kept.sha256: kept
            for unit, files in units.items()
            for kept in files.values()
            if kept.sha256 not in contents and kept.sha256 not in own[unit]
        }
        total = sum(kept.size for kept in missing.values())
        if missing:
            self._say(f"{self.root.name}: fetching {len(missing)} files ({total / 1e6:.1f} MB) from {self.store.uri}")
        if units and there.id is not None:
            self._records.begin(there.id)
        contents |= self._blobs.fetch(missing)
        brought: dict[str, dict[str, int]] = {}
        with self._copy.alone(self._say):
            now = self._copy.look(stands.record)
            for unit, files in units.items():
                if content_of(now.mine.units.get(unit)) == content_of(found.mine.units.get(unit)) and not now.is_busy(unit):
                    brought[unit] = self._copy.replace(unit, files, contents | own[unit])
                else:
                    self._say(f"{self.root.name}: {unit} was changed here while it was fetched, and stays so")
        left = [*units, *(unit for unit in stands.joined.theirs if stands.is_here(unit))]
        self._records.write(_reached(stands, there.state, brought=brought, left=left))
        self._blobs.clear()
        return Done(tuple(brought), total, found.busy)

    def _contents(self, found: Found, units: Iterable[str]) -> dict[str, Path]:
        """Where what these units hold is on this machine, to be linked. Not files that stand alone: logs are appended to."""
        files = ((unit, path, kept) for unit in units for path, kept in found.mine.units.get(unit, {}).items())
        return {kept.sha256: self.root / path for unit, path, kept in files if path in found.here and path != unit}

    def _take(self, stands: Standing, progress: Progress) -> bool:
        """Send; False where another machine was first."""
        sent = (*stands.joined.mine, *stands.joined.both)
        if stands.joined.both:
            named = ", ".join(stands.joined.both[:5]) + (" ..." if len(stands.joined.both) > 5 else "")
            self._say(f"{self.root.name}: {stands.there.by} changed {named} as well; what is here counts, as it is the later one")
        units = {unit: files for unit, files in stands.there.state.units.items() if unit not in sent}
        units |= {unit: stands.found.mine.units[unit] for unit in sent if unit in stands.found.mine.units}
        reached = _reached(stands, State(units), sent=sent, left=stands.joined.theirs)
        if sent:
            self._send_contents(stands, sent, progress)
            name = write_state(self.store, State(units))
            self._records.begin(name, reached)
            if not point_to(self.store, name, stands.there):
                return False
        self._records.write(reached)
        return True

    def _send_contents(self, stands: Standing, units: Iterable[str], progress: Progress) -> None:
        known = {kept.sha256 for kept in stands.there.state.files.values()}
        files = {path: kept for unit in units for path, kept in stands.found.mine.units.get(unit, {}).items()}
        # What was left in the home is there.
        mine = {kept.sha256: path for path, kept in files.items() if kept.sha256 not in known and path in stands.found.here}
        hashed = [stands.found.hashed.get(path) or hash_file(self.root / path) for path in mine.values()]
        # To list all that is there takes long where there is much, and to ask for much one by one as well.
        by_listing = stands.there.id is None
        left = self._blobs.absent(hashed) if by_listing else {blob_name(file.sha256): file for file in hashed}
        total = sum(file.size for file in left.values())
        progress.begin(f"{self.root.name}: sending {len(left)} files ({total / 1e6:.1f} MB) to {self.store.uri}", total)
        self._blobs.send(left, progress.sent, asked=by_listing)
        progress.end()

    def _refuse(self, torn: Iterable[str]) -> None:
        if not (units := list(torn)):
            return
        todo = (
            f"Look at both, then say which one counts: `vla-ops home send {self.root.name} --mine {units[0]}` or "
            f"`vla-ops home fetch {self.root.name} --theirs {units[0]}`. A run is gone on with on one machine at a time."
        )
        named = ", ".join(units)
        raise HomeError("a run was changed here and on another machine", file=self.store.uri, found=named, robot=self.root.name, todo=todo)


def _named(asked: Iterable[str], joined: Joined) -> set[str]:
    """Units that were named to decide which side counts. Raise HomeError for one of which that is no question."""
    asked = set(asked)
    if wrong := sorted(asked - set(joined.both)):
        todo = f"Changed on both sides: {', '.join(joined.both) or 'nothing'}."
        raise HomeError("this was not changed both here and in the home", found=wrong[0], todo=todo)
    return asked


def _to_bring(stands: Standing, changed: set[str], wanted: Wanted) -> dict[str, Unit]:
    """Units and the files of them that are to be here; none for a unit that is to go."""
    found: dict[str, Unit] = {}
    for unit in sorted({*stands.there.state.units, *changed} - ({*stands.joined.mine, *stands.joined.both} - changed)):
        files, here = stands.there.state.units.get(unit, {}), stands.is_here(unit)
        # What of a unit was left in the home stays there until it is wanted.
        left = {path for path in stands.record.base.units.get(unit, ()) if path not in stands.record.here}
        take = {path: kept for path, kept in files.items() if wanted(path) or (here and path not in left)}
        if not stands.found.is_busy(unit) and (take.keys() - here or (here and unit in changed)):
            found[unit] = take
    return found


def _reached(
    stands: Standing,
    state: State,
    *,
    brought: Mapping[str, Mapping[str, int]] | None = None,
    sent: Iterable[str] = (),
    left: Iterable[str] = (),
) -> Record:
    """The record when `state` is that of the home: of units that are not yet the same on both sides it stays as it was."""
    brought = brought or {}
    as_it_was = ({*stands.joined.mine, *stands.joined.both, *left} - set(sent)) - brought.keys()
    base = {unit: files for unit, files in state.units.items() if unit not in as_it_was}
    base |= {unit: stands.record.base.units[unit] for unit in as_it_was if unit in stands.record.base.units}
    here: dict[str, int] = {}
    for unit, files in base.items():
        times = stands.record.here if unit in as_it_was else brought.get(unit, stands.found.here)
        here |= {path: times[path] for path in files if path in times}
    return Record(State(base), here)


def _gone_on(record: Record, found: Found, state: State) -> Record:
    """The record after a fetch was killed on its way to `state`: what here is as it is in that state."""
    base: dict[str, Unit] = dict(record.base.units)
    here = dict(record.here)
    for unit in {*base, *state.units}:
        files, times = state.units.get(unit), {path: found.here[path] for path in found.mine.units.get(unit, ()) if path in found.here}
        if files is None and not times:
            base.pop(unit)
        elif files is not None and times and all(_same(files.get(path), found.mine.units[unit][path]) for path in times):
            base[unit] = files
            here = {path: ns for path, ns in here.items() if path not in files} | times
    known = State(base).files
    return Record(State(base), {path: ns for path, ns in here.items() if path in known})


def _same(one: Kept | None, other: Kept) -> bool:
    return one is not None and one.sha256 == other.sha256
