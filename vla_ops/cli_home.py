"""`vla-ops home`: a home in a store, VLA_OPS_HOME=s3://..., and this machine's copy of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from vla_ops.cli_named import say
from vla_ops.errors import HomeError, VlaOpsError

if TYPE_CHECKING:
    from vla_ops.homes.prune import Plan
    from vla_ops.homes.robot_home import Done, RobotHome
    from vla_ops.homes.state import Unit
    from vla_ops.publishing.stores.base import Prunable, Store

_SHOWN = 8

type _Robot = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ROBOT")]


@dataclass(frozen=True)
class Status:
    """Compare the copy with the home: what is to be sent, what is to be fetched, what was left there. Nothing is fetched or sent."""

    robot: _Robot
    """A robot or a mixture."""

    def run(self) -> int:
        """Print it."""
        found = _home_of(self.robot)
        stands = found.standing()
        there, joined, mine = stands.there, stands.joined, stands.found.mine.units
        when = f"state {there.id} of {there.at} by {there.by}, {len(there.before)} before it" if there.id else "nothing yet"
        left = {
            unit: {path: kept for path, kept in files.items() if path not in stands.found.here} for unit, files in there.state.units.items()
        }
        lines = [
            found.root.name,
            f"  home       {found.store.uri}: {when}",
            f"  copy       {found.root}",
            f"  to send    {_told(joined.mine, mine)}",
            f"  to fetch   {_told(joined.theirs, there.state.units)}",
            f"  left there {_told([unit for unit, files in left.items() if files and unit not in joined.theirs], left)}",
        ]
        lines += [f"  on both    {unit}" for unit in joined.both]
        lines += [f"  in use     {run} is being trained here" for run in stands.found.busy]
        sys.stdout.write("\n".join(lines) + "\n")
        return 0


@dataclass(frozen=True)
class Fetch:
    """Bring all of a robot here; the other commands fetch what they need by themselves."""

    robot: _Robot
    """A robot or a mixture."""
    theirs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="UNIT [UNIT ...]")] = ()
    """Of what was changed here and there, or is here in part, these become what they are there: units, or the folder of a run."""

    def run(self) -> int:
        """Fetch."""
        from vla_ops.homes.needs import everything

        return _finished("fetched", _home_of(self.robot).fetch(everything, theirs=self.theirs))


@dataclass(frozen=True)
class Send:
    """Take what was made here to the home; the other commands do it when they are done, but where they were killed or had no network."""

    robot: _Robot
    """A robot or a mixture."""
    mine: Annotated[tuple[str, ...], tyro.conf.arg(metavar="UNIT [UNIT ...]")] = ()
    """Of what was changed here and there, or is here in part, these count as they are here: units, or the folder of a run."""

    def run(self) -> int:
        """Send."""
        return _finished("sent", _home_of(self.robot).send(mine=self.mine))


@dataclass(frozen=True)
class Mend:
    """Send again what was damaged or removed in the store and is on this machine. Exit code 2 if something is lost nevertheless.

    Of what is not on this machine only that it is there, and its size, can be told: mend it where it is.
    """

    robot: _Robot
    """A robot or a mixture."""

    def run(self) -> int:
        """Mend, and name what is lost."""
        done, lost = _home_of(self.robot).mend()
        for path in lost:
            say(f"LOST: {path}: neither in the home nor here; mend it from another machine, or make it again")
        sys.stdout.write(f"{len(done.units)} contents sent again, {done.bytes / 1e6:.1f} MB\n")
        return 2 if lost else 0


@dataclass(frozen=True)
class Join:
    """Take what is here for new, as of a home that was set back to a backup or begun anew: nothing is removed by what comes next.

    But what is here in part becomes what the home has of it; where that is nothing, it is asked about.
    """

    robot: _Robot
    """A robot or a mixture."""

    def run(self) -> int:
        """Forget what both were when they were last brought together, and say what is to be done."""
        found = _home_of(self.robot).join()
        sys.stdout.write(f"to send: {len(found.mine)} units; to fetch: {len(found.theirs)}; on both sides: {len(found.both)}\n")
        return 0


@dataclass(frozen=True)
class Prune:
    """Remove old states from the home, and the contents that only they name: what lies in the store only grows otherwise.

    Nothing that a machine has is touched, and other machines may fetch and send meanwhile. Exit code 2 if it failed for a robot.
    """

    robot: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[ROBOT]")] = None
    """A robot or a mixture; without it all that are in the home."""
    keep_days: int = 30
    """States of so many days stay, and what was sent in them; at least 1, for what is fetched or sent at this moment."""
    dry_run: bool = False
    """Only say what would be removed."""
    take_over: bool = False
    """Finish what another machine began and was killed in. One of this machine that was killed is taken over without it."""

    def run(self) -> int:
        """Remove, or say what would be."""
        if self.keep_days < 1:
            raise HomeError("so few days cannot be kept", found=self.keep_days, expected="1 or more", todo="Give --keep-days 1 or more.")
        robots = _robots() if self.robot is None else [_home_of(self.robot).root.name]
        failed = [robot for robot in robots if not self._is_done(robot)]
        return 2 if failed else 0

    def _is_done(self, robot: str) -> bool:
        from vla_ops.homes.prune import Prune as Pruning

        try:
            pruning = Pruning(_prunable(_home_of(robot).store), timedelta(days=self.keep_days), say=say)
            plan = pruning.plan() if self.dry_run else pruning.run(take_over=self.take_over)
        # The others may be pruned even so.
        except VlaOpsError as error:
            if self.robot is not None:
                raise
            say(f"{robot}: {error}")
            return False
        sys.stdout.write(_told_of_prune(robot, plan, is_done=not self.dry_run))
        return True


@dataclass(frozen=True)
class Home:
    """Look after a home in a store and this machine's copy of it (docs/homes.md)."""

    command: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Status, tyro.conf.subcommand("status")]
        | Annotated[Fetch, tyro.conf.subcommand("fetch")]
        | Annotated[Send, tyro.conf.subcommand("send")]
        | Annotated[Mend, tyro.conf.subcommand("mend")]
        | Annotated[Join, tyro.conf.subcommand("join")]
        | Annotated[Prune, tyro.conf.subcommand("prune")]
    ]

    def run(self) -> int:
        """Run the one that was asked for."""
        return self.command.run()


def _home_of(name: str) -> RobotHome:
    from vla_ops.homes.at_home import robot_home
    from vla_ops.homes.state import POINTER

    # A path of a robot's folder, as other commands take it.
    robot = Path(name).resolve().name if (Path(name) / "defs.yaml").is_file() else name
    found = robot_home(robot, say)
    if found is not None and not found.root.exists() and found.store.pointer(POINTER) is None:
        todo = "Check the name, as it is in robots/, and VLA_OPS_HOME."
        raise HomeError("there is nothing of this robot, neither at home nor here", file=found.store.uri, found=robot, todo=todo)
    if found is None:
        raise _is_a_folder()
    return found


def _robots() -> list[str]:
    """All that are in the home."""
    from vla_ops.home import remote_home
    from vla_ops.homes.at_home import home_store
    from vla_ops.homes.state import POINTER

    remote = remote_home()
    if remote is None:
        raise _is_a_folder()
    # Publications may be beside them.
    return [name for name in _prunable(home_store(remote)).folders() if home_store(f"{remote}/{name}").pointer(POINTER) is not None]


def _prunable(store: Store) -> Prunable:
    from vla_ops.publishing.stores.base import Prunable

    if not isinstance(store, Prunable):
        todo = "Look at its page (Settings, storage) for what the Hub itself removes, or begin another repository: `vla-ops home join`."
        raise HomeError("what is removed from a repository stays in its history", file=store.uri, todo=todo)
    return store


def _is_a_folder() -> HomeError:
    from vla_ops.home import home

    todo = "Nothing is to be fetched or sent. For a home that machines share: VLA_OPS_HOME=s3://BUCKET/PREFIX (docs/homes.md)."
    return HomeError("VLA_OPS_HOME is a folder", file=home(), todo=todo)


def _finished(what: str, done: Done) -> int:
    for run in done.busy:
        say(f"{run} is being trained here, and its logs are left for later")
    sys.stdout.write(f"{what}: {len(done.units)} units, {done.bytes / 1e6:.1f} MB\n")
    return 0


def _told(units: Iterable[str], files: Mapping[str, Unit]) -> str:
    units = list(units)
    if not units:
        return "nothing"
    size = sum(kept.size for unit in units for kept in files.get(unit, {}).values())
    more = f" and {len(units) - _SHOWN} more" if len(units) > _SHOWN else ""
    return f"{len(units)} units, {size / 1e6:.1f} MB: {', '.join(units[:_SHOWN])}{more}"


def _told_of_prune(robot: str, plan: Plan, *, is_done: bool) -> str:
    removed, unfinished = ("removed", f", {plan.unfinished} unfinished uploads") if is_done else ("to remove", "")
    units = [f"{unit} ({size / 1e9:.2f} GB)" for unit, size in plan.units]
    more = f" and {len(units) - _SHOWN} more" if len(units) > _SHOWN else ""
    kept = sum(plan.kept.values()) / 1e9
    lines = [
        robot,
        f"  {removed:<9}  {len(plan.blobs)} contents, {plan.bytes / 1e9:.2f} GB, {len(plan.states)} old states{unfinished}",
        *([f"  of         {', '.join(units[:_SHOWN])}{more}"] if units else []),
        f"  kept       {len(plan.kept)} contents, {kept:.2f} GB, {plan.kept_states} states",
    ]
    return "\n".join(lines) + "\n"
