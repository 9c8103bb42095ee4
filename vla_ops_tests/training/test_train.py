"""Whole trainings of a tiny model on real files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.backends import jax as backend
from vla_ops.backends.jax import Trained, train
from vla_ops.checkpoints.layout import read_state, steps_in
from vla_ops.errors import CheckpointError, StoreError, TrainingError
from vla_ops.files import holder
from vla_ops.training.main import FAILED, REFUSED, main, trainer_command
from vla_ops.training.run import RESULT_FILE, open_run, read_run
from vla_ops.training.stopping import Stopping
from vla_ops_tests.training.arm import Arm
from vla_ops_tests.training.small_training import losses, recipe_of, same_parameters

pytestmark = [pytest.mark.usefixtures("compiled_fast"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def whole(arm: Arm, home: Path) -> Trained:
    """A run that nothing stops."""
    return train(recipe_of(arm), home=home, run="whole", say=lambda _: None)


def test_a_run_has_what_a_run_has(arm: Arm, whole: Trained) -> None:
    assert (whole.how, whole.step, whole.signal) == ("finished", 7, 0)
    assert steps_in(whole.run.folder) == [7]
    told = json.loads(whole.run.file.read_text())
    assert told["transforms_fingerprint"]
    assert told["code_revision"]
    assert read_state(whole.checkpoint)["extra"]["loader"]["position"] == 32
    written = whole.checkpoint / "assets" / "my-lab" / "arm" / "norm_stats.json"
    assert written.read_text() == (Path(arm.stats.origin) / "norm_stats.json").read_text()
    assert [step for step, *_ in losses(whole.run.folder)] == list(range(8))


def test_images_are_resized_as_the_recipe_says(arm: Arm, home: Path, whole: Trained) -> None:
    exact = train(recipe_of(arm, resize="exact"), home=home, run="exact", say=lambda _: None)
    # Images reach the loss once the head of their tower, which begins with zeros, has learned something.
    (_, fast, _), (_, slow, _) = losses(whole.run.folder)[-1], losses(exact.run.folder)[-1]
    assert fast != slow
    assert fast == pytest.approx(slow, rel=0.05)


def test_a_run_that_is_finished_says_so_and_touches_nothing(arm: Arm, home: Path, whole: Trained) -> None:
    said: list[str] = []
    before = whole.checkpoint.stat().st_mtime_ns
    again = train(recipe_of(arm), home=home, run="whole", say=said.append)
    assert "is finished already: finished at step 7" in said[0]
    assert (again.seconds, again.step, whole.checkpoint.stat().st_mtime_ns) == (0.0, 7, before)


def test_a_run_that_was_killed_before_it_wrote_its_result_takes_no_more_steps(arm: Arm, home: Path, whole: Trained) -> None:
    before = losses(whole.run.folder)
    (whole.run.folder / RESULT_FILE).unlink()
    again = train(recipe_of(arm), home=home, run="whole", say=lambda _: None)
    assert (again.how, again.step, losses(again.run.folder)) == ("finished", 7, before)
    assert again.run.result is not None


class StopsAt(Stopping):
    """Stops a run at step 4."""

    asked_times = 0

    @property
    def asked(self) -> int:
        # Asked once a step, and when it is saved.
        self.asked_times += 1
        return signal.SIGTERM if self.asked_times > 4 else 0


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(arm: Arm, home: Path, whole: Trained) -> None:
    stopped = train(recipe_of(arm, workers=1), home=home, run="stopped", say=lambda _: None, stopping=StopsAt())
    assert (stopped.how, stopped.step, stopped.signal) == ("stopped by a signal", 4, signal.SIGTERM)
    resumed = train(recipe_of(arm, log_every=1), home=home, run="stopped", say=lambda _: None)
    assert (resumed.how, resumed.step) == ("finished", 7)
    assert losses(resumed.run.folder) == losses(whole.run.folder)
    assert same_parameters(resumed.checkpoint, whole.checkpoint)


def test_a_second_trainer_in_a_run_is_refused_and_the_first_goes_on(arm: Arm, home: Path, whole: Trained) -> None:
    folder = home / "arm" / "trainings" / "small" / "held"
    second: list[subprocess.CompletedProcess[str]] = []

    def start_another(line: str) -> None:
        if "frames of" in line and not second:
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            second.append(
                subprocess.run(trainer_command(folder / "run.json"), env=environment, capture_output=True, text=True, check=False)
            )

    first = train(recipe_of(arm), home=home, run="held", say=start_another)
    assert second[0].returncode == FAILED
    holds = f"process {os.getpid()} on {socket.gethostname()}"
    assert f"another training writes to this run [file {folder}]; found {holds}. Wait for it, or stop it." in second[0].stderr
    assert holder(folder) is None
    assert losses(folder) == losses(whole.run.folder)
    assert same_parameters(first.checkpoint, whole.checkpoint)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("item", "harm"), [("params", "truncated"), ("train_state", "missing")])
def test_a_damaged_checkpoint_is_not_resumed_from(arm: Arm, home: Path, item: str, harm: str) -> None:
    stopped = train(recipe_of(arm), home=home, run=f"damaged_{item}", say=lambda _: None, stopping=StopsAt())
    files = [file for file in (stopped.checkpoint / item).rglob("*") if file.parent.name == "d"]
    largest = max(files, key=lambda file: file.stat().st_size)
    if harm == "truncated":
        os.truncate(largest, largest.stat().st_size // 2)
    else:
        largest.unlink()
    name = largest.relative_to(stopped.checkpoint)
    found = f"{name}: is missing" if harm == "missing" else rf"{name}: has \d+ bytes instead of \d+"
    where = rf"the checkpoint is damaged \[file {stopped.checkpoint}, array .*\(.*\].*found {found}.* Take an earlier step of the run"
    with pytest.raises(CheckpointError, match=where):
        train(recipe_of(arm), home=home, run=f"damaged_{item}", say=lambda _: None)
    assert steps_in(stopped.run.folder) == [4]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", mounted], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
def test_a_disk_that_is_too_small_is_found_before_the_first_step(arm: Arm, small_disk: Path) -> None:
    said = r"the disk will not hold .*found 0\.01 GB free; expected 0\.0\d GB.* a checkpoint\. Free space there"
    with pytest.raises(TrainingError, match=rf"the training is not started: 1 problem; found disk: {said}"):
        train(recipe_of(arm), home=small_disk, run="full", say=lambda _: None)
    with pytest.raises(StoreError, match=said):
        train(recipe_of(arm), home=small_disk, run="full", say=lambda _: None, check=False)
    folder = small_disk / "arm" / "trainings" / "small" / "full"
    assert losses(folder) == []
    assert holder(folder) is None


def test_what_is_refused_before_the_start_is_told_by_table_and_exit_code(
    arm: Arm, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What `main` sets for the process is taken back.
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    run = open_run(recipe_of(arm, init=str(home / "nowhere")), home, name="refused")
    assert main([str(run.file)]) == FAILED
    told = capsys.readouterr().err
    assert "arm/small: 1 errors" in told
    assert f"the training is not started: 1 problem; found init: there is no checkpoint [file {home / 'nowhere'}]; found nothing" in told
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.5"
    assert main([str(home / "no" / "run.json")]) == REFUSED
    assert "there is no such run" in capsys.readouterr().err


def test_the_process_of_launchers_leaves_jax_nine_tenths_of_a_gpu() -> None:
    code = (
        "import os, sys; from vla_ops.training.main import main\n"
        "assert 'jax' not in sys.modules; assert main(['nowhere']) == 2\n"
        "print(os.environ['XLA_PYTHON_CLIENT_MEM_FRACTION'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_PYTHON_CLIENT_MEM_FRACTION"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "0.9\n"


def test_numbers_that_are_not_finite_stop_the_run_and_name_the_frames(arm: Arm, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, calls = backend.inputs_of, [0]

    def third_is_broken(transforms: Any, batch: Any) -> dict[str, Any]:
        calls[0] += 1
        inputs = plain(transforms, batch)
        return inputs | {"actions": np.full_like(inputs["actions"], np.inf)} if calls[0] == 6 else inputs

    monkeypatch.setattr(backend, "inputs_of", third_is_broken)
    with pytest.raises(TrainingError, match=r"not finite.*step 5.*the last good checkpoint is step 3") as stopped:
        train(recipe_of(arm), home=home, run="broken", say=lambda _: None)
    assert str(stopped.value).count(" frame ") == 4
    folder = home / "arm" / "trainings" / "small" / "broken"
    assert steps_in(folder) == [3]
    assert read_run(folder / "run.json").result is None


@pytest.mark.slow
def test_validation_marks_the_best_checkpoint_and_may_end_the_run(arm: Arm, home: Path) -> None:
    validation = {"every": 2, "batches": 1, "sampling_steps": 2, "early_stop": {"patience": 1, "min_delta": 1e9}}
    recipe = recipe_of(arm, validation=validation, save_every=2, steps=50)
    trained = train(recipe, home=home, run="early", say=lambda _: None)
    assert (trained.how, trained.step) == ("stopped early", 4)
    assert trained.best is not None
    assert (
        read_state(trained.best)["metrics"]["validation/action_error"] == trained.metrics["validation/action_error"]
        or trained.best.name == "2"
    )
    assert train(recipe, home=home, run="early", say=lambda _: None).seconds == 0.0
    (trained.run.folder / RESULT_FILE).unlink()
    again = train(recipe, home=home, run="early", say=lambda _: None)
    assert (again.how, again.step) == ("stopped early", 4)


@pytest.mark.slow
def test_the_loss_falls_in_a_minute(arm: Arm, home: Path) -> None:
    recipe = recipe_of(arm, steps=150, save_every=150, log_every=10, batch_size=8)
    trained = train(recipe, home=home, run="falls", say=lambda _: None)
    lines = losses(trained.run.folder)
    assert np.mean([loss for _, loss, _ in lines[-3:]]) < 0.5 * np.mean([loss for _, loss, _ in lines[:2]])
