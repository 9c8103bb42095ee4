"""openpi's own tiny checkpoints: trained on, sampled from, and written again with the same tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from vla_ops.checkpoints.layout import Checkpoint, open_checkpoint
from vla_ops.checkpoints.loading import CheckpointSource
from vla_ops.checkpoints.reading import read_train_state
from vla_ops.checkpoints.saving import CheckpointStore
from vla_ops.checkpoints.trees import TrainState
from vla_ops.models import Observation, lora_freeze, merge
from vla_ops.spec import TrainingSpec
from vla_ops.training.mesh import make_mesh
from vla_ops.training.optimizer import learning_rates, make_optimizer
from vla_ops.training.state import abstract_state, initial_state
from vla_ops.training.step import make_step
from vla_ops_tests.models.golden import Golden

pytestmark = pytest.mark.usefixtures("compiled_fast")

VARIANTS = {"pi0": 0.99, "pi05": 0.99, "pi0_lora": None}


def _tree(folder: Path) -> dict[str, Any]:
    """Keys of an item's leaves, with their types."""
    return json.loads((folder / "_METADATA").read_text())["tree_metadata"]


def _arrays(folder: Path) -> Any:
    described = json.loads((folder / "array_metadatas" / "process_0").read_text())["array_metadatas"]
    return sorted((entry["array_metadata"]["param_name"], tuple(entry["array_metadata"]["write_shape"])) for entry in described)


@pytest.mark.parametrize("variant", ["pi0", pytest.param("pi05", marks=pytest.mark.slow), pytest.param("pi0_lora", marks=pytest.mark.slow)])
def test_openpis_checkpoint_is_trained_on_sampled_from_and_written_as_openpi_writes(golden_dir: Path, tmp_path: Path, variant: str) -> None:
    theirs = open_checkpoint(golden_dir / "openpi_ckpt_tiny" / variant / "tiny" / "1")
    golden, spec = Golden(golden_dir, variant), TrainingSpec(ema=VARIANTS[variant])
    freeze, optimizer = lora_freeze(golden.config), make_optimizer(spec.optimizer, learning_rates(spec.schedule))
    like = abstract_state(golden.config, freeze, optimizer, make_mesh(), ema=spec.ema is not None)
    step = make_step(golden.config, freeze, optimizer, ema=spec.ema, augmentation=False, like=like)
    # Resumed, as openpi would: optimiser state and all.
    state = read_train_state(theirs, like)
    assert int(state.step) == 2
    after, info = step(jax.random.key(0), state, _inputs(golden))
    assert (int(after.step), bool(jnp.isfinite(info["loss"]))) == (3, True)
    _assert_same_tree(after, theirs, tmp_path / "resumed")
    # As `init:` of a new run.
    fresh, report = initial_state(like, golden.config, freeze, optimizer, jax.random.key(1), source=CheckpointSource(theirs))
    assert report is not None
    assert (len(report.loaded), report.initialised, report.left_out) == (len(like.params), (), ())
    _, first = step(jax.random.key(0), fresh, _inputs(golden))
    assert bool(jnp.isfinite(first["loss"]))
    sampled = jax.jit(lambda params, seen: merge(golden.config, params).sample_actions(jax.random.key(0), seen, num_steps=2))(
        dict(after.served), golden.observation
    )
    assert sampled.shape == (2, 8, 32)
    assert bool(jnp.isfinite(sampled).all())


def _inputs(golden: Golden) -> dict[str, Any]:
    seen: Observation = golden.observation
    return {
        "state": seen.state,
        "image": seen.images,
        "image_mask": seen.image_masks,
        "tokenized_prompt": seen.tokenized_prompt,
        "tokenized_prompt_mask": seen.tokenized_prompt_mask,
        "actions": golden.inputs["actions"],
    }


def _assert_same_tree(state: TrainState, theirs: Checkpoint, folder: Path) -> None:
    with CheckpointStore(folder) as store:
        store.save(2, state)
    ours = open_checkpoint(folder)
    for item in ("params", "train_state"):
        assert _tree(ours.folder / item) == _tree(theirs.folder / item)
        assert _arrays(ours.folder / item) == _arrays(theirs.folder / item)
