"""A run of a mixture of two small arms with random parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_ops.norm_stats.mixture import refresh_mixture_stats
from vla_ops.training.prepare import current_recipe
from vla_ops.training.run import Run, read_run
from vla_ops_tests.datasets.mixture.robots import LEFT, RIGHT, SOURCES, Lab
from vla_ops_tests.training.small_training import TRAINING
from vla_ops_tests.training.untrained import untrained_run

# Enough held-out frames of `left` to compare models on; `right` has none.
LONG_LEFT = replace(LEFT, episodes=((8, "pick"), (12, "place")))


def make_mixed_run(root: Path, *, training: dict[str, Any] = TRAINING, scale: float = 0.1, **attributes: Any) -> Run:
    """The run of the training `small` of the mixture `both` with one checkpoint, STEP."""
    lab = Lab(root)
    lab.add("left", LONG_LEFT, stats=True)
    lab.add("right", RIGHT, stats=True)
    mixture = lab.mix("both", *attributes.pop("sources", SOURCES), trainings={"small": training}, **attributes)
    lab.make(mixture)
    refresh_mixture_stats(mixture, lab.store("both"))
    run = untrained_run(current_recipe(mixture, lab.store("both"), "small"), lab.root / "home", scale=scale)
    return read_run(run.file)
