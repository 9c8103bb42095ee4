"""What a robot saw and was told is a recording again."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vla_ops.policies.policy import Policy
from vla_ops.policies.setup import make_setup
from vla_ops.recordings import open_recording
from vla_ops.recordings.base import OpenOptions, Source
from vla_ops.serving.recorder import McapRecorder
from vla_ops.serving.server import running
from vla_ops.serving.service import PolicyService
from vla_ops_tests.policies.small_run import make_run, message, seen
from vla_ops_tests.serving.talking import asked, doubling_policy, talking

STEPS = 6


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    setup = make_setup(make_run(tmp_path_factory.mktemp("recorded")).folder / "7")
    return doubling_policy(setup, setup.transforms())


def recorded(policy: Policy, folder: Path, prompts: list[str], *, pause_s: float = 0.06) -> list[Any]:
    """The replies to a request for each prompt, of one connection."""
    service = PolicyService(policy)
    with McapRecorder(folder, service) as recorder, running(service, recorder=recorder) as server, talking(server) as client:
        replies = []
        for k, prompt in enumerate(prompts):
            replies.append(asked(client, {**message(k), "prompt": prompt}))
            time.sleep(pause_s)
    assert recorder.left_out == 0
    return replies


def test_states_images_and_prompt_come_back_as_they_came(policy: Policy, tmp_path: Path) -> None:
    replies = recorded(policy, tmp_path, ["pick it"] * STEPS)
    (file,) = tmp_path.iterdir()
    with open_recording(str(file), "mcap", OpenOptions()) as recording:
        (span,) = recording.spans()
        assert span.task == "pick it"
        states = recording.numbers(Source.parse("/state.position"), span)
        np.testing.assert_allclose(states.values, [seen(k).state for k in range(STEPS)], rtol=1e-6)
        for camera in ("cam_high", "cam_wrist"):
            stream = recording.images(Source.parse(f"/{camera}/image/compressed"), span)
            images = [np.asarray(Image.open(io.BytesIO(packet.data))) for packet in stream.packets(range(STEPS))]
            np.testing.assert_array_equal(images, [seen(k).images[camera] for k in range(STEPS)])
        actions = recording.numbers(Source.parse("/action.position"), span)
        first = np.searchsorted(actions.stamps_ns, states.stamps_ns)
        np.testing.assert_allclose(actions.values[first], [reply["actions"][0] for reply in replies], rtol=1e-12)


def test_of_a_chunk_what_was_due_before_the_next_request_is_written(policy: Policy, tmp_path: Path) -> None:
    replies = recorded(policy, tmp_path, ["pick it"] * 2, pause_s=0.25)
    (file,) = tmp_path.iterdir()
    with open_recording(str(file), "mcap", OpenOptions()) as recording:
        (span,) = recording.spans()
        asked_ns = recording.numbers(Source.parse("/state.position"), span).stamps_ns
        actions = recording.numbers(Source.parse("/action.position"), span)
    step_ns = round(1e9 / policy.setup.spec.timeline.rate_hz)
    # A quarter of a second, or however much later the second request came.
    due = min(len(replies[0]["actions"]), -(-int(asked_ns[1] - asked_ns[0]) // step_ns))
    assert due >= min(len(replies[0]["actions"]), 0.25e9 // step_ns)
    # Of the last chunk there is the first action.
    assert len(actions.values) == due + 1
    np.testing.assert_allclose(actions.values[:due], replies[0]["actions"][:due], rtol=1e-12)
    assert np.diff(actions.stamps_ns[:due]).tolist() == [step_ns] * (due - 1)


def test_another_prompt_begins_another_recording(policy: Policy, tmp_path: Path) -> None:
    recorded(policy, tmp_path, ["pick it", "pick it", "place it", "place it"])
    tasks = []
    for file in sorted(tmp_path.iterdir()):
        with open_recording(str(file), "mcap", OpenOptions()) as recording:
            tasks += [span.task for span in recording.spans()]
    assert tasks == ["pick it", "place it"]


def test_requests_that_were_refused_are_not_recorded(policy: Policy, tmp_path: Path) -> None:
    service = PolicyService(policy)
    with McapRecorder(tmp_path, service) as recorder, running(service, recorder=recorder) as server, talking(server) as client:
        assert "lacks" in asked(client, {"state": np.zeros(3)})
    assert not list(tmp_path.iterdir())
