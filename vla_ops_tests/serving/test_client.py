"""The robot-side client against our server, and in the oldest Python that it is for."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import vla_ops_client.wire as theirs  # pyright: ignore[reportMissingImports]
from vla_ops_client import ActionChunkBroker, ConnectionLost, PolicyClient, PolicyError  # pyright: ignore[reportMissingImports]

from vla_ops.policies.policy import Policy
from vla_ops.policies.real_time import RealTime
from vla_ops.policies.setup import make_setup
from vla_ops.serving import wire as ours
from vla_ops.serving.options import ServerOptions
from vla_ops.serving.server import PolicyServer, running
from vla_ops.serving.service import PolicyService
from vla_ops_tests.isolated import _NO_NETWORK
from vla_ops_tests.policies.small_run import make_run, message, seen
from vla_ops_tests.serving.talking import Echo, doubling_policy, kept_port
from vla_ops_tests.serving.test_wire import EXAMPLES

PACKAGE = Path(__file__).resolve().parents[2] / "packages" / "vla-ops-client"
# The Makefile's, which looks where uv does not, or one that uv finds or fetches.
OLDEST = os.environ.get("VLA_OPS_OLDEST_PYTHON") or "3.8"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    setup = make_setup(make_run(tmp_path_factory.mktemp("client")).folder / "7")
    return doubling_policy(setup, setup.transforms(), real_time=RealTime())


@pytest.fixture
def server(policy: Policy) -> Iterator[PolicyServer]:
    with running(PolicyService(policy), ServerOptions(port=0, token="s3cret")) as server:  # noqa: S106 - a test's
        yield server


def client_of(server: PolicyServer, **given: Any) -> Any:
    return PolicyClient(server.uri, token="s3cret", **given)  # noqa: S106 - a test's


# The wire


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_bytes_are_the_servers(name: str) -> None:
    assert theirs.pack(EXAMPLES[name]) == ours.pack(EXAMPLES[name])
    np.testing.assert_equal(theirs.unpack(ours.pack(EXAMPLES[name])), EXAMPLES[name])


def test_arrays_of_objects_are_neither_sent_nor_read() -> None:
    with pytest.raises(ValueError, match="Unsupported dtype"):
        theirs.pack(np.array([object()]))
    with pytest.raises(ValueError, match="Unsupported dtype"):
        theirs.unpack(ours.pack(np.arange(2)).replace(b"<i8", b"|O8"))


# Requests


def test_it_gets_the_actions_of_infer_and_what_the_server_says_of_its_policy(server: PolicyServer, policy: Policy) -> None:
    noise = policy.draw_noise(1)[0]
    with client_of(server) as client:
        reply = client.infer({**message(), "noise": noise})
    np.testing.assert_array_equal(reply["actions"], policy.infer(seen(), noise=noise))
    assert client.metadata["cameras"] == ["cam_high", "cam_wrist"]


def test_what_is_wrong_is_told_and_the_next_request_is_answered(server: PolicyServer) -> None:
    with client_of(server) as client:
        with pytest.raises(PolicyError, match="lacks images/cam_high"):
            client.infer({"state": np.zeros(3)})
        assert client.infer(message())["actions"].shape == (6, 3)


def test_a_server_that_is_not_there_or_does_not_let_it_in_is_an_error_at_once(server: PolicyServer) -> None:
    # An hour is more than any test is given.
    with pytest.raises(ConnectionLost, match="401"):
        PolicyClient(server.uri, token="wrong", reconnect_s=3600)  # noqa: S106 - a test's
    with kept_port() as nobodys, pytest.raises(ConnectionLost, match="refused"):
        PolicyClient(f"ws://127.0.0.1:{nobodys}")


def test_it_waits_for_a_server_that_starts_later_and_comes_back_after_a_restart() -> None:
    found: list[Any] = []

    def ask() -> None:
        with PolicyClient(f"ws://127.0.0.1:{port}", reconnect_s=120) as client:
            for n in range(2):
                found.append(client.infer({"n": n})["echo"])
                asked.set()
                again.wait(120)

    asked, again = threading.Event(), threading.Event()
    with kept_port() as port:
        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.3)
        with running(Echo(), ServerOptions(port=port)):
            assert asked.wait(120)
        with running(Echo(), ServerOptions(port=port)):
            again.set()
            thread.join(120)
    assert found == [{"n": 0}, {"n": 1}]


def test_a_reply_that_does_not_come_ends_the_connection_so_that_it_is_not_taken_for_the_next() -> None:
    echo = Echo()
    with running(echo, ServerOptions(port=0)) as server, PolicyClient(server.uri, timeout_s=0.2) as client:
        echo.hold.clear()
        with pytest.raises(ConnectionLost, match=r"timed out|no reply"):
            client.infer({"n": "late"})
        # What is answered at once may take as long as this machine needs for it.
        client.timeout_s = 60
        echo.hold.set()
        assert client.infer({"n": "next"})["echo"] == {"n": "next"}


# Chunks


class Counting:
    """A policy whose chunk k is 100 k, 100 k + 1, ...; it takes as long as it is told."""

    def __init__(self, horizon: int = 10) -> None:
        self.horizon, self.asked = horizon, []  # type: ignore[var-annotated]
        self.go = threading.Event()
        self.go.set()

    def infer(self, observation: Any) -> Any:
        assert self.go.wait(60)
        self.asked.append(observation["step"])
        return {"actions": 100 * len(self.asked) + np.arange(self.horizon, dtype=float)[:, None]}


def acted(broker: Any, steps: int) -> list[int]:
    return [int(broker.act({"step": step})[0]) for step in range(steps)]


def test_a_chunk_is_carried_out_to_its_end_or_as_far_as_is_asked() -> None:
    policy = Counting(horizon=3)
    assert acted(ActionChunkBroker(policy), 7) == [100, 101, 102, 200, 201, 202, 300]
    assert policy.asked == [0, 3, 6]
    assert acted(ActionChunkBroker(Counting(), steps=2), 5) == [100, 101, 200, 201, 300]


def test_a_chunk_that_was_asked_for_ahead_begins_where_the_robot_is_by_then() -> None:
    policy = Counting()
    broker = ActionChunkBroker(policy, steps=6, ahead=2)
    # Asked at step 4 of the first chunk, for which two more steps are carried out: the new one begins with its third.
    assert acted(broker, 10) == [100, 101, 102, 103, 104, 105, 202, 203, 204, 205]
    assert policy.asked[:2] == [0, 4]
    broker.close()


def test_the_robot_does_not_wait_while_steps_are_left() -> None:
    policy = Counting()
    broker = ActionChunkBroker(policy, steps=6, ahead=3)
    acted(broker, 3)
    # Nothing is answered before it goes on.
    policy.go.clear()
    assert [int(broker.act({"step": step})[0]) for step in (3, 4, 5)] == [103, 104, 105]
    assert policy.asked == [0]
    policy.go.set()
    assert int(broker.act({"step": 6})[0]) == 203
    broker.close()


def test_after_a_reset_the_next_observation_is_asked_about() -> None:
    policy = Counting()
    broker = ActionChunkBroker(policy)
    acted(broker, 2)
    broker.reset()
    assert acted(broker, 1) == [200]


def test_an_error_of_a_chunk_that_was_asked_for_ahead_is_raised_when_it_is_needed() -> None:
    policy = Counting()
    broker = ActionChunkBroker(policy, steps=3, ahead=1)
    acted(broker, 2)
    policy.infer = lambda observation: (_ for _ in ()).throw(PolicyError("blind"))  # type: ignore[method-assign]
    assert int(broker.act({"step": 2})[0]) == 102
    with pytest.raises(PolicyError, match="blind"):
        broker.act({"step": 3})
    broker.close()


class Remembering(Counting):
    """A policy that sees 3 steps, and what it was sent."""

    metadata: ClassVar = {"observation_steps": 3}

    def infer(self, observation: Any) -> Any:
        self.asked.append(observation)
        return {"actions": np.zeros((self.horizon, 1))}


def test_of_a_policy_that_sees_several_steps_the_last_ones_are_sent_together() -> None:
    policy = Remembering(horizon=2)
    broker = ActionChunkBroker(policy)
    image = np.zeros((2, 2, 3), np.uint8)
    for k in range(5):
        image[:] = k
        broker.act({"state": np.float32([k, -k]), "images": {"cam": image}, "prompt": "go", "n": 7})
    first, second, third = policy.asked
    # Asked at steps 0, 2 and 4; before the first there was none.
    assert [list(sent["state"][:, 0]) for sent in policy.asked] == [[0, 0, 0], [0, 1, 2], [2, 3, 4]]
    assert (third["state"].dtype, third["images"]["cam"].shape, third["prompt"]) == (np.float32, (3, 2, 2, 3), "go")
    assert list(second["images"]["cam"][:, 0, 0, 0]) == [0, 1, 2]
    broker.reset()
    broker.act({"state": np.float32([9, 9]), "images": {"cam": image}, "prompt": "go", "n": 7})
    assert policy.asked[-1]["state"][:, 0].tolist() == [9, 9, 9]
    assert first["prompt"] == "go"


@pytest.mark.parametrize(("steps", "ahead"), [(0, 0), (2, 2), (5, -1)])
def test_steps_that_make_no_sense_are_refused(steps: int, ahead: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        ActionChunkBroker(Counting(), steps=steps, ahead=ahead)


# The oldest Python


def test_its_syntax_is_that_of_the_oldest_python() -> None:
    files = sorted((PACKAGE / "src").rglob("*.py"))
    assert {"client.py", "broker.py", "wire.py"} <= {file.name for file in files}
    assert all(ast.parse(file.read_text(), feature_version=(3, 8)).body for file in files)
    with pytest.raises(SyntaxError):
        ast.parse("match 1:\n    case 1:\n        pass", feature_version=(3, 8))


PROGRAM = """
import sys
import numpy as np
from vla_ops_client import ActionChunkBroker, PolicyClient, PolicyError, RealTimeBroker

with PolicyClient(sys.argv[1], token="s3cret") as client:
    image = np.zeros((48, 64, 3), np.uint8)
    there = {"state": np.zeros(3, np.float32), "images": {"cam_high": image, "cam_wrist": image.transpose(2, 0, 1)}, "prompt": "go"}
    broker = ActionChunkBroker(client, steps=4, ahead=2)
    actions = np.stack([broker.act(there) for _ in range(12)])
    broker.close()
    assert actions.shape == (12, 3) and np.isfinite(actions).all(), actions
    broker = RealTimeBroker(client)
    actions = np.stack([broker.act(there) for _ in range(12)])
    broker.close()
    assert actions.shape == (12, 3) and np.isfinite(actions).all(), actions
    try:
        client.infer({"state": there["state"]})
    except PolicyError as error:
        assert "lacks images/cam_high" in str(error), error
    else:
        raise AssertionError("no error")
"""


@pytest.mark.slow  # its environment has to be made
@pytest.mark.timeout(1200)
def test_it_runs_in_the_oldest_python(server: PolicyServer) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not there to make the environment")
    command = ["uv", "run", "--isolated", "--no-project", "--python", OLDEST, "--with", str(PACKAGE), "python", "-c"]
    environment = {name: value for name, value in os.environ.items() if name != "UV_PYTHON"}
    made = subprocess.run([*command, "pass"], env=environment, capture_output=True, text=True, check=False)
    if made.returncode and (_NO_NETWORK.search(made.stderr) or "No interpreter found" in made.stderr):
        pytest.skip(f"Python {OLDEST} cannot be had here: {made.stderr[-200:]}")
    assert made.returncode == 0, made.stderr[-3000:]
    ran = subprocess.run([*command, PROGRAM, server.uri], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.slow
def test_openpis_own_server_answers_it(tmp_path: Path) -> None:
    root = os.environ.get("OPENPI_ROOT")
    if not root:
        pytest.skip("OPENPI_ROOT is not set")
    program = """
import sys
import numpy as np
from openpi.serving.websocket_policy_server import WebsocketPolicyServer

class Echo:
    def infer(self, observation):
        return {"actions": observation["state"][None] * np.ones((4, 1)), "policy_timing": {"infer_ms": 1.0}}

WebsocketPolicyServer(Echo(), host="127.0.0.1", port=int(sys.argv[1]), metadata={"name": "theirs"}).serve_forever()
"""
    with running(Echo(), ServerOptions(port=0)) as free:
        port = free.port
    # Its server needs no more than ours does.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([f"{root}/src", f"{root}/packages/openpi-client/src"])}
    with subprocess.Popen([sys.executable, "-c", program, str(port)], env=environment) as process:
        try:
            with PolicyClient(f"ws://127.0.0.1:{port}", reconnect_s=240) as client:
                assert client.metadata == {"name": "theirs"}
                actions = client.infer({"state": np.array([1.0, 2.0])})["actions"]
                with pytest.raises(PolicyError, match="KeyError"):
                    client.infer({})
        finally:
            process.kill()
    np.testing.assert_array_equal(actions, [[1, 2]] * 4)
