"""The section `client`: under which keys the robot's own program sends what the robot sees."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from vla_ops.spec.base import Strict


class ClientSpec(Strict):
    """Keys of the messages that the robot's program sends to the policy server. `a/b` is that key, or `b` in the map `a`."""

    state: list[str] = Field(min_length=1)
    """The state's keys; with several their numbers are put behind one another, in this order."""
    images: dict[str, str] = Field(min_length=1)
    """Camera's name in this YAML -> its key."""
    prompt: str = "prompt"
    """The task text's key."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        keys = [*self.state, *self.images.values(), self.prompt]
        if doubled := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"client: {', '.join(doubled)} stands for more than one thing")
        return self
