"""LeRobot's policies behind the server, as each client sends its observations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from vla_ops_client import ActionChunkBroker, PolicyClient, PolicyError  # pyright: ignore[reportMissingImports]

from vla_ops.cli_serve import Serve
from vla_ops.errors import PolicyError as LocalPolicyError
from vla_ops.policies.policy import Policy
from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Source
from vla_ops.robot_file import COMPONENT_TYPE
from vla_ops.serving.layouts import layouts_of, message_of
from vla_ops.serving.options import ServerOptions
from vla_ops.serving.recorder import McapRecorder
from vla_ops.serving.server import running
from vla_ops.serving.service import PolicyService
from vla_ops_tests.policies import lerobot_made as made
from vla_ops_tests.policies.lerobot_made import ROBOT_FILE, seen

pytestmark = pytest.mark.slow

LAYOUTS = layouts_of(ROBOT_FILE.spec, made.CAMERAS)


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_act(tmp_path_factory.mktemp("served") / "act")


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("diffusers", reason="diffusers is not installed: uv sync --extra policies")
    return made.make_diffusion(tmp_path_factory.mktemp("served") / "diffusion")


def load(folder: Path) -> Policy:
    return Policy.load(folder, robot=ROBOT_FILE)


def widths(layout: Any) -> list[int] | None:
    return None if len(layout.state) == 1 else [2, 1]


def test_every_client_gets_the_actions_of_infer(act: Path) -> None:
    policy = load(act)
    expected = policy.infer(seen(1))
    with running(PolicyService(policy), ServerOptions(port=0)) as server, PolicyClient(server.uri) as client:
        assert {layout.name for layout in LAYOUTS} == set(client.metadata["layouts"]) >= {"aloha", "libero", "droid", "lerobot"}
        for layout in LAYOUTS:
            reply = client.infer(message_of(layout, seen(1), widths(layout)))
            np.testing.assert_allclose(reply["actions"], expected, atol=1e-6)
        assert set(reply["policy_timing"]) == {"infer_ms", "transform_ms", "model_ms", "inverse_ms"}
        with pytest.raises(PolicyError, match=r"not of the size.*expected \(48, 64, 3\)"):
            client.infer(message_of(LAYOUTS[0], seen(1, size=(30, 40))))
        with pytest.raises(PolicyError, match="draws its noise itself"):
            client.infer(message_of(LAYOUTS[0], seen(1)) | {"noise": np.zeros((6, 3), np.float32)})
        np.testing.assert_allclose(client.infer(message_of(LAYOUTS[0], seen(1)))["actions"], expected, atol=1e-6)


def test_two_clients_that_ask_in_turn_get_what_each_would_get_alone(act: Path) -> None:
    policy = load(act)
    one, two = policy.infer(seen(1)), policy.infer(seen(2))
    with (
        running(PolicyService(policy), ServerOptions(port=0)) as server,
        PolicyClient(server.uri) as first,
        PolicyClient(server.uri) as second,
    ):
        for _ in range(3):
            np.testing.assert_allclose(first.infer(message_of(LAYOUTS[0], seen(1)))["actions"], one, atol=1e-6)
            np.testing.assert_allclose(second.infer(message_of(LAYOUTS[0], seen(2)))["actions"], two, atol=1e-6)


def test_the_broker_sends_the_steps_that_a_diffusion_policy_sees(diffusion: Path) -> None:
    policy, same = load(diffusion), load(diffusion)
    there = [seen(seed) for seed in range(6)]
    with running(PolicyService(policy), ServerOptions(port=0)) as server, PolicyClient(server.uri) as client:
        assert client.metadata["observation_steps"] == 2
        broker = ActionChunkBroker(client)
        actions = np.stack([broker.act(message_of(LAYOUTS[0], one)) for one in there])
        with pytest.raises(PolicyError, match=r"not the last 2 RGB images.*ActionChunkBroker"):
            client.infer(message_of(LAYOUTS[0], there[0]))
    # The first chunk at step 0, when there was no earlier one, the second at step 4.
    first = same.infer(replace(there[0], past=(there[0],)))
    second = same.infer(replace(there[4], past=(there[3],)))
    np.testing.assert_allclose(actions, np.concatenate([first, second])[:6], atol=1e-6)


def test_what_a_robot_with_steps_sees_is_recorded_once(diffusion: Path, tmp_path: Path) -> None:
    service = PolicyService(load(diffusion))
    with (
        McapRecorder(tmp_path, service) as recorder,
        running(service, ServerOptions(port=0), recorder=recorder) as server,
        PolicyClient(server.uri) as client,
    ):
        client.infer(message_of(LAYOUTS[0], seen(past=1)))
    assert recorder.left_out == 0
    (file,) = tmp_path.glob("*.mcap")
    with open_recording(str(file), "mcap", OpenOptions()) as recording:
        (span,) = recording.spans()
        states = recording.numbers(Source.parse("/state.position"), span)
        np.testing.assert_allclose(states.values, [seen(past=1).state], rtol=1e-6)


def test_serve_needs_only_the_robot(act: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = ROBOT_FILE.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    folder = tmp_path / "robots" / ROBOT_FILE.name
    folder.mkdir(parents=True)
    (folder / "defs.yaml").write_text(yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}))
    monkeypatch.setenv("VLA_OPS_ROBOTS", str(tmp_path / "robots"))
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    served = Serve(policy=str(act), robot=ROBOT_FILE.name)._policy()
    np.testing.assert_array_equal(served.infer(seen()), load(act).infer(seen()))
    with pytest.raises(LocalPolicyError, match=r"as its own files say.*training"):
        Serve(policy=str(act), robot=ROBOT_FILE.name, settings=("model.max_token_len=64",))._policy()
