"""Real-time chunking (arXiv:2506.07339): the robot goes on with one chunk while the next, which goes on from it, is computed."""

import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Deque, Dict, Mapping, Optional

import numpy as np

from vla_ops_client.client import PolicyClient


class RealTimeBroker:
    """Hands out an action a step. `act` waits for a reply only where a chunk has come to its end."""

    def __init__(self, policy: PolicyClient, *, steps: Optional[int] = None, remembered: int = 10) -> None:
        """Ask again after `steps` steps (half a chunk where it is not said), or when the reply to the last request is there.

        With each request goes what is left of the chunk, and how many steps of it will be past when the reply is there: the most that
        one of the last `remembered` replies took. Raise ValueError for a server that was not started with `--real-time`.
        """
        if policy.metadata.get("real_time") is None:
            raise ValueError("the server does no real-time chunking: start it with `vla-ops serve --real-time`, or use ActionChunkBroker")
        horizon, self._rate_hz = int(policy.metadata["action_horizon"]), float(policy.metadata["rate_hz"])
        self.steps = max(horizon // 2, 1) if steps is None else steps
        if not 1 <= self.steps < horizon or remembered < 1:
            raise ValueError(f"steps {steps}, remembered {remembered}: steps must be 1 to {horizon - 1}, and at least 1 reply remembered")
        self._policy = policy
        self._worker = ThreadPoolExecutor(1)
        # Steps that the last replies took.
        self.delays: Deque[int] = deque(maxlen=remembered)
        # The last reply; and how many replies took longer than was said with their request, so that their chunk does not join exactly.
        self.reply: Dict[str, Any] = {}
        self.late = 0
        self._coming: Optional[Future[Dict[str, Any]]] = None
        self.reset()

    def reset(self) -> None:
        """Forget the chunk: what comes next is of the observation that comes next. Waits for a reply that is on its way."""
        if self._coming is not None:
            # Its error is of an episode that is over.
            self._coming.exception()
        self._coming = None
        self._actions = np.empty((0, 0))
        # The next action of the chunk, how many steps ago the next chunk was asked for, and the delay that was said then.
        self._at, self._asked_ago, self._said = 0, 0, 0

    def close(self) -> None:
        """Wait for a reply that is on its way, and end."""
        self._worker.shutdown()

    def act(self, observation: Mapping[str, Any]) -> Any:
        """The action [dim] of this step. Of `observation` only what is there when a chunk is asked for is sent. Raise as `infer`."""
        if self._coming is not None and (self._coming.done() or self._at >= len(self._actions)):
            self._join(self._coming.result())
        if len(self._actions) == 0:
            self._begin(observation)
        elif self._coming is None and self._at >= min(self.steps, len(self._actions) - 1):
            self._ask(observation)
        action = self._actions[self._at]
        self._at += 1
        self._asked_ago += 1
        return action

    def _begin(self, observation: Mapping[str, Any]) -> None:
        """The first chunk, for which the robot waits."""
        began = time.monotonic()
        self._take(self._policy.infer(observation), 0)
        self.delays.append(math.ceil((time.monotonic() - began) * self._rate_hz))

    def _ask(self, observation: Mapping[str, Any]) -> None:
        left = self._actions[self._at :]
        self._said = min(max(self.delays), len(left))
        told = {"real_time": {"actions": left, "delay": self._said}}
        self._coming, self._asked_ago = self._worker.submit(self._policy.infer, {**observation, **told}), 0

    def _join(self, reply: Dict[str, Any]) -> None:
        self._coming = None
        self.delays.append(self._asked_ago)
        self.late += self._asked_ago > self._said
        self._take(reply, self._asked_ago)

    def _take(self, reply: Dict[str, Any], past: int) -> None:
        self.reply, self._actions = reply, np.asarray(reply["actions"])
        if len(self._actions) == 0:
            raise ValueError("the server sent a chunk of no actions")
        # All of it is past where the reply took longer than a chunk: its last action is the best that there is.
        self._at = min(past, len(self._actions) - 1)
