"""Exported golden models against numbers recorded from openpi's own JAX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_ops.export.jax_side import jax_layers
from vla_ops.export.torch_side import build_model, load_weights, torch_layers, torch_outputs
from vla_ops_tests.export.golden_weights import golden_config, golden_samples, write_golden


@pytest.mark.parametrize("variant", ["pi0_lora", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pi0", "pi05", "pi05_lora"))])
def test_the_exported_model_gives_openpis_recorded_numbers(variant: str, golden_dir: Path, tmp_path: Path) -> None:
    file, plan = write_golden(tmp_path, golden_dir, variant)
    model = build_model(golden_config(variant), plan.architecture, "float32")
    load_weights(model, file)
    found, recorded = torch_outputs(model, golden_samples(golden_dir)), np.load(golden_dir / f"golden_tiny/outputs_{variant}.npz")
    for expected, mine in (("prefix_tokens", found.prefix), ("v_t", found.velocity), ("sample_actions_steps10", found.chunk)):
        assert np.abs(recorded[expected] - mine).max() < 1e-4 * max(1.0, np.abs(recorded[expected]).max()), expected


@pytest.mark.slow
@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_every_layer_of_both_models_is_compared_by_name(family: str, golden_dir: Path, tmp_path: Path) -> None:
    config = golden_config(family)
    file, plan = write_golden(tmp_path, golden_dir, family)
    model = build_model(config, plan.architecture, "float32")
    load_weights(model, file)
    samples = golden_samples(golden_dir)
    params = dict(np.load(golden_dir / f"golden_tiny/params_{family}.npz"))
    expected, found = jax_layers(config, params, samples), torch_layers(model, samples)
    assert expected.keys() == found.keys()
    assert sum("layers." in name for name in expected) == 2 + 4 + 4
    for name, array in expected.items():
        assert np.abs(array - found[name]).max() < 1e-4 * max(1.0, np.abs(array).max()), name
