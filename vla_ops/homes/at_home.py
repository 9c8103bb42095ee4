"""A step at home: where the home is in a store, what the step reads is fetched before it, and what it made is sent after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from vla_ops.errors import VlaOpsError
from vla_ops.home import home, remote_home
from vla_ops.homes.needs import named_run, needs_of, run_of, said, training
from vla_ops.homes.robot_home import RobotHome, Wanted
from vla_ops.homes.state import POINTER
from vla_ops.mixture_file import Mixture
from vla_ops.publishing.stores import store_at
from vla_ops.robot_file import Robot
from vla_ops.training.overrides import overridden
from vla_ops.training.recipe import training_of

type Say = Callable[[str], None]


def robot_home(robot: str, say: Say) -> RobotHome | None:
    """The home of a robot; None where VLA_OPS_HOME is a folder. Raise SpecError and PublishError for one that cannot be used."""
    remote = remote_home()
    return None if remote is None else RobotHome(store_at(f"{remote}/{robot}"), home() / robot, say=say)


def needs_of_run(uri: str, wanted: Callable[[str], Wanted]) -> dict[str, Wanted]:
    """What `ROBOT/TRAINING` and the like needs, `wanted(training)`; nothing for a path or a URL, and where no such robot is at home."""
    remote, named = remote_home(), named_run(uri)
    if remote is None or named is None or store_at(f"{remote}/{named[0]}").pointer(POINTER) is None:
        return {}
    return {named[0]: wanted(named[1])}


def training_needs(robot: Robot | Mixture, name: str, overrides: Mapping[str, Any]) -> dict[str, Wanted]:
    """What a training needs: what it is trained on, its own runs, the run that `init` names. Raise SpecError if there is no such one."""
    init = overridden(training_of(robot, name), overrides).init
    started_from = {} if init is None else needs_of_run(init, run_of)
    own = needs_of(robot, training(name, to_resume=True), of_sources=said)
    return {each: _either(started_from.get(each), own.get(each)) for each in {**started_from, **own}}


def _either(*wanted: Wanted | None) -> Wanted:
    return lambda path: any(each is not None and each(path) for each in wanted)


@contextmanager
def at_home(needs: Mapping[str, Wanted], say: Say) -> Iterator[None]:
    """Do a step within: `needs` are the robots of which something is read or made, each with what of it is to be here.

    What was made before the step failed is sent as well. Nothing is done where VLA_OPS_HOME is a folder.
    """
    homes = fetched(needs, say)
    try:
        yield
    except BaseException as error:
        for each in homes:
            _send_after(error, each)
        raise
    for each in homes:
        _say_sent(each, say)


def fetched(needs: Mapping[str, Wanted], say: Say) -> list[RobotHome]:
    """Bring what is read here, and return the homes that it is of: none where VLA_OPS_HOME is a folder."""
    homes = [(found, wanted) for robot, wanted in needs.items() if (found := robot_home(robot, say)) is not None]
    for found, wanted in homes:
        found.fetch(wanted)
    return [found for found, _ in homes]


def _say_sent(found: RobotHome, say: Say) -> None:
    done = found.send()
    for run in done.busy:
        say(f"{found.root.name}: {run} is being trained: it is taken to {found.store.uri} when that is over")


def _send_after(error: BaseException, found: RobotHome) -> None:
    """Of a step that failed; that nothing could be sent is said beside its own error."""
    try:
        found.send()
    except VlaOpsError as another:
        why = str(another).rstrip(".")
        error.add_note(f"What was made before it is on this machine only: {why}. Send it: vla-ops home send {found.root.name}.")
