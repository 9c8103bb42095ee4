"""Several devices and several hosts: the same steps as one, and an end for all when one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_ops.checkpoints.layout import open_checkpoint, steps_in
from vla_ops.checkpoints.reading import read_params
from vla_ops.training.main import trainer_command
from vla_ops.training.metrics import read_metrics
from vla_ops.training.recipe import Recipe
from vla_ops.training.run import Run, open_run, read_run
from vla_ops_tests.holding import Hold, hold_trainer
from vla_ops_tests.training.arm import Arm
from vla_ops_tests.training.small_training import losses, recipe_of, same_parameters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

STEPS: dict[str, Any] = {"steps": 12, "save_every": 4, "validation": {"every": 4, "batches": 1, "sampling_steps": 2}}
_LAST = "11"
_DEADLINE_S = 1000


@pytest.fixture(scope="module")
def recipe(arm: Arm) -> Recipe:
    # A table of 4 MiB, so that there is something to cut; float32, so that only the order of sums differs.
    model = {**recipe_of(arm).to_json()["training"]["model"], "vocab_size": 32_768, "dtype": "float32"}
    return recipe_of(arm, model=model, **STEPS)


@pytest.fixture(scope="module")
def one(recipe: Recipe, home: Path) -> Run:
    """A run on one device."""
    run = open_run(recipe, home, name="one")
    _finish(run, devices=1)
    return run


@pytest.fixture(scope="module")
def two(recipe: Recipe, home: Path) -> Run:
    """A run on two hosts of two devices each, the large table cut over all four."""
    run = open_run(recipe.with_overrides({"fsdp_devices": 4}), home, name="two")
    hosts = _start_hosts(run)
    said = [host.communicate(timeout=_DEADLINE_S)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(said)[-6000:]
    return run


def _environment(devices: int) -> dict[str, str]:
    flags = f"--xla_backend_optimization_level=1 --xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def _finish(run: Run, *, devices: int) -> None:
    done = subprocess.run(
        trainer_command(run.file), env=_environment(devices), capture_output=True, text=True, timeout=_DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _start_hosts(run: Run, hold: Hold | None = None) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [*trainer_command(run.file), "--coordinator", where, "--processes", "2", "--process", str(k)],
            env=_environment(2) | dict(hold.environment if hold else {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for k in range(2)
    ]


def _assert_as_one(run: Run, one: Run, *, devices: int) -> None:
    """The same losses, validations and parameters but for the order of sums."""
    there, here = losses(one.folder), losses(run.folder)
    assert [step for step, *_ in here] == [step for step, *_ in there] == list(range(STEPS["steps"]))
    np.testing.assert_allclose(here, there, rtol=2e-4)
    first, second = (read_params(open_checkpoint(made.folder / _LAST)) for made in (one, run))
    assert first.keys() == second.keys()
    for path in first:
        np.testing.assert_allclose(second[path], first[path], atol=2e-4, err_msg=path)
    results = [read_run(made.file).result for made in (one, run)]
    assert results[0] is not None
    assert results[1] is not None
    assert (results[0]["devices"], results[1]["devices"]) == (1, devices)
    for name in ("validation/loss", "validation/action_error"):
        assert results[1]["metrics"][name] == pytest.approx(results[0]["metrics"][name], rel=1e-3), name


def test_parameters_cut_over_four_devices_take_the_steps_of_one(recipe: Recipe, home: Path, one: Run) -> None:
    run = open_run(recipe.with_overrides({"fsdp_devices": 4}), home, name="four")
    _finish(run, devices=4)
    _assert_as_one(run, one, devices=4)


def test_two_hosts_take_the_steps_of_one(one: Run, two: Run) -> None:
    _assert_as_one(two, one, devices=4)
    assert steps_in(two.folder) == steps_in(one.folder)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_host_is_killed_the_other_ends_with_an_error_and_both_go_on(
    recipe: Recipe, home: Path, two: Run, tmp_path: Path, victim: int
) -> None:
    run = open_run(recipe.with_overrides({"fsdp_devices": 4}), home, name=f"killed_{victim}")
    # The first host waits after the step, and the second for the first.
    hold = hold_trainer(tmp_path / "6", step=6)
    hosts = _start_hosts(run, hold)
    deadline = time.monotonic() + _DEADLINE_S
    while not any(line["step"] >= 6 for line in read_metrics(run.folder)):
        assert [host.poll() for host in hosts] == [None, None], "a host ended before one was to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    hosts[victim].send_signal(signal.SIGKILL)
    hold.release()
    said = [host.communicate(timeout=_DEADLINE_S)[1] for host in hosts]
    assert hosts[victim].returncode == -signal.SIGKILL
    assert hosts[1 - victim].returncode not in (0, None), said[1 - victim][-3000:]
    assert _LAST not in map(str, steps_in(run.folder))
    hosts = _start_hosts(run)
    said = [host.communicate(timeout=_DEADLINE_S)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(said)[-6000:]
    assert losses(run.folder) == losses(two.folder)
    assert same_parameters(run.folder / _LAST, two.folder / _LAST)
