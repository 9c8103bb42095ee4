from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from vla_ops.errors import CheckpointError
from vla_ops.export.convert import write_weights
from vla_ops.export.lora import Alphas
from vla_ops.export.plan import kept_dtype, make_plan
from vla_ops.export.table import EMBEDDING, TIED, UNUSED, put, rules_of, shape_of, taken

FAMILIES = ("pi0", "pi05")


def full_size(golden_dir: Path, family: str) -> dict[str, tuple[int, ...]]:
    rows = json.loads((golden_dir / f"param_trees/param_tree_{family}.json").read_text())
    rows = rows["params"] if isinstance(rows, dict) else rows
    return {row["path"]: tuple(row["shape"]) for row in rows}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_rule_is_one_that_was_recorded_from_openpi(family: str, golden_dir: Path) -> None:
    recorded = json.loads((golden_dir / f"torch/jax_to_torch_{family}.json").read_text())["rules"]
    mine = {(rule.source, rule.target.replace("{layer}", "{i}")): rule for rule in rules_of(family)}  # type: ignore[arg-type]
    assert mine.keys() == {(row["jax"], row["torch"]) for row in recorded}
    for row in recorded:
        rule = mine[row["jax"], row["torch"]]
        assert shape_of(rule, tuple(row["jax_shape"])) == tuple(row["torch_shape"])
        assert rule.by_layer == row["per_layer"]
        assert kept_dtype(rule.target.replace("{layer}", "0"), "bfloat16", "openpi") == row["torch_dtype_in_bf16_model"], rule.target


@pytest.mark.parametrize("family", FAMILIES)
def test_the_full_size_model_has_every_tensor_of_openpis_by_name_and_shape(family: str, golden_dir: Path) -> None:
    recorded = json.loads((golden_dir / f"torch/torch_state_dict_{family}_fullsize.json").read_text())
    expected = {name: tuple(shape) for name, (shape, _) in recorded["state_dict_after_to_bfloat16_for_selected_params"].items()}
    plan = make_plan(full_size(golden_dir, family))
    found = {piece.target: piece.shape for piece in plan.pieces}
    assert found | {TIED: found[EMBEDDING]} == expected
    assert recorded["tied_parameter_groups"] == [[EMBEDDING, TIED]]


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_are_bit_for_bit_those_of_openpis_converter(family: str, golden_dir: Path, tmp_path: Path) -> None:
    params = dict(np.load(golden_dir / f"golden_tiny/params_{family}.npz"))
    file = tmp_path / "model.safetensors"
    write_weights(file, make_plan(params), params.__getitem__, alphas=Alphas(), layout="openpi", precision="float32")
    with safe_open(file, "np") as mine, safe_open(golden_dir / f"torch/tiny_{family}/model.safetensors", "np") as theirs:
        assert set(mine.keys()) == set(theirs.keys())
        assert theirs.metadata().items() <= mine.metadata().items()
        different = [name for name in theirs.keys() if not np.array_equal(mine.get_tensor(name), theirs.get_tensor(name))]  # noqa: SIM118
        # openpi leaves chance there.
        assert different == [UNUSED]
        assert not mine.get_tensor(UNUSED).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_read_backwards_gives_every_array_again(family: str, golden_dir: Path) -> None:
    for path, array in np.load(golden_dir / f"golden_tiny/params_{family}.npz").items():
        again = np.full_like(array, np.nan)
        for rule in (rule for rule in rules_of(family) if rule.source == path):  # type: ignore[arg-type]
            for here, there in zip(array, again, strict=True) if rule.by_layer else [(array, again)]:
                put(rule, taken(rule, here), there)
        assert np.array_equal(array, again), path


def test_an_array_that_no_tensor_takes_is_named(golden_dir: Path) -> None:
    shapes = full_size(golden_dir, "pi0") | {"PaliGemma/llm/extra/w": (3,)}
    with pytest.raises(CheckpointError, match=r"PaliGemma/llm/extra/w \[3\]: no tensor is made of it"):
        make_plan(shapes)


def test_a_tensor_that_no_array_makes_is_named(golden_dir: Path) -> None:
    shapes = full_size(golden_dir, "pi05")
    del shapes["PaliGemma/llm/final_norm_1/Dense_0/bias"]
    with pytest.raises(CheckpointError, match=r"gemma_expert.model.norm.dense.bias: no array PaliGemma/llm/final_norm_1/Dense_0/bias"):
        make_plan(shapes)


def test_places_of_an_array_that_no_tensor_takes_are_named(golden_dir: Path) -> None:
    shapes = full_size(golden_dir, "pi0") | {"PaliGemma/llm/layers/mlp/gating_einsum": (18, 3, 2048, 16384)}
    with pytest.raises(CheckpointError, match=r"gating_einsum .* axis 1 has 3 places, and tensors are made of 2"):
        make_plan(shapes)


def test_pi0_with_pi05s_norms_is_neither(golden_dir: Path) -> None:
    shapes = full_size(golden_dir, "pi0")
    del shapes["PaliGemma/llm/final_norm_1/scale"]
    shapes["PaliGemma/llm/final_norm_1/Dense_0/kernel"] = (1024, 3072)
    with pytest.raises(CheckpointError, match=r"Dense_0/kernel .*no tensor is made of it; .*norm.weight: no array"):
        make_plan(shapes)
