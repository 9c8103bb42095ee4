"""What a server answers with: any object that takes a message and gives a reply, and the one of a policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vla_ops.errors import SchemaMismatchError, VlaOpsError
from vla_ops.policies.policy import MODEL_STAGES, Policy
from vla_ops.policies.real_time import Overlap
from vla_ops.policies.steps import Float64
from vla_ops.policies.transforms import Float32, Observation
from vla_ops.serving.layouts import Requests

# A key beyond openpi's: the noise a client wants, to see that two servers give the same.
NOISE = "noise"
# What the robot is carrying out: `actions` [n, a], the first due at the observation, and `delay`, steps until the new chunk begins.
REAL_TIME = "real_time"


@dataclass(frozen=True, eq=False)
class Reply:
    """What a client is sent, and the seconds of each stage."""

    values: dict[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)


class Answers(Protocol):
    """What stands behind a server. It is asked in one thread, one time after another."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What a client is sent when it connects."""
        ...

    def answer(self, message: Any) -> Reply:
        """The reply to an unpacked message. Raise VlaOpsError for a message that is wrong: the client is told so and may go on."""
        ...

    def answer_all(self, messages: Sequence[Any]) -> list[Reply | Exception]:
        """The replies to several clients' messages, or what was wrong with each."""
        return [_tried(self.answer, message) for message in messages]


def _tried[Answer](answer: Callable[[Any], Answer], message: Any) -> Answer | Exception:
    try:
        return answer(message)
    except Exception as error:
        # The reply to this client alone.
        return error


@dataclass(frozen=True, eq=False)
class _Request:
    observation: Observation
    noise: Float32 | None
    overlap: Overlap | None


class PolicyService(Answers):
    """A policy behind a server."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.requests = Requests.of(policy)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """See Answers."""
        return {**self.policy.metadata, "layouts": self.requests.describe()}

    def answer(self, message: Any) -> Reply:
        """See Answers."""
        return self._run([self._read(message)])[0]

    def answer_all(self, messages: Sequence[Any]) -> list[Reply | Exception]:
        """See Answers: in one call of the policy, as far as they are right."""
        read = [_tried(self._read, message) for message in messages]
        replies = iter(self._together([request for request in read if isinstance(request, _Request)]))
        return [next(replies) if isinstance(request, _Request) else request for request in read]

    def _together(self, requests: Sequence[_Request]) -> Sequence[Reply | Exception]:
        if len(requests) > 1 and all(request.noise is None for request in requests):
            # Where one is wrong in its numbers, it alone is told so below.
            with suppress(VlaOpsError):
                return self._run(requests)
        return [_tried(lambda one: self._run([one])[0], request) for request in requests]

    def _read(self, message: Any) -> _Request:
        return _Request(self.requests.read(message), self._noise(message), self._overlap(message))

    def _run(self, requests: Sequence[_Request]) -> list[Reply]:
        noise = [request.noise[None] for request in requests if request.noise is not None]
        inferred = self.policy.run(
            [request.observation for request in requests],
            noise=np.concatenate(noise) if noise else None,
            overlaps=[request.overlap for request in requests],
        )
        return [self._reply(actions, inferred.seconds) for actions in inferred.actions]

    def _reply(self, actions: Float64, seconds: Mapping[str, float]) -> Reply:
        timing = {"infer_ms": sum(spent for stage, spent in seconds.items() if stage in MODEL_STAGES) * 1e3}
        timing |= {f"{stage}_ms": spent * 1e3 for stage, spent in seconds.items()}
        return Reply({"actions": actions, "policy_timing": timing}, seconds)

    def _noise(self, message: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]] | None:
        noise = message.get(NOISE)
        if noise is None:
            return None
        if not isinstance(noise, np.ndarray) or noise.dtype.kind != "f":
            raise SchemaMismatchError(f"{NOISE} is not an array of floats", found=type(noise).__name__)
        return noise.astype(np.float32)

    def _overlap(self, message: Mapping[str, Any]) -> Overlap | None:
        told = message.get(REAL_TIME)
        if told is None:
            return None
        actions, delay = (told.get("actions"), told.get("delay")) if isinstance(told, Mapping) else (None, None)
        if not isinstance(actions, np.ndarray) or actions.dtype.kind != "f" or type(delay) is not int:
            raise SchemaMismatchError(
                f"{REAL_TIME} does not say what the robot is carrying out",
                found=f"actions {type(actions).__name__}, delay {delay!r}" if isinstance(told, Mapping) else type(told).__name__,
                expected="actions: floats [n, a], the first due at the observation; delay: a whole number of steps",
            )
        return Overlap(actions, delay)
