"""LoRA's factors as a PEFT adapter: the same sums, every number accounted for, loaded as LeRobot loads its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params
from vla_ops.errors import CheckpointError, ParityError
from vla_ops.export.adapter import added_of, config_of, matrices, rows
from vla_ops.export.convert import write_weights
from vla_ops.export.lora import Alphas, merged
from vla_ops.export.plan import Plan, make_plan
from vla_ops.export.run import Exported, export
from vla_ops.export.source import ExportSource, open_source
from vla_ops.export.table import taken
from vla_ops.export.torch_folder import open_torch_folder
from vla_ops.models.config import GemmaConfig, LoraConfig, ModelConfig, tiny
from vla_ops.policies.backend import BackendOptions
from vla_ops.policies.policy import Policy
from vla_ops.training.run import Run
from vla_ops_tests.export.small_export import EXPERT, LORA, make_run
from vla_ops_tests.policies.small_run import seen
from vla_ops_tests.training.untrained import random_params

pytest.importorskip("peft", reason="peft is not installed: uv sync --extra policies")


def opened(run: Run) -> ExportSource:
    return open_source(str(run.folder), run.home)


# The sums


def expert(width: int, rank: int, alpha: float) -> GemmaConfig:
    return GemmaConfig(width, depth=2, mlp_dim=24, num_heads=4, num_kv_heads=2, head_dim=6, lora=LoraConfig(rank, alpha))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    """Several key heads, and another rank and alpha in each expert."""
    return tiny("pi0", paligemma=expert(16, 3, 7.0), action_expert=expert(12, 2, 5.0))


@pytest.fixture(scope="module")
def params(config: ModelConfig) -> dict[str, Any]:
    return random_params(config, scale=1.0)


@pytest.fixture(scope="module")
def plan(params: dict[str, Any]) -> Plan:
    return make_plan(params)


def test_a_weight_with_its_adapter_is_the_weight_with_its_factors_folded_in(config: ModelConfig, params: Any, plan: Plan) -> None:
    alphas, every = Alphas.of(config), added_of(plan)
    scales = config_of(every, alphas)
    assert len(every) == 2 * 7
    for added in every:
        pair = added.factors
        scale = scales["alpha_pattern"][added.pattern] / scales["rank_pattern"][added.pattern]
        for layer in range(added.layers):
            w, a, b = (params[path][layer] for path in (pair.weight, pair.a, pair.b))
            first, second = matrices(added, a, b)
            assert (first.shape, second.shape) == added.shapes
            whole = taken(added.rule, merged(w, a, b, pair, alphas.scale(pair)))
            np.testing.assert_allclose(taken(added.rule, w) + scale * second @ first, whole, atol=2e-6 * np.abs(whole).max())


def test_every_number_of_a_factor_stands_in_the_adapter_as_it_was_trained(params: Any, plan: Plan) -> None:
    for added in added_of(plan):
        first, second = matrices(added, params[added.factors.a][1], params[added.factors.b][1])
        a, b = params[added.factors.a][1], params[added.factors.b][1]
        kinds = {int(name): 0 for name in added.rule.of if name.isdecimal()}
        a, b = (a[next(iter(kinds))], b[next(iter(kinds))]) if kinds else (a, b)
        assert sorted(first.ravel()) == sorted(a.ravel())
        if added.factors.kind == "summed heads":
            b = b.sum(axis=0)
        assert sorted(second[second != 0].ravel()) == sorted(b.ravel())


def test_the_scale_is_alpha_over_rank_and_not_over_its_root(plan: Plan, config: ModelConfig) -> None:
    told = config_of(added_of(plan), Alphas.of(config))
    assert told["use_rslora"] is False
    experts = {"language_model": "paligemma", "gemma_expert": "expert"}
    by_kind = {
        (short, key.rpartition("\\.")[2]): (rank, told["alpha_pattern"][key])
        for key, rank in told["rank_pattern"].items()
        for part, short in experts.items()
        if part in key
    }
    assert by_kind["paligemma", "q_proj"] == (12, pytest.approx(28.0))
    assert by_kind["paligemma", "k_proj"] == by_kind["paligemma", "v_proj"] == (6, pytest.approx(14.0))
    assert by_kind["expert", "o_proj"] == (2, pytest.approx(5.0))
    assert by_kind["expert", "q_proj"] == (8, pytest.approx(20.0))
    assert by_kind["expert", "up_proj"] == (2, 2.0)


def test_the_table_has_every_factor_and_a_plain_expert_has_no_adapter() -> None:
    one = tiny("pi05", action_expert=GemmaConfig(64, 4, 128, 8, 1, 16), paligemma="dummy_lora")
    plan = make_plan(random_params(one))
    every = added_of(plan)
    assert {row["source"] for row in rows(plan)} == {path for pair in plan.factors.values() for path in (pair.a, pair.b)}
    assert len(every) == 7
    assert all("language_model" in added.module for added in every)


# An export


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("adapter"), expert=LORA)


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(opened(run), tmp_path_factory.mktemp("out") / "adapter", precision="float32", lora="adapter")


def policy_config(folder: Path) -> Any:
    """As `--policy.path=FOLDER` makes it."""
    from lerobot.configs import PreTrainedConfig

    config = PreTrainedConfig.from_pretrained(str(folder), cli_overrides=["--device=cpu"])
    config.pretrained_path = folder
    return config


def test_it_passes_the_gate_and_lies_there_as_lerobot_keeps_an_adapter(exported: Exported, run: Run) -> None:
    report = json.loads((exported.folder / "parity.json").read_text())
    assert report["passes"]
    assert all(row["ratio"] <= 1e-4 for row in report["rows"] if row["precision"] == "float32")
    assert "robot units, through LeRobot's processors" in {row["what"] for row in report["rows"]}
    files = {file.name for file in exported.folder.iterdir()}
    assert {"config.json", "adapter_config.json", "adapter_model.safetensors", "policy_preprocessor.json"} <= files
    assert "model.safetensors" not in files
    assert {file.name for file in (exported.folder / "base").iterdir()} == {"config.json", "model.safetensors"}
    assert json.loads((exported.folder / "config.json").read_text())["use_peft"] is True
    assert json.loads((exported.folder / "base/config.json").read_text())["use_peft"] is False
    told = json.loads((exported.folder / "vla_ops.json").read_text())
    assert len(told["lora"]["adapter"]) == 2 * 5
    # Nothing is merged into what stands in `base`.
    params, stored = read_params(open_checkpoint(run.folder)), load_file(exported.folder / "base/model.safetensors")
    weight = params["PaliGemma/llm/layers/mlp/linear"][1]
    name = "model.paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.down_proj.weight"
    np.testing.assert_array_equal(stored[name], weight.T)


def test_lerobots_own_make_policy_loads_it_and_its_numbers_are_the_checkpoints(exported: Exported, run: Run) -> None:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
    from lerobot.policies.factory import make_policy
    from peft import PeftModel

    from vla_ops.export.adapter_torch import require_same_adapter
    from vla_ops.export.lerobot_sizes import other_sizes

    meta = LeRobotDatasetMetadata("local/arm", root=run.recipe.dataset)
    with other_sizes():
        policy = make_policy(policy_config(exported.folder), ds_meta=meta)
    assert isinstance(policy, PeftModel)
    assert require_same_adapter(policy.get_base_model().model, exported.folder) == 2 * 2 * 2 * 7
    # Made to be trained on: the factors, and nothing else.
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 2 * 7
    assert all("lora_" in name for name in trained)


def test_merged_by_peft_it_is_our_merged_export(exported: Exported, run: Run, tmp_path: Path) -> None:
    from vla_ops.export.lerobot_layout import load_lerobot

    source, file = opened(run), tmp_path / "merged.safetensors"
    write_weights(file, source.plan, source.read, alphas=source.alphas, layout="lerobot", precision="float32")
    ours = load_file(file)
    whole = load_lerobot(exported.folder).policy.merge_and_unload()
    found = {name: tensor.numpy() for name, tensor in whole.state_dict().items()}
    assert ours.keys() <= found.keys()
    for name, tensor in ours.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6 * np.abs(tensor).max(), err_msg=name)


def test_it_is_served_as_the_policy_that_was_trained(exported: Exported, run: Run) -> None:
    options = BackendOptions(sampling_steps=3)
    trained, served = Policy.load(run.folder / "7", options=options), Policy.load(exported.folder, options=options)
    assert served.backend.name == "torch"
    np.testing.assert_allclose(served.infer(seen()), trained.infer(seen()), atol=1e-4)


def test_it_is_loaded_where_it_was_moved_to(exported: Exported, tmp_path: Path) -> None:
    from vla_ops.export.lerobot_layout import load_lerobot

    moved = shutil.copytree(exported.folder, tmp_path / "elsewhere")
    config = json.loads((moved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(exported.folder / "base")
    (moved / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}))
    assert load_lerobot(moved).tensors == exported.report.tensors


def test_an_adapter_with_a_tensor_too_few_or_changed_is_not_served(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "copy"))
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in tensors if "gemma_expert" in name and name.endswith("o_proj.lora_B.weight"))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, folder / "adapter_model.safetensors")
    with pytest.raises(ParityError, match=r"not the tensors of the adapter.*o_proj\.lora_B"):
        Policy.load(folder)
    save_file(tensors | {name: tensors[name][:, :1].copy()}, folder / "adapter_model.safetensors")
    with pytest.raises(ParityError, match=r"not that of the file.*o_proj\.lora_B"):
        Policy.load(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Policy.load(folder)


def test_there_is_no_way_back_from_an_adapter_and_the_error_says_what_to_do(exported: Exported) -> None:
    with pytest.raises(CheckpointError, match=r"PEFT adapter, and not a whole model.*--lora merge"):
        open_torch_folder(exported.folder)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "precision"), [("pi05", "bfloat16"), ("pi0", "bfloat16"), ("pi05", "float32")])
def test_both_families_in_both_precisions(family: str, precision: Any, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family=family, expert=LORA)
    made = export(opened(run), tmp_path / "out", precision=precision, lora="adapter")
    assert made.report.passes
    assert {str(tensor.dtype) for tensor in load_file(made.folder / "adapter_model.safetensors").values()} == {"float32"}


@pytest.mark.slow
def test_an_adapter_whose_heads_are_mixed_up_does_not_pass(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_ops.export import adapter

    right = adapter.matrices

    def turned(added: Any, a: Any, b: Any) -> Any:
        first, second = right(added, a, b)
        return (first[::-1].copy(), second) if added.factors.kind == "per head" and added.rank > 3 else (first, second)

    monkeypatch.setattr(adapter, "matrices", turned)
    with pytest.raises(ParityError, match=r"layer paligemma_with_expert\.paligemma\.model\.language_model\.layers\.0"):
        export(opened(run), tmp_path / "out", precision="float32", lora="adapter")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_expert_alone_can_have_an_adapter(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", expert=EXPERT, paligemma=LORA)
    assert export(opened(run), tmp_path / "out", precision="float32", lora="adapter").report.passes
