"""Parameters are openpi's, to the last name: paths, shapes, types, and which are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vla_ops.models import (
    PRESETS,
    Freeze,
    ModelConfig,
    ParameterMismatchError,
    abstract,
    create,
    lora_freeze,
    merge,
    replace_leaves,
    state_paths,
    tiny,
)
from vla_ops_tests.models.golden import Golden, tiny_config


def fresh(variant: str, seed: int) -> dict[str, Any]:
    return state_paths(create(tiny_config(variant), jax.random.key(seed))[1])


def checkpoint(folder: Path) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(folder).item_metadata.tree
        item = reader.restore(folder, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree))
    return {"/".join(str(part.key) for part in path[:-1]): leaf for path, leaf in jax.tree.leaves_with_path(item["params"])}


TREES = ["pi0", "pi05", "pi0_lora", "pi05_lora", "pi0_dummy", "pi05_dummy", "pi0_lora_paligemma_only", "pi0_lora_expert_only"]


def recorded(folder: Path, tree: str) -> dict:
    return json.loads((folder / "param_trees" / f"param_tree_{tree}.json").read_text())


def config_of(tree: dict) -> ModelConfig:
    theirs = tree["config"]
    return ModelConfig(
        family="pi05" if theirs["pi05"] else "pi0",
        paligemma=theirs["paligemma_variant"],
        action_expert=theirs["action_expert_variant"],
        siglip=theirs["siglip_variant"],
        vocab_size=theirs["vocab_size"],
        action_dim=theirs["action_dim"],
        action_horizon=theirs["action_horizon"],
        dtype=theirs["dtype"],
    )


@pytest.mark.parametrize("name", TREES)
def test_every_parameter_has_openpis_path_shape_type_and_is_trained_where_openpi_trains_it(name: str, golden_dir: Path) -> None:
    tree = recorded(golden_dir, name)
    config = config_of(tree)
    freeze = lora_freeze(config)
    ours = {
        path: (list(leaf.shape), str(leaf.dtype), not freeze.frozen(path), freeze.train_dtype(path))
        for path, leaf in state_paths(abstract(config)[1]).items()
    }
    theirs = {p["path"]: (p["shape"], p["dtype"], p["trainable_with_default_freeze_filter"], p["train_dtype"]) for p in tree["params"]}
    assert ours == theirs
    assert sum(int(np.prod(shape)) for shape, *_ in ours.values()) == tree["num_params"]
    assert sum(int(np.prod(shape)) for shape, _, trained, _ in ours.values() if trained) == tree["num_trainable_params"]
    assert config.max_token_len == tree["config"]["max_token_len"]


def test_all_parameters_are_nnx_params() -> None:
    state = abstract(tiny("pi05", lora=True))[1]
    assert {type(variable) for _, variable in nnx.to_flat_state(state)} == {nnx.Param}


def test_presets_of_full_size_are_openpis_trees(golden_dir: Path) -> None:
    for name in ("pi0", "pi05", "pi0_lora", "pi05_lora"):
        assert PRESETS[name] == config_of(recorded(golden_dir, name))


def test_the_freeze_filter_splits_a_state_as_its_paths_say() -> None:
    config = tiny("pi0", lora=True)
    freeze = lora_freeze(config)
    trained, frozen = nnx.split_state(abstract(config)[1], freeze.is_trained, ...)
    assert set(state_paths(trained)) == {path for path in state_paths(abstract(config)[1]) if not freeze.frozen(path)}
    assert all("llm" in path and "lora" not in path for path in state_paths(frozen))


def test_any_regular_expression_freezes_and_one_that_matches_nothing_is_named() -> None:
    paths = state_paths(abstract(tiny())[1])
    freeze = Freeze((".*img.*", "PaliGemma/lmm/.*"))
    assert {path for path in paths if freeze.frozen(path)} == {path for path in paths if "/img/" in path}
    assert freeze.unused(paths) == ("PaliGemma/lmm/.*",)
    with pytest.raises(ValueError, match="not a regular expression"):
        Freeze(("(",))


def test_parameters_by_path_survive_merge_and_keep_their_types(golden_dir: Path) -> None:
    golden = Golden(golden_dir, "pi0")
    given = {path: jnp.asarray(array, jnp.bfloat16) for path, array in golden.params.items()}
    got = state_paths(merge(golden.config, given))
    assert got.keys() == given.keys()
    assert all(got[path].dtype == jnp.bfloat16 and bool((got[path] == given[path]).all()) for path in given)


def test_parameters_of_another_model_are_refused_by_path(golden_dir: Path) -> None:
    params = Golden(golden_dir, "pi0").params
    wrong = {path: array for path, array in params.items() if path != "state_proj/bias"}
    wrong |= {"action_out_proj/bias": np.zeros(7), "time_mlp_in/bias": np.zeros(64)}
    with pytest.raises(ParameterMismatchError) as caught:
        merge(Golden(golden_dir, "pi0").config, wrong)
    assert caught.value.missing == ("state_proj/bias",)
    assert caught.value.unexpected == ("time_mlp_in/bias",)
    assert caught.value.other_shape == {"action_out_proj/bias": ((7,), (32,))}
    assert "1 missing: state_proj/bias; 1 unexpected: time_mlp_in/bias; 1 of another shape: action_out_proj/bias is (7,)" in str(
        caught.value
    )


def test_leaves_are_replaced_by_anything_of_their_path() -> None:
    state = abstract(tiny())[1]
    names = {path: path for path in state_paths(state)}
    assert state_paths(replace_leaves(state, names)) == names


@pytest.mark.parametrize("variant", ["pi0", *(pytest.param(other, marks=pytest.mark.slow) for other in ("pi05", "pi0_lora"))])
def test_fresh_parameters_are_drawn_from_openpis_distributions(variant: str, golden_dir: Path) -> None:
    # Two steps at a learning rate of 2.5e-8 after its initialisation.
    theirs = checkpoint(golden_dir / "openpi_ckpt_tiny" / variant / "tiny" / "1" / "params")
    ours = fresh(variant, 0)
    assert {path: leaf.shape for path, leaf in ours.items()} == {path: leaf.shape for path, leaf in theirs.items()}
    for path, leaf in theirs.items():
        mine = np.asarray(ours[path], np.float64)
        spread, expected = float(np.std(mine)), float(np.std(leaf.astype(np.float64)))
        # The standard error of a standard deviation of n draws is 1 / sqrt(2 n) of it; training moved leaves by 1e-7.
        assert abs(spread - expected) <= 5 * expected * np.sqrt(1 / leaf.size) + 2e-7, path
        assert abs(float(mine.mean() - leaf.astype(np.float64).mean())) <= 8 * expected / np.sqrt(leaf.size) + 2e-7, path


def test_stacked_layers_start_differently() -> None:
    state = fresh("pi0", 0)
    for path in ("PaliGemma/llm/layers/attn/q_einsum/w", "PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel"):
        assert float(jnp.abs(state[path][0] - state[path][1]).max()) > 0.01


def test_one_key_gives_one_model() -> None:
    first, again, other = (fresh("pi0", seed) for seed in (0, 0, 1))
    assert all(np.array_equal(first[path], again[path]) for path in first)
    assert not np.array_equal(first["action_in_proj/kernel"], other["action_in_proj/kernel"])
