"""One action a step, out of chunks: the next chunk is asked for when this one ends, or ahead of its end."""

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from typing import Any, Deque, Dict, Mapping, Optional, Sequence

import numpy as np

from vla_ops_client.client import PolicyClient


class ActionChunkBroker:
    """Hands out a chunk's actions one after another.

    Of a policy that sees several steps (`observation_steps` in its metadata) the last observations are kept and sent together, the oldest
    first: give `act` every step's. At the start of an episode, after `reset`, the first one stands for those that there were not, as
    LeRobot does it.
    """

    def __init__(self, policy: PolicyClient, *, steps: Optional[int] = None, ahead: int = 0) -> None:
        """Carry out `steps` of each chunk (all of them where it is not said), and ask for the next one `ahead` steps before that.

        With `ahead` the robot does not wait for a reply that comes in time. A chunk begins where it was asked for: as many of its
        first actions as were carried out meanwhile are left out.
        """
        if (steps is not None and steps < 1) or ahead < 0 or (steps is not None and ahead >= steps):
            raise ValueError(f"steps {steps} and ahead {ahead}: steps must be at least 1 and more than ahead")
        self._policy, self._steps, self._ahead = policy, steps, ahead
        self._worker = ThreadPoolExecutor(1) if ahead else None
        self._lock = threading.Lock()
        self._seen: Deque[Mapping[str, Any]] = deque(maxlen=int(getattr(policy, "metadata", {}).get("observation_steps", 1)))
        # The last reply.
        self.reply: Dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Forget the chunk: what comes next is of the observation that comes next."""
        self._seen.clear()
        self._actions = np.empty((0, 0))
        # The next action of the chunk, and how many steps ago the next chunk was asked for.
        self._at, self._asked_ago = 0, 0
        self._coming: Optional[Future[Dict[str, Any]]] = None

    def close(self) -> None:
        """Wait for a chunk that was asked for ahead, and end."""
        if self._worker is not None:
            self._worker.shutdown()

    def act(self, observation: Mapping[str, Any]) -> Any:
        """The action [dim] of this step. Of `observation` only what is there when a chunk is asked for is sent. Raise as `infer`."""
        if self._seen.maxlen != 1:
            # A camera may write its next image where this one is.
            self._seen.append(deepcopy(observation))
        if self._at >= self._end:
            self._begin(self._with_past(observation))
        elif self._worker is not None and self._coming is None and self._end - self._at <= self._ahead:
            self._coming, self._asked_ago = self._worker.submit(self._infer, self._with_past(observation)), 0
        action = self._actions[self._at]
        self._at += 1
        self._asked_ago += 1
        return action

    def _with_past(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is sent: of a policy that sees several steps, those up to this one."""
        if not self._seen:
            return observation
        first = [self._seen[0]] * (int(self._seen.maxlen or 1) - len(self._seen))
        return _stacked([*first, *self._seen])

    @property
    def _end(self) -> int:
        """Where this chunk is left."""
        return len(self._actions) if self._steps is None else min(self._steps, len(self._actions))

    def _begin(self, observation: Mapping[str, Any]) -> None:
        coming, self._coming = self._coming, None
        if coming is None:
            self.reply, past = self._infer(observation), 0
        else:
            self.reply, past = coming.result(), self._asked_ago
        self._actions = np.asarray(self.reply["actions"])
        if len(self._actions) == 0:
            raise ValueError("the server sent a chunk of no actions")
        # All of it is past where the reply took longer than a chunk: its last action is the best that there is.
        self._at = min(past, len(self._actions) - 1)
        if self._at >= self._end:
            self._at = self._end - 1

    def _infer(self, observation: Mapping[str, Any]) -> Dict[str, Any]:
        with self._lock:
            return self._policy.infer(observation)


def _stacked(steps: Sequence[Any]) -> Any:
    """Numbers and images of several steps with a leading axis, of all else (a text) the last."""
    last = steps[-1]
    if isinstance(last, Mapping):
        return {key: _stacked([step[key] for step in steps]) for key in last}
    array = np.asarray(last)
    return np.stack([np.asarray(step) for step in steps]) if array.dtype.kind in "biuf" else last
