"""A Dagster run that trains and is terminated or killed: the trainer saves, and the next run goes on in the same folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml

from vla_ops.files import holder
from vla_ops.training.metrics import read_metrics
from vla_ops.training.run import read_run
from vla_ops_tests.holding import Hold, hold_trainer
from vla_ops_tests.lineage.trainings import SMALL, add_trained_robot, fast, make_dataset, runs_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = 20


class Project:
    """A robot, its home and a DAGSTER_HOME, and `dagster job execute` in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.dagster = root, root / "home", root / "dagster"
        self.dagster.mkdir()
        self.environment = {**fast(), "VLA_OPS_HOME": str(self.home), "DAGSTER_HOME": str(self.dagster), "PYTHONWARNINGS": "ignore"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VLA_OPS_HOME", str(self.home))
            self.folder = add_trained_robot(root, {"small": {**SMALL, "validation": None, "steps": STEPS, "save_every": STEPS}})
            make_dataset(self.folder)

    def execute(self, hold: Hold | None = None, **config: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(self.folder / "defs.py"), "-j", "arm_train"]
        if config:
            file = self.root / f"{'_'.join(map(str, config.values()))}.yaml"
            file.write_text(yaml.safe_dump({"ops": {"arm__small__checkpoint": {"config": config}}}))
            command += ["-c", str(file)]
        with (self.root / "out.txt").open("w") as out:
            environment = {**self.environment, **(hold.environment if hold else {})}
            return subprocess.Popen(command, env=environment, stdout=out, stderr=out, text=True, start_new_session=True)

    def stop(self, number: signal.Signals, *, seed: int) -> Path:
        """Begin a run, send the signal when its trainer is at work, and return the run's folder."""
        before = set(runs_in(self.home))
        process = self.execute(hold_trainer(self.root / f"held_{seed}", step=5), seed=seed)
        deadline = time.monotonic() + 400
        while not any(len(read_metrics(run)) > 5 for run in set(runs_in(self.home)) - before):
            assert process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)
        os.kill(process.pid, number)
        process.wait(600)
        (run,) = set(runs_in(self.home)) - before
        return run

    @property
    def said(self) -> str:
        return (self.root / "out.txt").read_text()

    def last_run(self) -> dg.DagsterRun:
        with dg.DagsterInstance.from_config(str(self.dagster)) as instance:
            return instance.get_runs(limit=1)[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("stopped"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_terminated_saves_and_the_same_again_goes_on(project: Project, number: signal.Signals) -> None:
    run = project.stop(number, seed=int(number))
    assert "waiting for the trainer to save a checkpoint" in project.said
    result = read_run(run / "run.json").result
    assert result is not None
    assert result["how"] == "stopped by a signal"
    assert (run / str(result["step"])).is_dir()
    assert result["step"] < STEPS - 1
    # Neither the trainer's failure nor this project's code: the step was interrupted.
    assert "DagsterExecutionInterruptedError" in project.said
    assert "dg.Failure" not in project.said
    before = runs_in(project.home)
    again = project.execute(seed=int(number))
    assert again.wait(600) == 0, project.said
    assert f"resuming after step {result['step']}" in (run / "log.txt").read_text()
    assert runs_in(project.home) == before
    assert [line["step"] for line in read_metrics(run)] == list(range(STEPS))
    assert project.last_run().status is dg.DagsterRunStatus.SUCCESS


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_run_that_is_killed_leaves_a_trainer_that_saves_and_ends(project: Project) -> None:
    run = project.stop(signal.SIGKILL, seed=9)
    deadline = time.monotonic() + 400
    while holder(run) is not None or read_run(run / "run.json").result is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    result = read_run(run / "run.json").result
    assert result is not None
    assert (result["how"], result["signal"]) == ("stopped by a signal", signal.SIGTERM)
