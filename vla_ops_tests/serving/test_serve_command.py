"""`vla-ops serve`, and the real openpi-client in an environment of its own."""

# ruff: noqa: S105, S106 - what is secret in a test
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vla_ops.cli_serve import Serve
from vla_ops.errors import PolicyError, SpecError, StatsMismatchError
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.policy import Policy
from vla_ops.robot_file import COMPONENT_TYPE
from vla_ops.serving.service import PolicyService
from vla_ops.training.run import Run
from vla_ops_tests.isolated import run_isolated
from vla_ops_tests.policies.small_run import make_run, seen
from vla_ops_tests.training.mixed_run import make_mixed_run
from vla_ops_tests.training.untrained import asset_id_of

CLIENT = """
import json, sys
import numpy as np
from openpi_client import websocket_client_policy

port, folder = int(sys.argv[1]), sys.argv[2]
policy = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port, api_key="s3cret")
seen = np.load(f"{folder}/seen.npz")
images = {"cam_high": seen["cam_high"].transpose(2, 0, 1), "cam_left_wrist": seen["cam_wrist"].transpose(2, 0, 1)}
aloha = {"state": seen["state"], "images": images, "prompt": "pick it"}
libero = {
    "observation/state": seen["state"], "observation/image": seen["cam_high"], "observation/wrist_image": seen["cam_wrist"],
    "prompt": "pick it",
}
droid = {
    "observation/joint_position": seen["state"][:2], "observation/gripper_position": seen["state"][2:],
    "observation/exterior_image_1_left": seen["cam_high"], "observation/wrist_image_left": seen["cam_wrist"], "prompt": "pick it",
}
replies = [policy.infer(asked) for asked in (aloha, libero, droid)]
try:
    policy.infer({"state": seen["state"]})
except RuntimeError as error:
    said = str(error)
replies.append(policy.infer(aloha))
np.save(f"{folder}/actions.npy", np.stack([reply["actions"] for reply in replies]))
told = {"metadata": policy.get_server_metadata(), "said": said}
told |= {"timing": replies[-1]["server_timing"], "stages": replies[-1]["policy_timing"]}
json.dump(told, open(f"{folder}/told.json", "w"))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("served"))


@contextmanager
def served(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`vla-ops serve` as a process, and its port."""
    command = [sys.executable, "-m", "vla_ops.cli", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        dog = threading.Timer(600, process.kill)
        dog.start()
        try:
            line = next((line for line in process.stdout if line.startswith("serving on")), "")
            assert line, process.wait()
            yield process, int(line.rsplit(":", 1)[1])
        finally:
            dog.cancel()
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_openpis_own_client_gets_the_actions_of_infer(run: Run, tmp_path: Path) -> None:
    there = seen()
    np.savez(tmp_path / "seen.npz", state=there.state, **there.images)
    with served("arm/small", "--token-env", "TOKEN", VLA_OPS_HOME=str(run.home), TOKEN="s3cret") as (process, port):
        # It imports typing_extensions without asking for it.
        run_isolated(["openpi-client", "typing-extensions"], CLIENT, port, tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    policy = Policy.load("arm/small", home=run.home)
    expected = np.stack([policy.infer(there) for _ in range(4)])
    actions = np.load(tmp_path / "actions.npy")
    assert actions.dtype == np.float64
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["metadata"]["robot"] == "arm"
    assert told["metadata"]["actions"] == [["j1", "rad"], ["j2", "rad"], ["gripper", "m"]]
    assert "lacks images/cam_high, images/cam_wrist" in told["said"]
    assert set(told["timing"]) == {"infer_ms", "prev_total_ms"}
    assert set(told["stages"]) == {"infer_ms", "transform_ms", "prefix_ms", "denoise_ms", "inverse_ms"}


@pytest.fixture
def robots(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of robots with the arm in it, and a store with a checkpoint that says nothing of a robot."""
    attributes = run.recipe.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"trainings"})
    (tmp_path / "robots" / "arm").mkdir(parents=True)
    (tmp_path / "robots" / "arm" / "defs.yaml").write_text(yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "7").symlink_to(run.folder / "7")
    monkeypatch.setenv("VLA_OPS_ROBOTS", str(tmp_path / "robots"))
    monkeypatch.setenv("VLA_OPS_HOME", str(run.home))
    return tmp_path


def serving(**given: Any) -> Serve:
    return Serve(settings=("tokenizer=bytes", "model.max_token_len=120", "model.dtype=float32"), **given)


@pytest.mark.slow
def test_a_checkpoint_is_served_for_a_robot_that_is_named(run: Run, robots: Path) -> None:
    there = str(robots / "foreign" / "7")
    policy = serving(robot="arm", checkpoint=there, norm_stats=asset_id_of(run))._policy()
    known = Policy.load(run.folder, options=BackendOptions())
    np.testing.assert_allclose(policy.infer(seen()), known.infer(seen()), atol=1e-6)


def test_without_a_choice_of_norm_stats_it_is_refused(run: Run, robots: Path) -> None:
    there = str(robots / "foreign" / "7")
    with pytest.raises(StatsMismatchError, match=f"which norm stats.*{asset_id_of(run)}"):
        serving(robot="arm", policy=there)._policy()
    with pytest.raises(PolicyError, match="are for --robot"):
        Serve(policy="arm/small", norm_stats="own")._policy()


def test_a_source_of_a_mixture_is_served_for_its_own_robot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = make_mixed_run(tmp_path)
    monkeypatch.setenv("VLA_OPS_HOME", str(mixed.home))
    policy = Serve(policy="both/small", source="right", sampling_steps=1)._policy()
    layouts = PolicyService(policy).metadata["layouts"]
    assert layouts["vla-ops"]["images"] == {"images/cam_top": "cam_top", "images/cam_right": "cam_right"}
    with pytest.raises(PolicyError, match=r"several robots.*left or right.*--source left"):
        Serve(policy="both/small")._policy()


def test_what_is_served_must_be_said_once(robots: Path) -> None:
    for given in ({}, {"policy": "a", "checkpoint": "b"}):
        with pytest.raises(SpecError, match="which policy"):
            Serve(**given)._policy()


def test_a_token_that_is_not_there_is_said_and_a_token_that_is_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    with pytest.raises(PolicyError, match="TOKEN is empty"):
        Serve(policy="a", token_env="TOKEN")._options()
    monkeypatch.setenv("TOKEN", "s3cret")
    options = Serve(policy="a", token_env="TOKEN")._options()
    assert options.token == "s3cret"
    assert "s3cret" not in repr(options)
