"""A step at home: where the home is in a store, what the step reads is fetched before it, and what it made is sent after it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from vla_ops.errors import HomeError, SpecError, VlaOpsError
from vla_ops.home import HF, home, remote_home
from vla_ops.homes.needs import named_run, needs_of, run_of, said, training
from vla_ops.homes.robot_home import RobotHome, Wanted
from vla_ops.homes.state import POINTER
from vla_ops.mixture_file import Mixture
from vla_ops.publishing.stores import Store, store_at
from vla_ops.robot_file import Robot
from vla_ops.training.overrides import overridden
from vla_ops.training.recipe import training_of

type Say = Callable[[str], None]


def robot_home(robot: str, say: Say) -> RobotHome | None:
    """The home of a robot; None where VLA_OPS_HOME is a folder. Raise SpecError and PublishError for one that cannot be used."""
    remote = remote_home()
    if remote is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", robot):
        raise SpecError("a robot cannot have this name", found=robot, todo="Give the name of its folder in robots/.")
    return None if remote is None else RobotHome(home_store(f"{remote}/{robot}", say), home() / robot, say=say)


def home_store(uri: str, say: Say = lambda _: None) -> Store:
    """The store that a home, or a robot's folder of it, is in. Raise PublishError for one that cannot be used."""
    if not uri.startswith(HF):
        return store_at(uri)
    from vla_ops.publishing.hub.store import HubStore

    return HubStore(uri, say=say)


def needs_of_run(uri: str, wanted: Callable[[str], Wanted]) -> dict[str, Wanted]:
    """What `ROBOT/TRAINING` and the like needs, `wanted(training)`; nothing for a path or a URL, and where no such robot is at home."""
    remote, named = remote_home(), named_run(uri)
    if remote is None or named is None or home_store(f"{remote}/{named[0]}").pointer(POINTER) is None:
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
def at_home(needs: Mapping[str, Wanted], say: Say, *, every_s: float | None = None) -> Iterator[None]:
    """Do a step within: `needs` are the robots of which something is read or made, each with what of it is to be here.

    What was made before the step failed is sent as well, and with `every_s` what is finished meanwhile, that often. Nothing is done where
    VLA_OPS_HOME is a folder.
    """
    homes = fetched(needs, say)
    try:
        with _sending(homes, say, every_s):
            yield
    except BaseException as error:
        for why in _not_sent(homes, say):
            error.add_note(why)
        raise
    if not_sent := _not_sent(homes, say):
        raise HomeError("\n".join(not_sent))


def fetched(needs: Mapping[str, Wanted], say: Say) -> list[RobotHome]:
    """Bring what is read here, and return the homes that it is of: none where VLA_OPS_HOME is a folder."""
    homes = [(found, wanted) for robot, wanted in needs.items() if (found := robot_home(robot, say)) is not None]
    for found, wanted in homes:
        found.fetch(wanted)
    return [found for found, _ in homes]


def checkpoints_every_s() -> float:
    """How often checkpoints of a training that goes on are sent: VLA_OPS_HOME_MINUTES, default 10. Raise SpecError if it is no time."""
    asked = os.environ.get("VLA_OPS_HOME_MINUTES", "").strip() or "10"
    try:
        minutes = float(asked)
    except ValueError:
        minutes = 0.0
    if not minutes > 0:
        raise SpecError("VLA_OPS_HOME_MINUTES is no time", found=asked, expected="minutes, more than 0")
    return 60 * minutes


@contextmanager
def _sending(homes: Sequence[RobotHome], say: Say, every_s: float | None) -> Iterator[None]:
    """Send what is finished every so often, by a thread, until the end of the block."""
    if every_s is None or not homes:
        yield
        return
    over = Event()
    thread = Thread(target=_send_until, args=(over, homes, say, every_s), name="home")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _send_until(over: Event, homes: Sequence[RobotHome], say: Say, every_s: float) -> None:
    while not over.wait(every_s):
        for each in homes:
            try:
                each.send()
            # A file that the trainer removes meanwhile, a link that is down: the next time, and the end, send it again.
            except (VlaOpsError, OSError) as error:
                say(f"{each.root.name}: nothing was taken to {each.store.uri} now, that is tried again: {error}")


def _not_sent(homes: Sequence[RobotHome], say: Say) -> list[str]:
    """Send each of them; return why which could not be."""
    found = []
    for each in homes:
        try:
            done = each.send()
        # Of one, the others are sent, and the step's own error is what counts.
        except (VlaOpsError, OSError) as error:
            why, robot = str(error).rstrip("."), each.root.name
            found.append(f"What was made of {robot} is on this machine only: {why}. Then send it: vla-ops home send {robot}")
        else:
            for run in done.busy:
                say(f"{each.root.name}: {run} is being trained; its logs are taken to {each.store.uri} when that is over")
    return found
