"""The robot's side of real-time chunking: what it sends, when it changes from a chunk to the next, and that the two join."""

from __future__ import annotations

import re
import threading
from typing import Any

import numpy as np
import pytest
from vla_ops_client import PolicyClient, PolicyError, RealTimeBroker  # pyright: ignore[reportMissingImports]

from vla_ops.policies.pi_policy import PiPolicy
from vla_ops.policies.real_time import RealTime
from vla_ops.policies.setup import make_setup
from vla_ops.serving.options import ServerOptions
from vla_ops.serving.server import running
from vla_ops.serving.service import PolicyService
from vla_ops_tests.policies.small_run import make_run, message
from vla_ops_tests.serving.talking import Doubling, asked, doubling_policy, talking

HORIZON = 10


class Slow:
    """A policy whose chunk k is 100 k, 100 k + 1, ...; the first comes at once, the others when they are let out."""

    def __init__(self, *, horizon: int = HORIZON, **metadata: Any) -> None:
        self.metadata = {"action_horizon": horizon, "rate_hz": 20.0, "real_time": {"max_weight": 5.0}} | metadata
        self.horizon = horizon
        self.asked: list[dict[str, Any]] = []
        self.let_out = threading.Semaphore(1)

    def infer(self, observation: dict[str, Any]) -> Any:
        self.asked.append(observation)
        assert self.let_out.acquire(timeout=30)
        if observation.get("blind"):
            raise PolicyError("blind")
        return {"actions": 100.0 * len(self.asked) + np.arange(self.horizon, dtype=float)[:, None]}


def begun(policy: Slow, *, delay: int = 2, **given: Any) -> Any:
    """A broker that has given the first action, and takes replies to need `delay` steps."""
    broker = RealTimeBroker(policy, **given)
    assert acted(broker, 1) == [100]
    assert broker.delays[0] >= 1
    broker.delays.clear()
    broker.delays.append(delay)
    return broker


def acted(broker: Any, steps: int, **more: Any) -> list[int]:
    return [int(broker.act({"step": step, **more})[0]) for step in range(steps)]


def arrive(broker: Any, policy: Slow) -> None:
    """The reply that is awaited."""
    policy.let_out.release()
    broker._coming.exception(timeout=30)


# When


def test_the_robot_goes_on_with_a_chunk_until_the_next_is_there_and_then_takes_its_place_in_it() -> None:
    policy = Slow()
    broker = begun(policy, steps=4)
    assert acted(broker, 5) == [101, 102, 103, 104, 105]
    arrive(broker, policy)
    # Asked when 104 was due: two steps ago.
    assert acted(broker, 3) == [202, 203, 204]
    told = policy.asked[1]["real_time"]
    np.testing.assert_array_equal(told["actions"][:, 0], range(104, 110))
    assert (told["delay"], list(broker.delays), broker.late) == (2, [2, 2], 0)
    arrive(broker, policy)
    assert acted(broker, 1) == [301]
    broker.close()


def test_a_reply_that_took_longer_than_was_said_is_counted_and_the_next_is_told_so() -> None:
    policy = Slow()
    broker = begun(policy, steps=3, delay=1)
    acted(broker, 6)
    arrive(broker, policy)
    # Behind the steps after which it is asked again: at once.
    assert acted(broker, 1) == [204]
    assert (policy.asked[1]["real_time"]["delay"], broker.late) == (1, 1)
    arrive(broker, policy)
    assert policy.asked[2]["real_time"]["delay"] == 4
    broker.close()


def test_only_the_last_replies_are_remembered() -> None:
    policy = Slow()
    broker = begun(policy, steps=3, delay=5, remembered=2)
    for _ in range(3):
        while broker._coming is None:
            acted(broker, 1)
        arrive(broker, policy)
        acted(broker, 1)
    assert list(broker.delays) == [1, 1]
    broker.close()


def test_it_waits_only_where_a_chunk_has_come_to_its_end() -> None:
    policy = Slow()
    broker = begun(policy, steps=4)
    assert acted(broker, 9) == list(range(101, 110))
    later = threading.Timer(0.2, policy.let_out.release)
    later.start()
    assert acted(broker, 1) == [206]
    later.join()
    broker.close()


def test_a_chunk_that_is_shorter_than_was_said_is_carried_out_to_its_end() -> None:
    policy = Slow(action_horizon=40)
    broker = begun(policy, steps=30)
    assert acted(broker, 9) == list(range(101, 110))
    policy.let_out.release()
    assert acted(broker, 1) == [201]
    broker.close()


def test_after_a_reset_the_next_observation_is_asked_about_and_nothing_is_left_of_the_chunk() -> None:
    policy = Slow()
    broker = begun(policy, steps=2)
    acted(broker, 3)
    policy.let_out.release(2)
    broker.reset()
    assert acted(broker, 1) == [300]
    assert "real_time" not in policy.asked[2]
    broker.close()


def test_an_error_of_a_reply_is_raised_at_the_next_step() -> None:
    policy = Slow()
    broker = begun(policy, steps=1)
    acted(broker, 1, blind=True)
    arrive(broker, policy)
    with pytest.raises(PolicyError, match="blind"):
        acted(broker, 1)
    broker.close()


@pytest.mark.parametrize("given", [{"steps": 0}, {"steps": HORIZON}, {"remembered": 0}])
def test_numbers_that_make_no_sense_are_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="steps must be 1 to 9"):
        RealTimeBroker(Slow(), **given)


def test_a_server_that_does_not_do_it_is_refused() -> None:
    for metadata in ({"real_time": None}, {"action_horizon": 50}):
        policy = Slow(**metadata)
        if "real_time" not in metadata:
            del policy.metadata["real_time"]
        with pytest.raises(ValueError, match="--real-time"):
            RealTimeBroker(policy)


# With a server


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PiPolicy:
    setup = make_setup(make_run(tmp_path_factory.mktemp("real_time")).folder / "7")
    return doubling_policy(setup, setup.transforms(), real_time=RealTime())


def test_chunks_join_over_the_wire(policy: PiPolicy) -> None:
    with running(PolicyService(policy), ServerOptions(port=0)) as server, PolicyClient(server.uri) as client:
        broker = RealTimeBroker(client, steps=2)
        first = broker.act(message())
        old = broker._actions
        broker.act(message(1))
        broker.delays.append(2)
        third = broker.act(message(2))
        broker._coming.result(timeout=30)
        fourth = broker.act(message(3))
        broker.close()
    np.testing.assert_array_equal([first, third], old[[0, 2]])
    # One step after it was asked for: within the delay, whose actions are the old chunk's.
    np.testing.assert_allclose(fourth, old[3], rtol=1e-12)
    assert broker._actions is not old


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (5, "found int"),
        ({"actions": [[0.0] * 3], "delay": 1}, "actions list"),
        ({"actions": np.zeros((2, 3)), "delay": 1.5}, "delay 1.5"),
        ({"actions": np.zeros((2, 3)), "delay": True}, "delay True"),
        ({"actions": np.zeros((2, 3))}, "delay None"),
        ({"actions": np.zeros((2, 4)), "delay": 1}, r"\(2, 4\)"),
        ({"actions": np.zeros((2, 3)), "delay": 3}, "a delay of 3 steps, and 2 actions"),
        ({"actions": np.full((2, 3), np.inf), "delay": 1}, "not finite"),
    ],
)
def test_what_is_sent_wrongly_is_answered_and_the_connection_goes_on(policy: PiPolicy, told: Any, said: str) -> None:
    with running(PolicyService(policy), ServerOptions(port=0)) as server, talking(server) as client:
        assert re.search(said, asked(client, {**message(), "real_time": told}))
        assert asked(client, {**message()})["actions"].shape == (6, 3)


def test_a_policy_that_was_not_made_ready_for_it_is_told_to_the_client(policy: PiPolicy) -> None:
    plain = PiPolicy(policy.setup, policy.transforms, Doubling())
    overlap = {"actions": np.zeros((2, 3)), "delay": 1}
    with running(PolicyService(plain), ServerOptions(port=0)) as server, talking(server) as client:
        assert "--real-time" in asked(client, {**message(), "real_time": overlap})
