from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vla_ops.checkpoints.architecture import architecture_of
from vla_ops.errors import CheckpointError, StatsMismatchError
from vla_ops.export.back import bring_back, read_back
from vla_ops.export.lerobot_sizes import spelled_sizes, variants_of
from vla_ops.export.plan import make_plan
from vla_ops.export.source import describe, shapes_of
from vla_ops.export.table import TIED
from vla_ops.export.torch_folder import open_torch_folder
from vla_ops.models.config import PRESETS, tiny
from vla_ops_tests.export.golden_weights import golden_config, write_golden

CONFIG = golden_config("pi0")
NUMBERS = {name: [0.5] * 3 for name in ("mean", "std", "q01")} | {"q99": [1.5] * 3}


def lerobots(**changed: Any) -> dict[str, Any]:
    paligemma, action_expert = variants_of(architecture_of(shapes_of(CONFIG)))
    sizes = {"max_state_dim": 32, "max_action_dim": 32, "chunk_size": 8, "image_resolution": [224, 224], "tokenizer_max_length": 16}
    return {"type": "pi0", "paligemma_variant": paligemma, "action_expert_variant": action_expert} | sizes | changed


@pytest.fixture
def folder(golden_dir: Path, tmp_path: Path) -> Path:
    """A policy as LeRobot saves one."""
    file, _ = write_golden(tmp_path, golden_dir, "pi0")
    file.rename(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(lerobots()))
    step = {"registry_name": "normalizer_processor", "config": {"eps": 1e-8}, "state_file": "state.safetensors"}
    (tmp_path / "policy_preprocessor.json").write_text(json.dumps({"steps": [{"registry_name": "rename"}, step]}))
    stats = {f"{key}.{name}": np.array(values, np.float32) for key in ("observation.state", "action") for name, values in NUMBERS.items()}
    save_file(stats, tmp_path / "state.safetensors")
    return tmp_path


def test_a_policy_of_lerobots_says_its_sizes_and_its_norm_stats(folder: Path, golden_dir: Path) -> None:
    found = open_torch_folder(folder)
    shapes = shapes_of(found.config)
    assert shapes == shapes_of(CONFIG)
    assert (found.config.action_horizon, found.config.max_token_len, found.config.image_size) == (8, 16, 224)
    # Both divide by the same: openpi adds 1e-6 to what is written.
    assert found.stats.state.std + 1e-6 == pytest.approx([0.5 + 1e-8] * 3, abs=1e-12)
    assert found.stats.actions.q99 == pytest.approx([1.5 - 1e-6] * 3, abs=1e-12)
    params = read_back(found.weights, make_plan(shapes))
    golden = np.load(golden_dir / "golden_tiny/params_pi0.npz")
    assert all(np.array_equal(params[path], golden[path]) for path in golden.files)


def test_sizes_that_lerobot_knows_have_their_plain_names() -> None:
    for name in ("pi0", "pi05", "pi0_lora"):
        assert variants_of(architecture_of(shapes_of(PRESETS[name]))) == ("gemma_2b", "gemma_300m")
    sizes = spelled_sizes(variants_of(architecture_of(shapes_of(tiny("pi05"))))[0])
    assert sizes is not None
    assert (sizes.width, sizes.vocabulary, sizes.vision and sizes.vision["patch_size"]) == (64, 2048, 32)


def test_openpis_config_and_the_tensors_say_which_model_it_is(folder: Path) -> None:
    for name in ("policy_preprocessor.json", "config.json"):
        (folder / name).unlink()
    told = {
        "action_dim": 32,
        "action_horizon": 8,
        "paligemma_variant": "dummy",
        "action_expert_variant": "dummy_lora",
        "precision": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(told))
    assets = folder / "assets/trossen"
    assets.mkdir(parents=True)
    (assets / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": NUMBERS, "actions": NUMBERS}}))
    found = open_torch_folder(folder)
    assert (found.config.family, found.config.action_horizon, found.asset_id) == ("pi0", 8, "trossen")


def test_norm_stats_of_another_export_are_refused(folder: Path) -> None:
    assets = folder / "assets/arm"
    assets.mkdir(parents=True)
    (assets / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": NUMBERS, "actions": NUMBERS}}))
    told = {"model": describe(CONFIG), "asset_id": "arm", "stats_fingerprint": "0" * 16, "recipe": None}
    (folder / "vla_ops.json").write_text(json.dumps(told))
    with pytest.raises(StatsMismatchError, match="not those that the policy was exported with"):
        open_torch_folder(folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"type": "act"}, "neither pi0 nor pi0.5"),
        ({"use_peft": True}, r"PEFT adapter.*Merge"),
        ({"max_state_dim": 7}, "one width for state and actions"),
    ],
)
def test_other_policies_are_refused(folder: Path, changed: dict[str, Any], said: str) -> None:
    (folder / "config.json").write_text(json.dumps(lerobots(**changed)))
    with pytest.raises(CheckpointError, match=said):
        open_torch_folder(folder)


def test_a_policy_without_norm_stats_is_refused_with_the_way_to_give_them(folder: Path) -> None:
    (folder / "policy_preprocessor.json").unlink()
    with pytest.raises(CheckpointError, match=r"no norm stats.*--assets FOLDER"):
        open_torch_folder(folder)


def test_tensors_too_many_too_few_and_of_other_shapes_are_named(folder: Path, golden_dir: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    spoiled = {name: tensor for name, tensor in tensors.items() if name != "state_proj.bias"}
    spoiled |= {"base_model.lora_A": np.zeros(2, np.float32), TIED: np.zeros((7, 64), np.float32)}
    save_file(spoiled, folder / "model.safetensors")
    plan = make_plan(shapes_of(CONFIG))
    with pytest.raises(CheckpointError) as refused:
        read_back(folder / "model.safetensors", plan)
    for said in (r"state_proj.bias [64]: not in the file", f"{TIED}: [7, 64] instead of [2048, 64]", "base_model.lora_A [2]: no array"):
        assert said in str(refused.value)


def test_half_a_file_is_refused(folder: Path, tmp_path: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="weights cannot be read"):
        bring_back(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_says_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").touch()
    with pytest.raises(CheckpointError, match=r"no PyTorch policy.*readme\.txt"):
        open_torch_folder(tmp_path)
