"""A run of the small arm with random parameters, and what such an arm sees."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vla_ops.policies import Observation
from vla_ops.training.run import Run
from vla_ops_tests.training.arm import Arm, make_arm
from vla_ops_tests.training.small_training import recipe_of
from vla_ops_tests.training.untrained import untrained_run

MODEL: dict[str, Any] = {"max_token_len": 120}


def make_run(root: Path, *, family: str = "pi0", arm: Arm | None = None, seed: int = 0, **changed: Any) -> Run:
    """A run in the store at `root` with one checkpoint, 7."""
    arm = arm or make_arm(root / "made", [9, 7], held_out=(1,))
    recipe = recipe_of(arm, **changed)
    sizes = recipe.training.model.model_dump(exclude_none=True) | {"family": family} | MODEL
    recipe = recipe_of(arm, **(changed | {"model": sizes}))
    return untrained_run(recipe, root / "store", seed=seed)


def seen(seed: int = 0, *, side: tuple[int, int] = (48, 64), prompt: str | None = "pick it", batch: int | None = None) -> Observation:
    """What the small arm sees, at random."""
    random = np.random.default_rng(seed)
    lead = () if batch is None else (batch,)
    images = {name: random.integers(0, 256, (*lead, *side, 3), dtype=np.uint8) for name in ("cam_high", "cam_wrist")}
    return Observation(random.uniform(0, 1, (*lead, 3)).astype(np.float32), images, prompt)


def message(seed: int = 0, **changed: Any) -> Mapping[str, Any]:
    """The same as a client of ours sends it."""
    there = seen(seed)
    return {"state": there.state, "images": dict(there.images), "prompt": there.prompt} | changed
