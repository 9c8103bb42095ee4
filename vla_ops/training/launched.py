"""A run launched and watched until it is over: the one path of the asset and of `vla-ops train`.

    code = launch(run, launcher_of("local"), say=print)
    raise_unless_finished(run, code)

An interrupt while it is watched (Ctrl-C, a Dagster run that is terminated) is passed on as SIGTERM, and raised again once the trainer
has saved a checkpoint and ended.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ops.checkpoints.layout import latest_step
from vla_ops.errors import SpecError, TrainingError
from vla_ops.files import holder
from vla_ops.launchers import Job, Launcher
from vla_ops.training.main import FINISHED, REFUSED, trainer_command
from vla_ops.training.run import Run
from vla_ops.training.stopping import EXIT_INTERRUPTED, EXIT_TERMINATED

LOG_FILE = "log.txt"
# A line of JSON for each time the run was launched.
LAUNCHES_FILE = "launches.jsonl"
_EVERY_S, _SAY_EVERY_S = 0.5, 5.0
_OWN = "vla-ops: "
_KILLED = 128 + signal.SIGKILL


def launch(
    run: Run,
    launcher: Launcher,
    *,
    say: Callable[[str], None],
    command: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    echo: Callable[[str], None] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> int:
    """Train in the folder of `run` until it is over; return the exit code of `training.main`.

    `command` trains in its place; `echo` is given the lines of its log, `meanwhile` is called every half second and once at the end.
    """
    _wait_until_free(run.folder, say)
    began, log, code = time.time(), run.folder / LOG_FILE, None
    _begin_part(log, began)
    try:
        with launcher.start(command or trainer_command(run.file), log=log, env=env, echo=echo) as job:
            try:
                return _watched(job, say, meanwhile)
            finally:
                code = job.poll()
    finally:
        _note(run.folder / LAUNCHES_FILE, {"began": round(began, 3), "seconds": round(time.time() - began, 3), "exit_code": code})


def _watched(job: Job, say: Callable[[str], None], meanwhile: Callable[[], None]) -> int:
    try:
        while (code := job.poll()) is None:
            meanwhile()
            time.sleep(_EVERY_S)
    except BaseException:
        say("stopping: waiting for the trainer to save a checkpoint")
        job.stop()
        meanwhile()
        raise
    meanwhile()
    return code


def raise_unless_finished(run: Run, code: int) -> None:
    """Raise SpecError (refused) or TrainingError (failed, stopped, killed) with the trainer's own message, unless the run is finished."""
    if code == FINISHED:
        return
    said, log = own_words(run.folder / LOG_FILE), run.folder / LOG_FILE
    if code == REFUSED:
        raise SpecError(said)
    at = latest_step(run.folder)
    kept = f"Its checkpoint of step {at} is kept" if at is not None else "There is no checkpoint yet"
    if code in (EXIT_TERMINATED, EXIT_INTERRUPTED):
        raise TrainingError("the trainer was stopped by a signal", todo=f"{kept}; run the same again to go on.", file=log)
    if code == _KILLED:
        todo = f"Look at the machine's memory (dmesg). {kept}; run the same again to go on."
        raise TrainingError("the trainer was killed, most likely for want of memory", todo=todo, file=log)
    raise TrainingError(said)


def own_words(log: Path) -> str:
    """The message that the last trainer of a log ended with; its last lines where it had none."""
    lines = _last_part(log)
    start = next((k for k in reversed(range(len(lines))) if lines[k].startswith(_OWN)), None)
    if start is not None:
        return "\n".join([lines[start].removeprefix(_OWN), *lines[start + 1 :]])
    return "\n".join(["the trainer ended without a message of its own; the last lines of its log:", *lines[-15:], f"The log: {log}"])


def launches(run: Path) -> list[dict[str, Any]]:
    """Each time the run was launched: {began, seconds, exit_code}; one whose launcher was killed is missing."""
    try:
        return [json.loads(line) for line in (run / LAUNCHES_FILE).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _wait_until_free(folder: Path, say: Callable[[str], None]) -> None:
    """Wait for a trainer whose launcher died and that still saves."""
    said_s = -_SAY_EVERY_S
    while (who := holder(folder)) is not None:
        if time.monotonic() - said_s >= _SAY_EVERY_S:
            say(f"waiting: {who} still trains in {folder}")
            said_s = time.monotonic()
        time.sleep(_EVERY_S)


_PART = "== launched "


def _begin_part(log: Path, began: float) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as handle:
        handle.write(f"{_PART}{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(began))}\n")


def _last_part(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    start = next((k for k in reversed(range(len(lines))) if lines[k].startswith(_PART)), -1)
    return lines[start + 1 :]


def _note(file: Path, value: Mapping[str, Any]) -> None:
    with file.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(dict(value)) + "\n")
