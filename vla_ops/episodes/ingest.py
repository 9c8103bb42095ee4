"""Convert all that is new or changed of a robot, and nothing else. The one path behind the asset, the CLI and the schedule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from vla_ops.episodes.convert import Conversion
from vla_ops.episodes.plan import Plan, forget, make_plan, sweep_store
from vla_ops.episodes.pool import Event, Lost, convert_many
from vla_ops.episodes.progress import Meter
from vla_ops.episodes.store import RobotStore
from vla_ops.recordings.discover import RecordingFile
from vla_ops.robot_file import Robot

type Say = Callable[[str], None]
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
        """Recordings whose worker died."""
        return [o for o in self.outcomes if isinstance(o, Lost)]


def ingest(
    robot: Robot,
    store: RobotStore,
    *,
    say: Say,
    only: Collection[str] | None = None,
    workers: int | None = None,
    watch: Watch | None = None,
    each: Callable[[Conversion | Lost], None] | None = None,
) -> Ingested:
    """Convert what is new or changed, or exactly the recordings `only`; forget what is gone.

    `say` gets a line at least every five seconds (unless `watch` shows the progress), `each` every outcome as it comes. Raise
    StoreError when the store fails, RecordingError when the recordings cannot be listed. A recording that cannot be used raises
    nothing: it is quarantined.
    """
    for left in sweep_store(store):
        say(f"removed what a killed run left: {left.name}")
    plan = make_plan(robot, store, again=only or ())
    forget(store, plan.removed)
    todo = [item for item in plan.todo if only is None or item[0].id in only]
    say(_opening(robot, plan, len(todo)))
    files = [file for file, _ in todo]
    watch = watch or (lambda files, events: Meter(files, say).watch(events))
    outcomes: list[Conversion | Lost] = []
    for outcome in watch(files, convert_many(todo, spec=robot.spec, store=store.root, workers=workers)):
        say(_line(outcome))
        outcomes.append(outcome)
        if each is not None:
            each(outcome)
    return Ingested(plan, outcomes)


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
    return f"{outcome.recording}: {len(outcome.episodes)} episode(s){rejected}, {outcome.frames:,} frames, {outcome.seconds:.1f} s"
