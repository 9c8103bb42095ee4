"""What a training's loop tells, as lines, pictures and curves; and the validation that it asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vla_ops.checkpoints.trees import TrainState
from vla_ops.training.data import Loaded
from vla_ops.training.metrics import Metrics
from vla_ops.training.pictures import action_plots, camera_views
from vla_ops.training.validation import Validation


class Reporting:
    """A `Watcher` that writes to the run's metrics, and with a validation the loop's `Validator`."""

    def __init__(self, metrics: Metrics, validation: Validation | None = None) -> None:
        self.metrics, self.validation = metrics, validation

    def on_first_batch(self, step: int, loaded: Loaded[dict[str, Any]]) -> None:
        """Draw what the model sees."""
        self.metrics.picture(step, "cameras", camera_views(loaded.inputs, prompts=loaded.batch.prompts, places=loaded.batch.places()))

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write a line."""
        self.metrics.log(step, metrics)

    def validate(self, step: int, state: TrainState) -> Mapping[str, float]:
        """Measure the weights that are served, and draw predicted against recorded actions and the curves so far."""
        if self.validation is None:
            return {}
        result = self.validation.run(step, state.served)
        self.metrics.log(step, result.logged())
        self.metrics.picture(step, "actions", action_plots(result.plots, title=f"step {step}"))
        self.metrics.curves(step)
        return result.metrics
