"""A trainer that is killed, in the process that launchers start: whatever happens, the same steps are taken in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vla_ops.checkpoints.layout import steps_in
from vla_ops.training.main import trainer_command
from vla_ops.training.metrics import read_metrics
from vla_ops.training.run import Run, open_run, read_run
from vla_ops.training.stopping import EXIT_INTERRUPTED, EXIT_TERMINATED
from vla_ops_tests.holding import Hold, hold_checkpoint, hold_trainer
from vla_ops_tests.training.arm import Arm
from vla_ops_tests.training.small_training import losses, recipe_of, same_parameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

# As many steps as needed to be killed at several of them.
STEPS: dict[str, Any] = {"steps": 30, "save_every": 5, "workers": 1, "augmentation": True}
_DEADLINE_S = 700


@pytest.fixture(scope="module")
def whole(arm: Arm, home: Path) -> Run:
    run = open_run(recipe_of(arm, **STEPS), home, name="whole")
    assert finish(run) == 0
    return run


def start(run: Run, hold: Hold | None = None) -> subprocess.Popen[bytes]:
    # Compiling takes most of the time, and is the same in all of them.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.Popen(trainer_command(run.file), env=environment | dict(hold.environment if hold else {}), stderr=subprocess.DEVNULL)


def finish(run: Run) -> int:
    return start(run).wait(_DEADLINE_S)


def send_when(run: Run, number: signal.Signals, due: Callable[[], bool], hold: Hold) -> int:
    """Start the trainer, send it the signal as soon as it is due and held there, and return its exit code."""
    trainer = start(run, hold)
    deadline = time.monotonic() + _DEADLINE_S
    while not due():
        assert trainer.poll() is None, "the trainer ended before it was to be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    trainer.send_signal(number)
    return trainer.wait(_DEADLINE_S)


def at_step(run: Run, step: int) -> Callable[[], bool]:
    return lambda: any(line["step"] >= step for line in read_metrics(run.folder))


def writing_a_checkpoint(run: Run) -> Callable[[], bool]:
    return lambda: any("orbax-checkpoint-tmp" in path.name for path in run.folder.iterdir())


def test_a_run_that_is_killed_again_and_again_takes_the_same_steps(arm: Arm, home: Path, whole: Run, tmp_path: Path) -> None:
    run = open_run(recipe_of(arm, **STEPS), home, name="killed")
    # Before there is a checkpoint, between two, while one is written, and once more between two.
    stops = [
        (at_step(run, 2), hold_trainer(tmp_path / "2", step=2)),
        (at_step(run, 8), hold_trainer(tmp_path / "8", step=8)),
        (writing_a_checkpoint(run), hold_checkpoint(tmp_path / "10", step=10)),
        (at_step(run, 17), hold_trainer(tmp_path / "17", step=17)),
    ]
    for due, hold in stops:
        assert send_when(run, signal.SIGKILL, due, hold) == -signal.SIGKILL
    assert finish(run) == 0
    assert losses(run.folder) == losses(whole.folder)
    assert len(losses(run.folder)) == STEPS["steps"]
    assert same_parameters(run.folder / "29", whole.folder / "29")
    assert steps_in(run.folder) == steps_in(whole.folder)
    assert not [path.name for path in run.folder.iterdir() if "tmp" in path.name]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, EXIT_TERMINATED), (signal.SIGINT, EXIT_INTERRUPTED)])
def test_a_signal_saves_and_is_told_by_the_exit_code(
    arm: Arm, home: Path, whole: Run, *, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    run = open_run(recipe_of(arm, **STEPS), home, name=f"stopped_{number.name}")
    assert send_when(run, number, at_step(run, 7), hold_trainer(tmp_path / "7", step=7)) == code
    result = read_run(run.file).result
    assert result is not None
    assert (result["how"], [result["step"]]) == ("stopped by a signal", steps_in(run.folder)[-1:])
    assert finish(run) == 0
    assert losses(run.folder) == losses(whole.folder)
    assert same_parameters(run.folder / "29", whole.folder / "29")


def test_the_exit_codes_are_those_of_a_shell() -> None:
    assert (EXIT_TERMINATED, EXIT_INTERRUPTED) == (143, 130)
