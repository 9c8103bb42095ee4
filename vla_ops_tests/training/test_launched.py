"""Which run a training is, and how one that is launched is watched: with trainers that are only a few lines of Python."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vla_ops.errors import SpecError, TrainingError
from vla_ops.files import only_one
from vla_ops.launchers import Job, LocalLauncher
from vla_ops.training.launched import LOG_FILE, launch, launches, own_words, raise_unless_finished
from vla_ops.training.metrics import METRICS_FILE
from vla_ops.training.prepare import fingerprint_of, run_for
from vla_ops.training.recipe import Recipe
from vla_ops.training.run import Run, last_run, open_run
from vla_ops.training.summary import Summary
from vla_ops_tests.training.arm import Arm, make_arm
from vla_ops_tests.training.small_training import recipe_of

VALIDATION = {"every": 3, "early_stop": {"patience": 1}}


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    return make_arm(tmp_path_factory.mktemp("arm"), [8, 8], held_out=(1,))


@pytest.fixture
def recipe(arm: Arm) -> Recipe:
    return recipe_of(arm)


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path) -> Run:
    return open_run(recipe, tmp_path, name="run")


def checkpoint(run: Run, step: int, metrics: Mapping[str, float] | None = None) -> None:
    """A folder that counts as a checkpoint."""
    for name in ("params", "vla_ops"):
        (run.folder / str(step) / name).mkdir(parents=True)
    (run.folder / str(step) / "params" / "_METADATA").write_text("{}")
    (run.folder / str(step) / "vla_ops" / "state.json").write_text(json.dumps({"metrics": dict(metrics or {})}))


def finished(run: Run) -> Run:
    last = run.recipe.training.steps - 1
    checkpoint(run, last)
    run.write_result("finished", last, metrics={})
    return run


# Which run


def test_a_run_that_is_finished_is_the_run(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    finished(run)
    open_run(recipe, tmp_path, name="begun_later")
    assert run_for(recipe, tmp_path).folder == run.folder


def test_how_a_run_is_carried_out_makes_no_other_of_it(arm: Arm, run: Run, tmp_path: Path) -> None:
    finished(run)
    assert run_for(recipe_of(arm, workers=2, log_every=2, save_every=8), tmp_path).is_finished


def test_the_last_run_that_can_go_on_does(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    later = open_run(recipe, tmp_path, name="later")
    os.utime(run.file, (1, 1))
    checkpoint(later, 3)
    assert run_for(recipe, tmp_path).folder == later.folder


def test_a_run_that_never_came_to_a_checkpoint_is_used_again(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    assert run_for(recipe, tmp_path).folder == run.folder


def test_more_steps_go_on_and_fewer_are_another_run(arm: Arm, run: Run, tmp_path: Path) -> None:
    finished(run)
    longer = run_for(recipe_of(arm, steps=20), tmp_path)
    assert (longer.folder, longer.is_finished) == (run.folder, False)
    assert run_for(recipe_of(arm, steps=4), tmp_path).folder != run.folder


def test_another_recipe_or_a_wish_is_another_run(arm: Arm, recipe: Recipe, run: Run, tmp_path: Path) -> None:
    finished(run)
    others = [run_for(recipe_of(arm, seed=8), tmp_path), run_for(recipe, tmp_path, new=True), run_for(recipe, tmp_path, name="mine")]
    assert len({run.folder, *(other.folder for other in others)}) == 4
    assert others[-1].folder.name == "mine"


def test_a_run_of_an_older_version_stands_in_nobodys_way(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    told = json.loads(run.file.read_text())
    told["recipe"]["training"]["of_an_older_version"] = 1
    run.file.write_text(json.dumps(told))
    assert run_for(recipe, tmp_path).folder != run.folder


def test_a_run_that_stopped_early_is_finished_only_while_that_is_asked(arm: Arm, tmp_path: Path) -> None:
    early = recipe_of(arm, validation=VALIDATION)
    run = open_run(early, tmp_path, name="run")
    checkpoint(run, 3)
    run.write_result("stopped early", 3, metrics={})
    assert run_for(early, tmp_path).is_finished
    patient = run_for(recipe_of(arm, validation={"every": 3}), tmp_path)
    assert (patient.folder, patient.is_finished) == (run.folder, False)


def test_the_last_run_is_the_one_begun_last(recipe: Recipe, run: Run, tmp_path: Path) -> None:
    os.utime(run.file, (1, 1))
    other = open_run(recipe, tmp_path, name="a_later_one")
    found = last_run(tmp_path, recipe.robot, recipe.name)
    assert found is not None
    assert found.folder == other.folder
    assert last_run(tmp_path, recipe.robot, "another") is None


def test_the_yaml_alone_has_a_fingerprint(arm: Arm) -> None:
    from vla_ops.robot_file import Robot
    from vla_ops.spec import TrainingSpec

    def of(**changed: Any) -> str:
        training = TrainingSpec.model_validate(recipe_of(arm, **changed).training.model_dump(mode="json", by_alias=True))
        return fingerprint_of(Robot("arm", arm.folder, arm.spec.model_copy(update={"trainings": {"small": training}})), "small")

    assert of() == of(log_every=3, workers=2)
    assert len({of(), of(seed=8), of(steps=9), of(model={"preset": "pi05_tiny"})}) == 4


# How it is watched


class Instead:
    """A launcher of something else than the trainer."""

    def __init__(self, code: str) -> None:
        self.code = code

    def start(
        self, command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, echo: Callable[[str], None] | None = None
    ) -> Job:
        return LocalLauncher().start([sys.executable, "-c", self.code], log=log, env=env, echo=echo)


def run_instead(run: Run, code: str) -> int:
    return launch(run, Instead(code), say=lambda _: None)


def test_each_launch_is_noted_with_its_time(run: Run) -> None:
    assert run_instead(run, "import time; time.sleep(0.2)") == 0
    assert run_instead(run, "raise SystemExit(143)") == 143
    noted = launches(run.folder)
    assert [each["exit_code"] for each in noted] == [0, 143]
    assert all(each["seconds"] > 0 for each in noted)
    assert Summary.of(run).seconds == pytest.approx(sum(each["seconds"] for each in noted))


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("print('vla-ops: of before'); print('vla-ops: the disk is full'); raise SystemExit(1)", TrainingError, "the disk is full"),
        ("print('vla-ops: no such key'); raise SystemExit(2)", SpecError, "no such key"),
        (
            "raise ValueError('out of memory')",
            TrainingError,
            r"without a message of its own(.|\n)*ValueError: out of memory(.|\n)*log\.txt",
        ),
        ("import os; os.kill(os.getpid(), 9)", TrainingError, "killed, most likely for want of memory.*There is no checkpoint yet"),
        ("raise SystemExit(143)", TrainingError, "stopped by a signal.*run the same again to go on"),
    ],
)
def test_a_run_that_is_not_finished_raises_what_the_trainer_said_last(run: Run, code: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        raise_unless_finished(run, run_instead(run, code))


def test_what_an_earlier_trainer_said_is_not_said_again(run: Run) -> None:
    run_instead(run, "print('vla-ops: of before'); raise SystemExit(1)")
    run_instead(run, "print('at work'); raise SystemExit(1)")
    assert "of before" not in own_words(run.folder / LOG_FILE)
    assert "at work" in own_words(run.folder / LOG_FILE)


def test_a_checkpoint_that_is_kept_is_named(run: Run) -> None:
    checkpoint(run, 3)
    with pytest.raises(TrainingError, match="checkpoint of step 3 is kept"):
        raise_unless_finished(run, 137)


def test_an_interrupt_waits_for_the_trainer_and_is_raised_again(run: Run) -> None:
    handler = "lambda *_: (print('saved', flush=True), sys.exit(143))"
    code = f"import signal, sys, time; signal.signal(signal.SIGTERM, {handler}); print('ready', flush=True); time.sleep(250)"
    said: list[str] = []
    log = run.folder / LOG_FILE

    def interrupt() -> None:
        """Once, where it watches a trainer that can be asked to stop."""
        if not said and "ready" in log.read_text():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        launch(run, Instead(code), say=said.append, meanwhile=interrupt)
    assert said == ["stopping: waiting for the trainer to save a checkpoint"]
    assert log.read_text().splitlines()[-1] == "saved"
    assert [each["exit_code"] for each in launches(run.folder)] == [143]


def test_a_trainer_that_still_saves_is_waited_for(run: Run) -> None:
    said: list[str] = []
    with only_one(run.folder, lambda _: None):
        waiting = threading.Thread(target=lambda: launch(run, Instead("pass"), say=said.append))
        waiting.start()
        while not said:
            time.sleep(0.01)
        waiting.join(1)
        assert waiting.is_alive()
        assert not launches(run.folder)
    waiting.join(120)
    assert "still trains in" in said[0]
    assert [each["exit_code"] for each in launches(run.folder)] == [0]


# What a run has come to


def test_a_run_in_numbers(run: Run) -> None:
    lines = [{"step": k, "loss": 2.0 - k / 10, "steps_per_s": float(k), "host_peak_gb": k / 10, "data_wait": 0.1} for k in range(8)]
    (run.folder / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint(run, 3, {"validation/action_error": 0.5, "validation/hold_error": 0.8, "validation/mae/j1": 0.1})
    checkpoint(run, 7)
    (run.folder / "best.json").write_text(json.dumps({"step": 3}))
    run.write_result("finished", 7, seconds=10.0, devices=4)
    summary = Summary.of(run)
    assert (summary.step, summary.best, summary.logged_step) == (7, 3, 7)
    assert (summary.first_loss, summary.last_loss, summary.loss_fell) == (2.0, 1.3, True)
    assert summary.validation == {"action_error": 0.5, "hold_error": 0.8, "mae/j1": 0.1}
    assert summary.speed == {"steps_per_s": 3.5, "data_wait": 0.1, "host_peak_gb": 0.7}
    assert summary.device_hours == pytest.approx(40 / 3600)
    assert not summary.is_on_gpu
    assert str(summary) == "run: finished at step 7, loss 1.3, best 3 (action error 0.5, of repeating the last action 0.8)"


def test_a_run_that_has_not_begun_says_so(run: Run) -> None:
    summary = Summary.of(run)
    assert str(summary) == "run: no step yet"
    assert summary.loss_fell is None
    assert replace(summary, first_loss=1.0, last_loss=1.0, logged_step=0).loss_fell is None
