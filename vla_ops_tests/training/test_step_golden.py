"""Three steps of openpi's own train step, from the same parameters, batch and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vla_ops.checkpoints.trees import TrainState
from vla_ops.models import lora_freeze
from vla_ops.spec.training import OptimizerSpec, ScheduleSpec
from vla_ops.training.optimizer import learning_rates, make_optimizer
from vla_ops.training.state import trained_of
from vla_ops.training.step import make_step
from vla_ops_tests.models.golden import Golden

pytestmark = pytest.mark.timeout(900)

VARIANTS = [
    "pi0_noaug",
    "pi05_noaug",
    "pi0_lora_noaug",
    pytest.param("pi0_aug", marks=pytest.mark.slow),
    pytest.param("pi05_aug", marks=pytest.mark.slow),
    pytest.param("pi0_lora_aug", marks=pytest.mark.slow),
]


def _named(params: Any) -> dict[str, dict[str, Any]]:
    return {
        path: {"l2": float(np.linalg.norm(np.asarray(leaf, np.float64))), "first4": np.asarray(leaf, np.float64).ravel()[:4].tolist()}
        for path, leaf in params.items()
    }


@pytest.mark.parametrize("case", VARIANTS)
def test_three_steps_are_openpis(golden_dir: Path, case: str) -> None:
    variant, _, aug = case.rpartition("_")
    recorded = json.loads((golden_dir / "openpi_ckpt_tiny" / "train_step_golden.json").read_text())[case]
    golden = Golden(golden_dir, variant)
    freeze, optimizer = lora_freeze(golden.config), make_optimizer(OptimizerSpec(), learning_rates(ScheduleSpec()))
    has_ema = bool(recorded[0]["ema"])
    params = {path: jnp.asarray(leaf, freeze.train_dtype(path)) for path, leaf in golden.params.items()}
    average = {path: jnp.copy(leaf) for path, leaf in params.items()} if has_ema else None
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained_of(params, freeze)), average)
    step = make_step(golden.config, freeze, optimizer, ema=0.99 if has_ema else None, augmentation=aug == "aug")
    observation = golden.observation
    inputs = {
        "state": observation.state,
        "image": observation.images,
        "image_mask": observation.image_masks,
        "tokenized_prompt": observation.tokenized_prompt,
        "tokenized_prompt_mask": observation.tokenized_prompt_mask,
        "actions": golden.inputs["actions"],
    }
    for expected in recorded:
        state, info = step(jax.random.key(5), state, inputs)
        for name, value in expected["info"].items():
            assert float(info[name]) == pytest.approx(value, rel=3e-5), name
        for kind, tree in (("params", state.params), ("ema", state.ema_params)):
            if tree is None:
                continue
            found = _named(tree)
            assert found.keys() == expected[kind].keys()
            for path, numbers in expected[kind].items():
                assert found[path]["l2"] == pytest.approx(numbers["l2"], rel=1e-5, abs=1e-6), (kind, path)
                np.testing.assert_allclose(found[path]["first4"], numbers["first4"], atol=1e-6, err_msg=path)


def test_learning_rates_are_openpis(golden_dir: Path) -> None:
    recorded = json.loads((golden_dir / "openpi_ckpt_tiny" / "lr_schedule_default.json").read_text())
    rates = learning_rates(ScheduleSpec())
    for step, rate in recorded.items():
        assert float(rates(jnp.asarray(int(step)))) == pytest.approx(rate, rel=1e-5), step


def test_rsqrt_reaches_its_peak_after_the_warm_up_and_falls_with_the_root() -> None:
    rates = learning_rates(ScheduleSpec(kind="rsqrt", warmup_steps=10, timescale=100))
    assert float(rates(jnp.asarray(0))) == pytest.approx(5e-5 / 11)
    assert float(rates(jnp.asarray(10))) == pytest.approx(5e-5)
    assert float(rates(jnp.asarray(310))) == pytest.approx(2.5e-5)
