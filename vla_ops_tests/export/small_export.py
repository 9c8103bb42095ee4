"""A run of the small arm with random parameters, to be exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_ops.training.run import Run
from vla_ops_tests.training.arm import make_arm
from vla_ops_tests.training.small_training import TRAINING, recipe_of
from vla_ops_tests.training.untrained import untrained_run

EXPERT = {"width": 32, "depth": 2, "mlp_dim": 48, "num_heads": 2, "num_kv_heads": 1, "head_dim": 16}
LORA = EXPERT | {"lora": {"rank": 3, "alpha": 7.0}}
TOWER = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch": 32}


def make_run(
    root: Path, *, family: str = "pi0", expert: dict[str, Any] = EXPERT, paligemma: dict[str, Any] | None = None, **changed: Any
) -> Run:
    """A run in the store at `root` with one checkpoint, 7, of ten held-out frames. `paligemma` is `expert` unless it is given."""
    arm = make_arm(root / "made", [9, 10], held_out=(1,), **changed)
    sizes = TRAINING["model"] | {"family": family, "action_expert": expert, "siglip": TOWER, "max_token_len": 120}
    sizes |= {"paligemma": paligemma or expert}
    recipe = recipe_of(arm, model=sizes)
    return untrained_run(recipe, root / "store", scale=0.1)
