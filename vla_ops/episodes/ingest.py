"""Convert all that is new or changed of a robot, and nothing else. The one path behind the asset, the CLI and the schedule."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from vla_ops.episodes.convert import Conversion, remember
from vla_ops.episodes.misfits import find_misfits
from vla_ops.episodes.plan import REFUSED, Plan, Say, forget, forget_outdated, make_plan, refuse, sweep_store, take_back
from vla_ops.episodes.pool import Event, Lost, Workers
from vla_ops.episodes.progress import Meter
from vla_ops.episodes.store import RobotStore
from vla_ops.episodes.workers import workers_of
from vla_ops.errors import RecordingError
from vla_ops.files import only_one
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot_file import Robot

# Gets the plan and what of it will be converted, before anything is.
type Planned = Callable[[Plan, Sequence[RecordingFile]], None]
# Gets every outcome as it comes.
type Each = Callable[[Conversion | Lost], None]
# Shows the progress of converting these files; passes the outcomes through.
type Watch = Callable[[Sequence[RecordingFile], Iterator[Event]], Iterator[Conversion | Lost]]


@dataclass(frozen=True)
class Ingested:
    """What a run did. `plan` is the state before it."""

    plan: Plan
    outcomes: list[Conversion | Lost]

    @property
    def converted(self) -> list[Conversion]:
        """Recordings of which at least one episode is usable."""
        return [o for o in self.outcomes if isinstance(o, Conversion) and o.quarantined is None]

    @property
    def quarantined(self) -> list[Conversion]:
        """Recordings of which nothing is usable."""
        return [o for o in self.outcomes if isinstance(o, Conversion) and o.quarantined is not None]

    @property
    def lost(self) -> list[Lost]:
        """Recordings whose worker died or could not reach them."""
        return [o for o in self.outcomes if isinstance(o, Lost)]


def ingest(
    robot: Robot,
    store: RobotStore,
    *,
    say: Say,
    only: Collection[str] | None = None,
    workers: int | Workers | None = None,
    watch: Watch | None = None,
    planned: Planned | None = None,
    each: Each | None = None,
) -> Ingested:
    """Convert what is new or changed, or exactly the recordings `only`; forget what is gone.

    `workers` convert, or as many as that at once where the robot's YAML says, or as many as it says.
    Of two runs for one robot the second waits for the first. `say` gets a line at least every five seconds (unless `watch` shows
    the progress), `planned` the plan, `each` every outcome as it comes. Raise StoreError when the store fails, RecordingError when
    the recordings cannot be listed. A recording that cannot be used raises nothing: it is quarantined.
    """

    def tell(outcome: Conversion | Lost) -> None:
        say(_line(outcome))
        if each is not None:
            each(outcome)

    only = None if only is None else frozenset(only)
    with only_one(store.root, lambda who: say(f"{robot.name}: waiting, {who} is converting its recordings")):
        for left in sweep_store(store):
            say(f"removed what a killed run left: {left.name}")
        plan = _plan(robot, store, say=say, only=only)
        todo = _chosen(plan, only)
        if planned is not None:
            planned(plan, [file for file, _ in todo])
        watch = watch or (lambda files, events: Meter(files, say).watch(events))
        outcomes: list[Conversion | Lost] = list(_refused(store, plan))
        for refusal in outcomes:
            tell(refusal)
        if workers is None or isinstance(workers, int):
            workers = workers_of(robot.spec.conversion, at_once=workers)
        conversions = workers.convert(todo, spec=robot.spec, store=store.root, curation=robot.curation)
        with _swept(store, outcomes), closing(conversions) as events:
            for outcome in watch([file for file, _ in todo], events):
                tell(outcome)
                outcomes.append(outcome)
        forget_outdated(store, plan, [outcome.recording for outcome in outcomes if isinstance(outcome, Lost)])
        return Ingested(plan, _without_misfits(store, plan, outcomes, tell))


def _refused(store: RobotStore, plan: Plan) -> Iterator[Conversion]:
    """Put into quarantine what the plan alone refuses, and yield what is newly there."""
    refusals = (refuse(store, found) for found in plan.found if found.reason)
    return (refusal for refusal in refusals if refusal is not None)


def _without_misfits(store: RobotStore, plan: Plan, outcomes: Sequence[Conversion | Lost], tell: Each) -> list[Conversion | Lost]:
    """Quarantine what cannot be in one dataset with the others: it would keep them from becoming one."""
    odd = {misfit.recording: misfit for misfit in find_misfits(store, plan, outcomes)}
    for misfit in odd.values():
        remember(store, misfit)
        tell(misfit)
    return [odd.get(outcome.recording, outcome) for outcome in outcomes]


def _plan(robot: Robot, store: RobotStore, *, say: Say, only: Collection[str] | None) -> Plan:
    """Plan, forget what is gone, and say what will be done."""
    plan = make_plan(robot, store, again=only or (), say=say)
    _refuse_unknown(plan, only or ())
    _refuse_to_forget_all(robot, store, plan)
    forget(store, plan.removed)
    for key in take_back(store, plan):
        say(f"taken back from quarantine with the episodes it has: {key}")
    say(_opening(robot, plan, len(_chosen(plan, only))))
    for line in _left_alone(robot, plan, only):
        say(line)
    return plan


def _chosen(plan: Plan, only: Collection[str] | None) -> list[tuple[RecordingFile, str]]:
    return [item for item in plan.todo if only is None or item[0].id in only]


@contextmanager
def _swept(store: RobotStore, outcomes: Sequence[Conversion | Lost]) -> Iterator[None]:
    """Remove what workers left that were killed, by someone else or because this run fails; the store may be full of it."""
    try:
        yield
    except BaseException:
        sweep_store(store)
        raise
    if any(isinstance(outcome, Lost) for outcome in outcomes):
        sweep_store(store)


def _refuse_unknown(plan: Plan, only: Collection[str]) -> None:
    ids = {found.file.id: None for found in plan.found}
    unknown = sorted(key for key in only if key not in ids)
    if unknown:
        near = difflib.get_close_matches(unknown[0], ids, n=1)
        todo = f"Did you mean {near[0]!r}?" if near else "`vla-ops status` counts what is there."
        raise RecordingError("no such recording", file=unknown[0], found=f"{len(ids)} others", todo=todo)


def _refuse_to_forget_all(robot: Robot, store: RobotStore, plan: Plan) -> None:
    """Raise RecordingError where every recording is gone: far more often a disk that is not mounted than a wish."""
    if plan.removed and not plan.found:
        raise RecordingError(
            "none of the recordings is there any more",
            file=f"{robot.recordings_uri}/{robot.spec.recordings.pattern}",
            found="no recording",
            expected=f"{len(plan.removed)} that the store has episodes of",
            todo=f"Is the disk mounted, and recordings.pattern right? If they are meant to be gone, delete {store.root}.",
        )


def _left_alone(robot: Robot, plan: Plan, only: Collection[str] | None) -> Iterator[str]:
    """Say by name what is not converted although it is there, or was asked for."""
    states = {found.file.id: found.state for found in plan.found}
    unsettled = [key for key, state in states.items() if state == "unsettled" and (only is None or key in only)]
    if unsettled:
        settle_s = robot.spec.recordings.settle_s
        yield f"left alone, changed less than settle_s {settle_s:g} s ago and perhaps still being written: {_some(unsettled)}"
    refused = [f"{key} ({state})" for key, state in states.items() if state in REFUSED and (only is None or key in only)]
    if refused:
        yield f"in quarantine without being converted: {_some(refused)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _opening(robot: Robot, plan: Plan, todo: int) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in plan.counts().items())
    if not todo:
        return f"{robot.name}: nothing new or changed among {len(plan.found)} recordings ({counts or 'none there'})"
    return f"{robot.name}: {todo} of {len(plan.found)} recordings to convert ({counts})"


def _line(outcome: Conversion | Lost) -> str:
    if isinstance(outcome, Lost):
        return f"LOST {outcome.recording}: {outcome.reason}"
    if outcome.quarantined is not None:
        return f"QUARANTINED {outcome.recording}: {outcome.quarantined}"
    rejected = f", {len(outcome.rejected)} rejected" if outcome.rejected else ""
    fetched = f", fetched {outcome.fetched}" if outcome.fetched else ""
    return f"{outcome.recording}: {len(outcome.episodes)} episode(s){rejected}, {outcome.frames:,} frames, {outcome.seconds:.1f} s{fetched}"
