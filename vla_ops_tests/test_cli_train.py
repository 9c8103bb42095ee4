"""`vla-ops train` and what `vla-ops status` says of trainings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vla_ops.cli_train import parsed
from vla_ops.errors import SpecError
from vla_ops.training.metrics import read_metrics
from vla_ops.training.run import read_run
from vla_ops_tests.holding import hold_trainer
from vla_ops_tests.lineage.trainings import add_trained_robot, fast, make_dataset, runs_in
from vla_ops_tests.terminal import Terminal, assert_refused


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with robots/arm, and its dataset and norm stats in home."""
    root = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLA_OPS_HOME", str(root / "home"))
        make_dataset(add_trained_robot(root / "robots"))
    return root


@pytest.fixture
def vla_ops(arm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(arm, monkeypatch, capsys)


def test_values_are_read_as_yaml_has_them() -> None:
    assert parsed(("steps=10", "ema=null", "schedule.peak=1e-4", "init=a=b", "augmentation=false", "model.cameras=[a, b]")) == {
        "steps": 10,
        "ema": None,
        "schedule.peak": "1e-4",
        "init": "a=b",
        "augmentation": False,
        "model.cameras": ["a", "b"],
    }
    for wrong in ("steps", "=10"):
        with pytest.raises(SpecError, match="--set takes KEY=VALUE"):
            parsed((wrong,))
    with pytest.raises(SpecError, match="--set steps: the value is no YAML"):
        parsed(("steps=[",))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["arn", "small"], "Did you mean 'arm'?"),
        (["arm", "smal"], "Did you mean 'small'?"),
        (["arm", "small", "--set", "stepz=10"], "did you mean 'steps'?"),
        (["arm", "small", "--set", "schedule.peek=10"], "did you mean 'peak'?"),
        (["arm", "small", "--set", "schedul.peak=10"], "did you mean 'schedule'?"),
        (["arm", "small", "--set", "steps=many"], "steps: Input should be a valid integer"),
        (["arm", "small", "--set", "steps"], "--set takes KEY=VALUE"),
        (["arm", "small", "--new", "--run", "mine"], "Leave one of them out"),
        (["arm", "small", "--run", "../mine"], "a run cannot have this name"),
    ],
)
def test_what_is_mistyped_is_one_message_with_the_nearest_name(vla_ops: Terminal, arm: Path, words: list[str], said: str) -> None:
    assert_refused(vla_ops("train", *words), said)
    assert runs_in(arm / "home") == []


def test_status_says_that_nothing_is_trained_yet(vla_ops: Terminal) -> None:
    ran = vla_ops("status", "arm")
    assert "  training    small: not trained yet: `vla-ops train arm small`" in ran.out


@pytest.fixture(scope="module")
def trained(arm: Path) -> subprocess.CompletedProcess[str]:
    return in_a_process(arm, "--set", "validation=null", "steps=3").communicated()


class Command:
    """`vla-ops train arm small` in a process of its own."""

    def __init__(self, arm: Path, *words: str, environment: Mapping[str, str] | None = None) -> None:
        environment = {**fast(), **(environment or {}), "VLA_OPS_HOME": str(arm / "home"), "VLA_OPS_ROBOTS": str(arm / "robots")}
        command = [sys.executable, "-m", "vla_ops.cli", "train", "arm", "small", *words]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def communicated(self) -> subprocess.CompletedProcess[str]:
        out, err = self.process.communicate(timeout=600)
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out, err)


def in_a_process(arm: Path, *words: str, environment: Mapping[str, str] | None = None) -> Command:
    return Command(arm, *words, environment=environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_from_the_terminal(arm: Path, vla_ops: Terminal, trained: subprocess.CompletedProcess[str]) -> None:
    assert trained.returncode == 0, trained.stderr
    (run,) = runs_in(arm / "home")
    assert trained.stdout.splitlines()[-1] == str(run / "2")
    assert f"{run.name}: finished at step 2, loss" in trained.stdout
    assert "check " in trained.stderr.split("step 0: loss")[0]
    assert json.loads((run / "run.json").read_text())["overrides"] == {"validation": None, "steps": 3}
    assert f"  training    small: {run.name}: finished at step 2, loss" in vla_ops("status", "arm").out
    again = vla_ops("train", "arm", "small", "--set", "validation=null", "steps=3")
    assert (again.code, again.err) == (0, "")
    assert again.out.startswith(f"nothing to do: {run} is finished")
    assert runs_in(arm / "home") == [run]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_and_the_same_command_goes_on(arm: Path, tmp_path: Path, number: signal.Signals) -> None:
    words = ["--set", "validation=null", "steps=20", "save_every=400", f"seed={number.value}"]
    before = set(runs_in(arm / "home"))
    command = in_a_process(arm, *words, environment=hold_trainer(tmp_path / "5", step=5).environment)
    stop_at_work(command.process, arm / "home", before, number)
    ended = command.communicated()
    assert ended.returncode == 128 + number
    assert f"go on with: vla-ops train arm small {' '.join(words)}" in ended.stderr
    (run,) = set(runs_in(arm / "home")) - before
    result = read_run(run / "run.json").result
    assert result is not None
    assert result["how"] == "stopped by a signal"
    assert result["step"] < 19
    went_on = in_a_process(arm, *words).communicated()
    assert went_on.returncode == 0, went_on.stderr
    assert f"resuming after step {result['step']}" in went_on.stderr
    assert set(runs_in(arm / "home")) - before == {run}
    assert [line["step"] for line in read_metrics(run)] == list(range(20))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_the_trainer_refuses_is_its_message_and_exit_code(arm: Path) -> None:
    ended = in_a_process(arm, "--set", "model.action_dim=1").communicated()
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1].startswith("vla-ops: the training is not started: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_check_only_makes_nothing(arm: Path, vla_ops: Terminal) -> None:
    before = sorted((arm / "home").rglob("*"))
    asked = ("train", "arm", "small", "--check-only")
    good, bad = vla_ops(*asked), vla_ops(*asked, "--set", "model.action_dim=1")
    assert (good.code, bad.code) == (0, 1)
    assert "parameters" in good.out
    assert "have no place" in bad.out
    assert sorted((arm / "home").rglob("*")) == before


def stop_at_work(process: subprocess.Popen[Any], home: Path, before: set[Path], number: signal.Signals) -> None:
    """Send the signal to a process whose trainer is some steps into a run that was not there before."""
    deadline = time.monotonic() + 500
    while not any(len(read_metrics(run)) > 5 for run in set(runs_in(home)) - before):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, number)
