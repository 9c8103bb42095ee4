"""What a training tells while it runs, and what it asks: two Protocols, so that the loop knows neither files of metrics nor pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vla_ops.checkpoints.trees import TrainState
from vla_ops.training.data import Loaded


class Watcher(Protocol):
    """Is told of what happens. Called on every host."""

    def on_first_batch(self, step: int, loaded: Loaded[dict[str, Any]]) -> None:
        """Take the first batch of this process, before its step."""
        ...

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take what the steps up to this one measured, every `log_every` steps."""
        ...


class Validator(Protocol):
    """Measures a state on held-out episodes."""

    def validate(self, step: int, state: TrainState) -> Mapping[str, float]:
        """Return `loss`, `action_error` and whatever else; the same on every host. The state is only read."""
        ...


class Silent:
    """A watcher that nobody listens to."""

    def on_first_batch(self, step: int, loaded: Loaded[dict[str, Any]]) -> None:
        """See Watcher."""

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Watcher."""
