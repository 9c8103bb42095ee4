"""A run with random parameters: everything of a trained one but the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla_ops.backends.jax import transforms_of
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import TrainState
from vla_ops.models import ModelConfig, abstract, state_paths
from vla_ops.training.recipe import Recipe
from vla_ops.training.run import Run, open_run

STEP = 7


def random_params(config: ModelConfig, *, seed: int = 0, scale: float = 0.2) -> dict[str, np.ndarray]:
    """Parameters of the model's shapes that let something through."""
    random = np.random.default_rng(seed)
    shapes = state_paths(abstract(config)[1])
    return {path: (scale * random.standard_normal(leaf.shape)).astype(np.float32) for path, leaf in shapes.items()}


def untrained_run(recipe: Recipe, home: Path, *, seed: int = 0, scale: float = 0.2) -> Run:
    """A run of the recipe with one checkpoint, STEP."""
    run, stats = open_run(recipe, home, name="first"), recipe.read_stats()
    transforms = transforms_of(recipe, stats)
    found = {"transforms_fingerprint": transforms.fingerprint, "transforms": transforms.describe()}
    Run(run.folder, run.recipe, run.revision, run.created, found).write()
    assets = {f"{asset_id}/{name}": text.encode() for asset_id, each in stats.items() for name, text in each.files.items()}
    with CheckpointStore(run.folder) as store:
        state = TrainState(np.asarray(STEP + 1, np.int32), random_params(recipe.model, seed=seed, scale=scale), {})
        store.save(STEP, state, assets=assets)
    return run


def asset_id_of(run: Run) -> str:
    """The folder of the norm stats in its checkpoints' assets."""
    (asset_id,) = run.recipe.parts
    return asset_id
