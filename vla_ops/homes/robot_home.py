"""Bring a robot's folder here and its home in a store together: `fetch` before a step, `send` after it.

What is sent is there before a state names it, and a state is there before the pointer names that: whoever follows the pointer finds all
of it. The pointer is only replaced by who has seen what it was; else what others did meanwhile is joined first.
"""

from __future__ import annotations

import shlex
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vla_ops.errors import HomeError
from vla_ops.homes.blobs import Blobs
from vla_ops.homes.copy import Copy, Found, can_be_linked, is_left_behind
from vla_ops.homes.join import Joined, join
from vla_ops.homes.record import Begun, Record, Records
from vla_ops.homes.state import BLOBS, STATES, Kept, State, Unit, blob_name, content_of, is_of_recording
from vla_ops.homes.there import There, has_been, point_to, require_same_home, state_reached, state_to_send, there_in
from vla_ops.publishing.hashing import HashedFile, hash_file
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
    # Units that could not be replaced, because something was changed here meanwhile.
    left: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """How the copy and the home stand to one another."""

    there: There
    found: Found
    record: Record
    joined: Joined

    @property
    def changed(self) -> tuple[str, ...]:
        """Units that were changed here, whatever others did."""
        return (*self.joined.mine, *self.joined.both)

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

        What was changed on both sides stays as it is here; HomeError names it where it is part of a run. The units `theirs`, and those
        below them, become what they are in the home even so.
        """
        theirs, done, units, total = list(theirs), Done(), list[str](), 0
        with self._records.only_me(self._say):
            for number in range(_TRIES):
                stands = self._look()
                chosen = {*stands.joined.theirs, *_named(theirs, stands, is_asked=number == 0)}
                torn = (unit for unit in stands.joined.torn if any(map(wanted, stands.there.state.units[unit])))
                self._refuse_torn(unit for unit in torn if unit not in chosen)
                self._refuse_apart(unit for unit in _lacking(stands, wanted) if unit not in chosen)
                done = self._bring(stands, _to_bring(stands, chosen, wanted))
                units, total = [*units, *done.units], total + done.bytes
                if not done.left:
                    return Done(tuple(units), total, done.busy)
        todo = "Run the same again when nothing else works on this robot here. What was fetched is kept."
        raise HomeError("something was changed here every time it was fetched", file=self.root, found=", ".join(done.left), todo=todo)

    def send(self, *, mine: Iterable[str] = ()) -> Done:
        """Take what was made, changed and removed here to the home.

        What was changed on both sides becomes what it is here, as on one disk the later one counts; HomeError names it where it is part
        of a run, or where a part of it was left in the home, but for the units `mine` and those below them. What was there before is in
        an earlier state.
        """
        mine, progress = list(mine), Progress(self._say, self._records.folder, self.store.uri)
        with self._records.only_me(self._say):
            for number in range(_TRIES):
                stands = self._look()
                if links := [link for link in stands.found.links if not is_left_behind(link)]:
                    todo = "Put what it points to in its place: a home in a store has no links."
                    raise HomeError("there is a link in the copy of the home", file=self.root / links[0], todo=todo)
                chosen = _named(mine, stands, is_asked=number == 0)
                self._refuse_torn(unit for unit in stands.joined.torn if unit not in chosen)
                self._refuse_apart(unit for unit in stands.changed if unit in stands.found.apart and unit not in chosen)
                if self._take(stands, progress):
                    return Done(stands.changed, progress.sent_bytes, tuple(sorted(stands.found.busy)))
                self._say(f"{self.root.name}: another machine was there first, what it did is taken into account")
        todo = "Many machines write to it: run `vla-ops home send` again. What was sent is kept."
        raise HomeError("the home was another one every time", file=self.store.uri, found=f"{_TRIES} times", todo=todo)

    def join(self) -> Joined:
        """Take what is here for new, as of a home that was set back or begun anew: nothing is removed on either side by what comes next.

        But what is here in part becomes what it is in the home, and is refused where the home has nothing of it: it cannot be sent whole.
        """
        with self._records.only_me(self._say):
            there, record = there_in(self.store), self._records.read()
            base: dict[str, Unit] = {}
            for unit, files in record.base.units.items():
                if left := {path: kept for path, kept in files.items() if path not in record.here}:
                    # With the rest alone it counts as changed here, while a part of it is elsewhere: refused, until somebody decides.
                    base[unit] = files if unit in there.state.units else left
            here = {path: record.here[path] for path in State(base).files if path in record.here}
            self._records.forget()
            self._records.write(Record(State(base), here, there.id, there.number))
            return self._look().joined

    def mend(self) -> tuple[Done, list[str]]:
        """Compare the contents that the home should have with those it has, and send what of it is here; return what else is lost.

        Of what is not here only that it is there and its size can be told.
        """
        with self._records.only_me(self._say):
            stands = self._look()
            files = stands.there.state.files
            here = {kept.sha256: self.root / path for path, kept in stands.found.mine.files.items() if path in stands.found.here}
            read = {sha256: hash_file(here[sha256]) for sha256 in here.keys() & {kept.sha256 for kept in files.values()}}
            for sha256 in [sha256 for sha256, file in read.items() if file.sha256 != sha256]:
                self._say(
                    f"{read.pop(sha256).path} has other bytes than when it was written, with the same size and time: look at the disk"
                )
            hashed = {blob_name(sha256): file for sha256, file in read.items()}
            left, there = self._blobs.absent(hashed.values()), self.store.listed(BLOBS)
            is_lost = {name for kept in files.values() if (name := blob_name(kept.sha256)) not in hashed and there.get(name) != kept.size}
            self._blobs.send(left, lambda _: None, asked=True)
            lost = [path for path, kept in files.items() if blob_name(kept.sha256) in is_lost]
            return Done(tuple(sorted(left)), sum(file.size for file in left.values())), lost

    def _look(self) -> Standing:
        there, record = there_in(self.store), self._records.read()
        require_same_home(self.store, there, record.state, record.number)
        with self._copy.alone(self._say):
            if (begun := self._records.begun()) is not None and (reached := self._gone_on(there, record, begun)) is not None:
                record = reached
                self._records.write(record)
            found = self._copy.look(record)
        _refuse_nested((found.mine, there.state), self.root)
        return Standing(there, found, record, join(record.base, found.mine, there.state))

    def _gone_on(self, there: There, record: Record, begun: Begun) -> Record | None:
        """The record that a killed process was about to write; None where the home never was what it was about to make of it."""
        if begun.record is not None:
            return begun.record if there.has_been(begun.state) else None
        if not has_been(self.store, there, begun.state):
            return None
        state = state_reached(self.store, begun.state) if begun.to is None else begun.to
        return _gone_on(record, self._copy.look(record), begun, state)

    def _bring(self, stands: Standing, units: Mapping[str, Unit]) -> Done:
        there, found = stands.there, stands.found
        sources = self._sources(found, units)
        files = ((unit, path, kept) for unit, unit_files in units.items() for path, kept in unit_files.items())
        # One path for each content.
        missing = {kept.sha256: (path, kept) for unit, path, kept in files if kept.sha256 not in sources[unit]}
        total = sum(kept.size for _, kept in missing.values())
        brought: dict[str, dict[str, int]] = {}
        if missing:
            self._say(f"{self.root.name}: fetching {len(missing)} files ({total / 1e6:.1f} MB) from {self.store.uri}")
        if units:
            incoming = self._blobs.fetch(dict(missing.values()))
            with self._copy.alone(self._say):
                brought = self._replaced(stands, units, incoming)
            self._blobs.clear()
        left = tuple(sorted(units.keys() - brought.keys()))
        for unit in left:
            self._say(f"{self.root.name}: something was changed here while {unit} was fetched")
        behind = [*left, *(unit for unit in stands.joined.theirs if stands.is_here(unit))]
        self._records.write(_reached(stands, there.state, there.id, brought=brought, left=behind))
        return Done(tuple(brought), total, tuple(sorted(found.busy)), left)

    def _replaced(self, stands: Standing, units: Mapping[str, Unit], incoming: dict[str, Path]) -> dict[str, dict[str, int]]:
        """Put units in their places, but for those of which something was changed here since; return the times of their files."""
        now = self._copy.look(stands.record)
        sources = {unit: ChainMap(incoming, own) for unit, own in self._sources(now, units).items()}
        ready = {
            unit: files
            for unit, files in units.items()
            if _is_as(now, stands.found, unit) and not now.is_busy(unit) and all(kept.sha256 in sources[unit] for kept in files.values())
        }
        if ready and stands.there.id is not None:
            to = {unit: files for unit, files in stands.there.state.units.items() if unit in ready}
            self._records.begin(Begun(stands.there.id, tuple(ready), to=State(to)))
        used = Counter(kept.sha256 for files in units.values() for kept in files.values())
        shared = {sha256 for sha256, times in used.items() if times > 1}
        gone = sorted(unit for unit, files in ready.items() if not files)
        # What goes first: what was a folder may become a file.
        for unit in gone:
            self._copy.remove(unit)
        placed = {unit: self._copy.place(unit, ready[unit], sources[unit], shared) for unit in sorted(ready.keys() - set(gone))}
        return {**{unit: {} for unit in gone}, **placed}

    def _sources(self, found: Found, units: Iterable[str]) -> dict[str, ChainMap[str, Path]]:
        """For each unit that is to be replaced, by SHA-256, what of it need not be fetched: what it has itself, and what may be linked."""
        units = set(units)
        rest = {unit: files for unit, files in found.mine.units.items() if unit not in units}
        files = ((unit, path, kept) for unit, unit_files in rest.items() for path, kept in unit_files.items() if path in found.here)
        linked = {kept.sha256: self.root / path for unit, path, kept in files if can_be_linked(unit, path, kept)}
        return {unit: ChainMap(self._own(found, unit), linked) for unit in units}

    def _own(self, found: Found, unit: str) -> dict[str, Path]:
        files = found.mine.units.get(unit, {})
        return {kept.sha256: self.root / path for path, kept in files.items() if path in found.here and path != unit}

    def _take(self, stands: Standing, progress: Progress) -> bool:
        """Send; False where another machine was first."""
        sent, mine = stands.changed, stands.found.mine.units
        if both := stands.joined.both:
            named = ", ".join(both[:5]) + (" ..." if len(both) > 5 else "")
            self._say(f"{self.root.name}: {stands.there.by} changed {named} as well; what is here counts, as it is the later one")
        units = {unit: files for unit, files in stands.there.state.units.items() if unit not in sent}
        units |= {
            unit: _without_the_rest(mine[unit], stands) if unit in stands.found.apart else mine[unit] for unit in sent if unit in mine
        }
        name = stands.there.id
        if sent:
            name, file = state_to_send(self.store, State(units), stands.there, self._records.folder)
            paths = [path for unit in sent for path in units.get(unit, {})]
            self._send_contents(stands, paths, {f"{STATES}/{name}": file}, progress)
        reached = _reached(stands, State(units), name, sent=sent, left=stands.joined.theirs)
        if sent and name is not None:
            self._records.begin(Begun(name, record=reached))
            if not point_to(self.store, name, stands.there):
                return False
        self._records.write(reached)
        return True

    def _send_contents(self, stands: Standing, paths: Iterable[str], state: Mapping[str, HashedFile], progress: Progress) -> None:
        known, files = {kept.sha256 for kept in stands.there.state.files.values()}, stands.found.mine.files
        # What was left in the home is there.
        mine = {files[path].sha256: path for path in paths if files[path].sha256 not in known and path in stands.found.here}
        hashed = [stands.found.hashed.get(path) or hash_file(self.root / path) for path in mine.values()]
        # To list all that is there takes long where there is much, and to ask for much one by one as well.
        by_listing = stands.there.id is None
        left = self._blobs.absent(hashed) if by_listing else {blob_name(file.sha256): file for file in hashed}
        total = sum(file.size for file in left.values())
        progress.begin(f"{self.root.name}: sending {len(left)} files ({total / 1e6:.1f} MB) to {self.store.uri}", total)
        self._blobs.send(left, progress.sent, asked=by_listing, last=state)
        progress.end()

    def _refuse_torn(self, torn: Iterable[str]) -> None:
        if units := list(torn):
            run = "/".join(units[0].split("/")[:3])
            todo = f"Look at both, then say which one counts: {self._choices(run)} A run is gone on with on one machine at a time."
            raise HomeError("a run was changed here and on another machine", file=self.store.uri, found=", ".join(units), todo=todo)

    def _refuse_apart(self, apart: Iterable[str]) -> None:
        if units := list(apart):
            what = "something was changed here of which a part is only in the home, so that nobody knows whether they belong together"
            todo = f"Say which one counts, and whole: {self._choices(units[0])}"
            raise HomeError(what, file=self.store.uri, found=", ".join(units), todo=todo)

    def _choices(self, unit: str) -> str:
        robot, unit = self.root.name, shlex.quote(unit)
        return f"`vla-ops home send {robot} --mine {unit}` or `vla-ops home fetch {robot} --theirs {unit}`."


def _named(asked: Iterable[str], stands: Standing, *, is_asked: bool = True) -> set[str]:
    """Units, or all those below a folder, that were named to decide which side counts.

    Raise HomeError where that is no question, `is_asked` that it is one.
    """
    questions = {*stands.joined.both, *stands.found.apart}
    found = set[str]()
    for name in asked:
        below = {unit for unit in questions if unit == name or unit.startswith(f"{name.rstrip('/')}/")}
        if not below and is_asked:
            todo = f"Such are: {', '.join(sorted(questions)) or 'none'}."
            raise HomeError("this was not changed both here and in the home", found=name, todo=todo)
        found |= below
    return found


def _lacking(stands: Standing, wanted: Wanted) -> Iterator[str]:
    """Units that were changed here, and of which something is wanted that was left in the home."""
    for unit in stands.changed:
        files = stands.found.mine.units.get(unit, {})
        if any(wanted(path) and path not in stands.found.here for path in files):
            yield unit


def _without_the_rest(unit: Unit, stands: Standing) -> Unit:
    return {path: kept for path, kept in unit.items() if path in stands.found.here}


def _refuse_nested(states: Iterable[State], root: Path) -> None:
    episodes = {unit for state in states for unit, files in state.units.items() if is_of_recording(unit, files)}
    for unit in episodes:
        if (outer := next((str(folder) for folder in PurePosixPath(unit).parents if str(folder) in episodes), None)) is not None:
            todo = "Rename one of the recordings, or remove the episodes of one of them here and in the home."
            raise HomeError("the episodes of one recording lie within another's", file=root / unit, found=outer, todo=todo)


def _to_bring(stands: Standing, changed: set[str], wanted: Wanted) -> dict[str, Unit]:
    """Units and the files of them that are to be here; none for a unit that is to go."""
    found: dict[str, Unit] = {}
    for unit in sorted({*stands.there.state.units, *changed} - ({*stands.changed} - changed)):
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
    name: str | None,
    *,
    brought: Mapping[str, Mapping[str, int]] | None = None,
    sent: Iterable[str] = (),
    left: Iterable[str] = (),
) -> Record:
    """The record when `state` is that of the home: of units that are not yet the same on both sides it stays as it was."""
    brought, sent = brought or {}, set(sent)
    as_it_was = ({*stands.changed, *left} - sent) - brought.keys()
    base = {unit: files for unit, files in state.units.items() if unit not in as_it_was}
    base |= {unit: stands.record.base.units[unit] for unit in as_it_was if unit in stands.record.base.units}
    here: dict[str, int] = {}
    for unit, files in base.items():
        is_as_it_was = unit in as_it_was or (stands.found.is_busy(unit) and unit not in sent)
        times = stands.record.here if is_as_it_was else brought.get(unit, stands.found.here)
        here |= {path: times[path] for path in files if path in times}
    number = stands.there.number + bool(sent)
    return Record(State(base), here, name, number)


def _gone_on(record: Record, found: Found, begun: Begun, state: State) -> Record:
    """The record after a fetch was killed on its way to `state`: what here is as it is in that state."""
    base: dict[str, Unit] = dict(record.base.units)
    here = dict(record.here)
    for unit in begun.units:
        files, times = state.units.get(unit), {path: found.here[path] for path in found.mine.units.get(unit, ()) if path in found.here}
        is_as_it_is_there = files is not None and all(_same(files.get(path), found.mine.units[unit][path]) for path in times)
        # Nothing of it is here: it was on its way out, or away, or to be replaced in the next moment.
        if is_as_it_is_there or not times:
            here = {path: ns for path, ns in here.items() if path not in base.get(unit, {})} | times
            base.pop(unit, None)
            base |= {} if files is None else {unit: files}
    known = State(base).files
    return Record(State(base), {path: ns for path, ns in here.items() if path in known}, record.state, record.number)


def _is_as(now: Found, then: Found, unit: str) -> bool:
    return content_of(now.mine.units.get(unit)) == content_of(then.mine.units.get(unit))


def _same(one: Kept | None, other: Kept) -> bool:
    return one is not None and one.sha256 == other.sha256
